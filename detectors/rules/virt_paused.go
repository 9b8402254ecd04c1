package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// accounted is the share of the time that CPUs may have been busy with in
	// a pause: they ran nothing.
	accounted = 0.2
	// littleSteal is the steal below which the host did not just run others.
	littleSteal = 0.1
)

func virtPaused() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "virt.paused",
		Title: "a virtual machine that was paused",
		Means: "For a while no CPU of this virtual machine ran at all: the host took a snapshot, moved it, or was itself frozen.",
		Proof: "No thread of any priority ran, on all CPUs alike; the CPUs account for next to no work, and steal did not grow. Told from real-time threads and lockups, where something does run.",
		Remedy: []string{
			"Now: ask whoever runs the host what it did at that time (snapshot, backup, migration).",
			"So that it does not come back: snapshots without memory, at quiet hours; longer heartbeat timeouts in clusters that run on such machines.",
		},
		Reads:    []string{sourceLedger, "stat.steal_us", "stat.idle_us", "tasks.policy"},
		Subsumes: bringsAbout("cpu.contention", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, inClass(freezeframe.MachineGone))
			claim := worth(w, ms.spans())
			if claim == nil {
				return nil
			}
			all := cpus(w, core(claim))
			total, n := machine(all)
			if len(all) == 0 || total.steal > littleSteal || total.busy > accounted {
				return nil
			}
			return []freezeframe.Finding{{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHypervisor}, Explains: claim, Confidence: counted, Chain: story(ms),
				Summary:  fmt.Sprintf("None of the %d CPUs ran anything for %s, and the host reports no steal.", n, length(claim.Length())),
				Evidence: []freezeframe.Evidence{evidence("stat", "steal_us", "CPU time in use %s, steal %s", pct(total.busy), pct(total.steal))},
			}}
		},
	}
}
