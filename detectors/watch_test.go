package detectors

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
)

func TestShownHidesCredentials(t *testing.T) {
	for target, want := range map[string]string{
		"127.0.0.1:80":                           "127.0.0.1:80",
		"heartbeat":                              "heartbeat",
		"/mnt/a?b@c":                             "/mnt/a?b@c",
		"http://127.0.0.1:1/health":              "http://127.0.0.1:1/health",
		"http://h/a@b":                           "http://h/a@b",
		"http://u:s3cret@h/":                     "http://***@h/",
		"https://s3cret@h":                       "https://***@h",
		"http://h?token=s3cret":                  "http://h?***",
		"active http://u:s3c@ret@h/a?t=s3cret#x": "active http://***@h/a?***",
		"http://h/#s3cret":                       "http://h/#***",
	} {
		if got := shown(target); got != want {
			t.Errorf("%q is shown as %q, want %q", target, got, want)
		}
	}
}

// What is asked and refuses is told as not seen, once, and no secret of its
// address reaches the recording.
func TestRefusedRequestIsNotSeen(t *testing.T) {
	const target = "http://u:s3cret@127.0.0.1:1/?token=s3cret"
	w := &Watch{ring: recorder.NewRing(8 << 20), late: make(chan freezeframe.Lateness, 1)}
	for _, errno := range []string{"ECONNREFUSED", "ECONNRESET"} {
		w.event(freezeframe.Event{Kind: freezeframe.EventRefused, At: 1, Text: "active " + target + ": " + errno, Attrs: []freezeframe.Attr{
			{Name: "probe", Value: "active"}, {Name: "target", Value: target}, {Name: "errno", Value: errno},
		}})
	}
	if len(w.needs) != 1 || w.needs[0].What != "ask http://***@127.0.0.1:1/?***" || w.needs[0].Err != "ECONNREFUSED" {
		t.Errorf("not seen: %+v", w.needs)
	}
	w.report(freezeframe.Lateness{Probe: "active", Target: target})
	if l := <-w.late; strings.Contains(l.Target, "s3cret") {
		t.Errorf("the symptom names %q", l.Target)
	}
	rec, err := w.ring.Pin(freezeframe.Span{Start: 0, End: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.Events) != 2 {
		t.Fatalf("%d events", len(rec.Events))
	}
	for _, e := range rec.Events {
		if strings.Contains(e.Text, "s3cret") || slices.ContainsFunc(e.Attrs, func(a freezeframe.Attr) bool { return strings.Contains(a.Value, "s3cret") }) {
			t.Errorf("the event tells the secret: %+v", e)
		}
	}
}

// A stall that begins while the one before waits for the time after it is looked
// at at once, and told when it is over: not when that other one is due.
func TestStallBehindAnotherIsNotLate(t *testing.T) {
	ring := recorder.NewRing(recorder.MinBytes)
	focus := &freezeframe.Focus{}
	verdicts := make(chan freezeframe.Stall, 4)
	w := &Watch{
		opts:  Options{OnVerdict: func(i Incident) { verdicts <- i.Window.Stall() }},
		focus: focus, ring: ring, sampler: recorder.NewSampler(ring, freezeframe.Host{Focus: focus}, nil),
		late: make(chan freezeframe.Lateness, 16), asks: make(chan func()), out: make(chan Incident, maxKept), done: make(chan struct{}),
		chase: newChase(focus, ring.Texts(), ring.Texts().String, ring.AddEvent),
	}
	w.tracker = Tracker{Quiet: 100 * time.Millisecond}
	now := kernel.Now()
	w.pending = []freezeframe.Stall{{Span: freezeframe.Span{Start: now.Add(-time.Second), End: now}}} // due in ten seconds
	ctx, cancel := context.WithCancel(t.Context())
	go w.loop(ctx)
	wait := func(began freezeframe.Instant) {
		w.report(freezeframe.Lateness{Probe: "answer", Target: "a", Began: began, Done: began.Add(300 * time.Millisecond),
			Seen: began.Add(300 * time.Millisecond), Floor: 100 * time.Millisecond, Quality: 0.9})
	}
	w.report(freezeframe.Lateness{Probe: "answer", Target: "b", Began: now, Done: now.Add(time.Millisecond), Seen: now.Add(time.Millisecond),
		Floor: time.Hour, Quality: 0.9}) // nothing: the loop now sleeps for the stall that is due
	time.Sleep(400 * time.Millisecond)
	for range 2 {
		began := kernel.Now().Add(-300 * time.Millisecond)
		wait(began)
		select {
		case s := <-verdicts:
			if s.Start != began {
				t.Errorf("the stall began at %d, not %d", s.Start, began)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no verdict in five seconds")
		}
	}
	cancel()
	<-w.done
}

// Where stalls follow each other, the verdicts on them do not: making them must
// not be what takes the CPU from everybody.
func TestVerdictsDoNotFollowEachOtherAtOnce(t *testing.T) {
	ring := recorder.NewRing(recorder.MinBytes)
	focus := &freezeframe.Focus{}
	var judged []freezeframe.Instant
	slow := freezeframe.Rule{Cause: "slow", Judge: func(freezeframe.Window) []freezeframe.Finding {
		judged = append(judged, kernel.Now())
		time.Sleep(100 * time.Millisecond)
		return nil
	}}
	w := &Watch{
		opts: Options{Rules: []freezeframe.Rule{slow}}, focus: focus, ring: ring, sampler: recorder.NewSampler(ring, freezeframe.Host{Focus: focus}, nil),
		late: make(chan freezeframe.Lateness, 16), asks: make(chan func()), out: make(chan Incident, maxKept), done: make(chan struct{}),
		chase: newChase(focus, ring.Texts(), ring.Texts().String, ring.AddEvent), tracker: Tracker{Quiet: 100 * time.Millisecond},
	}
	now := kernel.Now()
	for i := range 2 {
		end := now.Add(-keepAfter - time.Duration(2-i)*time.Second)
		w.pending = append(w.pending, freezeframe.Stall{Span: freezeframe.Span{Start: end.Add(-300 * time.Millisecond), End: end}})
	}
	w.settle(kernel.Now())
	if len(judged) != 1 || len(w.pending) != 1 {
		t.Fatalf("%d verdicts at once, %d stalls wait", len(judged), len(w.pending))
	}
	if wait := w.next(kernel.Now(), false); wait < 400*time.Millisecond {
		t.Errorf("the next after %v, of one that took 100 ms", wait)
	}
	w.settle(w.rested)
	if len(judged) != 2 || len(w.pending) != 0 {
		t.Errorf("%d verdicts after the rest, %d stalls wait", len(judged), len(w.pending))
	}
	w.pending = make([]freezeframe.Stall, manyPending+1)
	if many, few := w.rest(time.Second), restMost; many >= few {
		t.Errorf("a rest of %v while many wait", many)
	}
}

// The garbage of work aside is collected when the last of it is done, not by each
// piece.
func TestAsideSettlesTheHeap(t *testing.T) {
	w := &Watch{}
	w.Aside(func() {
		w.Aside(func() {})
		if w.heap.settled.Load() != 0 {
			t.Error("collected while work goes on")
		}
	})
	if w.heap.settled.Load() == 0 || w.relaxed != 0 {
		t.Errorf("not collected, %d pieces of work", w.relaxed)
	}
}
