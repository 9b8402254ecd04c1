package lab

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic returns CLOCK_MONOTONIC in nanoseconds.
func monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic("clock_gettime: " + err.Error()) // only a wrong id can fail
	}
	return ts.Nano()
}

// wallOffset returns what to add to CLOCK_MONOTONIC to get the wall clock, in
// nanoseconds: the tightest of a few tries.
func wallOffset() int64 {
	var best, width int64 = 0, 1 << 62
	for range 9 {
		before := monotonic()
		wall := clock(unix.CLOCK_REALTIME)
		after := monotonic()
		if after-before < width {
			width, best = after-before, wall-(before+after)/2
		}
	}
	return best
}

// sleepUntil sleeps until CLOCK_MONOTONIC shows at, whatever the wall clock does.
func sleepUntil(at int64) { time.Sleep(time.Duration(at - monotonic())) }

// sleepThreadUntil is sleepUntil without the Go scheduler, whose threads may
// be starved: the calling thread sleeps in the kernel.
func sleepThreadUntil(at int64) {
	ts := unix.NsecToTimespec(at)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}
