package collectors

import (
	"fmt"
	"os"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	teardownBegan = iota
	teardownEnded
	teardownPID
	teardownComm
	teardownRSS
	teardownBy
	teardownWidth
)

// teardown reads, by BPF, how long the memory of large processes that ended
// took to be given back. began is 0 where the kernel does not tell it.
type teardown struct {
	from  *bpf.Teardowns
	texts freezeframe.Texts
	page  uint64
	count uint64
	table *freezeframe.Table
	add   func(*bpf.Teardown)
}

func (c *teardown) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "teardown", From: "BPF: sched_process_exit, exit_mmap", Key: "record",
		Every: 500 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: gauges("began", "ended", "pid", "comm", "rss_bytes", "by_pid"),
	}
	s.Columns[teardownComm].Kind = freezeframe.Text
	return s
}

func (c *teardown) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("ends of large processes by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts, c.page = h.Texts, uint64(os.Getpagesize())
	c.add = func(x *bpf.Teardown) {
		c.count++
		row := c.table.Row(freezeframe.Key(c.count), teardownWidth)
		row[teardownBegan], row[teardownEnded] = x.Began, x.Ended
		row[teardownPID], row[teardownComm] = uint64(x.TGID), c.texts.Intern(x.Comm())
		row[teardownRSS], row[teardownBy] = x.Pages*c.page, uint64(x.By)
	}
	return nil
}

func (c *teardown) Close() error { return nil }

func (c *teardown) Collect(t *freezeframe.Table) error {
	c.table = t
	c.from.Drain(recordsMost, c.add)
	return nil
}
