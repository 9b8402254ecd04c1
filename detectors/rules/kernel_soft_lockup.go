package rules

import (
	"fmt"
	"strings"
	"time"

	"freezeframe"
)

func kernelSoftLockup() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.soft_lockup",
		Title: "a CPU that did not come back from the kernel",
		Means: "A thread ran in the kernel without giving its CPU back, so that the kernel's own watchdog spoke up.",
		Proof: "The kernel's line \"soft lockup - CPU#N stuck for …\", and victims that did not get to run meanwhile.",
		Remedy: []string{
			"Now: save `dmesg`; the stack below the line names the driver.",
			"So that it does not come back: update the kernel or driver; in a virtual machine look for an overloaded host first.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			line := logged(w, watchdogBefore, "soft lockup - CPU#")
			if line == nil {
				return nil
			}
			stuck := 20 * time.Second
			if rest, ok := after(line.Text, "stuck for "); ok && leadingInt(rest) > 0 {
				stuck = time.Duration(min(leadingInt(rest), 3600)) * time.Second
			}
			claim := sinceLine(w, line, stuck, "soft lockup")
			if claim == nil {
				return nil
			}
			c := freezeframe.Culprit{Kind: freezeframe.CulpritHost}
			// "[comm:pid]" at its end.
			if i := strings.LastIndexByte(line.Text, '['); i >= 0 {
				inside := strings.TrimSuffix(strings.TrimSpace(line.Text[i+1:]), "]")
				if j := strings.LastIndexByte(inside, ':'); j > 0 && leadingInt(inside[j+1:]) > 0 {
					c = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: leadingInt(inside[j+1:]), Comm: inside[:j]}
				}
			}
			rest, _ := after(line.Text, "CPU#")
			return []freezeframe.Finding{{
				Culprit: c, Explains: claim, Confidence: proven,
				Summary:  fmt.Sprintf("CPU %d did not come back from the kernel for %s.", leadingInt(rest), length(stuck)),
				Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text))},
			}}
		},
	}
}
