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
	{
		Name:      "fs.file_lock/ofd",
		Cause:     "fs.file_lock",
		About:     "a Python script holds an open file description lock that a Python event loop takes for each request",
		MissAbout: "it holds it for 10 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { scriptLock(s, victim.Loop, "ofd", ofdHolder, s.Length) },
		Miss:      func(s *lab.Scene) { scriptLock(s, victim.Loop, "ofd", ofdHolder, 10*time.Millisecond) },
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

// The scripts take the lock of a file for so many seconds when told to.
const (
	ofdHolder = `
import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
for _ in sys.stdin:
    for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", kind, 0, 0, 0, 0))
        if kind == fcntl.F_WRLCK:
            time.sleep(float(sys.argv[2]))
    print("done", flush=True)
`
)

func scriptLock(s *lab.Scene, kind, lock, script string, hold time.Duration) {
	file := filepath.Join(s.Dir, "orders."+lock)
	svc := s.Serve(victim.Spec{Kind: kind, Work: []string{lock + ":" + file}}, lab.Place{})
	python, err := victim.Python()
	s.Check(err)
	holder := s.Start(lab.Cmd{Path: python, Args: []string{"-c", script, file, fmt.Sprintf("%.3f", hold.Seconds())}})
	s.BlameGroup(holder)
	s.Watch(svc)
	s.Break(func() {
		_, err := holder.Ask("go", 10*time.Second)
		s.Check(err)
	}, nil)
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
