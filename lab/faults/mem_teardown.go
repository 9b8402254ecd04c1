package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var memTeardown = []lab.Fault{
	{
		Name:      "mem.teardown/lock-holder",
		Cause:     "mem.teardown",
		About:     "a process with 3 GiB in small pages is killed with the flock in its hand that a Go service takes for each request; the kernel gives the lock back after the memory",
		MissAbout: "it has 16 MiB",
		Needs:     needs(root, memoryAvailable(6<<30)),
		Run:       func(s *lab.Scene) { killLarge(s, 3072) },
		Miss:      func(s *lab.Scene) { killLarge(s, 16) },
		Roles:     map[string]func([]string){"largeholder": largeHolder},
	},
	{
		Name:      "mem.teardown/unmap",
		Cause:     "mem.teardown",
		About:     "a request makes a Python event loop unmap 3 GiB in small pages",
		MissAbout: "it has 16 MiB",
		Needs:     needs(program("python3"), memoryAvailable(6<<30)),
		Run:       func(s *lab.Scene) { unmapLarge(s, 3072) },
		Miss:      func(s *lab.Scene) { unmapLarge(s, 16) },
	},
}

func unmapLarge(s *lab.Scene, mib int) {
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Live: mib}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, "/unmap") }, nil)
}

// memoryAvailable needs so many bytes of memory free, so that nobody else has to
// give way.
func memoryAvailable(bytes int) func() error {
	return func() error {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return fmt.Errorf("read how much memory is free: %w", err)
		}
		if free := int(info.Freeram) * int(info.Unit); free < bytes {
			return fmt.Errorf("needs %d MiB of free memory, there are %d", bytes>>20, free>>20)
		}
		return nil
	}
}

func killLarge(s *lab.Scene, mib int) {
	file := filepath.Join(s.Dir, "queue.lock")
	svc := s.Serve(victim.Spec{Name: "queued", Kind: victim.Go, Work: []string{"flock:" + file}}, lab.Place{})
	holder := s.Start(lab.Cmd{Name: "indexer", Role: "largeholder", Args: []string{file, strconv.Itoa(mib)}})
	s.BlameGroup(holder)
	s.CollectGuilty()
	s.Watch(svc)
	s.Break(func() {
		s.Check(holder.Say("go"))
		// Only when the kernel is done with it can its lock be had.
		for until := time.Now().Add(20 * time.Second); unix.Kill(holder.PID, 0) == nil && !zombie(holder.PID) && time.Now().Before(until); {
			time.Sleep(2 * time.Millisecond)
		}
	}, nil)
}

// zombie tells whether a process is dead, and only its parent has not said so.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	for i := len(b) - 1; i > 1; i-- {
		if b[i] == ')' {
			return i+2 < len(b) && b[i+2] == 'Z'
		}
	}
	return false
}

// largeHolder fills so many MiB, and when told to go takes the lock and is
// killed.
func largeHolder(args []string) {
	mib, _ := strconv.Atoi(args[1])
	b, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(string) {
		_ = unix.Flock(fd, unix.LOCK_EX)
		_ = unix.Kill(os.Getpid(), syscall.SIGKILL)
	})
}
