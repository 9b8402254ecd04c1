package detectors

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
)

func TestHoldsLock(t *testing.T) {
	held := "pos:\t0\nflags:\t02100002\nmnt_id:\t47\nino:\t1234\nlock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF\n"
	for _, c := range []struct {
		info string
		want bool
	}{
		{held, true},
		{"lock:\t1: POSIX  ADVISORY  WRITE 77 fe:00:1234 0 EOF\n", true},
		{"lock:\t1: LEASE  ACTIVE    READ  77 fe:00:1234 0 EOF\n", false},
		{"ino:\t1234\n", false},
		{"lock:", false},
		{"", false},
	} {
		if got := holdsLock(c.info); got != c.want {
			t.Errorf("%q: %v", c.info, got)
		}
	}
}

func TestFindLockers(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "locked"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := findLockers(f.Name()); slices.Contains(got, os.Getpid()) {
		t.Errorf("before it is locked: %v", got)
	}
	const setLock = 37 // F_OFD_SETLK
	if err := syscall.FcntlFlock(f.Fd(), setLock, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if got := findLockers(f.Name()); !slices.Contains(got, os.Getpid()) {
		t.Errorf("locked, but found %v", got)
	}
}

// Walking the descriptors of all processes has its price: what is noted while it
// is not to be paid again yet waits, and is not lost.
func TestChaseRests(t *testing.T) {
	var events []freezeframe.Event
	path := filepath.Join(t.TempDir(), "nobody has it")
	c := newChase(&freezeframe.Focus{}, recorder.NewRing(recorder.MinBytes).Texts(), func(uint64) string { return path }, func(e freezeframe.Event) { events = append(events, e) })
	now := kernel.Now()
	c.rest = now.Add(time.Second)
	c.files.put(7)
	c.pids.put(8)
	if c.step(now); len(events) != 0 || !slices.Equal(c.ends, []int32{8}) {
		t.Errorf("while it rests: %v, follows %v", events, c.ends)
	}
	if c.step(kernel.Now().Add(2 * time.Second)); len(events) != 1 {
		t.Errorf("afterwards: %v", events)
	}
	now, c.rest = kernel.Now(), 0
	c.files.put(7)
	if c.step(now); c.rest <= now {
		t.Error("it does not rest after a walk")
	}
}
