package rules_test

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// asked gives a thread a request that it answers at the end of the stall.
func asked(w *window, tid int, from time.Duration) {
	w.Rows("requests", 100*ms, 77, func(at time.Duration) v {
		switch {
		case at < from || at > stallTo+100*ms:
			return nil
		case at >= stallTo:
			return v{"kind": 2, "state": 1, "pid": service, "tid": tid, "began_at": windowtest.At(from), "done_at": windowtest.At(stallTo)}
		}
		return v{"kind": 2, "pid": service, "tid": tid, "began_at": windowtest.At(from)}
	})
}

// What a thread with a request does is no idling, wherever it sleeps; and it is
// the verdict only when nothing else is.
func TestThreadsWithRequests(t *testing.T) {
	futex := wait{Class: freezeframe.UserLock, Wchan: "futex_do_wait", Syscall: "futex"}
	timed := futex
	timed.TimedOut = true
	for name, x := range map[string]struct {
		wait  wait
		more  func(w *window)
		cause freezeframe.Cause
	}{
		"it sleeps":                      {wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"}, func(w *window) { asked(w, service, stallFrom) }, "app.worker_pool_exhausted"},
		"a timer of its own":             {timed, func(w *window) { asked(w, service, stallFrom) }, "app.worker_pool_exhausted"},
		"a lock":                         {futex, func(w *window) { asked(w, service, stallFrom) }, "app.lock_contention"},
		"it has none, and sleeps":        {wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"}, func(w *window) { asked(w, service+1, stallFrom) }, ""},
		"it has none, and is at a futex": {futex, func(*window) {}, ""},
		"it got one at the end":          {futex, func(w *window) { asked(w, service, stallTo-30*ms) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(func(w *window) { asleep(w, x.wait); x.more(w) })
			found := detectors.Judge(w, rules.All()).Findings
			if x.cause == "" {
				if len(found) != 0 {
					t.Fatalf("%s: %s", found[0].Cause, found[0].Summary)
				}
				return
			}
			if f := verdict(t, w, x.cause, process(service)); f.Confidence >= 0.35 {
				t.Errorf("confidence %.2f of what is all that is left to say", f.Confidence)
			}
		})
	}
}

// A stall that is over before threads were read twice: what the scheduler told of
// who ran is enough.
func TestStarvedBriefly(t *testing.T) {
	scene := func(prio, cpu int, share float64) *window {
		return build(func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Runnable})
			proc(w, service, "orders", nil)
			w.Row("waits", stallTo, windowtest.Task(service), v{"pid": service, "kind": 2, "began_ns": windowtest.At(stallFrom), "ended_ns": windowtest.At(stallTo), "prio": 120, "cpu": 1})
			w.Row("waits", stallTo, windowtest.Task(hog), v{"pid": hog, "comm": "audiod", "kind": 3, "began_ns": windowtest.At(stallFrom),
				"ended_ns": windowtest.At(stallFrom + time.Duration(share*float64(stallTo-stallFrom))), "prio": prio, "cpu": cpu})
		})
	}
	if f := verdict(t, scene(79, 1, 0.9), "cpu.rt_starvation", process(hog)); f.Explains.Length() != stallTo-stallFrom {
		t.Errorf("explains %v", f.Explains.Length())
	}
	for name, w := range map[string]*window{"an ordinary thread": scene(120, 1, 0.9), "on another CPU": scene(79, 0, 0.9), "now and then": scene(79, 1, 0.2)} {
		for _, f := range detectors.Judge(w, rules.All()).Findings {
			if f.Cause == "cpu.rt_starvation" {
				t.Errorf("%s: %s", name, f.Summary)
			}
		}
	}
}

// A service that computes by several threads, or by one after the other, is busy;
// where the kernel computes for it that is another matter.
func TestBusyServices(t *testing.T) {
	scene := func(user, system float64) *window {
		return build(func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.UserLock, Wchan: "futex_do_wait", Syscall: "futex"})
			running(w, service, "orders", user, system)
		})
	}
	if f := verdict(t, scene(1.6, 0.2), "app.busy_loop", process(service)); f.Confidence >= 0.35 {
		t.Errorf("confidence %.2f of what is all that is left to say", f.Confidence)
	}
	for name, w := range map[string]*window{"half a CPU": scene(0.5, 0), "the kernel": scene(0.1, 1.6)} {
		if found := detectors.Judge(w, rules.All()).Findings; len(found) != 0 {
			t.Errorf("%s: %s", name, found[0].Summary)
		}
	}
}
