package bpf

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var timersFamily = family{
	name: "timers",
	at:   "perf event cpu-clock on each CPU",
	lost: "whether a CPU had its interrupts off, and in which function",
	load: loadTimersFamily,
}

// TimerPeriod is how often the timer of each CPU fires.
const TimerPeriod = 100 * time.Millisecond

// Late is a timer that fired late (struct late of timers.bpf.c). Moments are
// CLOCK_MONOTONIC nanoseconds.
type Late struct {
	Due, Fired uint64
	CPU        uint32
	TID, TGID  uint32 // what it interrupted; 0: nothing, the CPU was idle
	StackBytes uint32
	CommBytes  [16]byte
	StackWords [24]uint64
}

// Comm is the name of the thread that it interrupted.
func (l *Late) Comm() []byte { return cstring(l.CommBytes[:]) }

// Stack is where in the kernel it interrupted it, innermost first.
func (l *Late) Stack() []uint64 { return l.StackWords[:min(int(l.StackBytes)/8, len(l.StackWords))] }

// Timers reads what timers.bpf.c tells. It is for one goroutine.
type Timers struct {
	ring  *Ring
	beats *ebpf.Map
	all   []beat
}

// beat is struct beat.
type beat struct{ Last, Fired, Late, Worst uint64 }

func loadTimersFamily(l *loading) error {
	spec, err := loadTimers()
	if err != nil {
		return fmt.Errorf("read the object of timers: %w", err)
	}
	prog := "beat"
	coll, err := l.plain(spec, map[string]any{"period_ns": uint64(TimerPeriod)})
	if err != nil {
		return err
	}
	t := &Timers{beats: coll.Maps["beats"], all: make([]beat, possibleCPUs())}
	cpus, err := onlineCPUs()
	if err != nil {
		return err
	}
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample: uint64(TimerPeriod),
	}
	for _, cpu := range cpus {
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open a timer on CPU %d: %w", cpu, err)
		}
		f := os.NewFile(uintptr(fd), "perf event")
		l.closing(f)
		lk, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: coll.Programs[prog], Attach: ebpf.AttachPerfEvent})
		if err == nil {
			l.links = append(l.links, lk)
		} else if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, coll.Programs[prog].FD()); err != nil { // before Linux 5.15
			return fmt.Errorf("attach to the timer of CPU %d: %w", cpu, err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
			return fmt.Errorf("start the timer of CPU %d: %w", cpu, err)
		}
	}
	l.programs = append(l.programs, coll.Programs[prog])
	if t.ring, err = NewRing(coll.Maps["lates"]); err != nil {
		return err
	}
	l.closing(t.ring)
	l.Timers = t
	return nil
}

var errNoCPUs = errors.New("no CPU is online")

// onlineCPUs reads a list like "0-3,8".
func onlineCPUs() ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("list the CPUs: %w", err)
	}
	var out []int
	for part := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") {
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return nil, fmt.Errorf("list the CPUs: %w", err)
		}
		z := a
		if ranged {
			if z, err = strconv.Atoi(to); err != nil {
				return nil, fmt.Errorf("list the CPUs: %w", err)
			}
		}
		for ; a <= z; a++ {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, errNoCPUs
	}
	return out, nil
}

// Drain calls f with the timers that fired late, at most the given number; what
// it is given is only valid during the call.
func (t *Timers) Drain(most int, f func(*Late)) int {
	return t.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Late{})) {
			f((*Late)(unsafe.Pointer(&b[0])))
		}
	})
}

// Fired returns how often the timer of each CPU has fired so far.
func (t *Timers) Fired() ([]uint64, error) {
	if err := t.beats.Lookup(uint32(0), &t.all); err != nil {
		return nil, fmt.Errorf("read the timers of the CPUs: %w", err)
	}
	out := make([]uint64, len(t.all))
	for i := range t.all {
		out[i] = t.all[i].Fired
	}
	return out, nil
}
