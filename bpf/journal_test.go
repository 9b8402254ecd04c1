package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"freezeframe/internal/kernel"
)

// TestCommitsAreTold syncs a file on an ext4 of its own: each sync that changed
// something is a commit, with its phases in order, and the changes are ours.
func TestCommitsAreTold(t *testing.T) {
	j := load(t).Journal
	if j == nil {
		t.Fatal("no journal")
	}
	mount, _, dev := loopFS(t, 64)
	f, err := os.Create(filepath.Join(mount, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	j.Drain(1e6, func(*Commit) {})
	begun := uint64(kernel.Now())
	const syncs = 12
	for range syncs {
		if _, err := f.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // a commit tells of its end after those who wait for it
	ended := uint64(kernel.Now())
	n := 0
	last := uint32(0)
	j.Drain(1e6, func(c *Commit) {
		if c.Dev != dev {
			return
		}
		n++
		if c.Began < begun || c.Locking < c.Began || c.Flushing < c.Locking || c.Logging < c.Flushing || c.Ended < c.Logging || c.Ended > ended {
			t.Errorf("phases out of order, or not in the time of the test: %+v", *c)
		}
		if c.Handles == 0 || c.Blocks == 0 || c.Logged == 0 || c.TID <= last {
			t.Errorf("a commit of nothing, or out of order: %+v", *c)
		}
		last = c.TID
	})
	if n < syncs || n > syncs+2 { // the kernel commits now and then by itself
		t.Errorf("%d commits were told of %d syncs", n, syncs)
	}
	var own *JournalUser
	for i := range j.Users() {
		if u := &j.Users()[i]; u.Dev == dev && int(u.TGID) == os.Getpid() {
			own = u
		}
	}
	if own == nil || own.Handles < syncs || own.Blocks == 0 {
		t.Errorf("our own changes: %+v", own)
	}
}

func TestJournalLayout(t *testing.T) {
	if a, b := unsafe.Sizeof(Journal{}), unsafe.Sizeof(JournalUser{}); a != 112 || b != 56 {
		t.Errorf("Journal has %d bytes, JournalUser %d", a, b)
	}
}

// TestTeardownIsTold ends a process with 600 MiB of memory.
func TestTeardownIsTold(t *testing.T) {
	p := load(t)
	if p.Teardown == nil {
		t.Fatal("no teardown")
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip(err)
	}
	const mib = 600
	cmd := exec.Command("python3", "-c", `
import mmap, os, sys
m = mmap.mmap(-1, 600 << 20, flags=mmap.MAP_PRIVATE)
m.madvise(mmap.MADV_NOHUGEPAGE)
for i in range(0, 600 << 20, 4096): m[i] = 1
sys.stdout.write("x"); sys.stdout.flush()
sys.stdin.read(1)
os.kill(os.getpid(), 9)
`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	begun := uint64(kernel.Now())
	in.Close()
	_ = cmd.Wait()
	ended := uint64(kernel.Now())
	var found *Teardown
	p.Teardown.Drain(1e6, func(x *Teardown) {
		if int(x.TGID) == cmd.Process.Pid {
			c := *x
			found = &c
		}
	})
	if found == nil {
		t.Fatal("the end of a process with 600 MiB was not told")
	}
	if pages := uint64(mib << 20 / os.Getpagesize()); found.Pages < pages || found.Pages > pages+20000 {
		t.Errorf("%d pages, want %d and what Python needs", found.Pages, pages)
	}
	if string(found.Comm()) != "python3" || found.By != found.TGID {
		t.Errorf("%q, by %d", found.Comm(), found.By)
	}
	if found.Began == 0 {
		return // this kernel tells only the end
	}
	if found.Began < begun || found.Ended > ended || found.Ended-found.Began < (ended-begun)/20 {
		t.Errorf("from %d to %d, in %d to %d", found.Began, found.Ended, begun, ended)
	}
}
