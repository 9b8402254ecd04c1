package kernel

import (
	"bytes"
	"os"
	"runtime"
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

// TimeNamespace returns by how much the clocks of our time namespace are ahead
// of the machine's, in nanoseconds (time_namespaces(7)): what /proc shows is
// moved by them, and what BPF tells is not.
func TimeNamespace() (boottime, monotonic int64) {
	b, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0, 0 // before Linux 5.6
	}
	for s := Scan(b); s.More(); s.NextLine() {
		clock := string(s.Word())
		seconds, _ := s.Int()
		ns, _ := s.Int()
		switch clock {
		case "monotonic", "1":
			monotonic = seconds*1e9 + ns
		case "boottime", "7":
			boottime = seconds*1e9 + ns
		}
	}
	return boottime, monotonic
}

// PossibleCPUs returns how many CPUs the kernel may ever have.
func PossibleCPUs() int {
	n := runtime.NumCPU()
	if b, err := os.ReadFile("/sys/devices/system/cpu/possible"); err == nil {
		text := bytes.TrimSpace(b)
		if last, ok := Uint(text[bytes.LastIndexAny(text, ",-")+1:]); ok {
			n = max(n, int(last)+1)
		}
	}
	return n
}
