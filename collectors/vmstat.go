package collectors

import (
	"bytes"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// vmstat reads /proc/vmstat: paging, reclaim, and the state of the page cache.
type vmstat struct {
	file
	column     map[string]int
	width      int
	allocstall int
}

func (c *vmstat) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "vmstat", From: "/proc/vmstat",
		Every: time.Second, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		// The names are the kernel's; allocstall is the sum over the zones.
		Columns: append(counters("pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault", "pgmajfault",
			"pgscan_kswapd", "pgscan_direct", "pgsteal_kswapd", "pgsteal_direct", "allocstall", "oom_kill",
			"compact_stall", "compact_fail", "thp_fault_alloc",
			"workingset_refault_file", "workingset_refault_anon", "drop_pagecache"),
			gauges("nr_dirty", "nr_writeback", "nr_dirty_threshold", "nr_dirty_background_threshold",
				"nr_free_pages", "nr_inactive_file", "nr_active_file")...),
	}
}

func (c *vmstat) Open(h freezeframe.Host) (err error) {
	columns := c.Source().Columns
	c.column, c.width = names(columns), len(columns)
	c.allocstall = c.column["allocstall"]
	if c.file, err = open(h.Proc+"/vmstat", 16<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *vmstat) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !c.parse(t, b) {
		return c.malformed
	}
	return nil
}

func (c *vmstat) parse(t *freezeframe.Table, b []byte) (ok bool) {
	row := t.Row(0, c.width)
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		word := s.Word()
		if i, wanted := c.column[string(word)]; wanted {
			row[i], wanted = s.Uint()
			ok = ok || wanted
		} else if bytes.HasPrefix(word, []byte("allocstall_")) {
			v, _ := s.Uint()
			row[c.allocstall] += v
		}
	}
	return ok
}
