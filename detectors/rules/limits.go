package rules

import (
	"freezeframe"
)

// refusedBy returns when work was refused with one of the errors, and the
// symptoms that say so: limits show as errors, not as waits.
func refusedBy(w freezeframe.Window, errs ...string) (freezeframe.Spans, []freezeframe.Symptom) {
	var found []freezeframe.Symptom
	spans := symptoms(w, func(sy *freezeframe.Symptom) bool {
		if !refusal(sy, errs...) {
			return false
		}
		found = append(found, *sy)
		return true
	})
	return spans, found
}

// culpritOf names the process that a symptom's victims are, the first that is
// known.
func culpritOf(ps *processes, found []freezeframe.Symptom) (freezeframe.Culprit, bool) {
	for _, sy := range found {
		for _, v := range sy.Victims {
			if v.PID != 0 {
				return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: v.PID, Comm: orElse(v.Comm, ps.name(v.PID))}, true
			}
		}
	}
	return freezeframe.Culprit{}, false
}
