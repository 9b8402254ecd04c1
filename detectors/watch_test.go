package detectors

import (
	"slices"
	"strings"
	"testing"

	"freezeframe"
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
