package bpf

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// symbol looks up addresses in /proc/kallsyms, slowly.
func symbols(t *testing.T, addresses []uint64) string {
	t.Helper()
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	type symbol struct {
		at   uint64
		name string
	}
	best := make([]symbol, len(addresses))
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		var at uint64
		for _, c := range f[0] {
			at = at<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
		}
		for i, want := range addresses {
			if at <= want && at >= best[i].at {
				best[i] = symbol{at, f[2]}
			}
		}
	}
	names := make([]string, len(best))
	for i := range best {
		names[i] = best[i].name
	}
	return strings.Join(names, "<-")
}

// TestLocksNameTheirHolder has one thread hold a lock of the kernel by a long
// system call and another ask for it: the first is the holder, and the wait is
// as long as the second felt it.
func TestLocksNameTheirHolder(t *testing.T) {
	k := load(t).Locks
	if k == nil {
		t.Fatal("no locks")
	}
	const megabytes = 384
	shm, err := os.MkdirTemp("/dev/shm", "freezeframe-locks")
	if err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	defer os.RemoveAll(shm)
	name := filepath.Join(shm, "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	big, err := unix.Mmap(-1, 0, megabytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(big)
	write := func() { _, _ = unix.Pwrite(int(f.Fd()), big, 0) }
	for _, x := range []struct {
		name      string
		hold, ask func()
		flags     uint32
		self      bool // the waiter's own address space
		in        string
	}{
		{"rwsem", write, func() {
			if other, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
				_, _ = unix.Pwrite(other, []byte("x"), 0)
				unix.Close(other)
			}
		}, LockWrite, false, "vfs_write"},
		{"mutex", func() {
			_, _ = unix.Seek(int(f.Fd()), 0, 0)
			_, _ = unix.Write(int(f.Fd()), big)
		}, func() { _, _ = unix.Write(int(f.Fd()), []byte("x")) }, LockMutex, false, "fdget_pos"},
		{"mmap_lock", func() {
			if m, err := unix.Mmap(-1, 0, megabytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE); err == nil {
				_ = unix.Munmap(m)
			}
		}, func() {
			if m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON); err == nil {
				_ = unix.Munmap(m)
			}
		}, LockWrite, true, "vm_mmap"},
	} {
		t.Run(x.name, func(t *testing.T) {
			var last string
			for range 5 { // a busy machine may let the holder be done before anybody asks
				if last = contend(t, k, x.hold, x.ask, x.flags, x.self, x.in); last == "" {
					return
				}
			}
			t.Error(last)
		})
	}
	if allocations := testing.AllocsPerRun(20, func() {
		k.Drain(1000, func(*Contended) {})
		_ = k.Waiting(func(uint32, *LockWait) {})
	}); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}

func contend(t *testing.T, k *Locks, hold, ask func(), flags uint32, self bool, in string) string {
	t.Helper()
	k.Drain(1e6, func(*Contended) {})
	tids := make(chan int, 2)
	held := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		hold()
		close(held)
	}()
	holder := <-tids
	time.Sleep(15 * time.Millisecond)
	asked := make(chan [2]uint64)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		began := nowNS()
		ask()
		asked <- [2]uint64{began, nowNS()}
	}()
	waiter := uint32(<-tids)
	time.Sleep(5 * time.Millisecond)
	var now LockWait
	if err := k.Waiting(func(tid uint32, w *LockWait) {
		if tid == waiter {
			now = *w
		}
	}); err != nil {
		t.Fatal(err)
	}
	felt := <-asked
	<-held
	var got []Contended
	k.Drain(1e6, func(c *Contended) {
		if c.TID == waiter && c.Ended > felt[0] && c.Began < felt[1] {
			got = append(got, *c)
		}
	})
	if now.HolderTID != uint32(holder) {
		return "while it waits, the holder is not known: " + itoa(int(now.HolderTID)) + ", want " + itoa(holder)
	}
	if len(got) == 0 {
		return "no wait was told"
	}
	c := got[0]
	if c.HolderTID != uint32(holder) || c.HolderPID != uint32(os.Getpid()) || len(c.HolderComm()) == 0 {
		return "held by " + itoa(int(c.HolderTID)) + ", want " + itoa(holder)
	}
	if c.Flags&flags == 0 {
		return "flags " + itoa(int(c.Flags)) + ", want " + itoa(int(flags))
	}
	if self != (c.AddressSpaceOf == uint32(os.Getpid())) {
		return "the address space of " + itoa(int(c.AddressSpaceOf))
	}
	var told uint64
	for i := range got {
		told += got[i].Ended - got[i].Began
	}
	if whole := felt[1] - felt[0]; told > whole || whole-told > 3e6+whole/5 {
		return "told " + time.Duration(told).String() + " of " + time.Duration(whole).String()
	}
	if names := symbols(t, c.Stack()); !strings.Contains(names, in) {
		return "waited in " + names + ", want " + in
	}
	return ""
}
