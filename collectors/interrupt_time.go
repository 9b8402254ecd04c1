package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	interruptTimeCPU = iota
	interruptTimeNumber
	interruptTimeSoftirq
	interruptTimeNS
	interruptTimeCount
	interruptTimeLongest
	interruptTimeBegan
	interruptTimeWidth
)

const (
	// interruptTimeLinger is for how long the programs stay when nothing is late
	// any more: to attach and to detach them costs every CPU.
	interruptTimeLinger = 5 * time.Second
	// maxInterruptTimeRows bounds a reading.
	maxInterruptTimeRows = 2048
)

// interruptTime reads, by BPF, how long each interrupt and softirq kept each
// CPU: a row for those that came since the reading before. While nothing is
// late the programs are not attached, and readings have no rows. Attaching
// takes milliseconds and waits for every CPU, so that a goroutine does it.
type interruptTime struct {
	from  *bpf.Interrupts
	focus *freezeframe.Focus
	names [bpf.SoftirqVectors]uint64

	counts  [2][]uint64 // at the reading before: of interrupts, of softirqs
	running bool        // at the reading before
	wanted  bool        // as the goroutine was told last
	until   freezeframe.Instant
	orders  chan bool
	ended   chan struct{}

	table *freezeframe.Table // of the reading that goes on
	take  func(softirq bool, cpu, number int, h bpf.Handler)
}

func (c *interruptTime) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "interrupt_time", From: "BPF: irq_handler_entry, irq_handler_exit, softirq_entry, softirq_exit, while a stall is open", Key: "interrupt",
		Every: 200 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			interruptTimeCPU:     {Name: "cpu", Kind: freezeframe.Gauge},
			interruptTimeNumber:  {Name: "number", Kind: freezeframe.Gauge}, // of the interrupt, as in /proc/interrupts; of a softirq, its vector
			interruptTimeSoftirq: {Name: "softirq", Kind: freezeframe.Text}, // "" for an interrupt, else as the columns of softirqs
			interruptTimeNS:      {Name: "ns"},
			interruptTimeCount:   {Name: "count"},
			interruptTimeLongest: {Name: "longest_ns", Kind: freezeframe.Gauge}, // single one since the reading before
			interruptTimeBegan:   {Name: "longest_began", Kind: freezeframe.Gauge},
		},
	}
}

func (c *interruptTime) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("what interrupts take of each CPU, by BPF: %w", freezeframe.ErrNotHere)
	}
	c.focus = h.Focus
	for i, name := range softirqNames {
		c.names[i] = h.Texts.Intern([]byte(name))
	}
	for i := len(softirqNames); i < len(c.names); i++ {
		c.names[i] = h.Texts.Intern([]byte("other"))
	}
	cpus := c.from.CPUs()
	c.counts = [2][]uint64{make([]uint64, cpus*c.from.IRQs()), make([]uint64, cpus*bpf.SoftirqVectors)}
	c.take = c.row // made once: a method value allocates
	// They are attached by now, and go when they were not wanted for a while.
	c.running, c.wanted, c.until = false, true, kernel.Now().Add(interruptTimeLinger)
	c.orders, c.ended = make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(c.ended)
		for on := range c.orders {
			_ = c.from.Run(on) // what fails stands in Programs.Needs
		}
	}()
	return nil
}

func (c *interruptTime) Close() error {
	if c.orders == nil {
		return nil
	}
	close(c.orders)
	<-c.ended
	c.orders = nil
	return nil
}

func (c *interruptTime) Collect(t *freezeframe.Table) error {
	now := at(t)
	if c.focus.Stalled(now) {
		c.until = now.Add(interruptTimeLinger)
	}
	if want := now < c.until; want != c.wanted {
		select {
		case c.orders <- want:
			c.wanted = want
		default: // it is at work; the next reading says it again
		}
	}
	running := c.from.Running()
	if !running {
		c.running = false
		return nil
	}
	if !c.running { // a first reading tells all, so that there is something to count from
		clear(c.counts[0])
		clear(c.counts[1])
		c.running = true
	}
	c.table = t
	c.from.Each(c.take)
	c.table = nil
	return nil
}

func (c *interruptTime) row(softirq bool, cpu, number int, h bpf.Handler) {
	kind, width, name := 0, c.from.IRQs(), uint64(0)
	if softirq {
		kind, width, name = 1, bpf.SoftirqVectors, c.names[number]
	}
	last := &c.counts[kind][cpu*width+number]
	if *last == h.Count || len(c.table.Keys) >= maxInterruptTimeRows {
		return
	}
	*last = h.Count
	row := c.table.Row(freezeframe.Key(cpu)<<32|freezeframe.Key(kind)<<31|freezeframe.Key(number), interruptTimeWidth)
	row[interruptTimeCPU], row[interruptTimeNumber], row[interruptTimeSoftirq] = uint64(cpu), uint64(number), name
	row[interruptTimeNS], row[interruptTimeCount] = h.Nanos, h.Count
	row[interruptTimeLongest], row[interruptTimeBegan] = h.LongestNanos, h.LongestBegan
}
