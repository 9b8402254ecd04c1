package rules

import (
	"fmt"

	"freezeframe"
)

// stolenShare is the share of all CPU time that the host must have kept.
const stolenShare = 0.25

func virtSteal() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "virt.steal",
		Title: "CPU time that the host gave to others",
		Means: "This is a virtual machine, and its host ran others on the CPUs that were promised to it.",
		Proof: "Steal time in /proc/stat took a large share of all CPUs just while the victims were runnable.",
		Remedy: []string{
			"Now: nothing inside this machine helps; move it, or ask the provider about its host.",
			"So that it does not come back: a plan with dedicated CPUs; on burstable plans look at the CPU credits; on your own hosts lower the overcommitment.",
		},
		Reads:    []string{sourceLedger, "stat.steal_us", "stat.idle_us"},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot", "kernel.softirq_storm", "kernel.soft_lockup", "kernel.rcu_stall", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			ms := roots(w, inClass(freezeframe.Runnable, freezeframe.MachineGone))
			claim := worth(w, ms.spans())
			if claim == nil {
				return nil
			}
			total, n := machine(cpus(w, core(claim)))
			was, _ := machine(cpus(w, before(w)))
			if total.steal < stolenShare || total.steal < 2*was.steal {
				return nil
			}
			return []freezeframe.Finding{{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHypervisor}, Explains: claim, Confidence: proven, Chain: story(ms),
				Summary:  fmt.Sprintf("The host gave %s of the time of %d CPUs to others; the work waited for %s.", pct(total.steal), n, length(claim.Length())),
				Evidence: []freezeframe.Evidence{{Text: "steal, of all CPU time", Source: "stat", Column: "steal_us", Before: pct(was.steal), During: pct(total.steal)}},
			}}
		},
	}
}
