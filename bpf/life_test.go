package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func lifeOf(t *testing.T) *Life {
	t.Helper()
	l := load(t).Life
	if l == nil {
		t.Fatal("no life")
	}
	return l
}

// TestParentsNameASwarm starts processes that nobody will ever see alive: the
// shell that did it must have exactly their number, after it is gone itself.
func TestParentsNameASwarm(t *testing.T) {
	l := lifeOf(t)
	const children = 137
	cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 137 ]; do /bin/true; i=$((i+1)); done; exit 0")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	var got Parent
	if err := l.Parents(func(p uint32, v *Parent) {
		if p == pid {
			got = *v
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got.Forks != children || got.Execs != children || got.Exits != children || got.Clones != 0 {
		t.Errorf("%d forks, %d execs, %d exits, %d threads; want %d of each and no thread", got.Forks, got.Execs, got.Exits, got.Clones, children)
	}
	if string(got.Comm()) != "sh" || string(got.Exec()) != "true" || got.PPID != uint32(os.Getpid()) {
		t.Errorf("%q of %d ran %q", got.Comm(), got.PPID, got.Exec())
	}
	state := cmd.ProcessState
	whole := state.UserTime() + state.SystemTime() // its own and that of its children
	if ran := time.Duration(got.RanNS); ran <= 0 || ran > whole+50*time.Millisecond {
		t.Errorf("the children ran %v, of %v in all", ran, whole)
	}
	if lived := time.Duration(got.LivedNS); lived < time.Duration(got.RanNS)/2 || lived > time.Minute {
		t.Errorf("the children lived %v and ran %v", lived, time.Duration(got.RanNS))
	}
	// What lives for longer than 2 s did not run when it ended.
	long := exec.Command("/bin/sh", "-c", "(while :; do :; done) & /bin/sleep 2.3; kill $!; wait; /bin/true")
	if err := long.Run(); err != nil {
		t.Fatal(err)
	}
	if err := l.Parents(func(p uint32, v *Parent) {
		if p == uint32(long.Process.Pid) && (v.Exits != 3 || v.RanNS > 1e8 || v.LivedNS < 4.4e9) {
			t.Errorf("%d children ended after %v in all and %v of CPU; want 3, 4.6 s and next to nothing", v.Exits, time.Duration(v.LivedNS), time.Duration(v.RanNS))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if allocations := testing.AllocsPerRun(20, func() {
		_ = l.Parents(func(uint32, *Parent) {})
	}); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}

// TestSignalsNameTheirSender stops, continues and ends a process by a shell:
// each is told, in order, with the shell as sender.
func TestSignalsNameTheirSender(t *testing.T) {
	l := lifeOf(t)
	victim := exec.Command("/bin/sleep", "60")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	l.Deeds(1e6, func(*Deed) {})
	began := nowNS()
	pid := victim.Process.Pid
	shell := exec.Command("/bin/sh", "-c", strings.ReplaceAll("kill -STOP PID; kill -CONT PID; exit 0", "PID", itoa(pid)))
	if err := shell.Run(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	ended := nowNS()
	var got []Deed
	l.Deeds(1e6, func(d *Deed) {
		if d.Kind == Signalled && d.PID == uint32(pid) {
			got = append(got, *d)
		}
	})
	want := []struct {
		signal unix.Signal
		from   int
		comm   string
		result int32 // SIGCONT continues a process, and as a signal is ignored
	}{{unix.SIGSTOP, shell.Process.Pid, "sh", 0}, {unix.SIGCONT, shell.Process.Pid, "sh", 1}, {unix.SIGTERM, os.Getpid(), "", 0}}
	if len(got) != len(want) {
		t.Fatalf("%d signals told, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		d := &got[i]
		if unix.Signal(d.Signal) != w.signal || d.FromPID != uint32(w.from) || w.comm != "" && string(d.FromComm()) != w.comm || d.Result != w.result || d.Code != 0 || d.FromKernel != 0 {
			t.Errorf("%d: signal %d from %d (%s), code %d, result %d; want %d from %d (%s)", i, d.Signal, d.FromPID, d.FromComm(), d.Code, d.Result, w.signal, w.from, w.comm)
		}
		if d.At < began || d.At > ended || string(d.Comm()) != "sleep" {
			t.Errorf("%d: at %d, not in %d to %d; to %q", i, d.At, began, ended, d.Comm())
		}
	}
	if string(got[0].FromParentComm()) == "" || got[0].FromPPID != uint32(os.Getpid()) {
		t.Errorf("the sender's parent is %d (%s)", got[0].FromPPID, got[0].FromParentComm())
	}
	if allocations := testing.AllocsPerRun(20, func() { l.Deeds(1000, func(*Deed) {}) }); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}

// TestEndsAreTold has processes end in every way there is; each is told with its
// status, how long it lived and whose child it was.
func TestEndsAreTold(t *testing.T) {
	l := lifeOf(t)
	for script, want := range map[string]struct {
		signal unix.Signal
		status int32
	}{
		"exit 0":                      {0, 0},
		"exit 3":                      {0, 3},
		"kill -KILL $$":               {unix.SIGKILL, 0},
		"ulimit -c 0; kill -SEGV $$":  {unix.SIGSEGV, 0},
		"sleep 0.05; kill -TERM $$":   {unix.SIGTERM, 0},
		"(exit 9) & wait $!; exit 17": {0, 17},
	} {
		t.Run(script, func(t *testing.T) {
			// Of brief processes only some are told in a second.
			var got []Deed
			for end := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				l.Deeds(1e6, func(*Deed) {})
				began := nowNS()
				cmd := exec.Command("/bin/sh", "-c", script)
				_ = cmd.Run() // it fails, as it should
				took := nowNS() - began
				l.Deeds(1e6, func(d *Deed) {
					if d.Kind == Ended && d.PID == uint32(cmd.Process.Pid) {
						got = append(got, *d)
					}
				})
				for _, d := range got {
					if d.At < began || d.LivedNS == 0 || d.LivedNS > took {
						t.Errorf("at %d, lived for %d of %d ns", d.At, d.LivedNS, took)
					}
				}
			}
			if len(got) != 1 {
				t.Fatalf("%d ends are told, want 1: %+v", len(got), got)
			}
			d := &got[0]
			if unix.Signal(d.Signal) != want.signal || d.Code != want.status || d.Result != 0 {
				t.Errorf("signal %d, status %d, core %d; want signal %d, status %d", d.Signal, d.Code, d.Result, want.signal, want.status)
			}
			if d.FromPID != uint32(os.Getpid()) || string(d.Comm()) != "sh" || string(d.FromComm()) == "" {
				t.Errorf("%q, child of %d (%q)", d.Comm(), d.FromPID, d.FromComm())
			}
		})
	}
}

// TestBriefEndsLeaveRoom has many brief processes end: few are told, and a signal
// that comes meanwhile is.
func TestBriefEndsLeaveRoom(t *testing.T) {
	l := lifeOf(t)
	l.Deeds(1e6, func(*Deed) {})
	began := time.Now()
	cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 900 ]; do /bin/true; i=$((i+1)); done; kill -CONT $$; exit 0")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	seconds := int(time.Since(began).Seconds()) + 2
	ends, signals := 0, 0
	l.Deeds(1e6, func(d *Deed) {
		switch {
		case d.Kind == Ended && d.FromPID == uint32(cmd.Process.Pid):
			ends++
		case d.Kind == Signalled && d.FromPID == uint32(cmd.Process.Pid) && unix.Signal(d.Signal) == unix.SIGCONT:
			signals++
		}
	})
	if most := 16 * seconds * possibleCPUs(); ends == 0 || ends > most {
		t.Errorf("%d ends of 900 are told, want 1 to %d", ends, most)
	}
	if signals != 1 {
		t.Errorf("%d signals are told, want 1", signals)
	}
}

// TestFreezersAreNamed freezes a cgroup of version 2 by a shell: the shell did
// it, and thawed it again.
func TestFreezersAreNamed(t *testing.T) {
	l := lifeOf(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			root = f[1]
		}
	}
	if root == "" {
		t.Skip("no cgroup of version 2 is mounted")
	}
	dir := filepath.Join(root, "fftest"+itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	l.Deeds(1e6, func(*Deed) {})
	shell := exec.Command("/bin/sh", "-c", "echo 1 > "+dir+"/cgroup.freeze; echo 0 > "+dir+"/cgroup.freeze")
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var kinds []uint32
	l.Deeds(1e6, func(d *Deed) {
		if d.FromPID == uint32(shell.Process.Pid) && string(d.Cgroup()) == strings.TrimPrefix(dir, root) {
			kinds = append(kinds, d.Kind)
		}
	})
	if !slices.Equal(kinds, []uint32{Froze, Thawed}) {
		t.Errorf("told %v of %s, want frozen and thawed by the shell", kinds, dir)
	}
}

// TestOOMVictimsAreNamed lets a process outgrow a cgroup of 16 MiB.
func TestOOMVictimsAreNamed(t *testing.T) {
	l := lifeOf(t)
	const root = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(root + "/memory.limit_in_bytes"); err != nil {
		t.Skip("no memory controller of version 1 is mounted there")
	}
	dir := filepath.Join(root, "fftest"+itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	if err := os.WriteFile(dir+"/memory.limit_in_bytes", []byte("16777216"), 0); err != nil {
		t.Fatal(err)
	}
	l.Deeds(1e6, func(*Deed) {})
	hog := exec.Command("/bin/sh", "-c", "echo $$ > "+dir+"/cgroup.procs; exec tail /dev/zero")
	if err := hog.Run(); err == nil {
		t.Fatal("it was not ended")
	}
	told := 0
	l.Deeds(1e6, func(d *Deed) {
		if d.Kind == OOMVictim && d.PID == uint32(hog.Process.Pid) {
			told++
			if string(d.Comm()) != "tail" || d.FromPID != d.PID {
				t.Errorf("%s, for the memory of %d (%s)", d.Comm(), d.FromPID, d.FromComm())
			}
		}
	})
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
