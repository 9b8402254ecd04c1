package bpf

import (
	"fmt"
	"unsafe"
)

var locksFamily = family{
	name: "locks",
	at:   "tp_btf contention_begin, contention_end",
	lost: "who holds a lock inside the kernel that others wait for",
	load: loadLocksFamily,
}

// What kind of lock it is, and how it is wanted (include/trace/events/lock.h).
const (
	LockRead   = 1 << 1
	LockWrite  = 1 << 2
	LockRT     = 1 << 3
	LockPerCPU = 1 << 4
	LockMutex  = 1 << 5
)

// LockWait is a thread's wait for a lock of the kernel (struct waiting of
// locks.bpf.c). Moments are CLOCK_MONOTONIC nanoseconds.
type LockWait struct {
	Began           uint64
	Lock            uint64 // its address: an id, not to be shown
	Flags           uint32
	PID             uint32
	HolderTID       uint32 // who held it when the wait began; 0: not known
	HolderPID       uint32
	AddressSpaceOf  uint32 // the process whose mmap_lock it is; 0: another lock
	HolderReads     uint32 // not 0: the holder is the last one that took it to read
	HolderCommBytes [16]byte
}

// HolderComm is the holder's name.
func (w *LockWait) HolderComm() []byte { return cstring(w.HolderCommBytes[:]) }

// Contended is a wait for a lock that is over (struct contended).
type Contended struct {
	LockWait
	Ended      uint64
	TID        uint32
	StackBytes uint32
	CommBytes  [16]byte
	StackWords [24]uint64
}

// Comm is the waiter's name.
func (c *Contended) Comm() []byte { return cstring(c.CommBytes[:]) }

// Stack is where it waited, innermost first.
func (c *Contended) Stack() []uint64 {
	return c.StackWords[:min(int(c.StackBytes)/8, len(c.StackWords))]
}

// Locks reads what locks.bpf.c tells. It is for one goroutine.
type Locks struct {
	ring    *Ring
	waiting *batch
}

func loadLocksFamily(l *loading) error {
	for _, name := range []string{"contention_begin", "contention_end"} { // since Linux 5.19
		if _, err := tracepoint(l.kernel, name); err != nil {
			return err
		}
	}
	spec, err := loadLocks()
	if err != nil {
		return fmt.Errorf("read the object of locks: %w", err)
	}
	maps, err := l.open(spec, nil)
	if err != nil {
		return err
	}
	k := &Locks{waiting: newBatch(maps["waiting"])}
	if k.ring, err = NewRing(maps["contended"]); err != nil {
		return err
	}
	l.closing(k.ring)
	if _, err := l.mapRates(maps["rates"]); err != nil {
		return err
	}
	l.Locks = k
	return nil
}

// Drain calls f with the waits that are over, at most the given number, oldest
// first; the wait is only valid during the call.
func (k *Locks) Drain(most int, f func(*Contended)) int {
	return k.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Contended{})) {
			f((*Contended)(unsafe.Pointer(&b[0])))
		}
	})
}

// Waiting calls f with every thread that waits for a lock now, in no order; the
// wait is only valid during the call.
func (k *Locks) Waiting(f func(tid uint32, w *LockWait)) error {
	return k.waiting.each(func(key, value unsafe.Pointer) { f(*(*uint32)(key), (*LockWait)(value)) })
}
