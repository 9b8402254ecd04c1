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
		info  string
		inode uint64
		want  bool
	}{
		{held, 1234, true},
		{held, 234, false},
		{"lock:\t1: POSIX  ADVISORY  WRITE 77 fe:00:1234 0 EOF\n", 1234, false},
		{"ino:\t1234\n", 1234, false},
		{"lock:", 1234, false},
		{"", 0, false},
	} {
		if got := holdsLock(c.info, c.inode); got != c.want {
			t.Errorf("%q, %d: %v", c.info, c.inode, got)
		}
	}
}

func TestFindLockers(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "locked"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	if got := findLockers(inode); slices.Contains(got, os.Getpid()) {
		t.Errorf("before it is locked: %v", got)
	}
	const setLock = 37 // F_OFD_SETLK
	if err := syscall.FcntlFlock(f.Fd(), setLock, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	if got := findLockers(inode); !slices.Contains(got, os.Getpid()) {
		t.Errorf("locked, but found %v", got)
	}
}
