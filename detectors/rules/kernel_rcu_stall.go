package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

func kernelRCUStall() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.rcu_stall",
		Title: "a CPU that took no part in the kernel's housekeeping",
		Means: "A CPU ran kernel code for so long (or was not given to this virtual machine for so long) that the kernel could not finish a grace period of RCU.",
		Proof: "The kernel's line \"rcu: INFO: … detected stalls\" and victims that did not get to run meanwhile.",
		Remedy: []string{
			"Now: save `dmesg`; the stacks below the line show what each CPU did.",
			"So that it does not come back: look for real-time threads at 100 %, an overloaded virtual machine host, a broken driver.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog},
		Subsumes: bringsAbout("cpu.contention"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			line := logged(w, watchdogBefore, "detected stalls on CPUs", "self-detected stall on CPU", "detected expedited stalls")
			if line == nil {
				return nil
			}
			claim := sinceLine(w, line, 21*time.Second, "rcu stall") // rcu_cpu_stall_timeout
			if claim == nil {
				return nil
			}
			return []freezeframe.Finding{{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: seen,
				Summary:  fmt.Sprintf("The kernel reports a CPU that took no part in RCU; the work did not run for %s.", length(claim.Length())),
				Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text))},
			}}
		},
	}
}
