package bpf

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

var profileFamily = family{
	name: "profile",
	at:   "perf_event cpu-clock, while a stall is open",
	lost: "what ran on the CPUs during a stall, and where in its program",
	load: loadProfileFamily,
}

// ProfileHz is how often each CPU is sampled. It is no round number, so that
// it does not keep step with what runs on a timer.
const ProfileHz = 99

// FrameSize is that of a frame of the program's stack: struct
// bpf_stack_build_id of include/uapi/linux/bpf.h.
const FrameSize = 32

// Sample is one record of profile.bpf.c, as it lies in memory.
type Sample struct {
	At          uint64 // CLOCK_MONOTONIC nanoseconds
	Start       uint64 // of the thread: CLOCK_BOOTTIME nanoseconds
	LeaderStart uint64 // of the process
	TID, TGID   uint32
	CPU, Prio   uint16
	KernelBytes uint16
	UserBytes   uint16
	CommBytes   [16]byte
	KernelWords [24]uint64
	UserFrames  [32][FrameSize]byte
}

// Comm is the thread's name; the slice is part of the record.
func (s *Sample) Comm() []byte { return cstring(s.CommBytes[:]) }

// Kernel is where it was in the kernel, innermost first; empty when it ran in
// its program.
func (s *Sample) Kernel() []uint64 {
	return s.KernelWords[:min(int(s.KernelBytes)/8, len(s.KernelWords))]
}

// User is where it was in its program, innermost first: FrameSize bytes a
// frame. As far as programs keep frame pointers.
func (s *Sample) User() []byte {
	n := min(int(s.UserBytes)/FrameSize, len(s.UserFrames)) * FrameSize
	return unsafe.Slice(&s.UserFrames[0][0], n)
}

// Profile samples what runs on every CPU. It is for one goroutine.
type Profile struct {
	ring    *Ring
	objects profileObjects
	events  []int
	running bool
	shed    atomic.Bool
}

func loadProfileFamily(l *loading) error {
	spec, err := loadProfile()
	if err != nil {
		return fmt.Errorf("read the object of profile: %w", err)
	}
	p := &Profile{}
	if err := l.collection(spec, nil, &p.objects); err != nil {
		return err
	}
	if p.ring, err = NewRing(p.objects.Samples); err != nil {
		return err
	}
	l.closing(p.ring)
	l.closing(p)
	for cpu := range possibleCPUs() {
		attr := unix.PerfEventAttr{
			Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
			Sample: ProfileHz, Bits: unix.PerfBitFreq | unix.PerfBitDisabled,
		}
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if errors.Is(err, unix.ENODEV) {
			continue // possible, and not there
		}
		if err != nil {
			return fmt.Errorf("open a perf event of CPU %d: %w", cpu, err)
		}
		p.events = append(p.events, fd)
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, p.objects.Sample.FD()); err != nil {
			return fmt.Errorf("attach %s to a perf event: %w", p.objects.Sample, err)
		}
	}
	l.programs = append(l.programs, p.objects.Sample)
	l.stopping(func() { p.shed.Store(true) }) // the reader, who comes by again, ends it
	l.Profile = p
	return nil
}

// Run starts or stops the sampling: a system call for each CPU where that is a
// change.
func (p *Profile) Run(on bool) error {
	on = on && !p.shed.Load()
	if on == p.running {
		return nil
	}
	request := uintptr(unix.PERF_EVENT_IOC_DISABLE)
	if on {
		request = unix.PERF_EVENT_IOC_ENABLE
	}
	for _, fd := range p.events {
		if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), request, 0); errno != 0 {
			return fmt.Errorf("start or stop a perf event: %w", errno)
		}
	}
	p.running = on
	return nil
}

// Drain calls f with what is new, at most the given number of samples, oldest
// first; the sample is only valid during the call.
func (p *Profile) Drain(most int, f func(*Sample)) int {
	return p.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Sample{})) {
			f((*Sample)(unsafe.Pointer(&b[0])))
		}
	})
}

// Close ends the sampling.
func (p *Profile) Close() error {
	var err error
	for _, fd := range p.events {
		err = errors.Join(err, unix.Close(fd))
	}
	p.events = nil
	return err
}
