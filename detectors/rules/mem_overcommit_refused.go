package rules

import (
	"fmt"

	"freezeframe"
)

func memOvercommitRefused() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.overcommit_refused",
		Title: "memory refused while some was left",
		Means: "The machine does not promise more memory than it has (vm.overcommit_memory=2). As much as it may was promised, though by far not all of it was in use, so allocating or forking failed with ENOMEM.",
		Proof: "Mapping memory or starting a process failed with ENOMEM with vm.overcommit_memory=2 and Committed_AS at CommitLimit. Told from limit.memory_maps by the number of maps of the process.",
		Remedy: []string{
			"Now: `sysctl -w vm.overcommit_ratio=90`, or more swap; `grep -i commit /proc/meminfo` shows how much is left.",
			"So that it does not come back: vm.overcommit_memory=0 where nobody relies on 2; smaller heaps and thread stacks, and posix_spawn instead of fork in large processes.",
		},
		Reads: []string{
			sourceSymptoms, "failures.failures", "failures.errno", "limits.overcommit_memory",
			"meminfo.committed_bytes", "meminfo.commit_limit_bytes", "meminfo.mem_available_bytes", "procs.vsize_bytes", "procs.ppid",
		},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge:    judgeOvercommit,
	}
}

const (
	// neverOvercommit is the vm.overcommit_memory that refuses.
	neverOvercommit = 2
	// committedFull is the part of the commit limit from which on it counts as
	// reached: what is refused is more than was left.
	committedFull = 0.9
)

func judgeOvercommit(w freezeframe.Window) []freezeframe.Finding {
	s := around(w.Stall().Span)
	limits, memory := w.Between("limits", s), w.Between("meminfo", s)
	committed, most := memory.Max(0, "committed_bytes"), memory.Max(0, "commit_limit_bytes")
	if limits.Max(0, "overcommit_memory") != neverOvercommit || most == 0 || float64(committed) < committedFull*float64(most) {
		return nil
	}
	ps := processesIn(w, s)
	list := refusedIn(w, s, "ENOMEM", append(mapping, starting...)...)
	claim := lateOf(w, ps, list)
	claim = worth(w, freezeframe.Union(append(claim, symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "ENOMEM") })...)...))
	if claim == nil {
		return nil
	}
	left, _ := memory.Last(0, "mem_available_bytes")
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: 0.9,
		Summary: fmt.Sprintf("%s of memory were promised, as much as may be (%s), and more was refused with %s still to be had.", size(committed), size(most), size(left)),
		Evidence: append(refusals(list),
			evidence("meminfo", "committed_bytes", "%s promised, the limit is %s; %s available", size(committed), size(most), size(left)),
			evidence("limits", "overcommit_memory", "vm.overcommit_memory is %d", neverOvercommit)),
	}
	if large := ps.ranked(func(p *process) uint64 { return p.vsize }); len(large) > 0 {
		f.Evidence = append(f.Evidence, evidence("procs", "vsize_bytes", "the largest address space is that of %s with %s", large[0], size(large[0].vsize)))
	}
	return []freezeframe.Finding{f}
}
