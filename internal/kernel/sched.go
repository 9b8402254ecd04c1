package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"freezeframe"

	"golang.org/x/sys/unix"
)

// SetRealtime puts every thread of this process under SCHED_RR at the given
// priority (1 is the lowest), new threads included: a thread inherits the
// policy of the one that starts it. Raising only one thread is not enough in a
// Go process, where it can wait for any other. The error says why it was not
// allowed.
func SetRealtime(priority int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The calling thread comes first: one that is raised before it may spin until
	// it is done (see Relax).
	if err := SetThreadPolicy(0, unix.SCHED_RR, priority); err != nil {
		return err
	}
	// Threads may appear while we walk; those started by a thread that was
	// already raised inherit, so a second clean pass means all are raised.
	done := make(map[int]bool)
	for {
		fresh := false
		err := eachThread(func(tid int) error {
			if done[tid] {
				return nil
			}
			done[tid], fresh = true, true
			return SetThreadPolicy(tid, unix.SCHED_RR, priority)
		})
		if err != nil || !fresh {
			return err
		}
	}
}

// Relax puts the threads of this process that are under SCHED_RR at a priority,
// but for those to keep, back under SCHED_OTHER, until restore is called: for
// work that takes a CPU for long and that nobody is in a hurry for. Threads that
// start meanwhile are raised by restore too.
//
// The calling thread is lowered last and raised first. The runtime's sweeper
// yields and looks again for as long as another thread sweeps: as a real-time
// thread it would keep the CPU that an ordinary one needs, to finish its sweeping
// or to raise or lower the rest, until the kernel takes it away from it
// (sched(7), sched_rt_runtime_us).
func Relax(priority int, keep []int) (restore func() error, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var others []int // that were under another policy before
	self := TID()
	lower := func(tid int) error {
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			return err
		}
		if attr.Policy != unix.SCHED_RR || int(attr.Priority) != priority || slices.Contains(keep, tid) {
			others = append(others, tid)
			return nil
		}
		return SetThreadPolicy(tid, unix.SCHED_NORMAL, 0)
	}
	err = eachThread(func(tid int) error {
		if tid == self {
			return nil
		}
		return lower(tid)
	})
	err = cmp.Or(err, lower(self))
	return func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		raise := func(tid int) error {
			if slices.Contains(others, tid) {
				return nil
			}
			return SetThreadPolicy(tid, unix.SCHED_RR, priority)
		}
		return cmp.Or(raise(TID()), eachThread(raise))
	}, err
}

// eachThread calls f with every thread of this process; one that ends meanwhile
// is passed over.
func eachThread(f func(tid int) error) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list own threads: %w", err)
	}
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			if err := f(tid); err != nil && !IsGone(err) {
				return err
			}
		}
	}
	return nil
}

// SetOther puts the calling thread back under SCHED_OTHER, where it is a
// real-time one. The goroutine must be locked to its thread.
func SetOther() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil && attr.Policy != unix.SCHED_RR && attr.Policy != unix.SCHED_FIFO {
		return nil // and keeps its nice value
	}
	return SetThreadPolicy(0, unix.SCHED_NORMAL, 0)
}

// SetThreadPolicy sets the policy (unix.SCHED_*) and real-time priority of a
// thread, 0 being the calling one.
func SetThreadPolicy(tid, policy, priority int) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: uint32(policy), Priority: uint32(priority)}
	err := unix.SchedSetAttr(tid, &attr, 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("set real-time priority %d: needs CAP_SYS_NICE or LimitRTPRIO (ulimit -r), and with cgroup v1 a cpu.rt_runtime_us of the group: %w", priority, err)
	}
	return fmt.Errorf("set scheduling policy %d, priority %d: %w", policy, priority, err)
}

// TID returns the id of the calling thread.
func TID() int { return unix.Gettid() }

// ThreadCPU returns the CPU time that the calling thread has used.
func ThreadCPU() time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(pointer(&ts)), 0); errno != 0 {
		return 0
	}
	return time.Duration(ts.Nano())
}

