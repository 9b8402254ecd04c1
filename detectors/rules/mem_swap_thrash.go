package rules

import (
	"fmt"

	"freezeframe"
)

// swapPages is how many pages must have come back from swap for waiting on
// memory to be waiting on swap.
const swapPages = 64

func memSwapThrash() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.swap_thrash",
		Title: "memory that had to come back from swap",
		Means: "Pages that the work needed had been swapped out, and were read back from disk one by one, often to be pushed out again at once.",
		Proof: "The victims waited in the swap-in path (do_swap_page, or the swap-in delay that the kernel counts for them) while pages came in from swap. Told from mem.cgroup_max, whose victims free memory but do not read any back.",
		Remedy: []string{
			"Now: end or limit whoever holds the growth; `swapoff -a && swapon -a` brings everything back once there is room.",
			"So that it does not come back: MemoryLow= for the services that must answer, MemoryHigh= or MemorySwapMax= for the others; vm.swappiness lower; more memory; zswap.",
		},
		Reads:    []string{sourceLedger, "tasks.majflt", "vmstat.pswpin", "vmstat.pswpout", "procs.rss_bytes", "procs.swap_bytes", "procs.cgroup", "cgroups.memory_max_events", "tasks.swapin_delay_ns"},
		Subsumes: bringsAbout("mem.direct_reclaim", "mem.cgroup_max", "mem.file_thrash", "io.device_saturated", "runtime.jvm_gc", "cpu.contention", "app.busy_loop"),
		Judge:    judgeSwapThrash,
	}
}

func judgeSwapThrash(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool {
		switch m.wait.Class {
		case freezeframe.SwapIn:
			return in(m.wait, inSwap...) || m.wait.Stack == "" && !in(m.wait, inFileFault...)
		case freezeframe.Reclaim, freezeframe.DeviceWait, freezeframe.KernelLock:
			// A page that comes back is charged, which may mean reclaim first.
			return in(m.wait, inSwap...)
		}
		return false
	})
	// A fast swap device lets a thread fault thousands of times a second: it
	// is then found on a CPU, in line for one behind those who reclaim, or
	// behind a sibling's lock, but what it is at is swapping in.
	faulting := thrashing(w)
	ms = append(ms, roots(w, func(m *moment) bool {
		return faulting[m.who.PID] && inClass(freezeframe.OnCPU, freezeframe.Runnable, freezeframe.UserLock, freezeframe.Unseen)(m)
	})...)
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	f := freezeframe.Finding{Explains: claim, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	back := vmstat(w, &f, s, "pswpin", "pages read back from swap")
	vmstat(w, &f, s, "pswpout", "pages swapped out")
	waited := swapDelay(w, s, ms)
	stacks := ms.share(func(m *moment) bool { return in(m.wait, inSwap...) }) > 0.5
	fast := 0
	for _, pid := range ms.pids() {
		if faulting[pid] {
			fast++
		}
	}
	if fast > 0 {
		f.Evidence = append(f.Evidence, evidence("tasks", "majflt", "threads of the victims had more than %.0f major faults a second", faultRate))
	}
	switch {
	case back >= swapPages && (stacks || waited > 0.2 || fast > 0):
		f.Confidence = proven
	case stacks && back > 0:
		f.Confidence = seen
	case stacks:
		f.Confidence = counted // zswap, or a source that is missing
	case back >= swapPages:
		f.Confidence = counted
	default:
		return nil
	}
	if waited > 0 {
		f.Evidence = append(f.Evidence, evidence("tasks", "swapin_delay_ns", "the victims spent %s of the time waiting for swap, by the kernel's count", pct(waited)))
	}
	// In a cgroup at its limit the pages went out for its own processes.
	ps := processesIn(w, around(s))
	var mine func(*process) bool
	cs := cgroupsIn(w, around(s))
	for _, pid := range ms.pids() {
		if c := cs.of(ps.byPID[pid], "memory", atLimit); c != nil {
			mine = func(p *process) bool { return p.within("memory", c.name) }
			f.Evidence = append(f.Evidence, evidence("cgroups", "memory_max_events", "cgroup %s was at its limit of %s", c.path(), size(c.max("memory_max_bytes"))))
			f.Culprit.Cgroup = c.path()
			break
		}
	}
	blameTaker(w, &f, s, mine)
	f.Summary = fmt.Sprintf("The work waited %s for memory to come back from swap.", length(claim.Length()))
	return []freezeframe.Finding{f}
}

// faultRate is how many major faults a second a thread must have to be called
// thrashing: at 100 µs each, they are a tenth of its time, and each is followed
// by reclaim for the page it brought back.
const faultRate = 1000.0

// thrashing returns the victims that fault so fast, by pid.
func thrashing(w freezeframe.Window) map[int]bool {
	series := w.Between("tasks", w.Stall().Span)
	type key struct{ pid, tid int }
	grown := map[key]*growth{}
	series.Each([]string{"pid", "majflt"}, func(at freezeframe.Instant, k freezeframe.Key, v []uint64) {
		id := key{int(v[0]), k.TID()}
		if grown[id] == nil {
			grown[id] = &growth{}
		}
		grown[id].add(at, v[1])
	})
	out := map[int]bool{}
	for id, g := range grown {
		if g.rate() >= faultRate && float64(g.sum) >= faultRate/10 {
			out[id.pid] = true
		}
	}
	return out
}

// swapDelay is the share of a span that the most delayed victim spent waiting
// for swap, as delay accounting counted it.
func swapDelay(w freezeframe.Window, s freezeframe.Span, ms moments) float64 {
	victims := map[int]bool{}
	for i := range ms {
		victims[ms[i].who.TID] = true
	}
	most := 0.0
	for _, t := range threadsIn(w, s) {
		if victims[t.tid] {
			most = max(most, t.swapIn.rate()/1e9)
		}
	}
	return min(most, 1)
}
