package bpf

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

var waitsFamily = family{
	name: "waits",
	at:   "tp_btf sched_waking, sched_switch",
	lost: "exactly when a thread slept or stood in line for a CPU, on what, and who woke it",
	load: loadWaitsFamily,
}

// The kinds of Wait.
const (
	Slept  = 1 // was off the CPU by its own doing, until it was woken
	Queued = 2 // wanted a CPU
	Ran    = 3 // had a CPU without a break
)

// Wait is one record of waits.bpf.c, as it lies in memory. Moments are
// CLOCK_MONOTONIC nanoseconds.
type Wait struct {
	Began, Ended    uint64
	Start           uint64 // of the thread: CLOCK_BOOTTIME nanoseconds
	Inode           uint64 // of the descriptor that the system call's first argument is
	TID, TGID       uint32
	OtherTID        uint32 // who woke it; who had the CPU before it; who got it after it
	OtherTGID       uint32
	State           uint32 // as task_struct.__state
	Syscall         int32  // -1: none, or not known
	Device          uint32 // of the inode, as super_block.s_dev
	Mode            uint16 // of the inode: S_IFSOCK …
	Kind, CPU       uint8
	Prio            uint16 // task_struct.prio: below 100 is real-time
	StackBytes      uint16
	WakerStackBytes uint16
	OtherPrio       uint16
	CommBytes       [16]byte
	OtherCommBytes  [16]byte
	NameBytes       [32]byte
	StackWords      [32]uint64
	WakerStackWords [16]uint64
}

// Stack is where it slept in the kernel, innermost first.
func (w *Wait) Stack() []uint64 { return w.StackWords[:min(int(w.StackBytes)/8, len(w.StackWords))] }

// WakerStack is where whoever woke it was in the kernel, innermost first.
func (w *Wait) WakerStack() []uint64 {
	return w.WakerStackWords[:min(int(w.WakerStackBytes)/8, len(w.WakerStackWords))]
}

// Comm is the thread's name; the slice is part of the record.
func (w *Wait) Comm() []byte { return cstring(w.CommBytes[:]) }

// OtherComm is the other thread's name.
func (w *Wait) OtherComm() []byte { return cstring(w.OtherCommBytes[:]) }

// Name is the last part of the path of the descriptor, "" without one.
func (w *Wait) Name() []byte { return cstring(w.NameBytes[:]) }

func cstring(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

// Waits reads what waits.bpf.c tells. It is for one goroutine.
type Waits struct {
	ring    *Ring
	objects waitsObjects
}

func loadWaitsFamily(l *loading) error {
	spec, err := loadWaits()
	if err != nil {
		return fmt.Errorf("read the object of waits: %w", err)
	}
	w := &Waits{}
	if err := l.collection(spec, nil, &w.objects); err != nil {
		return err
	}
	if w.ring, err = NewRing(w.objects.Waits); err != nil {
		return err
	}
	l.closing(w.ring)
	if _, err := l.mapRates(w.objects.Rates); err != nil {
		return err
	}
	if err := l.trace(w.objects.Waking, w.objects.Switched); err != nil {
		return err
	}
	l.Waits = w
	return nil
}

// Stalled has ordinary (interruptible) sleeps told too, or only those in which
// a thread cannot be interrupted.
func (w *Waits) Stalled(on bool) error {
	v := uint32(0)
	if on {
		v = 1
	}
	if err := w.objects.Stalled.Set(v); err != nil {
		return fmt.Errorf("tell BPF of a stall: %w", err)
	}
	return nil
}

// Drain calls f with what is new, at most the given number of waits, oldest
// first; the wait is only valid during the call.
func (w *Waits) Drain(most int, f func(*Wait)) int {
	return w.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Wait{})) {
			f((*Wait)(unsafe.Pointer(&b[0])))
		}
	})
}

// IsSocket and IsPipe tell what kind of file a Mode is.
func IsSocket(mode uint16) bool { return uint32(mode)&unix.S_IFMT == unix.S_IFSOCK }

// IsPipe tells whether a Mode is that of a pipe or FIFO.
func IsPipe(mode uint16) bool { return uint32(mode)&unix.S_IFMT == unix.S_IFIFO }
