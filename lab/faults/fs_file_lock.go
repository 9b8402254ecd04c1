package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var fsFileLock = []lab.Fault{
	{
		Name:      "fs.file_lock/flock",
		Cause:     "fs.file_lock",
		About:     "a backup job holds the flock that a Go service takes for each request",
		MissAbout: "it holds it for 5 ms at a time",
		Run:       func(s *lab.Scene) { fileLock(s, victim.Go, "flock", s.Length) },
		Miss:      func(s *lab.Scene) { fileLock(s, victim.Go, "flock", 5*time.Millisecond) },
		Roles:     map[string]func([]string){"lockholder": lockHolder},
	},
	{
		Name:      "fs.file_lock/fcntl",
		Cause:     "fs.file_lock",
		About:     "the same with POSIX locks",
		MissAbout: "it holds it for 5 ms at a time",
		Run:       func(s *lab.Scene) { fileLock(s, victim.Go, "fcntl", s.Length) },
		Miss:      func(s *lab.Scene) { fileLock(s, victim.Go, "fcntl", 5*time.Millisecond) },
	},
}

func fileLock(s *lab.Scene, kind, lock string, hold time.Duration) {
	file := filepath.Join(s.Dir, "queue.lock")
	svc := s.Serve(victim.Spec{Name: "queued", Kind: kind, Work: []string{lock + ":" + file}}, lab.Place{})
	holder := s.Start(lab.Cmd{Name: "backup", Role: "lockholder", Args: []string{lock, file, hold.String()}})
	s.BlameGroup(holder)
	s.Watch(svc)
	s.Break(func() { s.Check(holder.Say("go")) }, func() { s.Check(holder.Say("stop")) })
}

// lockHolder takes a lock between "go" and "stop", for so long at a time.
func lockHolder(args []string) {
	f, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o644)
	hold, err2 := time.ParseDuration(args[2])
	if err != nil || err2 != nil {
		fmt.Fprintln(os.Stderr, err, err2)
		os.Exit(1)
	}
	lock := func(exclusive bool) {
		how, posix := unix.LOCK_UN, unix.Flock_t{Type: unix.F_UNLCK}
		if exclusive {
			how, posix.Type = unix.LOCK_EX, unix.F_WRLCK
		}
		if args[0] == "flock" {
			_ = unix.Flock(int(f.Fd()), how)
		} else {
			_ = unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &posix)
		}
	}
	var stop chan struct{}
	lab.Listen("", func(line string) {
		if line == "stop" {
			close(stop)
			return
		}
		stop = make(chan struct{})
		go func() {
			for {
				lock(true)
				select {
				case <-stop:
				case <-time.After(hold):
				}
				lock(false)
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}()
	})
}
