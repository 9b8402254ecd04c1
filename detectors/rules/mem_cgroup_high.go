package rules

import (
	"fmt"

	"freezeframe"
)

func memCgroupHigh() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.cgroup_high",
		Title: "a cgroup above its memory.high",
		Means: "The cgroup used more memory than its soft limit, and the kernel slowed its threads down so that it could not grow on.",
		Proof: "The victims slept in mem_cgroup_handle_over_high, and the \"high\" counter of their own cgroup (or of one above) grew.",
		Remedy: []string{
			"Now: raise the limit, `systemctl set-property UNIT MemoryHigh=4G`.",
			"So that it does not come back: look for the process that grew; set MemoryHigh= well above what the service needs at its busiest.",
		},
		Reads:    []string{sourceLedger, "procs.cgroup", "procs.rss_bytes", "cgroups.memory_high_events", "cgroups.memory_high_bytes", "cgroups.memory_bytes"},
		Subsumes: bringsAbout("mem.swap_thrash", "mem.direct_reclaim", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, func(m *moment) bool {
				return inClass(freezeframe.Reclaim, freezeframe.Sleeping, freezeframe.SwapIn, freezeframe.Unseen)(m) && in(m.wait, "mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high", "reclaim_high")
			})
			claim := worth(w, ms.spans())
			if claim == nil {
				return nil
			}
			s := around(core(claim))
			ps := processesIn(w, s)
			f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
			cs := cgroupsIn(w, s)
			for _, pid := range ms.pids() {
				c := cs.of(ps.byPID[pid], "memory", func(c *control) bool { return c.grew("memory_high_events") > 0 })
				if c == nil {
					continue
				}
				f.Confidence = proven
				f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: c.path()}
				f.Evidence = append(f.Evidence, evidence("cgroups", "memory_high_events", "%s went over its memory.high of %s %d times (in use: %s)",
					c.path(), size(c.max("memory_high_bytes")), c.grew("memory_high_events"), size(c.max("memory_bytes"))))
				blameTaker(w, &f, core(claim), func(p *process) bool { return p.within("memory", c.name) })
				break
			}
			f.Summary = fmt.Sprintf("The cgroup was over its memory.high; the kernel held its threads back for %s.", length(claim.Length()))
			return []freezeframe.Finding{f}
		},
	}
}
