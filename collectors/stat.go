package collectors

import (
	"path/filepath"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// tickUS is one USER_HZ tick in microseconds. USER_HZ is 100 on every
// architecture that Linux still runs on with Go.
const tickUS = 10_000

const (
	statUser = iota
	statNice
	statSystem
	statIdle
	statIowait
	statIRQ
	statSoftirq
	statSteal
	statGuest
	statCtxt
	statProcesses
	statIntr
	statProcsRunning
	statProcsBlocked
	statWidth
)

// stat reads /proc/stat: CPU time by kind, a row a CPU and one of them all.
type stat struct {
	file *kernel.File
}

func (c *stat) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "stat", From: "/proc/stat", Key: "cpu",
		Every: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			statUser:         {Name: "user_us"},
			statNice:         {Name: "nice_us"},
			statSystem:       {Name: "system_us"},
			statIdle:         {Name: "idle_us"},
			statIowait:       {Name: "iowait_us"},
			statIRQ:          {Name: "irq_us"},
			statSoftirq:      {Name: "softirq_us"},
			statSteal:        {Name: "steal_us"},
			statGuest:        {Name: "guest_us"},
			statCtxt:         {Name: "ctxt"},
			statProcesses:    {Name: "processes"},
			statIntr:         {Name: "intr"},
			statProcsRunning: {Name: "procs_running", Kind: freezeframe.Gauge},
			statProcsBlocked: {Name: "procs_blocked", Kind: freezeframe.Gauge},
		},
	}
}

func (c *stat) Open(h freezeframe.Host) (err error) {
	c.file, err = open(filepath.Join(h.Proc, "stat"), 16<<10)
	return err
}

func (c *stat) Close() error { return c.file.Close() }

func (c *stat) Collect(t *freezeframe.Table) error {
	b, err := c.file.Read()
	if err != nil {
		return err
	}
	parseStat(t, b)
	return nil
}

func parseStat(t *freezeframe.Table, b []byte) {
	all := -1 // index of the AllCPUs row: Row may move Vals, so no slice is kept
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		word := s.Word()
		if len(word) >= 3 && string(word[:3]) == "cpu" {
			key := freezeframe.AllCPUs
			if len(word) > 3 {
				n, ok := kernel.Uint(word[3:])
				if !ok {
					continue
				}
				key = freezeframe.Key(n)
			} else {
				all = len(t.Keys)
			}
			row := t.Row(key, statWidth)
			for i := statUser; i <= statGuest; i++ {
				v, _ := s.Uint()
				row[i] = v * tickUS
			}
			continue
		}
		if all < 0 {
			continue
		}
		column := -1
		switch string(word) {
		case "ctxt":
			column = statCtxt
		case "processes":
			column = statProcesses
		case "intr":
			column = statIntr
		case "procs_running":
			column = statProcsRunning
		case "procs_blocked":
			column = statProcsBlocked
		default:
			continue
		}
		t.Values(all, statWidth)[column], _ = s.Uint()
	}
}
