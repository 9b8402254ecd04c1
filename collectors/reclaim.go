package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// recordsMost is how many records of a ring one reading takes; what is left is
// read the next time.
const recordsMost = 512

const (
	reclaimPID = iota
	reclaimComm
	reclaimPages
	reclaimDirectTimes
	reclaimDirectNS
	reclaimCgroupTimes
	reclaimCgroupNS
	reclaimCompactionTimes
	reclaimCompactionNS
	reclaimDirtyTimes
	reclaimDirtyNS
	reclaimWidth
)

// reclaimQuiet is how long after its last time a process keeps its row.
const reclaimQuiet = 15 * time.Second

// reclaim reads, by BPF, what each process spent on getting memory.
type reclaim struct {
	from  *bpf.Reclaims
	texts freezeframe.Texts
}

func (c *reclaim) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "reclaim", From: "BPF: mm_vmscan_direct_reclaim, mm_vmscan_memcg_reclaim, mm_compaction, balance_dirty_pages", Key: "record",
		Every: time.Second, Stalled: 100 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(gauges("pid", "comm"), counters("pages", "direct", "direct_ns", "cgroup", "cgroup_ns", "compaction", "compaction_ns", "dirty", "dirty_ns")...),
	}
	s.Columns[reclaimComm].Kind = freezeframe.Text
	return s
}

func (c *reclaim) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("who has to free memory, by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	return nil
}

func (c *reclaim) Close() error { return nil }

func (c *reclaim) Collect(t *freezeframe.Table) error {
	all := c.from.Processes()
	for i := range all {
		p := &all[i]
		if p.LastNanos == 0 || since(p.LastNanos, t.At) > uint64(reclaimQuiet) {
			continue
		}
		row := t.Row(freezeframe.Key(p.TGID), reclaimWidth)
		row[reclaimPID], row[reclaimComm], row[reclaimPages] = uint64(p.TGID), c.texts.Intern(p.Comm()), p.Pages
		for kind, column := range [...]int{reclaimDirectTimes, reclaimCgroupTimes, reclaimCompactionTimes, reclaimDirtyTimes} {
			row[column], row[column+1] = p.Times[kind], p.Nanos[kind]
		}
	}
	return nil
}

const (
	intervalBegan = iota
	intervalEnded
	intervalTID
	intervalPID
	intervalComm
	intervalKind
	intervalOrder
	intervalPages
	intervalDevice
	intervalWidth
)

// reclaimIntervals reads, by BPF, each time that a thread spent a millisecond or
// more on getting memory.
type reclaimIntervals struct {
	from  *bpf.Reclaims
	texts freezeframe.Texts
	kinds [4]uint64
	count uint64
	table *freezeframe.Table
	add   func(*bpf.Reclaim)
}

func (c *reclaimIntervals) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "reclaim_intervals", From: "BPF: mm_vmscan_direct_reclaim, mm_vmscan_memcg_reclaim, mm_compaction, balance_dirty_pages", Key: "record",
		Every: 200 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: gauges("began", "ended", "tid", "pid", "comm", "kind", "order", "pages", "device"),
	}
	for _, i := range []int{intervalComm, intervalKind, intervalDevice} {
		s.Columns[i].Kind = freezeframe.Text
	}
	return s
}

func (c *reclaimIntervals) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("when threads have to free memory, by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	for kind, name := range []string{bpf.ReclaimDirect: "direct", bpf.ReclaimCgroup: "cgroup", bpf.ReclaimCompaction: "compaction", bpf.ReclaimDirty: "dirty"} {
		c.kinds[kind] = h.Texts.Intern([]byte(name))
	}
	c.add = func(x *bpf.Reclaim) {
		c.count++
		row := c.table.Row(freezeframe.Key(c.count), intervalWidth)
		row[intervalBegan], row[intervalEnded] = x.Began, x.Ended
		row[intervalTID], row[intervalPID], row[intervalComm] = uint64(x.TID), uint64(x.TGID), c.texts.Intern(x.Comm())
		if int(x.Kind) < len(c.kinds) {
			row[intervalKind] = c.kinds[x.Kind]
		}
		row[intervalOrder], row[intervalPages] = uint64(int64(x.Order)), x.Pages
		row[intervalDevice] = c.texts.Intern(x.Device())
	}
	return nil
}

func (c *reclaimIntervals) Close() error { return nil }

func (c *reclaimIntervals) Collect(t *freezeframe.Table) error {
	c.table = t
	c.from.Drain(recordsMost, c.add)
	return nil
}
