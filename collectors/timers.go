package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	timersCPU = iota
	timersDue
	timersFired
	timersPID
	timersTID
	timersComm
	timersStack
	timersWidth
)

// timers reads which timers fired late, of one on each CPU that no task can
// delay: a row for each. A reading without rows is one in which all were on
// time.
type timers struct {
	programs *bpf.Timers
	names    *kernelNames
	texts    freezeframe.Texts
	next     freezeframe.Key
	table    *freezeframe.Table // of the reading that goes on
	take     func(*bpf.Late)
}

func (c *timers) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "timers", From: "BPF: a perf event cpu-clock on each CPU", Key: "record",
		Every: 250 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			timersCPU:   {Name: "cpu", Kind: gauge},
			timersDue:   {Name: "due_ns", Kind: gauge},
			timersFired: {Name: "fired_ns", Kind: gauge},
			timersPID:   {Name: "pid", Kind: gauge}, // what it interrupted; 0: the CPU was idle
			timersTID:   {Name: "tid", Kind: gauge},
			timersComm:  {Name: "comm", Kind: text},
			timersStack: {Name: "stack", Kind: text},
		},
	}
}

func (c *timers) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("timers: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	if err := c.names.open(h.Proc); err != nil {
		return fmt.Errorf("timers: %w", err)
	}
	c.texts = h.Texts
	c.take = c.row // made once: a method value allocates
	c.programs.Drain(1<<20, func(*bpf.Late) {})
	return nil
}

func (c *timers) Close() error { return nil }

func (c *timers) Collect(t *freezeframe.Table) error {
	c.table = t
	c.programs.Drain(maxTimerRows, c.take)
	c.table = nil
	return nil
}

const maxTimerRows = 200

func (c *timers) row(l *bpf.Late) {
	row := c.table.Row(c.next, timersWidth)
	c.next++
	row[timersCPU] = uint64(l.CPU)
	row[timersDue], row[timersFired] = l.Due, l.Fired
	row[timersPID], row[timersTID] = uint64(l.TGID), uint64(l.TID)
	row[timersComm] = c.texts.Intern(l.Comm())
	row[timersStack] = c.texts.Intern(c.names.text(l.Stack()))
}
