package kernel

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process has used so far.
type Usage struct {
	CPU      time.Duration // user and system, all threads (getrusage(2))
	RSSBytes uint64        // resident now (/proc/self/statm)
}

// ProcessUsage returns what this process has used.
func ProcessUsage() Usage {
	var u Usage
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		u.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		s := Scan(b)
		s.Skip(1)
		pages, _ := s.Uint()
		u.RSSBytes = pages * uint64(os.Getpagesize())
	}
	return u
}
