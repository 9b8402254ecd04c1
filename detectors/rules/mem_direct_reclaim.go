package rules

import (
	"fmt"

	"freezeframe"
)

func memDirectReclaim() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.direct_reclaim",
		Title: "memory that had to be freed first",
		Means: "The machine had no free memory left, so every thread that asked for some had to find and free other pages first.",
		Proof: "The victims were in reclaim (try_to_free_pages) and not in that of a cgroup's limit, and the machine's counters of direct reclaim (allocstall, pgscan_direct) ran. Told from mem.cgroup_max by those counters, which a cgroup's own reclaim does not touch.",
		Remedy: []string{
			"Now: end or limit whoever grew, `systemctl set-property UNIT MemoryHigh=2G`.",
			"So that it does not come back: raise vm.watermark_scale_factor (to 100 or 200) so that the kernel frees memory earlier and in the background; give batch jobs MemoryHigh=.",
		},
		Reads:    []string{sourceLedger, "vmstat.allocstall", "vmstat.pgscan_direct", "procs.rss_bytes", "procs.cgroup", "cgroups.memory_max_events", "tasks.freepages_delay_ns", "reclaim_intervals.began", "reclaim.pages"},
		Subsumes: bringsAbout("runtime.jvm_gc", "mem.file_thrash"),
		Judge:    judgeDirectReclaim,
	}
}

func judgeDirectReclaim(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.Reclaim && !in(m.wait, inMemcgReclaim...) && !in(m.wait, inSwap...) && !in(m.wait, "mem_cgroup_handle_over_high", "reclaim_high")
	})
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	f := freezeframe.Finding{Explains: claim, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	stalls := vmstat(w, &f, s, "allocstall", "allocations that had to reclaim")
	scanned := vmstat(w, &f, s, "pgscan_direct", "pages scanned by them")
	stacks := ms.share(func(m *moment) bool { return m.wait.Stack != "" }) > 0.5
	switch {
	case stalls+scanned > 0 && stacks:
		f.Confidence = proven
	case stalls+scanned > 0:
		// Without stacks, a limit of the victim's own cgroup may be as much to blame.
		f.Confidence = counted
		ps := processesIn(w, around(s))
		cs := cgroupsIn(w, around(s))
		for _, pid := range ms.pids() {
			if cs.of(ps.byPID[pid], "memory", atLimit) != nil {
				return nil
			}
		}
	case stacks && len(w.Between("vmstat", s).Tables) == 0:
		f.Confidence = counted // the counters, which would prove or refute it, are missing
	default:
		return nil
	}
	blameTaker(w, &f, s, nil)
	f.Evidence = append(f.Evidence, spent(w, ms, s, "direct", "freed memory")...)
	f.Summary = fmt.Sprintf("The machine was out of free memory; the work freed pages for %s.", length(claim.Length()))
	return []freezeframe.Finding{f}
}
