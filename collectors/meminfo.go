package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// meminfoColumns are the columns and the kernel's names for them, colon and all.
var meminfoColumns = [...]struct{ column, word string }{
	{"mem_total_bytes", "MemTotal:"},
	{"mem_free_bytes", "MemFree:"},
	{"mem_available_bytes", "MemAvailable:"},
	{"buffers_bytes", "Buffers:"},
	{"cached_bytes", "Cached:"},
	{"swap_cached_bytes", "SwapCached:"},
	{"swap_total_bytes", "SwapTotal:"},
	{"swap_free_bytes", "SwapFree:"},
	{"dirty_bytes", "Dirty:"},
	{"writeback_bytes", "Writeback:"},
	{"anon_bytes", "AnonPages:"},
	{"shmem_bytes", "Shmem:"},
	{"slab_reclaimable_bytes", "SReclaimable:"},
	{"slab_unreclaimable_bytes", "SUnreclaim:"},
	{"page_tables_bytes", "PageTables:"},
	{"committed_bytes", "Committed_AS:"},
	{"commit_limit_bytes", "CommitLimit:"},
}

// meminfo reads /proc/meminfo: what memory is used for.
type meminfo struct {
	file
	column map[string]int
}

func (c *meminfo) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "meminfo", From: "/proc/meminfo",
		Every: 200 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
	}
	for _, m := range meminfoColumns {
		s.Columns = append(s.Columns, freezeframe.Column{Name: m.column, Kind: freezeframe.Gauge})
	}
	return s
}

func (c *meminfo) Open(h freezeframe.Host) (err error) {
	c.column = make(map[string]int, len(meminfoColumns))
	for i, m := range meminfoColumns {
		c.column[m.word] = i
	}
	if c.file, err = open(h.Proc+"/meminfo", 4<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *meminfo) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !c.parse(t, b) {
		return c.malformed
	}
	return nil
}

func (c *meminfo) parse(t *freezeframe.Table, b []byte) (ok bool) {
	row := t.Row(0, len(meminfoColumns))
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		if i, wanted := c.column[string(s.Word())]; wanted {
			kib, isNumber := s.Uint()
			row[i] = kib << 10
			ok = ok || isNumber
		}
	}
	return ok
}
