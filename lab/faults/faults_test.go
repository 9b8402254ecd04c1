package faults

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe/lab"
)

func TestMain(m *testing.M) {
	lab.Dispatch(lab.Roles(All())) // Roles panics on two programs of one name
	os.Exit(m.Run())
}

// causes are those that this lab has to make, or has to say why it cannot.
var causes = strings.Fields(`
	cpu.contention cpu.cgroup_throttled cpu.rt_starvation cpu.affinity_hotspot cpu.low_weight cpu.fork_storm
	kernel.softirq_storm kernel.irq_storm kernel.mmap_lock kernel.lock_contention kernel.hung_task
	mem.direct_reclaim mem.swap_thrash mem.file_thrash mem.cgroup_max mem.oom_kill mem.cgroup_oom_kill mem.compaction mem.fork_cow mem.teardown mem.overcommit_refused
	io.device_saturated io.device_slow io.device_hung io.flush_storm io.cgroup_throttled
	fs.dirty_throttled fs.journal_commit fs.frozen fs.fuse_unresponsive fs.nfs_unresponsive fs.full fs.file_lock fs.pipe_full
	limit.process_fds limit.cgroup_pids limit.user_processes limit.ephemeral_ports limit.conntrack limit.memory_maps limit.inotify limit.tcp_memory
	net.accept_queue_overflow net.syn_flood net.packet_loss net.firewall_drop net.receive_buffer_full
	runtime.jvm_gc app.stopped app.frozen app.busy_loop app.lock_contention app.deadlock app.worker_pool_exhausted app.restarted app.crash_loop
	dep.remote_unresponsive dep.dns time.stepped mem.cgroup_high virt.paused mem.teardown mem.compaction io.device_hung io.device_slow`)

func TestEveryCauseHasAFault(t *testing.T) {
	names := map[string]bool{}
	made := map[string]bool{}
	for _, f := range All() {
		if names[f.Name] {
			t.Errorf("two faults are named %s", f.Name)
		}
		names[f.Name], made[f.Cause] = true, true
		if f.Name != f.Cause && !strings.HasPrefix(f.Name, f.Cause+"/") {
			t.Errorf("%s: the name does not begin with its cause %s", f.Name, f.Cause)
		}
		if !slices.Contains(causes, f.Cause) {
			t.Errorf("%s: no cause is called %s", f.Name, f.Cause)
		}
		if f.Run == nil && (f.Needs == nil || f.Needs() == nil) {
			t.Errorf("%s: not made, and no reason given", f.Name)
		}
		if f.Run != nil && (f.Miss == nil || f.MissAbout == "" || f.About == "") {
			t.Errorf("%s: it needs a near miss and words for both", f.Name)
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not list %s", name)
		}
	}
	for _, c := range causes {
		if !made[c] {
			t.Errorf("nothing makes %s", c)
		}
	}
}

// TestFaultsAreReal makes the cheap faults, shortly, and lets the users judge:
// with the fault they wait, in the near miss they do not. A machine that is
// busy with something else can spoil a run, so each has five tries.
func TestFaultsAreReal(t *testing.T) {
	for _, name := range []string{"fs.frozen/snapshot", "fs.file_lock/flock", "app.stopped/sigstop", "app.frozen/freezer", "fs.full/log", "dep.remote_unresponsive/same-host"} {
		i := slices.IndexFunc(All(), func(f lab.Fault) bool { return f.Name == name })
		if i < 0 {
			t.Errorf("no fault is called %s", name)
			continue
		}
		f := All()[i]
		for _, miss := range []bool{false, true} {
			kind := "/fault"
			if miss {
				kind = "/near-miss"
			}
			t.Run(name+kind, func(t *testing.T) {
				if f.Needs != nil {
					if why := f.Needs(); why != nil {
						t.Skip(why)
					}
				}
				var last string
				for range 5 {
					if last = try(t, f, miss); last == "" {
						return
					}
				}
				t.Error(last)
			})
		}
	}
}

func try(t *testing.T, f lab.Fault, miss bool) (invalid string) {
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	l.Warm, l.After = 200*time.Millisecond, 200*time.Millisecond
	r := l.Run(f, lab.RunOptions{Miss: miss, Length: 300 * time.Millisecond, Seed: 1})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return r.Invalid
}

// TestKilledLabLeavesNothing kills a lab in the middle of a frozen filesystem.
func TestKilledLabLeavesNothing(t *testing.T) {
	if err := needs(root, program("mkfs.ext4", "losetup"))(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestToBeKilled$")
	cmd.Env = append(os.Environ(), "FFLAB_TEST_VICTIM=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf) // it says where its filesystem is once that is frozen
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	mount := strings.TrimSpace(string(buf[:n]))
	if !strings.Contains(mount, "/"+lab.Prefix) {
		t.Fatalf("it said %q", mount)
	}
	var mounts []byte
	for range 100 {
		mounts, _ = os.ReadFile("/proc/self/mounts")
		_, err = os.Stat(mount)
		if !strings.Contains(string(mounts), mount) && os.IsNotExist(err) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("5 s after the lab was killed %s is still there", mount)
}

func TestToBeKilled(t *testing.T) {
	if os.Getenv("FFLAB_TEST_VICTIM") == "" {
		return // it is a program of the test above
	}
	l, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	l.Warm = 0
	l.Run(lab.Fault{Run: func(s *lab.Scene) {
		fs := s.LoopFS(16)
		s.Freeze(fs.Mount)
		_, _ = os.Stdout.WriteString(fs.Mount + "\n")
		time.Sleep(time.Minute)
	}}, lab.RunOptions{})
}
