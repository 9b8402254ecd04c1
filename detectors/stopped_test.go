package detectors

import (
	"testing"

	"freezeframe"
)

func TestStoppedUntil(t *testing.T) {
	const ms = freezeframe.Instant(1e6)
	lane := func(name string, due, ran freezeframe.Instant) freezeframe.Event {
		return freezeframe.Event{Kind: freezeframe.EventMissed, At: due, End: ran, Attrs: []freezeframe.Attr{{Name: "lane", Value: name}}}
	}
	at := 61_000 * ms
	for name, x := range map[string]struct {
		missed []freezeframe.Event
		want   freezeframe.Span
	}{
		"nothing was late": {},
		"all lanes": {
			[]freezeframe.Event{lane("fast", 1000*ms, at+2*ms), lane("tasks", 1050*ms, at+1*ms), lane("slow", 1200*ms, at+9*ms), lane("fast", at+50*ms, at+120*ms)},
			freezeframe.Span{Start: 1200 * ms, End: at + 1*ms},
		},
		"one lane was on time": {missed: []freezeframe.Event{lane("fast", 1000*ms, at), lane("tasks", 1000*ms, at)}},
		"late, but long before": {missed: []freezeframe.Event{
			lane("fast", 1000*ms, at-900*ms), lane("tasks", 1000*ms, at-900*ms), lane("slow", 1000*ms, at-900*ms)}},
		"still late": {missed: []freezeframe.Event{lane("fast", 1000*ms, 0), lane("tasks", 1000*ms, at), lane("slow", 1000*ms, at)}},
	} {
		if got := stoppedUntil(x.missed, at); got != x.want {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}
