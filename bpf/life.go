package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/btf"
)

var lifeFamily = family{
	name: "life",
	at:   "tp_btf sched_process_{fork,exec,exit}, signal_generate, mark_victim, cgroup_{freeze,unfreeze}",
	lost: "who starts short-lived processes, how a process ended, who sent a signal, who froze a cgroup",
	load: loadLifeFamily,
}

// Parent is what one process has done as a parent (struct parent of
// life.bpf.c). Moments are CLOCK_MONOTONIC nanoseconds unless said otherwise.
type Parent struct {
	Start           uint64 // its task_struct.start_boottime, CLOCK_BOOTTIME
	Since           uint64 // when counting began
	Forks           uint64 // processes that it started
	Clones          uint64 // threads that it started
	Execs           uint64 // of its children
	Exits           uint64 // children that ended
	RanNS           uint64 // CPU time of the threads of its children that ended within 2 s of their birth
	LivedNS         uint64 // time from birth to death of its children that ended
	PPID            uint32
	_               uint32
	CommBytes       [16]byte
	ParentCommBytes [16]byte
	ExecBytes       [16]byte // what a child became last
}

// Comm is its name.
func (p *Parent) Comm() []byte { return cstring(p.CommBytes[:]) }

// ParentComm is the name of its own parent.
func (p *Parent) ParentComm() []byte { return cstring(p.ParentCommBytes[:]) }

// Exec is the name of the program that a child of it ran last.
func (p *Parent) Exec() []byte { return cstring(p.ExecBytes[:]) }

// The kinds of Deed.
const (
	Signalled = 1 // a signal was sent
	OOMVictim = 2 // the kernel chose a process to end for memory
	Froze     = 3 // a cgroup is to be frozen (version 2)
	Thawed    = 4
	Ended     = 5 // a process did: From is its parent
)

// Deed is what one process did to another, or that one ended (struct deed).
type Deed struct {
	At                  uint64
	Kind                uint32
	Signal              int32
	Code                int32 // siginfo_t.si_code: SI_USER 0, SI_TKILL -6, SI_KERNEL 128; of an end the exit status
	Result              int32 // 0: delivered, 1: ignored, 2: pending already (trace/events/signal.h); of an end 1: with a core dump
	PID, TID            uint32
	FromPID, FromTID    uint32
	FromPPID            uint32
	FromKernel          uint32 // not 0: a thread of the kernel did it
	CommBytes           [16]byte
	FromCommBytes       [16]byte
	FromParentCommBytes [16]byte
	CgroupBytes         [128]byte
	LivedNS             uint64 // of one that ended
}

// Comm is the name of the process that it was done to.
func (d *Deed) Comm() []byte { return cstring(d.CommBytes[:]) }

// FromComm is the name of the process that did it.
func (d *Deed) FromComm() []byte { return cstring(d.FromCommBytes[:]) }

// FromParentComm is the name of that one's parent.
func (d *Deed) FromParentComm() []byte { return cstring(d.FromParentCommBytes[:]) }

// Cgroup is the path of the cgroup that was frozen, below its mount; of a process
// that ended only the last part of it (version 2).
func (d *Deed) Cgroup() []byte { return cstring(d.CgroupBytes[:]) }

// Life reads what life.bpf.c tells. Parents and Deeds are for one goroutine
// each.
type Life struct {
	parents *batch
	deeds   *Ring
}

func loadLifeFamily(l *loading) error {
	spec, err := loadLife()
	if err != nil {
		return fmt.Errorf("read the object of life: %w", err)
	}
	l.without(spec,
		optional{"signalled", "signal_generate", "who sent a signal"},
		optional{"oom", "mark_victim", "for whose memory a process was ended"},
		optional{"froze", "cgroup_freeze", "who froze a cgroup"},
		optional{"thawed", "cgroup_unfreeze", "who let a frozen cgroup go"},
	)
	task := uint8(0)
	if args, err := tracepoint(l.kernel, "mark_victim"); err == nil && len(args) > 0 {
		if _, pointer := btf.UnderlyingType(args[0].Type).(*btf.Pointer); pointer {
			task = 1
		}
	}
	maps, err := l.open(spec, map[string]any{"victim_is_task": task})
	if err != nil {
		return err
	}
	life := &Life{parents: newBatch(maps["parents"])}
	if life.deeds, err = NewRing(maps["deeds"]); err != nil {
		return err
	}
	l.closing(life.deeds)
	if _, err := l.mapRates(maps["rates"]); err != nil {
		return err
	}
	l.Life = life
	return nil
}

// Parents calls f with every process that was a parent lately, in no order; the
// parent is only valid during the call.
func (l *Life) Parents(f func(pid uint32, p *Parent)) error {
	return l.parents.each(func(key, value unsafe.Pointer) { f(*(*uint32)(key), (*Parent)(value)) })
}

// Deeds calls f with what is new, at most the given number, oldest first; the
// deed is only valid during the call.
func (l *Life) Deeds(most int, f func(*Deed)) int {
	return l.deeds.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Deed{})) {
			f((*Deed)(unsafe.Pointer(&b[0])))
		}
	})
}
