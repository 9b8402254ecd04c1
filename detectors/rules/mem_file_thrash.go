package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// refaults is how many pages of files must have been read back that had
	// been thrown out a moment before.
	refaults = 200
)

func memFileThrash() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.file_thrash",
		Title: "program code that was thrown out and read back",
		Means: "Memory was so short that the kernel threw out the pages of running programs, and read them from disk again at the next step they took.",
		Proof: "The victims waited in page faults on files while the counter of pages that came back soon after they were evicted (workingset_refault_file) ran. Told from slow disks by that counter, and from mem.cgroup_max by no cgroup of the victim being at its limit.",
		Remedy: []string{
			"Now: end whoever filled memory.",
			"So that it does not come back: MemoryLow= for what must answer, MemoryHigh= for the rest; some swap, so that idle memory can go instead of code; an out-of-memory daemon.",
		},
		Reads:    []string{sourceLedger, "vmstat.workingset_refault_file", "vmstat.pgmajfault", "procs.rss_bytes", "procs.cgroup", "cgroups.memory_max_events", "reclaim.pages"},
		Subsumes: bringsAbout("io.device_saturated", "runtime.jvm_gc"),
		Judge:    judgeFileThrash,
	}
}

func onFileFault(m *moment) bool {
	return m.wait.Class == freezeframe.SwapIn && in(m.wait, inFileFault...) && !in(m.wait, inSwap...)
}

func judgeFileThrash(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, onFileFault)
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	ps := processesIn(w, around(s))
	cs := cgroupsIn(w, around(s))
	for _, pid := range ms.pids() {
		if cs.of(ps.byPID[pid], "memory", atLimit) != nil {
			return nil
		}
	}
	f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	if vmstat(w, &f, s, "workingset_refault_file", "pages of files read back soon after they were evicted") < refaults {
		return nil
	}
	vmstat(w, &f, s, "pgmajfault", "major faults")
	blameTaker(w, &f, s, nil)
	if pid, comm, share := pusher(w, s, ms.pids()); pid != 0 {
		f.Culprit = ps.blame(freezeframe.Party{PID: pid, Comm: comm})
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence("reclaim", "pages", "%s pushed %s of the pages out that processes freed", named(comm, pid), pct(share)))
	}
	f.Summary = fmt.Sprintf("Program code had been thrown out of memory and was read back; the work waited for it for %s.", length(claim.Length()))
	return []freezeframe.Finding{f}
}
