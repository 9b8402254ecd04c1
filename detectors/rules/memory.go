package rules

import (
	"time"

	"freezeframe"
)

const (
	// growTime is how long before the stall growth is looked for: memory fills
	// before it is short.
	growTime = 10 * time.Second
	// muchMemory is what a process must have gained to be who took it.
	muchMemory = 16 << 20
)

// What a thread that frees memory, or reads it back, sleeps or works in.
var (
	inMemcgReclaim = []string{"try_to_free_mem_cgroup_pages", "mem_cgroup_reclaim*", "try_charge*", "mem_cgroup_charge*", "__mem_cgroup_charge", "charge_memcg", "mem_cgroup_oom*", "mem_cgroup_out_of_memory"}
	inSwap         = []string{"do_swap_page", "swap_read*", "__swap_read*", "swapin_*", "swap_cluster_readahead", "swap_vma_readahead", "shmem_swapin*", "read_swap_cache*", "folio_lock_swap*"}
	inFileFault    = []string{"filemap_fault", "__do_fault", "do_read_fault", "do_shared_fault", "filemap_fault_recheck*"}
)

// taker returns who took memory: the process whose memory grew most, and by
// how much; where none grew much, the largest, or who moved most data through
// the page cache.
func taker(w freezeframe.Window, s freezeframe.Span, mine func(*process) bool) (*process, string) {
	ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End.Add(time.Second)})
	if mine == nil {
		mine = func(*process) bool { return true }
	}
	pick := func(value func(*process) uint64) *process {
		list := ps.ranked(func(p *process) uint64 {
			if p.kernel() || !mine(p) {
				return 0
			}
			return value(p)
		})
		if len(list) == 0 {
			return nil
		}
		return list[0]
	}
	if p := pick((*process).grown); p != nil && p.grown() >= muchMemory {
		return p, "grew by " + size(p.grown()) + " to " + size(p.rssMost)
	}
	if p := pick((*process).moved); p != nil && p.moved() >= 4*muchMemory {
		return p, "moved " + size(p.moved()) + " through the page cache"
	}
	if p := pick(func(p *process) uint64 { return p.rssMost + p.swap }); p != nil {
		return p, "is the largest, with " + size(p.rssMost) + " resident and " + size(p.swap) + " swapped out"
	}
	return nil, ""
}

// blameTaker sets a finding's culprit to who took the memory.
func blameTaker(w freezeframe.Window, f *freezeframe.Finding, s freezeframe.Span, mine func(*process) bool) {
	p, how := taker(w, s, mine)
	if p == nil {
		return
	}
	if f.Culprit.Kind == "" || f.Culprit.Kind == freezeframe.CulpritHost {
		f.Culprit = p.culprit()
	} else {
		f.Culprit.PID, f.Culprit.Comm = p.pid, p.comm
	}
	f.Evidence = append(f.Evidence, evidence("procs", "rss_bytes", "%s %s", p, how))
}

// counter adds how a counter of vmstat ran before and during as evidence, and
// returns how much it grew.
func vmstat(w freezeframe.Window, f *freezeframe.Finding, s freezeframe.Span, column, what string) uint64 {
	g := one(w, "vmstat", s, 0, column)
	if g.sum > 0 {
		b := one(w, "vmstat", before(w), 0, column)
		f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: what + " a second", Source: "vmstat", Column: column, Before: count(b.rate()), During: count(g.rate())})
	}
	return g.sum
}

// atLimit tells whether a memory cgroup reached its limit.
func atLimit(c *control) bool {
	return c.max("memory_max_bytes") > 0 && c.grew("memory_max_events") > 0 || c.max("under_oom") > 0
}
