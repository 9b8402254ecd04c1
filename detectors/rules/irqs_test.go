package rules_test

import (
	"testing"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
)

func TestInterruptsOff(t *testing.T) {
	found := func(scene func(*window)) *freezeframe.Finding {
		for _, f := range detectors.Judge(build(scene), rules.All()).Findings {
			if f.Cause == "kernel.irqs_off" {
				return &f
			}
		}
		return nil
	}
	if f := found(func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{user: 0.3}, use{system: 1})
		deaf(w, 1, 0, "", "", stallFrom, stallTo)
	}); f == nil || f.Culprit.Kind != freezeframe.CulpritHost {
		t.Errorf("a CPU that was idle when they were on again: %+v", f)
	}
	if f := found(func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{}, use{steal: 0.9})
		deaf(w, 1, hog, "x", "y", stallFrom, stallTo)
	}); f != nil {
		t.Errorf("the host had the CPU: %+v", f)
	}
	if f := found(func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{user: 0.3}, use{user: 0.3, system: 0.1})
		deaf(w, 1, hog, "x", "y", stallFrom, stallTo)
	}); f != nil {
		t.Errorf("the CPU idled meanwhile, and skipped beats: %+v", f)
	}
	if f := found(func(w *window) {
		runnable(w, "0-1")
		deaf(w, 1, hog, "x", "y", stallFrom, stallFrom+20*ms)
	}); f != nil {
		t.Errorf("20 ms: %+v", f)
	}
	if f := found(func(w *window) {
		asleep(w, frozen("/srv/data/x"))
		deaf(w, 1, hog, "x", "y", stallFrom, stallTo)
	}); f != nil {
		t.Errorf("the victim waits for a filesystem: %+v", f)
	}
}
