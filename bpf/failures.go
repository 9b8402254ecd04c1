package bpf

import (
	"fmt"
	"sync"
	"unsafe"

	"freezeframe/internal/kernel"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var failuresFamily = family{
	name: "failures",
	at:   "tp_btf sys_exit, while a stall is open",
	lost: "which processes were refused something at a limit, and how often; a process out of memory maps and a user out of inotify watches are not found at all",
	load: loadFailuresFamily,
}

// Sizes of what failures.bpf.c knows errors and calls by.
const (
	failureErrors = 256
	failureCalls  = 512
)

// The kinds of limit: an error tells of one only where the call may meet it.
const (
	limitOfAny    = 1 << iota // the error alone says so
	limitOfMemory             // ENOMEM
	limitOfTasks              // EAGAIN
)

// limitErrors are the errors that tell of a limit.
var limitErrors = [...]struct {
	errno unix.Errno
	kinds uint8
}{
	{unix.EMFILE, limitOfAny}, {unix.ENFILE, limitOfAny}, {unix.ENOSPC, limitOfAny}, {unix.EDQUOT, limitOfAny},
	{unix.ENOBUFS, limitOfAny}, {unix.EADDRNOTAVAIL, limitOfAny}, {unix.EUSERS, limitOfAny},
	{unix.ENOMEM, limitOfMemory}, {unix.EAGAIN, limitOfTasks},
}

// limitsOf returns the kinds of limit that a system call may meet. brk is not
// among them: it says by no error that it failed. ENOSPC of bpf is a buffer of
// the caller's that is too small.
func limitsOf(call string) uint8 {
	switch call {
	case "bpf":
		return 0
	case "clone", "clone3", "fork", "vfork", "execve", "execveat", "timer_create", "io_setup":
		return limitOfAny | limitOfMemory | limitOfTasks
	case "mmap", "munmap", "mremap", "mprotect", "shmget", "shmat", "mlock", "mlock2", "mlockall", "io_uring_setup":
		return limitOfAny | limitOfMemory
	}
	return limitOfAny
}

// FailureCalls returns the name of every system call by its number, as far as it
// may meet a limit and has one here; else "".
func FailureCalls() []string {
	names := make([]string, failureCalls)
	for nr := range names {
		names[nr] = kernel.Syscall(int64(nr))
	}
	return names
}

// FailureErrors returns the name of every error that is counted by its number
// (EMFILE by 24); else "".
func FailureErrors() []string {
	names := make([]string, failureErrors)
	for _, e := range limitErrors {
		names[e.errno] = unix.ErrnoName(e.errno)
	}
	return names
}

// Failing says what failed, and whose (struct failing of failures.bpf.c).
type Failing struct {
	PID   uint32
	Call  uint16 // number of the system call on this architecture
	Error uint16 // errno
}

// Failed is how often, and when first and last in CLOCK_MONOTONIC nanoseconds
// (struct failed).
type Failed struct {
	Count, First, Last uint64
	UID                uint32 // the real one, as the initial user namespace has it
	_                  uint32
	CommBytes          [16]byte
}

// Comm is the name of the process.
func (f *Failed) Comm() []byte { return cstring(f.CommBytes[:]) }

// Failures reads what failures.bpf.c counts while it is attached. Then every
// system call of the machine costs some 150 ns more, mostly by the kernel's slower
// way out of it (BenchmarkFailures), so it is attached only while something stalls.
type Failures struct {
	table *batch
	prog  *ebpf.Program
	need  func(error)

	mu   sync.Mutex // of attaching, which is never done on a lane
	link link.Link
	gone bool
}

func loadFailuresFamily(l *loading) error {
	if _, err := tracepoint(l.kernel, "sys_exit"); err != nil {
		return err
	}
	spec, err := loadFailures()
	if err != nil {
		return fmt.Errorf("read the object of failures: %w", err)
	}
	var errors [failureErrors]uint8
	for _, e := range limitErrors {
		errors[e.errno] |= e.kinds
	}
	var calls [failureCalls]uint8
	for nr, name := range FailureCalls() {
		calls[nr] = limitsOf(name)
	}
	coll, err := l.plain(spec, map[string]any{"errors": errors, "calls": calls})
	if err != nil {
		return err
	}
	if _, err := l.mapRates(coll.Maps["rates"]); err != nil {
		return err
	}
	f := &Failures{table: newBatch(coll.Maps["failures"]), prog: coll.Programs["call_returns"]}
	p := l.Programs
	f.need = func(err error) { p.need(needOf(l, l.at, l.lost, err)) }
	// That it can be attached is better known now than in a stall.
	if err := f.run(true); err != nil {
		return err
	}
	if err := f.run(false); err != nil {
		return err
	}
	l.closing(f)
	l.stopping(f.stop)
	l.demand = f.Run
	l.programs = append(l.programs, f.prog)
	l.Failures = f
	return nil
}

// Run attaches or detaches the program, which takes milliseconds: not for a
// lane. What was counted before it was attached is forgotten.
func (f *Failures) Run(on bool) error {
	err := f.run(on)
	if err != nil {
		f.need(err)
	}
	return err
}

func (f *Failures) run(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on = on && !f.gone; on == (f.link != nil) {
		return nil
	}
	if !on {
		lk := f.link
		f.link = nil
		if err := lk.Close(); err != nil {
			return fmt.Errorf("detach %s: %w", f.prog, err)
		}
		return nil
	}
	if err := f.forget(); err != nil {
		return err
	}
	lk, err := link.AttachTracing(link.TracingOptions{Program: f.prog})
	if err != nil {
		return fmt.Errorf("attach %s: %w", f.prog, err)
	}
	f.link = lk
	return nil
}

// forget empties the table.
func (f *Failures) forget() error {
	var keys []Failing
	b := newBatch(f.table.m) // the other is a lane's
	if err := b.each(func(key, _ unsafe.Pointer) { keys = append(keys, *(*Failing)(key)) }); err != nil {
		return err
	}
	for i := range keys {
		if err := f.table.m.Delete(&keys[i]); err != nil {
			return fmt.Errorf("empty the table of failed system calls: %w", err)
		}
	}
	return nil
}

// stop detaches the program for good.
func (f *Failures) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
	if f.link != nil {
		_ = f.link.Close() // it goes with the process in any case
		f.link = nil
	}
}

// Close detaches the program.
func (f *Failures) Close() error {
	f.stop()
	return nil
}

// Each calls f with everything that was counted since the program was attached
// last, in no order; what it is given is only valid during the call. It is for
// one goroutine.
func (f *Failures) Each(do func(*Failing, *Failed)) error {
	return f.table.each(func(key, value unsafe.Pointer) {
		var sum Failed
		for _, cpu := range unsafe.Slice((*Failed)(value), f.table.perKey) {
			if cpu.Count == 0 {
				continue
			}
			if sum.Count == 0 || cpu.First < sum.First {
				sum.First, sum.UID, sum.CommBytes = cpu.First, cpu.UID, cpu.CommBytes
			}
			sum.Count += cpu.Count
			sum.Last = max(sum.Last, cpu.Last)
		}
		if sum.Count > 0 {
			do((*Failing)(key), &sum)
		}
	})
}
