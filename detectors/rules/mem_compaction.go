package rules

import (
	"fmt"

	"freezeframe"
)

func memCompaction() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.compaction",
		Title: "memory that had to be moved together first",
		Means: "A thread asked for a block of several pages in a row (a huge page, mostly), and memory was in pieces: it had to move other pages out of the way itself, and waited for those that were being written.",
		Proof: "The victims were in compaction: each time is told by BPF (mm_compaction_begin and end); without it by their stacks, while the machine's counter of allocations that had to compact (compact_stall) grew. Told from mem.direct_reclaim, which frees pages and moves none.",
		Remedy: []string{
			"Now: `echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag`, so that nobody waits for a huge page.",
			"So that it does not come back: no transparent huge pages for what must answer (`madvise` or `never`), or reserved ones (vm.nr_hugepages at boot); raise vm.watermark_boost_factor and vm.compaction_proactiveness; smaller buffers in drivers that ask for large blocks.",
		},
		Reads:    []string{sourceLedger, "vmstat.compact_stall", "reclaim_intervals.kind", "reclaim_intervals.began", "reclaim_intervals.order", "procs.comm"},
		Subsumes: bringsAbout("mem.direct_reclaim", "app.busy_loop", "mem.fork_cow", "runtime.jvm_gc"),
		Judge:    judgeCompaction,
	}
}

var inCompaction = []string{"compact_zone*", "try_to_compact_pages", "__alloc_pages_direct_compact", "compaction_alloc*", "isolate_migratepages*", "isolate_freepages*"}

func judgeCompaction(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	told := spelled(roots(w, func(m *moment) bool {
		return m.wait.Class != freezeframe.Idle && m.wait.Class != freezeframe.Stopped && m.wait.Class != freezeframe.Frozen
	}), spells(w, stall.Span, "compaction"))
	ms := told
	if worth(w, ms.spans()) == nil {
		ms = roots(w, func(m *moment) bool { return in(m.wait, inCompaction...) })
	}
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) int { return m.who.PID }) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		ps := processesIn(w, around(core(claim)))
		f := freezeframe.Finding{Explains: claim, Chain: story(b.moments), Culprit: ps.blame(b.longest().who), Confidence: counted}
		f.Culprit.PID = b.key
		stalls := vmstat(w, &f, core(claim), "compact_stall", "allocations that had to compact memory")
		name := named(f.Culprit.Comm, b.key)
		if len(told) > 0 {
			f.Confidence = proven
			f.Evidence = append(f.Evidence, evidence("reclaim_intervals", "began", "%s was in compaction for %s", name, length(claim.Length())))
		} else if stalls > 0 {
			f.Confidence = seen
		}
		f.Summary = fmt.Sprintf("%s had to move memory together for a block of pages, for %s.", name, length(claim.Length()))
		out = append(out, f)
	}
	return out
}
