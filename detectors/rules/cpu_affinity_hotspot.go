package rules

import (
	"fmt"
	"slices"

	"freezeframe"
)

const (
	// crowdedCPU is how busy the one CPU must have been, and emptyCPU how idle
	// another at the same time, for the crowd to be one of place.
	crowdedCPU = 0.9
	emptyCPU   = 0.5
)

func cpuAffinityHotspot() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.affinity_hotspot",
		Title: "threads pinned to one crowded CPU",
		Means: "Threads that may only run on one CPU (or a few) stood in line there while other CPUs had nothing to do.",
		Proof: "The victims were runnable on a CPU that was full while another was at least half idle, and the threads that used it were not allowed on the idle one.",
		Remedy: []string{
			"Now: let the culprit run elsewhere, `taskset -a -p -c 0-N PID`.",
			"So that it does not come back: look for CPUAffinity=, AllowedCPUs=, cpuset cgroups, `taskset` in start scripts and interrupt affinity; keep pinned work off the CPUs of services.",
		},
		Reads:    []string{sourceLedger, "stat.idle_us", "tasks.cpu", "tasks.allowed_cpus", "tasks.run_ns", "procs.comm"},
		Subsumes: bringsAbout("cpu.contention", "runtime.jvm_gc"),
		Judge:    judgeAffinityHotspot,
	}
}

func judgeAffinityHotspot(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	var full, empty *cpu
	all := cpus(w, s)
	for i := range all {
		c := &all[i]
		switch {
		case c.key == freezeframe.AllCPUs:
		case c.busy >= crowdedCPU && (full == nil || c.busy > full.busy):
			full = c
		case c.idle >= emptyCPU && (empty == nil || c.idle > empty.idle):
			empty = c
		}
	}
	if full == nil || empty == nil {
		return nil
	}
	// The crowd is counted by process: two hundred threads with half a percent
	// each fill a CPU as one with all of it does.
	threads := threadsIn(w, s)
	ps := processesIn(w, around(s))
	victims := map[int]*thread{}
	used := map[int]float64{}
	bound := map[int]string{}
	for _, t := range threads {
		victims[t.tid] = t
		if on := float64(t.byCPU[full.key]) / float64(s.Length()); on > 0 && t.allowed != "" && !mayRunOn(t.allowed, empty.key) {
			used[t.pid] += on
			bound[t.pid] = t.allowed
		}
	}
	for _, p := range ps.list {
		if p.allowed != "" && !mayRunOn(p.allowed, empty.key) && p.cpu.rate()/1e6 > used[p.pid] {
			used[p.pid] = p.cpu.rate() / 1e6
			bound[p.pid] = p.allowed
		}
	}
	ms = ms.where(func(m *moment) bool {
		t := victims[m.who.TID]
		if t == nil {
			return false
		}
		_, was := t.byCPU[full.key]
		return was && !mayRunOn(t.allowed, empty.key)
	})
	suffering := ms.pids()
	hog := 0
	for pid := range used {
		// Of equals the one that does not suffer, then the older.
		if hog == 0 || better(used, suffering, pid, hog) {
			hog = pid
		}
	}
	if claim = worth(w, ms.spans()); claim == nil || used[hog] < hogShare {
		return nil
	}
	sure := proven
	if slices.Contains(suffering, hog) && used[hog] < mainHog {
		// Most of what fills the CPU was not read. A process that is bound to it
		// as well, and was not read since, is it rather than the victim.
		if other := unread(w, s, empty.key, suffering); other != nil {
			hog, sure = other.pid, counted
			bound[hog] = other.allowed
			ps.byPID[hog] = other
		}
	}
	name := named(ps.name(hog), hog)
	f := freezeframe.Finding{
		Culprit: ps.blame(freezeframe.Party{PID: hog}),
		Summary: fmt.Sprintf("CPU %d was full while CPU %d was %s idle; %s is pinned there like the work that waited for %s.",
			full.key, empty.key, pct(empty.idle), name, length(claim.Length())),
		Explains: claim, Confidence: sure, Chain: story(ms),
		Evidence: []freezeframe.Evidence{
			evidence("stat", "idle_us", "CPU %d was %s busy, CPU %d %s idle", full.key, pct(full.busy), empty.key, pct(empty.idle)),
			evidence("tasks", "allowed_cpus", "%s may run on CPUs %s and used %s of CPU %d", name, bound[hog], pct(min(used[hog], 1)), full.key),
		},
		Remedy: []string{fmt.Sprintf("`taskset -a -p -c %d %d`", empty.key, hog)},
	}
	return []freezeframe.Finding{f}
}

// hogShare is how much of the full CPU whoever is to blame must have used.
const hogShare = 0.2

// mainHog is how much of the full CPU a victim must have used to be the one
// that fills it.
const mainHog = 0.5

// unread is the only process that may not run on the empty CPU and was last
// read before the span; nil when there are several.
func unread(w freezeframe.Window, s freezeframe.Span, empty freezeframe.Key, suffering []int) *process {
	var only *process
	for _, p := range processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End}).list {
		if p.allowed == "" || mayRunOn(p.allowed, empty) || p.kernel() || slices.Contains(suffering, p.pid) || p.last > s.Start.Add(clusterGap) {
			continue
		}
		if only != nil {
			return nil
		}
		only = p
	}
	return only
}

func better(used map[int]float64, suffering []int, a, b int) bool {
	if x, y := slices.Contains(suffering, a), slices.Contains(suffering, b); x != y {
		return y
	}
	if used[a] != used[b] {
		return used[a] > used[b]
	}
	return a < b
}
