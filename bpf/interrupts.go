package bpf

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"freezeframe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

var interruptsFamily = family{
	name: "interrupts",
	at:   "tp_btf irq_handler_entry, irq_handler_exit, softirq_entry, softirq_exit, while a stall is open",
	lost: "how long each interrupt and softirq kept which CPU; ticks and counts are read",
	load: loadInterruptsFamily,
}

// SoftirqVectors is how many slots a CPU has for softirqs; of them, as many are
// used as the kernel has vectors (10).
const SoftirqVectors = 16

const (
	// moreIRQs is the room for interrupts that are set up later.
	moreIRQs = 64
	mostIRQs = 4096
)

// Handler is what the handlers of one interrupt, or of one softirq vector, did
// on one CPU (struct handler of interrupts.bpf.c).
type Handler struct {
	Nanos, Count uint64 // of all time
	// The longest single one since Each came by last, and when it began in
	// CLOCK_MONOTONIC nanoseconds.
	LongestNanos, LongestBegan uint64
}

// Interrupts reads what interrupts.bpf.c counts. Each is for one goroutine, Run
// for another: it takes milliseconds.
type Interrupts struct {
	irqsACPU       int
	irqs, softirqs slots[Handler]
	cpus           slots[interruptsHere]
	begins, ends   []*ebpf.Program

	mu      sync.Mutex
	links   []link.Link // while it runs
	shed    bool
	running atomic.Bool
	failed  atomic.Pointer[error]
}

// interruptsHere is struct here: what one CPU is in.
type interruptsHere struct {
	irqBegan, softirqBegan uint64
	_                      [6]uint64
}

func loadInterruptsFamily(l *loading) error {
	for _, name := range []string{"irq_handler_entry", "irq_handler_exit", "softirq_entry", "softirq_exit"} {
		if _, err := tracepoint(l.kernel, name); err != nil {
			return err
		}
	}
	spec, err := loadInterrupts()
	if err != nil {
		return fmt.Errorf("read the object of interrupts: %w", err)
	}
	text, err := os.ReadFile("/proc/interrupts")
	if err != nil {
		return fmt.Errorf("count the interrupts: %w", err)
	}
	i := &Interrupts{irqsACPU: min(lastIRQ(string(text))+1+moreIRQs, mostIRQs)}
	n := uint32(possibleCPUs())
	spec.Maps["irqs"].MaxEntries = n * uint32(i.irqsACPU)
	spec.Maps["softirqs"].MaxEntries = n * SoftirqVectors
	spec.Maps["cpus"].MaxEntries = n
	coll, err := l.plain(spec, map[string]any{"irqs_a_cpu": uint32(i.irqsACPU)})
	if err != nil {
		return err
	}
	if i.irqs, err = mapSlots[Handler](coll.Maps["irqs"]); err != nil {
		return err
	}
	l.closing(&i.irqs)
	if i.softirqs, err = mapSlots[Handler](coll.Maps["softirqs"]); err != nil {
		return err
	}
	l.closing(&i.softirqs)
	if i.cpus, err = mapSlots[interruptsHere](coll.Maps["cpus"]); err != nil {
		return err
	}
	l.closing(&i.cpus)
	i.begins = []*ebpf.Program{coll.Programs["irq_begins"], coll.Programs["softirq_begins"]}
	i.ends = []*ebpf.Program{coll.Programs["irq_ends"], coll.Programs["softirq_ends"]}
	l.programs = append(append(l.programs, i.begins...), i.ends...)
	l.closing(i)
	l.stopping(func() {
		i.mu.Lock()
		i.shed = true
		i.mu.Unlock()
		_ = i.Run(false) // links go with the process in any case
	})
	// A kernel that refuses it is to say so now, not in the first stall. Whoever
	// reads it ends this while nothing is wrong.
	if err := i.Run(true); err != nil {
		return err
	}
	l.Interrupts = i
	return nil
}

// lastIRQ is the largest number of an interrupt in the text of /proc/interrupts,
// -1 without one.
func lastIRQ(text string) int {
	last := -1
	for line := range strings.Lines(text) {
		number, _, ok := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.Atoi(number); ok && err == nil {
			last = max(last, n)
		}
	}
	return last
}

// Run attaches the programs, or detaches them; no change costs nothing. While
// attached, they cost every interrupt and softirq some 0.4 µs, so that
// they are only attached while it matters. It may wait for every CPU.
func (i *Interrupts) Run(on bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	on = on && !i.shed
	if on == (len(i.links) > 0) {
		return nil
	}
	if !on {
		i.running.Store(false)
		return i.detach()
	}
	// What was begun when it last ran is over.
	for n := range i.cpus.values {
		i.cpus.values[n] = interruptsHere{}
	}
	for _, prog := range append(append([]*ebpf.Program(nil), i.ends...), i.begins...) {
		lk, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			err = fmt.Errorf("attach %s: %w", prog, err)
			i.failed.Store(&err)
			return errors.Join(err, i.detach())
		}
		i.links = append(i.links, lk)
	}
	i.running.Store(true)
	return nil
}

func (i *Interrupts) detach() error {
	var errs []error
	for _, lk := range i.links {
		errs = append(errs, lk.Close())
	}
	i.links = nil
	return errors.Join(errs...)
}

// Close detaches the programs.
func (i *Interrupts) Close() error { return i.Run(false) }

// Running tells whether the programs are attached: only then is what Each tells
// all that there was.
func (i *Interrupts) Running() bool { return i.running.Load() }

// need is that of programs which could be attached once, and later not.
func (i *Interrupts) need() (freezeframe.Need, bool) {
	err := i.failed.Load()
	if err == nil {
		return freezeframe.Need{}, false
	}
	return freezeframe.Need{What: "BPF " + interruptsFamily.name + " (" + interruptsFamily.at + ")", Lost: interruptsFamily.lost, Fix: fixFor(*err), Err: brief(*err)}, true
}

// IRQs is how many numbers of interrupts are told apart: what lies above counts
// to the last of them.
func (i *Interrupts) IRQs() int { return i.irqsACPU }

// CPUs is how many CPUs there may be.
func (i *Interrupts) CPUs() int { return len(i.cpus.values) }

// Each calls f with every interrupt and softirq vector that came on a CPU so
// far, and begins anew to look for the longest. It makes no system call.
func (i *Interrupts) Each(f func(softirq bool, cpu, number int, h Handler)) {
	each(i.irqs.values, i.irqsACPU, func(cpu, number int, h Handler) { f(false, cpu, number, h) })
	each(i.softirqs.values, SoftirqVectors, func(cpu, number int, h Handler) { f(true, cpu, number, h) })
}

func each(all []Handler, aCPU int, f func(cpu, number int, h Handler)) {
	for at := range all {
		if h := &all[at]; h.Count > 0 {
			f(at/aCPU, at%aCPU, *h)
			h.LongestNanos = 0
		}
	}
}
