package rules

import (
	"fmt"

	"freezeframe"
)

func memCgroupMax() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.cgroup_max",
		Title: "a cgroup at its memory limit",
		Means: "The cgroup (the unit or container) had used up its memory limit, so each thread in it that needed a page had to free another one of the same cgroup first, however much memory the machine had.",
		Proof: "The victims were in reclaim for their own cgroup's limit (try_to_free_mem_cgroup_pages), or, beside that, read back program pages that it had thrown out, while the cgroup's counter of reached limits (memory.events max, v1 failcnt) grew.",
		Remedy: []string{
			"Now: raise the limit, `systemctl set-property UNIT MemoryMax=4G`, `docker update --memory 4g NAME`.",
			"So that it does not come back: look for the process that grew; size heaps and caches to the limit (-XX:MaxRAMPercentage, GOMEMLIMIT); remember that the page cache of its files counts too.",
		},
		Reads:    []string{sourceLedger, "procs.cgroup", "procs.rss_bytes", "cgroups.memory_max_events", "cgroups.memory_max_bytes", "cgroups.memory_bytes", "reclaim_intervals.began", "reclaim.pages", "vmstat.workingset_refault_file"},
		Subsumes: bringsAbout("mem.direct_reclaim", "runtime.jvm_gc"),
		Judge:    judgeCgroupMax,
	}
}

// onLimit tells whether a moment went into freeing memory for a cgroup's limit.
func onLimit(m *moment) bool {
	return m.wait.Class == freezeframe.Reclaim && (m.wait.Stack == "" || in(m.wait, inMemcgReclaim...)) && !in(m.wait, "mem_cgroup_handle_over_high", "reclaim_high")
}

func judgeCgroupMax(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool { return onLimit(m) || onFileFault(m) })
	if worth(w, ms.spans()) == nil {
		return nil
	}
	limits := limitsOf(w)
	groups := limits.groups
	ms = ms.where(func(m *moment) bool { return onLimit(m) || limits.decide(m.who.PID) })
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if c := groups[m.who.PID]; c != nil {
			return c.name
		}
		return ""
	}) {
		claim := worth(w, b.spans())
		stacks := b.share(func(m *moment) bool { return in(m.wait, inMemcgReclaim...) })
		if claim == nil {
			continue
		}
		f := freezeframe.Finding{Explains: claim, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Confidence: counted}
		where := "A cgroup"
		if b.key == "" {
			// The stack says limit; which cgroup's could not be read.
			if stacks < 0.5 {
				continue
			}
			f.Confidence = counted
		} else {
			c := groups[b.moments[0].who.PID]
			where = c.path()
			f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: where}
			if stacks > 0.3 {
				f.Confidence = proven
			}
			f.Evidence = append(f.Evidence, evidence("cgroups", "memory_max_events", "%s reached its limit of %s %d times (in use: %s)",
				where, size(c.max("memory_max_bytes")), c.grew("memory_max_events"), size(c.max("memory_bytes"))))
			blameTaker(w, &f, core(claim), func(p *process) bool { return p.within("memory", c.name) })
			f.Evidence = append(f.Evidence, spent(w, b.moments, core(claim), "cgroup", "freed memory of the cgroup")...)
		}
		f.Summary = fmt.Sprintf("%s was at its memory limit; its threads freed pages, or read them back, for %s.", where, length(claim.Length()))
		out = append(out, f)
	}
	return out
}
