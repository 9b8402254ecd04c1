package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// softirqWords are the kernel's names of the columns, in their order.
var softirqWords = [...]string{"HI:", "TIMER:", "NET_TX:", "NET_RX:", "BLOCK:", "IRQ_POLL:", "TASKLET:", "SCHED:", "HRTIMER:", "RCU:"}

// softirqNames are the columns, and what a vector is called elsewhere.
var softirqNames = [...]string{"hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"}

// softirqs reads /proc/softirqs: how often each CPU ran each kind of deferred
// interrupt work.
type softirqs struct {
	file
	cpus []uint64
}

func (c *softirqs) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "softirqs", From: "/proc/softirqs", Key: "cpu",
		Every: 200 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: counters(softirqNames[:]...),
	}
}

func (c *softirqs) Open(h freezeframe.Host) (err error) {
	if c.file, err = open(h.Proc+"/softirqs", 8<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *softirqs) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !c.parse(t, b) {
		return c.malformed
	}
	return nil
}

func (c *softirqs) parse(t *freezeframe.Table, b []byte) (ok bool) {
	const width = len(softirqWords)
	s := kernel.Scan(b)
	c.cpus = scanCPUs(&s, c.cpus[:0])
	for _, cpu := range c.cpus {
		t.Row(freezeframe.Key(cpu), width)
	}
	for ; s.More(); s.NextLine() {
		column := softirqColumn(s.Word())
		if column < 0 {
			continue
		}
		for i := range c.cpus {
			v, isNumber := s.Uint()
			if !isNumber {
				break
			}
			ok = true
			t.Values(i, width)[column] = v
		}
	}
	return ok
}

func softirqColumn(word []byte) int {
	for i, w := range softirqWords {
		if string(word) == w {
			return i
		}
	}
	return -1
}
