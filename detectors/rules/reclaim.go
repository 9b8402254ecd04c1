package rules

import (
	"cmp"
	"slices"
	"time"

	"freezeframe"
)

// What BPF tells of reclaim. A machine without it has none of these tables.

// A spell is a stretch of one thread's time that went into getting memory.
type spell struct {
	freezeframe.Span
	tid, pid int
	comm     string
	device   string // "254:0", of a pause for dirty pages
	order    int    // of the allocation; -1: not told
}

// spells returns those of a kind (direct, cgroup, compaction, dirty) that touch
// a span, in the order of their end.
func spells(w freezeframe.Window, s freezeframe.Span, kind string) []spell {
	// They are read after they ended.
	series := w.Between("reclaim_intervals", freezeframe.Span{Start: s.Start, End: s.End.Add(sweepMargin)})
	var out []spell
	seen := map[freezeframe.Key]bool{}
	series.Each([]string{"began", "ended", "tid", "pid", "comm", "kind", "device", "order"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		x := spell{Span: freezeframe.Span{Start: freezeframe.Instant(v[0]), End: freezeframe.Instant(v[1])}, tid: int(v[2]), pid: int(v[3]), comm: w.Text(v[4]), device: w.Text(v[6]), order: int(int64(v[7]))}
		if w.Text(v[5]) == kind && x.And(s).Length() > 0 && !seen[key] {
			seen[key] = true
			out = append(out, x)
		}
	})
	return out
}

// spelled returns the moments in which whoever they are about was in one of the
// spells, by thread where that is known.
func spelled(ms moments, all []spell) moments {
	byPID := map[int][]spell{}
	for _, x := range all {
		byPID[x.pid] = append(byPID[x.pid], x)
	}
	var out moments
	for i := range ms {
		m := ms[i]
		var spans []freezeframe.Span
		for _, x := range byPID[m.who.PID] {
			if m.who.TID == 0 || m.who.TID == x.tid {
				spans = append(spans, x.Span)
			}
		}
		for _, s := range freezeframe.Union(spans...).Within(m.Span) {
			cut := m
			cut.Span = s
			out = append(out, cut)
		}
	}
	return out
}

// A freer is what one process had to free or to wait for over a span.
type freer struct {
	pid   int
	comm  string
	pages uint64
	spent map[string]time.Duration // by kind
}

// freers returns them, who freed most pages first.
func freers(w freezeframe.Window, s freezeframe.Span) []freer {
	kinds := []string{"direct", "cgroup", "compaction", "dirty"}
	columns := []string{"pid", "comm", "pages", "direct_ns", "cgroup_ns", "compaction_ns", "dirty_ns"}
	type state struct {
		freer
		g [5]growth
	}
	series := w.Between("reclaim", s)
	all := map[freezeframe.Key]*state{}
	var keys []freezeframe.Key
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		x := all[key]
		if x == nil {
			x = &state{}
			all[key] = x
			keys = append(keys, key)
		}
		x.pid = int(v[0])
		setText(w, &x.comm, v[1])
		for i := range x.g {
			x.g[i].add(at, v[2+i])
		}
	})
	var out []freer
	for _, k := range keys {
		x := all[k]
		x.pages, x.spent = x.g[0].sum, map[string]time.Duration{}
		for i, kind := range kinds {
			x.spent[kind] = time.Duration(x.g[1+i].sum)
		}
		out = append(out, x.freer)
	}
	slices.SortStableFunc(out, func(a, b freer) int { return cmp.Compare(b.pages, a.pages) })
	return out
}

// spent tells, as BPF does, how long the victims were in reclaim of a kind, and
// who freed most pages.
func spent(w freezeframe.Window, ms moments, s freezeframe.Span, kind, what string) []freezeframe.Evidence {
	var out []freezeframe.Evidence
	if told := spelled(ms, spells(w, ms.hull(), kind)); len(told) > 0 {
		out = append(out, evidence("reclaim_intervals", "began", "the victims %s %d times for a millisecond or more, %s in all", what, len(told), length(told.spans().Length())))
	}
	if all := freers(w, around(s)); len(all) > 0 && all[0].pages > 0 {
		out = append(out, evidence("reclaim", "pages", "%s freed most: %d pages, in %s", named(all[0].comm, all[0].pid), all[0].pages, length(all[0].spent["direct"]+all[0].spent["cgroup"])))
	}
	return out
}

// pusher is who, the victims left out, freed most of the pages that were freed
// by processes: what he needed pushed out what others had. pid 0: nobody in
// particular, or no BPF.
func pusher(w freezeframe.Window, s freezeframe.Span, victims []int) (pid int, comm string, share float64) {
	var sum uint64
	var best *freer
	all := freers(w, around(s))
	for i := range all {
		sum += all[i].pages
		if best == nil && !slices.Contains(victims, all[i].pid) {
			best = &all[i]
		}
	}
	if best == nil || 2*best.pages < sum || best.pages == 0 {
		return 0, "", 0
	}
	return best.pid, best.comm, ratio(float64(best.pages), float64(sum))
}
