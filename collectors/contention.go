package collectors

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	contentionPID = iota
	contentionTID
	contentionComm
	contentionKind
	contentionLock
	contentionBegan
	contentionEnded
	contentionStack
	contentionHolderPID
	contentionHolderTID
	contentionHolderComm
	contentionHolderReads
	contentionAddressSpaceOf
	contentionWidth
)

const (
	maxContentionRows = 500
	// openLockWait is how long a thread must have waited for a lock to be shown
	// while it still does.
	openLockWait = 20 * time.Millisecond
)

// contention reads who waited for a lock of the kernel, and who held it, from
// BPF: a row for each wait that is over and, while a stall is open, one for each
// that goes on.
type contention struct {
	programs *bpf.Locks
	names    *kernelNames
	host     freezeframe.Host
	next     freezeframe.Key
	texts    [5]uint64

	table    *freezeframe.Table // of the reading that goes on
	now      freezeframe.Instant
	take     func(*bpf.Contended)
	takeOpen func(uint32, *bpf.LockWait)
}

var lockKinds = [5]string{"semaphore", "mutex", "rwsem read", "rwsem write", "rt_mutex"}

func (c *contention) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "contention", From: "BPF: contention_begin, contention_end", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			contentionPID:         {Name: "pid", Kind: gauge},
			contentionTID:         {Name: "tid", Kind: gauge},
			contentionComm:        {Name: "comm", Kind: text}, // of a wait that is over
			contentionKind:        {Name: "kind", Kind: text},
			contentionLock:        {Name: "lock", Kind: gauge}, // which one: the same number, the same lock
			contentionBegan:       {Name: "began_ns", Kind: gauge},
			contentionEnded:       {Name: "ended_ns", Kind: gauge}, // 0: it goes on
			contentionStack:       {Name: "stack", Kind: text},     // of a wait that is over
			contentionHolderPID:   {Name: "holder_pid", Kind: gauge},
			contentionHolderTID:   {Name: "holder_tid", Kind: gauge}, // when the wait began; 0: not known
			contentionHolderComm:  {Name: "holder_comm", Kind: text},
			contentionHolderReads: {Name: "holder_reads", Kind: gauge}, // 1: it is the last reader, perhaps of many
			// The process whose mmap_lock it is; 0: another lock.
			contentionAddressSpaceOf: {Name: "address_space_of", Kind: gauge},
		},
	}
}

func (c *contention) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("contention: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	if err := c.names.open(h.Proc); err != nil {
		return fmt.Errorf("contention: %w", err)
	}
	c.host = h
	for i, k := range lockKinds {
		c.texts[i] = h.Texts.Intern([]byte(k))
	}
	c.take, c.takeOpen = c.over, c.open // made once: a method value allocates
	c.programs.Drain(1<<20, func(*bpf.Contended) {})
	return nil
}

func (c *contention) Close() error { return nil }

func (c *contention) Collect(t *freezeframe.Table) (err error) {
	c.table = t
	c.programs.Drain(maxContentionRows, c.take)
	if c.now = kernel.Now(); c.host.Focus.Stalled(c.now) {
		err = c.programs.Waiting(c.takeOpen)
	}
	c.table = nil
	return err
}

func (c *contention) over(w *bpf.Contended) {
	row := c.row(w.TID, &w.LockWait)
	row[contentionEnded] = w.Ended
	row[contentionComm] = c.host.Texts.Intern(w.Comm())
	row[contentionStack] = c.host.Texts.Intern(c.names.text(beyondTracing(c.names, w.Stack())))
}

func (c *contention) open(tid uint32, w *bpf.LockWait) {
	if c.now.Sub(freezeframe.Instant(w.Began)) >= openLockWait && len(c.table.Keys) < 2*maxContentionRows {
		c.row(tid, w)
	}
}

func (c *contention) row(tid uint32, w *bpf.LockWait) []uint64 {
	row := c.table.Row(c.next, contentionWidth)
	c.next++
	row[contentionPID], row[contentionTID] = uint64(w.PID), uint64(tid)
	row[contentionKind] = c.texts[lockKind(w.Flags)]
	row[contentionLock] = anonymous(w.Lock)
	row[contentionBegan] = w.Began
	row[contentionHolderPID], row[contentionHolderTID] = uint64(w.HolderPID), uint64(w.HolderTID)
	row[contentionHolderComm] = c.host.Texts.Intern(w.HolderComm())
	row[contentionHolderReads] = uint64(w.HolderReads)
	row[contentionAddressSpaceOf] = uint64(w.AddressSpaceOf)
	return row
}

func lockKind(flags uint32) int {
	switch {
	case flags&bpf.LockMutex != 0:
		return 1
	case flags&bpf.LockRT != 0:
		return 4
	case flags&bpf.LockRead != 0:
		return 2
	case flags&bpf.LockWrite != 0:
		return 3
	}
	return 0
}

// anonymous makes a number of a kernel address that tells locks apart and does
// not say where the kernel lies in memory.
func anonymous(address uint64) uint64 {
	return bits.RotateLeft64(address*0x9e3779b97f4a7c15, 29) * 0xbf58476d1ce4e5b9 >> 32
}

// beyondTracing cuts the frames of the tracing itself off a stack.
func beyondTracing(n *kernelNames, stack []uint64) []uint64 {
	for i, ip := range stack {
		if i < 4 && n.table != nil && isTracing(n.table.Name(ip)) {
			continue
		}
		return stack[i:]
	}
	return nil
}

func isTracing(name string) bool {
	return strings.HasPrefix(name, "bpf_prog_") || strings.HasPrefix(name, "bpf_trace_run") || strings.HasPrefix(name, "__traceiter_") || name == ""
}
