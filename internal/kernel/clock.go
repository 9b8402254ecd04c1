package kernel

import (
	"time"
	_ "unsafe" // for linkname

	"freezeframe"

	"golang.org/x/sys/unix"
)

//go:linkname nanotime runtime.nanotime
func nanotime() int64

// Now returns CLOCK_MONOTONIC; it makes no system call and does not allocate.
func Now() freezeframe.Instant { return freezeframe.Instant(nanotime()) }

// WallClock pairs the two clocks. It reads the wall between two readings of
// CLOCK_MONOTONIC and keeps the tightest of a few tries.
func WallClock() freezeframe.Clock {
	var best freezeframe.Clock
	width := time.Hour
	for range 5 {
		before := Now()
		wall := time.Now().UnixNano()
		after := Now()
		if d := after.Sub(before); d < width {
			width = d
			best = freezeframe.Clock{Mono: before + (after-before)/2, WallNanos: wall}
		}
	}
	return best
}

// Boottime returns CLOCK_BOOTTIME, which also counts while the machine sleeps.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
