package collectors

import (
	"bytes"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// tickUS is one USER_HZ tick in microseconds. USER_HZ is 100 on every
// architecture that both Linux and Go run on.
const tickUS = 10_000

// The columns of stat. Those from statCtxt on stand in the AllCPUs row only.
const (
	statUser  = iota
	statGuest = iota + 7
	statCtxt
	statProcesses
	statIntr
	statProcsRunning
	statProcsBlocked
	statWidth
)

var cpuWord = []byte("cpu")

// stat reads /proc/stat: CPU time by kind, a row a CPU and one of them all.
type stat struct{ file }

func (c *stat) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "stat", From: "/proc/stat", Key: "cpu",
		Every: 100 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(counters("user_us", "nice_us", "system_us", "idle_us", "iowait_us",
			"irq_us", "softirq_us", "steal_us", "guest_us", "ctxt", "processes", "intr"),
			gauges("procs_running", "procs_blocked")...),
	}
}

func (c *stat) Open(h freezeframe.Host) (err error) {
	if c.file, err = open(h.Proc+"/stat", 16<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *stat) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !parseStat(t, b) {
		return c.malformed
	}
	return nil
}

func parseStat(t *freezeframe.Table, b []byte) bool {
	all := -1 // the AllCPUs row, by index: Row may move the values
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		word := s.Word()
		if number, isCPU := bytes.CutPrefix(word, cpuWord); isCPU {
			key := freezeframe.AllCPUs
			if len(number) == 0 {
				all = len(t.Keys)
			} else if n, ok := kernel.Uint(number); ok {
				key = freezeframe.Key(n)
			} else {
				continue
			}
			row := t.Row(key, statWidth)
			for i := statUser; i <= statGuest; i++ {
				v, _ := s.Uint()
				row[i] = v * tickUS
			}
			continue
		}
		if all < 0 {
			return false // the sum stands first in every kernel's file
		}
		row := t.Values(all, statWidth)
		switch string(word) {
		case "ctxt":
			row[statCtxt], _ = s.Uint()
		case "processes":
			row[statProcesses], _ = s.Uint()
		case "intr":
			row[statIntr], _ = s.Uint()
		case "procs_running":
			row[statProcsRunning], _ = s.Uint()
		case "procs_blocked":
			row[statProcsBlocked], _ = s.Uint()
		}
	}
	return all >= 0
}
