package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"freezeframe"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var tasksFamily = family{
	name: "tasks",
	at:   "iter/task",
	lost: "how many memory maps a process has; threads and processes are read from /proc, which takes ten times as much CPU, and stuck threads are found later",
	load: loadTasksFamily,
}

// What a pass over the tasks is asked for; see tasks.bpf.c.
const (
	TasksFull      = 1 << iota // every thread
	TasksWide                  // since the last wide pass rather than the last of all, with the processes
	TasksAlive                 // that the threads of which there is no news are still there
	TasksOwn                   // news of our own threads as well
	TasksPlaces                // where threads sleep that ran, not only the stuck and the watched ones
	TasksPlacesAll             // also where those sleep that have not run since
)

// The kinds of record, each of which begins with its kind and a thread.
const (
	tasksHead = 1 + iota
	tasksTask
	tasksProcess
	tasksPlace
	tasksLives
)

// Task is a thread: struct task of tasks.bpf.c. Times are nanoseconds; Arrived
// and Left are in the time of the CPU's run queue, see TasksHead.
type Task struct {
	kind                                uint32
	TID, TGID                           uint32
	Flags                               uint32 // PF_* (linux/sched.h)
	StartBoottime                       uint64
	Run, RunDelay, Timeslices           uint64
	Arrived, Left                       uint64 // when it last got a CPU, and left it
	Utime, Stime                        uint64 // by ticks where the kernel counts so
	MinorFaults, MajorFaults            uint64
	Voluntary, Involuntary              uint64 // context switches
	BlockIO, SwapIn, FreePages          uint64 // delays, 0 while they are not counted
	Thrashing, Compact, WPCopy          uint64
	SyscW, ReadBytes, WriteBytes        uint64
	CancelledWriteBytes                 uint64
	Allowed                             uint64 // changes with the CPUs that it may run on
	CPU, Policy, RTPriority, NumAllowed uint32
	Nice                                int32
	State                               byte // as in /proc/PID/stat
	_                                   [3]byte
	CommBytes                           [16]byte
}

// Comm is the thread's name; the slice is part of the record.
func (t *Task) Comm() []byte { return cstring(t.CommBytes[:]) }

// Process is what its threads share: struct process of tasks.bpf.c. The sums
// are those of its threads that have ended; those of the living are to be added.
type Process struct {
	kind                              uint32
	TGID, PPID, UID                   uint32
	StartBoottime                     uint64 // of the first thread
	Utime, Stime, Run, Cutime, Cstime uint64
	ShownUtime, ShownStime            uint64 // what /proc has shown last, of all its threads
	MinorFaults, MajorFaults          uint64
	SyscW, ReadBytes, WriteBytes      uint64
	CancelledWriteBytes               uint64
	RSSPages, SwapPages, VMPages      uint64
	FilesMax, ProcessesMax            uint64 // soft limits; ^0: unlimited
	Maps                              uint64 // of its memory (vm.max_map_count)
	ExecID, Groups                    uint64 // change with exec, and with any cgroup that it is in
	Threads, TTY, Tracer, Coredumping uint32
	NetNS, NSPID                      uint32
}

// Place is where a thread sleeps: struct place of tasks.bpf.c.
type Place struct {
	kind       uint32
	TID        uint32
	First      uint64 // argument of the system call
	Inode      uint64 // of the descriptor that it is, 0: it is none
	Device     uint32
	Syscall    int32 // -1: none, or not known
	Mode       uint16
	StackBytes uint16
	NameBytes  [36]byte
	StackWords [24]uint64
}

// Stack is where it sleeps in the kernel, innermost first.
func (p *Place) Stack() []uint64 { return p.StackWords[:min(int(p.StackBytes)/8, len(p.StackWords))] }

// Name is the last part of the path of the descriptor.
func (p *Place) Name() []byte { return cstring(p.NameBytes[:]) }

// TasksVisitor takes the records of a pass, in the order of tids. A record is
// only valid during the call; a process comes before the first of its threads
// in the pass, and may come again.
type TasksVisitor interface {
	Clock(cpu int, ahead int64) // by how much CLOCK_MONOTONIC is ahead of the CPU's run queue
	Process(*Process)
	Task(*Task)
	Place(*Place)    // of the task before
	Lives(tid int32) // one that is stuck or watched and has not run, or any where that was asked for
}

// Tasks passes over all threads of the machine. It is for one goroutine, on a
// lane: a pass makes raw system calls only, takes no lock of a task, and
// allocates nothing.
type Tasks struct {
	link    *link.Iter
	linkFD  int
	control *tasksControl
	attr    [16]byte // union bpf_attr of BPF_ITER_CREATE
	buf     []byte
	thread  unix.Timespec
	shed    atomic.Bool
	failed  atomic.Uint32 // errno
}

// tasksControl is struct control.
type tasksControl struct {
	pass, flags, own, _ uint32
	watched, fresh      [64]uint64
}

// tasksBuffer holds what the kernel gives in one read (kernel/bpf/bpf_iter.c),
// and a record that it cut.
const tasksBuffer = 32<<10 + 1<<10

// ErrTasksShed says that the iterator was taken out of the kernel.
var ErrTasksShed = errors.New("the iterator was taken out")

// initialPIDNamespace is PROC_PID_INIT_INO (include/linux/proc_ns.h).
const initialPIDNamespace = "pid:[4026531836]"

