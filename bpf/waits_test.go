package bpf

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// load loads every family, or those named, or says why this machine cannot.
func load(t *testing.T, families ...string) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	var o Options
	if len(families) > 0 {
		o.Without = slices.DeleteFunc(Names(), func(n string) bool { return slices.Contains(families, n) })
	}
	p := Load(o)
	t.Cleanup(p.Close)
	for _, n := range p.Needs() {
		switch {
		case n.Err == tooMuch || n.Err == "switched off": // what a busy machine loses is no fault of the programs
		case strings.HasPrefix(n.Err, "this kernel "): // nor what an old one lacks
			t.Logf("%s: %s", n.What, n.Err)
		default:
			t.Errorf("%s: %s", n.What, n.Err)
		}
	}
	return p
}

// TestWaitsAreExact sleeps for known times in known ways: what is told must be
// within a millisecond of it, however long the thread then stands in line.
func TestWaitsAreExact(t *testing.T) {
	w := load(t).Waits
	if w == nil {
		t.Fatal("no waits")
	}
	if err := w.Stalled(true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // each CPU has adjusted its clock
	for _, b := range []struct {
		name string
		nr   int32
		do   func(d time.Duration)
	}{
		{"futex", unix.SYS_FUTEX, futexWait},
		{"nanosleep", unix.SYS_CLOCK_NANOSLEEP, func(d time.Duration) {
			ts := unix.NsecToTimespec(int64(d))
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
		}},
		{"poll", unix.SYS_PPOLL, func(d time.Duration) {
			ts := unix.NsecToTimespec(int64(d))
			_, _ = unix.Ppoll(nil, &ts, nil)
		}},
	} {
		for _, d := range []time.Duration{25 * time.Millisecond, 80 * time.Millisecond, 210 * time.Millisecond} {
			var told, took time.Duration
			nr := int32(-1)
			for range 5 { // on a busy machine a timer may fire late, and then the wait was longer
				drop(w)
				runtime.LockOSThread()
				tid := uint32(unix.Gettid())
				began := kernel.Now()
				b.do(d)
				ended := kernel.Now()
				runtime.UnlockOSThread()
				told, took = 0, ended.Sub(began)
				w.Drain(1e6, func(x *Wait) {
					if x.TID == tid && x.Kind == Slept && x.Began >= uint64(began) && x.Ended <= uint64(ended) {
						told += time.Duration(x.Ended - x.Began)
						nr = x.Syscall
					}
				})
				if told > took || told < d-time.Millisecond {
					t.Errorf("%s of %v (%v with the way to a CPU): BPF told %v", b.name, d, took, told)
				}
				if (told - d).Abs() <= time.Millisecond {
					break
				}
			}
			if (told - d).Abs() > time.Millisecond {
				t.Errorf("%s of %v (%v with the way to a CPU), the fifth time: BPF told %v", b.name, d, took, told)
			}
			if nr != b.nr {
				t.Errorf("%s: told to be in system call %d, want %d", b.name, nr, b.nr)
			}
		}
	}
}

func drop(w *Waits) { w.Drain(1e6, func(*Wait) {}) }

func futexWait(d time.Duration) {
	var word uint32
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 0, 0, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
