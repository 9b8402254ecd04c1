package bpf

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProfileSeesWhoRuns burns CPU on one thread: it must be in most samples
// of its time, with its own stack.
func TestProfileSeesWhoRuns(t *testing.T) {
	p := load(t).Profile
	if p == nil {
		t.Fatal("no profile")
	}
	count := func() (mine, user, kernel int) {
		p.Drain(1e6, func(s *Sample) {
			if s.TGID == uint32(os.Getpid()) {
				mine++
				if len(s.User()) > 0 {
					user++
				}
			}
			if len(s.Kernel()) > 0 {
				kernel++
			}
		})
		return
	}
	burn := func(d time.Duration) {
		var from, ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &from)
		for ts.Nano()-from.Nano() < int64(d) {
			_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
		}
	}
	burn(100 * time.Millisecond)
	if mine, _, _ := count(); mine > 0 {
		t.Errorf("%d samples before it was started", mine)
	}
	if err := p.Run(true); err != nil {
		t.Fatal(err)
	}
	burn(500 * time.Millisecond) // of CPU: some 50 samples
	mine, user, kernel := count()
	if mine < 20 || mine > 120 || user < mine/2 || kernel == 0 {
		t.Errorf("half a second of CPU: %d samples, %d with a program's stack, %d with the kernel's; want some 50", mine, user, kernel)
	}
	if err := p.Run(false); err != nil {
		t.Fatal(err)
	}
	count()
	burn(100 * time.Millisecond)
	if mine, _, _ := count(); mine > 0 {
		t.Errorf("%d samples after it was stopped", mine)
	}
}
