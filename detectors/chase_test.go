package detectors

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
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
