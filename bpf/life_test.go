package bpf

import (
	"os"
	"os/exec"
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
