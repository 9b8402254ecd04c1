package rules

import (
	"fmt"

	"freezeframe"
)

// nearThreshold is how full of its limit the dirty memory must have been; the
// kernel begins to pace writers halfway between its two limits.
const nearThreshold = 0.6

func fsDirtyThrottled() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.dirty_throttled",
		Title: "too much written data waiting for the disk",
		Means: "More data had been written to the page cache than the kernel lets wait there, so it made every thread that writes pause until the disk had caught up.",
		Proof: "The victims slept in balance_dirty_pages, with dirty memory near its limit (nr_dirty against nr_dirty_threshold).",
		Remedy: []string{
			"Now: stop the writer for a moment (`kill -STOP PID`, later `kill -CONT PID`).",
			"So that it does not come back: `sysctl vm.dirty_background_bytes=268435456 vm.dirty_bytes=1073741824`, so that writing out begins early; let bulk writers use direct I/O or sync as they go (`dd oflag=direct`, `rsync --fsync`); IOWriteBandwidthMax= for their unit.",
		},
		Reads:    []string{sourceLedger, "vmstat.nr_dirty", "vmstat.nr_writeback", "vmstat.nr_dirty_threshold", "procs.write_bytes"},
		Subsumes: bringsAbout("io.device_saturated", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, func(m *moment) bool { return in(m.wait, "balance_dirty_pages*") })
			claim := worth(w, ms.spans())
			if claim == nil {
				return nil
			}
			s := core(claim)
			f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
			series := w.Between("vmstat", s)
			limit := series.Max(0, "nr_dirty_threshold")
			dirty := series.Max(0, "nr_dirty") + series.Max(0, "nr_writeback")
			if full := ratio(float64(dirty), float64(limit)); full >= nearThreshold {
				f.Confidence = proven
				f.Evidence = append(f.Evidence, evidence("vmstat", "nr_dirty", "dirty memory and what was being written came to %s of the limit (%d of %d pages)", pct(full), dirty, limit))
			}
			ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End})
			if list := ps.ranked(func(p *process) uint64 { return p.written.sum }); len(list) > 0 {
				f.Culprit = list[0].culprit()
				f.Evidence = append(f.Evidence, evidence("procs", "write_bytes", "%s wrote %s", list[0], size(list[0].written.sum)))
			}
			f.Summary = fmt.Sprintf("Writers were paced for %s because too much written data waited for the disk.", length(claim.Length()))
			return []freezeframe.Finding{f}
		},
	}
}
