package rules

import (
	"fmt"

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
	threads := threadsIn(w, s)
	victims := map[int]*thread{}
	var hog *thread
	on := func(t *thread) float64 { return float64(t.byCPU[full.key]) }
	for _, t := range threads {
		victims[t.tid] = t
		if on(t) > 0 && (hog == nil || on(t) > on(hog)) && !mayRunOn(t.allowed, empty.key) {
			hog = t
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
	if claim = worth(w, ms.spans()); claim == nil || hog == nil || on(hog) < 0.2*float64(s.Length()) {
		return nil
	}
	ps := processesIn(w, around(s))
	f := freezeframe.Finding{
		Culprit: ps.blame(freezeframe.Party{PID: hog.pid, Comm: orElse(ps.name(hog.pid), hog.comm)}),
		Summary: fmt.Sprintf("CPU %d was full while CPU %d was %s idle; %s is pinned there like the work that waited for %s.",
			full.key, empty.key, pct(empty.idle), named(hog.comm, hog.pid), length(claim.Length())),
		Explains: claim, Confidence: proven, Chain: story(ms),
		Evidence: []freezeframe.Evidence{
			evidence("stat", "idle_us", "CPU %d was %s busy, CPU %d %s idle", full.key, pct(full.busy), empty.key, pct(empty.idle)),
			evidence("tasks", "allowed_cpus", "%s may run on CPUs %s and used %s of CPU %d", named(hog.comm, hog.pid), orElse(hog.allowed, "any"), pct(on(hog)/float64(s.Length())), full.key),
		},
		Remedy: []string{fmt.Sprintf("`taskset -a -p -c %d %d`", empty.key, hog.pid)},
	}
	return []freezeframe.Finding{f}
}