func loadTasksFamily(l *loading) error {
	// Its tids are those of the initial namespace.
	if ns, err := os.Readlink("/proc/self/ns/pid"); err == nil && ns != initialPIDNamespace {
		return fmt.Errorf("we are in a pid namespace of our own (%s)", ns)
	}
	spec, err := loadTasks()
	if err != nil {
		return fmt.Errorf("read the object of tasks: %w", err)
	}
	spec.Maps["marks"].MaxEntries = uint32(possibleCPUs())
	var objects tasksObjects
	if err := l.collection(spec, nil, &objects); err != nil {
		return err
	}
	t := &Tasks{buf: make([]byte, tasksBuffer)}
	if t.link, err = link.AttachIter(link.IterOptions{Program: objects.Tasks}); err != nil {
		return fmt.Errorf("attach %s: %w", objects.Tasks, err)
	}
	l.closing(t)
	l.programs = append(l.programs, objects.Tasks)
	t.linkFD = t.link.FD()
	page, err := unix.Mmap(objects.Control.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map what the pass over tasks is asked for: %w", err)
	}
	t.control = (*tasksControl)(unsafe.Pointer(&page[0]))
	t.control.own = uint32(os.Getpid())
	binary.NativeEndian.PutUint32(t.attr[:], uint32(t.linkFD))
	if err := t.Pass(0, nobody{}); err != nil {
		return fmt.Errorf("pass over the tasks: %w", err)
	}
	l.stopping(func() { t.shed.Store(true) })
	l.Tasks = t
	return nil
}

// nobody drops what a pass tells.
type nobody struct{}

func (nobody) Clock(int, int64) {}
func (nobody) Process(*Process) {}
func (nobody) Task(*Task)       {}
func (nobody) Place(*Place)     {}
func (nobody) Lives(int32)      {}

// Close detaches the iterator. The page that it is asked by stays mapped: a
// lane that hung until now may still come by.
func (t *Tasks) Close() error {
	t.shed.Store(true)
	if err := t.link.Close(); err != nil {
		return fmt.Errorf("detach the iterator of tasks: %w", err)
	}
	return nil
}

// Watch has all threads of these processes told of in every pass, if only that
// they live. Those of fresh, which are among them, are told whole in the next,
// with the place that they sleep in. Some other process may be told of as well.
func (t *Tasks) Watch(pids, fresh []int32) {
	set := func(bits *[64]uint64, pids []int32) {
		clear(bits[:])
		for _, pid := range pids {
			bits[uint32(pid)>>6&63] |= 1 << (uint32(pid) & 63)
		}
	}
	set(&t.control.watched, pids)
	set(&t.control.fresh, fresh)
}

// Pass asks for one pass over all threads.
func (t *Tasks) Pass(flags uint32, v TasksVisitor) error {
	if t.shed.Load() {
		return ErrTasksShed
	}
	if errno := t.pass(flags, v); errno != 0 {
		return errno
	}
	return nil
}

// Break makes every further pass fail, for tests of what happens then.
func (t *Tasks) Break() { t.attr = [16]byte{0xff, 0xff, 0xff, 0x7f} }

// Failed says that a pass failed and that there will be no other; it stands
// among the needs from then on.
func (t *Tasks) Failed(err error) {
	var errno unix.Errno
	if errors.As(err, &errno) {
		t.failed.Store(uint32(errno))
	}
}

func (t *Tasks) need() (freezeframe.Need, bool) {
	errno := unix.Errno(t.failed.Load())
	return freezeframe.Need{What: "BPF " + tasksFamily.name + " (" + tasksFamily.at + ")", Lost: tasksFamily.lost, Err: errno.Error()}, errno != 0
}

func (t *Tasks) pass(flags uint32, v TasksVisitor) unix.Errno {
	t.control.pass++
	t.control.flags = flags
	fd, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_ITER_CREATE, uintptr(unsafe.Pointer(&t.attr[0])), 8)
	if errno != 0 {
		return errno
	}
	// This has the kernel adjust the clock of our run queue (task_sched_runtime),
	// which the pass compares with CLOCK_MONOTONIC first of all.
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&t.thread)), 0)
	have := 0
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&t.buf[have])), uintptr(len(t.buf)-have))
		if e == unix.EINTR || e == unix.EAGAIN {
			continue
		}
		if e != 0 || n == 0 {
			errno = e
			break
		}
		have += int(n)
		used, ok := visit(t.buf[:have], v)
		if !ok {
			errno = unix.EBADMSG
			break
		}
		have = copy(t.buf, t.buf[used:have])
	}
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return errno
}

// visit hands out the whole records of b, and returns how much of it they are.
func visit(b []byte, v TasksVisitor) (used int, ok bool) {
	const (
		sizeHead    = 16
		sizeLives   = 8
		sizeTask    = int(unsafe.Sizeof(Task{}))
		sizeProcess = int(unsafe.Sizeof(Process{}))
		sizePlace   = int(unsafe.Sizeof(Place{}))
	)
	for len(b)-used >= sizeLives {
		r := b[used:]
		var size int
		switch binary.NativeEndian.Uint32(r) {
		case tasksLives:
			v.Lives(int32(binary.NativeEndian.Uint32(r[4:])))
			used += sizeLives
			continue
		case tasksHead:
			size = sizeHead
		case tasksTask:
			size = sizeTask
		case tasksProcess:
			size = sizeProcess
		case tasksPlace:
			size = sizePlace
		default:
			return used, false
		}
		if len(r) < size {
			break
		}
		switch p := unsafe.Pointer(&r[0]); size {
		case sizeHead:
			if cpu := int32(binary.NativeEndian.Uint32(r[4:])); cpu >= 0 {
				v.Clock(int(cpu), int64(binary.NativeEndian.Uint64(r[8:])))
			}
		case sizeTask:
			v.Task((*Task)(p))
		case sizeProcess:
			v.Process((*Process)(p))
		case sizePlace:
			v.Place((*Place)(p))
		}
		used += size
	}
	return used, true
}