// ProcessCPU returns the CPU time that all threads of this process have used.
func ProcessCPU() time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_PROCESS_CPUTIME_ID, uintptr(pointer(&ts)), 0); errno != 0 {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Futex operations (linux/futex.h); x/sys/unix does not name them.
const (
	futexWake       = 1
	futexWaitBitset = 9 // its timeout is absolute
	futexPrivate    = 128
	futexMatchAny   = 0xffffffff
)

// WaitUntil sleeps on CLOCK_MONOTONIC until the moment at, or until Wake is
// called after *word stopped being old. It gives up its P of the Go scheduler
// at once, so that a garbage collection can start meanwhile. An ordinary system
// call keeps the P until the runtime's monitor thread takes it away, which
// polls some fifty times for it on each tick.
func WaitUntil(word *atomic.Uint32, old uint32, at freezeframe.Instant) {
	ts := unix.NsecToTimespec(int64(at))
	for word.Load() == old {
		if errno := futexBlock(word, futexWaitBitset|futexPrivate, old, &ts); errno != unix.EINTR {
			return
		}
	}
}

// Wake changes *word and wakes whoever sleeps in WaitUntil. It neither blocks
// nor allocates.
func Wake(word *atomic.Uint32) {
	word.Add(1)
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(pointer(word)), futexWake|futexPrivate, 1<<30, 0, 0, 0)
}

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// futexBlock is syscall.Syscall6 with the hint that it blocks for long. As
// there, the stack must not grow between the two calls of the runtime.
//
//go:nosplit
func futexBlock(word *atomic.Uint32, op int, old uint32, ts *unix.Timespec) syscall.Errno {
	entersyscallblock()
	_, _, errno := syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(old), uintptr(unsafe.Pointer(ts)), 0, futexMatchAny)
	exitsyscall()
	return errno
}

// monitorNice is the highest weight of an ordinary thread; no other of ours has it.
const monitorNice = -20

// monitorSlack is by how much the Go runtime's monitor may oversleep.
const monitorSlack = 2 * time.Millisecond

// RelaxMonitor lets the Go runtime's monitor thread (sysmon) sleep longer than
// it asks for. It polls every 20 µs while any goroutine runs, which for threads
// that wake up every 50 ms to run for a millisecond costs as much again as what
// they do. Timer slack (prctl(2), PR_SET_TIMERSLACK) is ignored for real-time
// threads, so the monitor becomes an ordinary one of the highest weight.
//
// The monitor starts threads for others, which inherit its policy and weight:
// RaiseStarted is to be called again and again with the monitor's id.
func RelaxMonitor() (monitor int, err error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, fmt.Errorf("list own threads: %w", err)
	}
	// The runtime starts its monitor before anything else: of the threads that
	// are not the first one, it has the lowest id.
	first := os.Getpid()
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil && tid != first && (monitor == 0 || tid < monitor) {
			monitor = tid
		}
	}
	if monitor == 0 {
		return 0, errors.New("find the runtime's monitor thread: this process has one thread")
	}
	if err := SetThreadPolicy(monitor, unix.SCHED_NORMAL, 0); err != nil {
		return 0, err
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, monitor, monitorNice); err != nil {
		return monitor, fmt.Errorf("raise the weight of the runtime's monitor thread: %w", err)
	}
	path := fmt.Sprintf("/proc/%d/timerslack_ns", monitor)
	if err := os.WriteFile(path, strconv.AppendInt(nil, int64(monitorSlack), 10), 0); err != nil {
		return monitor, fmt.Errorf("set the timer slack of the runtime's monitor thread: %w", err)
	}
	return monitor, nil
}

// RaiseStarted puts those threads of this process under SCHED_RR that the relaxed
// monitor has started since, and returns how many. Left as they are they do the
// work of any goroutine at ordinary priority; a real-time thread of the garbage
// collector spins until that work pauses, and where there is no other CPU it
// keeps the one that the work waits for, until the kernel takes it away from
// real-time threads for the rest of the second (sched(7), sched_rt_runtime_us).
func RaiseStarted(monitor, priority int) (raised int, err error) {
	err = eachThread(func(tid int) error {
		if tid == monitor {
			return nil
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL || attr.Nice != monitorNice {
			return err
		}
		raised++
		return SetThreadPolicy(tid, unix.SCHED_RR, priority)
	})
	return raised, err
}
