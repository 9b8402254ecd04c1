package rules

import (
	"strings"
	"time"

	"freezeframe"
)

func kernelOops() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.oops",
		Title: "a crash inside the kernel",
		Means: "A thread crashed in the kernel and was ended there. Locks that it held are never given back, so others may wait for ever.",
		Proof: "The kernel's \"BUG:\" or \"Oops:\" line shortly before or in the stall, and threads that wait in the kernel since.",
		Remedy: []string{
			"Now: save `dmesg` to another machine and plan a reboot; nothing on this one can be relied on.",
			"So that it does not come back: report the crash with its stack to the kernel's vendor; kdump keeps more of it.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog},
		Subsumes: bringsAbout("kernel.soft_lockup", "kernel.rcu_stall"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			line := logged(w, 60*time.Second, "BUG: unable to handle", "BUG: kernel NULL pointer", "kernel BUG at", "Oops: ", "general protection fault, ", "Internal error: ")
			if line == nil || strings.Contains(line.Text, "soft lockup") {
				return nil
			}
			claim := sinceLine(w, line, 0, "oops")
			if claim == nil {
				return nil
			}
			c := freezeframe.Culprit{Kind: freezeframe.CulpritHost}
			for _, l := range kernelLog(w, 60*time.Second) {
				// "CPU: 1 PID: 812 Comm: mount Tainted: …"
				rest, ok := after(l.Text, " PID: ")
				comm, ok2 := after(rest, "Comm: ")
				if ok && ok2 && l.At >= line.At && leadingInt(rest) > 0 {
					c = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: leadingInt(rest), Comm: word(comm, " ")}
					break
				}
			}
			return []freezeframe.Finding{{
				Culprit: c, Explains: claim, Confidence: seen,
				Summary:  "A thread crashed in the kernel; others have waited in the kernel since, for " + length(claim.Length()) + ".",
				Evidence: []freezeframe.Evidence{evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text))},
			}}
		},
	}
}
