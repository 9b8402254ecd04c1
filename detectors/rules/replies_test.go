package rules_test

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

const far = "10.0.0.9:5432"

// unanswered is a thread of the service that asked another host and got no
// answer between two times, as the readings tell while it lasts and after.
func unanswered(w *window, key, tid int, from, to time.Duration) {
	row := v{"kind": bpf.WaitReply, "service": far, "port": 5432, "peer": far, "pid": service, "tid": tid, "began_at": windowtest.At(from)}
	for at := (from/(50*ms) + 1) * 50 * ms; at < to; at += 50 * ms {
		w.Row("requests", at, key, row)
	}
	done := v{"state": bpf.ToldDone, "done_at": windowtest.At(to)}
	for column, value := range row {
		done[column] = value
	}
	w.Row("requests", (to/(50*ms)+1)*50*ms, key, done)
}

// usually is what replies took in every second before the stall and in it.
func usually(w *window, count int, p99 time.Duration) {
	w.Rows("services", s, 9, func(at time.Duration) v {
		row := v{"service": far, "far": 1, "replys": count, "reply_p99_ns": int(p99)}
		if at > stallFrom {
			row["reply_p99_ns"] = int(5 * s)
		}
		return row
	})
}

func TestRepliesOfOtherHosts(t *testing.T) {
	asking := func(w *window) {
		asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", Wchan: "wait_woken", Holder: &freezeframe.Party{Address: far, Why: "has not answered on " + far}})
	}
	for name, x := range map[string]struct {
		scene      func(*window)
		cause      freezeframe.Cause
		text       string
		confidence float64
	}{
		"a peer that took 3 ms until then": {func(w *window) {
			asking(w)
			usually(w, 40, 3*ms)
			unanswered(w, 1, service, stallFrom, stallTo)
		}, "dep.remote_unresponsive", "1 replies of 10.0.0.9:5432 were missing, one of them for 2.0 s; of the 280 before, 99 in 100 took no longer than 3 ms", 0.95},
		"one that had a bad second before": {func(w *window) {
			asking(w)
			usually(w, 40, 3*ms)
			w.Row("services", 2500*ms, 9, v{"service": far, "far": 1, "replys": 20, "reply_p99_ns": int(4 * s)})
			unanswered(w, 1, service, stallFrom, stallTo)
		}, "dep.remote_unresponsive", "took no longer than 3 ms", 0.95},
		"one that was never asked before": {func(w *window) {
			asking(w)
			unanswered(w, 1, service, stallFrom, stallTo)
		}, "dep.remote_unresponsive", "missing, one of them for 2.0 s", 0.9},
		"two in a row": {func(w *window) {
			asking(w)
			usually(w, 40, 3*ms)
			unanswered(w, 1, service, stallFrom, stallFrom+800*ms)
			unanswered(w, 2, service, stallFrom+800*ms, stallTo)
		}, "dep.remote_unresponsive", "2 replies of 10.0.0.9:5432 were missing, one of them for 1.2 s", 0.95},
		"a peer that is as slow by design": {func(w *window) {
			asking(w)
			usually(w, 1, 1800*ms)
			unanswered(w, 1, service, stallFrom, stallTo)
		}, "", "", 0},
		"an event loop's reply, that another of its threads sent": {func(w *window) {
			asking(w)
			usually(w, 40, 3*ms)
			unanswered(w, 1, service+3, stallFrom, stallTo)
		}, "dep.remote_unresponsive", "missing, one of them for 2.0 s", 0.95},
		"behind the address is a process of this host, which waits for a frozen filesystem": {func(w *window) {
			held(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", Wchan: "wait_woken"}, frozen("/srv/data/x"))
			mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
			usually(w, 40, 3*ms)
			unanswered(w, 1, service, stallFrom, stallTo)
		}, "fs.frozen", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(x.scene)
			found := detectors.Judge(w, rules.All()).Findings
			if x.cause == "" {
				if len(found) > 0 {
					t.Fatalf("%s: %s", found[0].Cause, found[0].Summary)
				}
				return
			}
			if len(found) != 1 || found[0].Cause != x.cause {
				t.Fatalf("found %+v, want %s", found, x.cause)
			}
			f := &found[0]
			check(t, w, *f)
			if x.text == "" {
				return
			}
			if f.Culprit.Address != far || f.Culprit.Kind != freezeframe.CulpritAddress || f.Confidence != x.confidence {
				t.Errorf("%+v (%v)", f.Culprit, f.Confidence)
			}
			for _, e := range f.Evidence {
				if contains(e.Text, x.text) && e.Source == "requests" {
					return
				}
			}
			t.Errorf("evidence %+v, want %q", f.Evidence, x.text)
		})
	}
}
