package rules

import (
	"fmt"
	"slices"

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
		Proof: "The victims slept in balance_dirty_pages, or stood at the lock of a file while whoever was at work on it, or on the same filesystem, slept there; dirty memory was near its limit (nr_dirty against nr_dirty_threshold), or the disk's own was reached.",
		Remedy: []string{
			"Now: stop the writer for a moment (`kill -STOP PID`, later `kill -CONT PID`).",
			"So that it does not come back: `sysctl vm.dirty_background_bytes=268435456 vm.dirty_bytes=1073741824`, so that writing out begins early; let bulk writers use direct I/O or sync as they go (`dd oflag=direct`, `rsync --fsync`); IOWriteBandwidthMax= for their unit.",
		},
		Reads:    []string{sourceLedger, "vmstat.nr_dirty", "vmstat.nr_writeback", "vmstat.nr_dirty_threshold", "tasks.stack", "tasks.file", "mounts.mountpoint", "procs.write_bytes", "reclaim_intervals.kind", "reclaim_intervals.began"},
		Subsumes: bringsAbout("io.device_saturated", "runtime.jvm_gc"),
		Judge:    judgeDirtyThrottled,
	}
}

// paced is where the kernel makes writers pause.
var paced = []string{"balance_dirty_pages*"}

func judgeDirtyThrottled(w freezeframe.Window) []freezeframe.Finding {
	pauses := spells(w, w.Stall().Span, "dirty")
	direct := func(m *moment) bool { return in(m.wait, paced...) }
	ms := roots(w, func(m *moment) bool { return direct(m) || onFileLock(m.wait) && !onMmapLock(m) })
	if told := spelled(roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.Unseen || m.wait.Class == freezeframe.DeviceWait && m.wait.Stack == ""
	}), pauses); len(told) > 0 {
		// Where no stack could be read, each pause is told all the same.
		ms = append(ms, told...)
		stack := direct
		direct = func(m *moment) bool { return stack(m) || len(spelled(moments{*m}, pauses)) > 0 }
	}
	if worth(w, ms.spans()) == nil {
		return nil
	}
	mounted := mounts(w, around(ms.hull()))
	// A writer that is paced keeps the locks of its file, and of what the
	// filesystem shares: those who wait for one are paced with it.
	at, writers := pacedOn(w, ms.hull(), mounted)
	var kept moments
	for i := range ms {
		m := ms[i]
		if direct(&m) {
			kept = append(kept, m)
			continue
		}
		mt := mountOfMoment(w, mounted, &m)
		if mt == nil {
			continue
		}
		for _, s := range at[mt.point].Within(m.Span) {
			m.Span = s
			kept = append(kept, m)
		}
	}
	claim := worth(w, kept.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(kept), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	if told := kept.where(direct); len(told) > 0 {
		f.Chain = story(told) // it says more than a wait for a lock
	}
	if kept.share(direct) < 0.1 {
		f.Confidence = counted // nobody who suffers was himself seen to be paced
	}
	series := w.Between("vmstat", s)
	limit := series.Max(0, "nr_dirty_threshold")
	dirty := series.Max(0, "nr_dirty") + series.Max(0, "nr_writeback")
	if full := ratio(float64(dirty), float64(limit)); full >= nearThreshold {
		f.Confidence = max(f.Confidence, 0.7)
		if kept.share(direct) >= 0.1 {
			f.Confidence = proven
		}
		f.Evidence = append(f.Evidence, evidence("vmstat", "nr_dirty", "dirty memory and what was being written came to %s of the limit (%d of %d pages)", pct(full), dirty, limit))
	}
	if told := spelled(kept, pauses); len(told) > 0 {
		f.Confidence = proven
		device := ""
		for _, x := range pauses {
			device = orElse(device, x.device)
		}
		f.Evidence = append(f.Evidence, evidence("reclaim_intervals", "began", "the kernel had the victims pause %d times for the device %s, %s in all", len(told), device, length(told.spans().Length())))
	}
	ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End.Add(sweepMargin)})
	// Who was not seen to be paced himself has written a good part of what waits,
	// or he is not it: what another wrote may not have been read before it ended.
	p, _ := writerOf(ps, kept, writers)
	most := mostPaced(writers, kept.pids())
	if p != nil && (writers[p.pid] > 0 || most == 0 && p.written.sum >= dirty*pageBytes/4) {
		f.Culprit = p.culprit()
		f.Evidence = append(f.Evidence, evidence("procs", "write_bytes", "%s wrote %s", p, size(p.written.sum)))
	} else if most != 0 {
		f.Culprit = ps.blame(freezeframe.Party{PID: most})
	}
	if pid := f.Culprit.PID; writers[pid] > 0 {
		f.Evidence = append(f.Evidence, evidence("tasks", "stack", "%s was paced itself in %d samples", named(f.Culprit.Comm, pid), writers[pid]))
	}
	f.Summary = fmt.Sprintf("Writers were paced for %s because too much written data waited for the disk.", length(claim.Length()))
	return []freezeframe.Finding{f}
}

// pacedOn returns when a thread at work on a file of each mount point was seen
// to be paced, and how often threads of each process were.
func pacedOn(w freezeframe.Window, s freezeframe.Span, mounted []mount) (at map[string]freezeframe.Spans, writers map[int]int) {
	at, writers = map[string]freezeframe.Spans{}, map[int]int{}
	spans := map[string][]freezeframe.Span{}
	type sight struct {
		at    freezeframe.Instant
		point string // "" when it was not paced
	}
	last := map[freezeframe.Key]sight{}
	series := w.Between("tasks", s)
	series.Each([]string{"pid", "wchan", "stack", "file"}, func(now freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if was := last[key]; was.point != "" {
			spans[was.point] = append(spans[was.point], freezeframe.Span{Start: was.at, End: min(now, was.at.Add(clusterGap))})
		}
		saw := sight{at: now}
		if inFrames(w.Text(v[1]), paced...) || inFrames(w.Text(v[2]), paced...) {
			writers[int(v[0])]++
			if m := mountOf(mounted, w.Text(v[3])); m != nil {
				saw.point = m.point
			}
		}
		last[key] = saw
	})
	for _, was := range last {
		if was.point != "" {
			spans[was.point] = append(spans[was.point], freezeframe.Span{Start: was.at, End: was.at.Add(1)})
		}
	}
	for point, list := range spans {
		at[point] = freezeframe.Union(list...)
	}
	return at, writers
}

// mostPaced is the process seen to be paced most, other than the victims.
func mostPaced(writers map[int]int, victims []int) int {
	best := 0
	for pid, n := range writers {
		if !slices.Contains(victims, pid) && (best == 0 || n > writers[best] || n == writers[best] && pid < best) {
			best = pid
		}
	}
	return best
}
