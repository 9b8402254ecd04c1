package rules

import (
	"time"

	"freezeframe"
)

// eventSuspended is the probes' word for BOOTTIME running ahead of MONOTONIC.
const eventSuspended = "suspended"

func timeSuspended() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "time.suspended",
		Title: "a machine that was asleep",
		Means: "The machine was suspended and woke up again; what was under way waited as long.",
		Proof: "CLOCK_BOOTTIME moved and CLOCK_MONOTONIC did not, or the kernel's lines \"PM: suspend entry\" and \"PM: suspend exit\".",
		Remedy: []string{
			"Now: nothing is wrong.",
			"So that it does not come back: `systemctl mask sleep.target suspend.target hibernate.target`; look at the lid and idle actions in logind.conf.",
		},
		Reads:    []string{sourceSymptoms, eventSuspended, freezeframe.EventKernelLog},
		Subsumes: bringsAbout("virt.paused", "cpu.contention", "time.stepped", "virt.steal"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			stall := w.Stall()
			var at freezeframe.Instant
			var text, source string
			for _, e := range w.Events(eventSuspended, freezeframe.Whole) {
				if e.At >= stall.Start.Add(-time.Second) && e.At <= stall.End.Add(time.Second) {
					at, text, source = e.At, orElse(quote(e.Text), "the machine slept"), eventSuspended
				}
			}
			if line := logged(w, time.Second, "PM: suspend exit", "PM: hibernation: hibernation exit"); text == "" && line != nil {
				at, text, source = line.At, line.Text, freezeframe.EventKernelLog
			}
			if text == "" {
				return nil
			}
			claim := worth(w, stall.Late().Within(freezeframe.Span{Start: at.Add(-2 * time.Second), End: at.Add(2 * time.Second)}))
			if claim == nil {
				return nil
			}
			return []freezeframe.Finding{{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: seen,
				Summary:  "The machine was suspended and woke up.",
				Evidence: []freezeframe.Evidence{evidence(source, "", "%s", quote(text))},
			}}
		},
	}
}
