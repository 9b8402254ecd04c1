package rules

import (
	"strings"
	"time"

	"freezeframe"
)

// watchdogBefore: the soft lockup detector speaks some 20 s into a lockup.
const watchdogBefore = 30 * time.Second

func logged(w freezeframe.Window, reach time.Duration, marks ...string) *logLine {
	for _, l := range kernelLog(w, reach) {
		for _, m := range marks {
			if strings.Contains(l.Text, m) {
				return &l
			}
		}
	}
	return nil
}

// outOfAction are the classes in which a thread is when its CPU does not
// come back from the kernel.
func outOfAction(m *moment) bool {
	return inClass(freezeframe.Runnable, freezeframe.MachineGone, freezeframe.KernelLock, freezeframe.Unseen)(m)
}

// sinceLine returns when victims were out of action from a while before the
// kernel's line on, and the symptom (by its Err) that the line itself is.
func sinceLine(w freezeframe.Window, line *logLine, back time.Duration, err string) freezeframe.Spans {
	ms := roots(w, outOfAction)
	told := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, err) })
	return worth(w, freezeframe.Union(append(told, ms.spans().Within(freezeframe.Span{Start: line.At.Add(-back), End: w.Stall().End})...)...))
}
