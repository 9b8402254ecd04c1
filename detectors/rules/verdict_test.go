package rules_test

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// With all rules at once, the verdict on a rule's own window must be that rule.
func TestVerdicts(t *testing.T) {
	for cause, sc := range scenes() {
		t.Run(string(cause), func(t *testing.T) {
			w := build(sc.fire)
			v := detectors.Judge(w, rules.All())
			if len(v.Findings) == 0 {
				t.Fatal("unknown")
			}
			if got := v.Findings[0]; got.Cause != cause {
				t.Errorf("verdict %s (%.2f, %s): %s", got.Cause, got.Confidence, got.Explains.Length(), got.Summary)
			}
			for _, f := range v.Findings[1:] {
				t.Errorf("and %s (%.2f): %s", f.Cause, f.Confidence, f.Summary)
			}
		})
	}
}

// A near miss of one cause may be a case of another; where it is not, nothing
// is the answer.
func TestNearMisses(t *testing.T) {
	right := map[freezeframe.Cause]freezeframe.Cause{
		"cpu.affinity_hotspot": "cpu.contention", "cpu.fork_storm": "cpu.contention", "cpu.rt_starvation": "cpu.contention", "virt.steal": "cpu.contention",
		"kernel.mmap_lock": "kernel.lock_contention", "time.suspended": "virt.paused", "net.packet_flood": "kernel.softirq_storm", "net.packet_loss": "dep.remote_unresponsive",
		"mem.direct_reclaim": "mem.cgroup_max", "mem.cgroup_high": "mem.cgroup_max", "mem.oom_kill": "mem.cgroup_oom_kill", "mem.fork_cow": "app.busy_loop", "mem.teardown": "fs.file_lock", "mem.compaction": "app.busy_loop",
		"io.cgroup_throttled": "io.device_saturated", "io.device_saturated": "io.device_hung", "io.device_slow": "io.device_saturated", "io.device_hung": "io.device_saturated", "io.flush_storm": "io.device_saturated", "fs.dirty_throttled": "fs.journal_commit", "fs.inodes_full": "fs.full",
		"cpu.low_weight": "cpu.contention", "net.firewall_drop": "net.packet_loss", "net.receive_buffer_full": "net.packet_loss", "limit.system_fds": "limit.process_fds",
		"limit.user_processes": "limit.cgroup_pids", "limit.inotify": "limit.process_fds",
		"fs.fuse_unresponsive": "fs.frozen", "fs.nfs_unresponsive": "fs.frozen", "fs.file_lock": "fs.frozen", "app.deadlock": "fs.file_lock",
	}
	for cause, sc := range scenes() {
		var got freezeframe.Cause
		if v := detectors.Judge(build(sc.miss), rules.All()); len(v.Findings) > 0 {
			got = v.Findings[0].Cause
		}
		if got != right[cause] {
			t.Errorf("near miss of %s: %q, want %q", cause, got, right[cause])
		}
	}
}

// The kernel's own word is a symptom even when nobody was seen to wait.
func TestKernelLogAloneIsNamed(t *testing.T) {
	for err, x := range map[string]struct {
		line  string
		cause freezeframe.Cause
		pid   int
	}{
		"hung task":                 {"INFO: task jbd2/vda1-8:212 blocked for more than 122 seconds.", "kernel.hung_task", 212},
		"soft lockup":               {"watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [stress:812]", "kernel.soft_lockup", 812},
		"rcu stall":                 {"rcu: INFO: rcu_preempt self-detected stall on CPU", "kernel.rcu_stall", 0},
		"oops":                      {"BUG: unable to handle page fault for address: ffff", "kernel.oops", 0},
		"I/O error":                 {"I/O error, dev sdb, sector 1", "io.device_error", 0},
		"remounted read-only":       {"EXT4-fs (sdb1): Remounting filesystem read-only", "fs.readonly", 0},
		"nfs server not responding": {"nfs: server nas not responding, still trying", "fs.nfs_unresponsive", 0},
		"oom kill":                  {"Out of memory: Killed process 900 (leak) total-vm:1kB", "mem.oom_kill", 900},
	} {
		w := build(func(w *window) {
			w.Symptom(freezeframe.Symptom{Probe: "kernel_log", Target: err, Err: err})
			w.Kernel(stallFrom, x.line)
		})
		v := detectors.Judge(w, rules.All())
		if len(v.Findings) == 0 || v.Findings[0].Cause != x.cause || v.Findings[0].Culprit.PID != x.pid {
			t.Errorf("%q: %+v", x.line, v.Findings)
		}
	}
}

// crowdedMachine is a window as large as a busy server's: 300 processes, 200
// threads sampled, 10 s of a stall in which everything waits for a disk.
func crowdedMachine() *window {
	w := windowtest.New(40*s, 25*s, 35*s)
	var accounts []freezeframe.Wait
	for i := range 40 {
		from := 25*s + time.Duration(i)*250*ms
		accounts = append(accounts,
			wait{Span: windowtest.Span(from, from+100*ms), Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"},
			wait{Span: windowtest.Span(from+100*ms, from+150*ms), Class: freezeframe.Runnable},
			wait{Span: windowtest.Span(from+150*ms, from+250*ms), Class: freezeframe.FilesystemWait, Stack: journalStack, File: "/srv/data"})
	}
	for i := range 100 {
		w.Suffers(service+i, "orders", accounts...)
	}
	for i := range 300 {
		writing(w, service+i, "orders", 1e4*float64(i))
	}
	for i := range 200 {
		spinning(w, service+i, service+i, "orders", 0.01, v{"stack": deviceStack, "file": "/srv/data"})
	}
	for i := range 100 {
		group(w, "/system.slice/u"+string(rune('a'+i)), map[string]float64{"cpu_throttled_us": 0}, nil)
	}
	device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 100e6, inFlight: 20})
	fill(w)
	return w
}

func BenchmarkRules(b *testing.B) {
	w := crowdedMachine()
	all := rules.All()
	for b.Loop() {
		for _, r := range all {
			r.Judge(w)
		}
	}
}

func BenchmarkEachRule(b *testing.B) {
	w := crowdedMachine()
	for _, r := range rules.All() {
		b.Run(string(r.Cause), func(b *testing.B) {
			for b.Loop() {
				r.Judge(w)
			}
		})
	}
}
