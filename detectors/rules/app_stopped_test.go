package rules_test

import (
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
)

// A stop of freezeframe's own explains what only its own work was late for, and
// nothing of what others waited for.
func TestOwnStops(t *testing.T) {
	const own = 4711
	late := func(w *window) {
		for _, probe := range []string{"heartbeat", "heartbeat_rt"} {
			i := w.Symptom(freezeframe.Symptom{Probe: probe, Own: true, Victims: []freezeframe.Victim{{PID: own, TID: own, Comm: "freezeframe"}}})
			w.Account(i, freezeframe.Victim{PID: own, TID: own, Comm: "freezeframe"}, wait{Class: freezeframe.MachineGone})
		}
	}
	for name, x := range map[string]struct {
		scene func(*window)
		says  string // "": this is not the cause
		who   int
	}{
		"stopped by a shell": {func(w *window) {
			late(w)
			w.EventOf(own, stallFrom, stallTo, freezeframe.EventStopped)
			signal(w, stallFrom, hog, own, "bash", sigSTOP, nil)
		}, "bash (pid 900), started by cron stopped freezeframe", hog},
		"nobody saw by whom": {func(w *window) {
			late(w)
			w.EventOf(own, stallFrom, stallTo, freezeframe.EventStopped)
		}, "freezeframe itself, freezeframe (pid 4711), was stopped for 2.0 s", own},
		"it was not stopped": {late, "", 0},
		"it was stopped long before": {func(w *window) {
			late(w)
			w.EventOf(own, stallFrom-4*s, stallFrom-3*s, freezeframe.EventStopped)
		}, "", 0},
		"a service was late too": {func(w *window) {
			late(w)
			w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait})
			w.EventOf(own, stallFrom, stallTo, freezeframe.EventStopped)
		}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := detectors.Judge(build(x.scene), rules.All())
			if x.says == "" {
				for _, f := range v.Findings {
					if f.Cause == "app.stopped" {
						t.Errorf("found: %s", f.Summary)
					}
				}
				return
			}
			if len(v.Findings) == 0 || v.Findings[0].Cause != "app.stopped" || v.Findings[0].Culprit.PID != x.who || !strings.Contains(v.Findings[0].Summary, x.says) {
				t.Fatalf("verdict %+v", v.Findings)
			}
			if got := v.Findings[0].Explains.Length(); got < 19*(stallTo-stallFrom)/20 {
				t.Errorf("explains %s of %s", got, time.Duration(stallTo-stallFrom))
			}
		})
	}
}
