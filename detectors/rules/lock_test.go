package rules_test

import (
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
)

func TestLocksOfPrograms(t *testing.T) {
	for name, x := range map[string]struct {
		scene func(*window)
		want  bool
		did   string
	}{
		"a holder that sleeps":                                {func(w *window) { atLock(w, freezeframe.Sleeping, "socket:[4001]") }, true, "slept"},
		"a holder that computes":                              {func(w *window) { atLock(w, freezeframe.OnCPU, "socket:[4001]") }, true, "computed"},
		"helpers that wait for what the event loop hands out": {func(w *window) { atLock(w, freezeframe.OnCPU, "") }, false, ""},
		"a thread that waits for work itself":                 {func(w *window) { atLock(w, freezeframe.Idle, "socket:[4001]") }, false, ""},
		"the holder waits for a disk":                         {func(w *window) { atLock(w, freezeframe.DeviceWait, "socket:[4001]") }, false, ""},
		"nobody was seen to wake them": {func(w *window) {
			asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
		}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(x.scene)
			var got *freezeframe.Finding
			for _, f := range detectors.Judge(w, rules.All()).Findings {
				if f.Cause == "app.lock_contention" {
					got = &f
				}
			}
			if (got != nil) != x.want {
				t.Fatalf("found %+v", got)
			}
			if got != nil && (got.Culprit.PID != service || !contains(got.Summary, "flusher", x.did)) {
				t.Errorf("%s (%+v)", got.Summary, got.Culprit)
			}
		})
	}
}

func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
