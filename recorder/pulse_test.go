package recorder

import (
	"testing"
	"time"

	"freezeframe"
)

// What a lane says of itself stops when the lane does; the others go on.
func TestPulseStopsWithTheLane(t *testing.T) {
	r := testRing(MinBytes)
	pipe, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.close()
	hung := fakeSource("hung", freezeframe.Tasks, Tick, 0)
	hung.collect = func(n int, _ *freezeframe.Table) error {
		if n < 3 {
			return nil
		}
		return pipe.wait()
	}
	s := start(t, r, nil, []freezeframe.Collector{fakeSource("quick", freezeframe.Fast, Tick, 0), hung, fakeSource("rare", freezeframe.Slow, Tick, 0)})
	eventually(t, "a lane that hangs", func() bool { return s.Pulse()[freezeframe.Tasks].Late > 500*time.Millisecond })
	before := s.Pulse()
	if p := before[freezeframe.Tasks]; p.Reading != "hung" || p.Ticked == 0 || !p.Sampled || p.Lane != freezeframe.Tasks {
		t.Errorf("the lane that hangs: %+v", p)
	}
	eventually(t, "the fast lane's next tick", func() bool { return s.Pulse()[freezeframe.Fast].Ticked > before[freezeframe.Fast].Ticked })
	if after := s.Pulse()[freezeframe.Tasks]; after.Ticked != before[freezeframe.Tasks].Ticked || after.Late <= before[freezeframe.Tasks].Late {
		t.Errorf("the lane that hangs seems to go on: %+v, then %+v", before[freezeframe.Tasks], after)
	}
	if s.Stop() {
		t.Error("no lane seems to be left behind")
	}
	pipe.release()
}

// A lane has sampled when each of its sources was read once, however rare it is.
func TestPulseWaitsForEverySource(t *testing.T) {
	r := testRing(MinBytes)
	pipe, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.close()
	second := fakeSource("second", freezeframe.Slow, time.Minute, 0)
	second.collect = func(int, *freezeframe.Table) error { return pipe.wait() }
	s := start(t, r, nil, []freezeframe.Collector{fakeSource("first", freezeframe.Slow, Tick, 0), second})
	eventually(t, "the fast lane, which has nothing to read", func() bool { return s.Pulse()[freezeframe.Fast].Sampled })
	eventually(t, "the second source", func() bool { return s.Pulse()[freezeframe.Slow].Reading == "second" })
	if s.Pulse()[freezeframe.Slow].Sampled {
		t.Error("sampled before its second source was read")
	}
	pipe.release()
	eventually(t, "both sources", func() bool { return s.Pulse()[freezeframe.Slow].Sampled })
}

// A ring goes from one sampler to the next: what it holds stays, and what only
// the first could not have is missing no longer.
func TestRingIsHandedOver(t *testing.T) {
	r := testRing(MinBytes)
	broken := fakeSource("broken", freezeframe.Fast, Tick, 0)
	broken.open = func() error { return freezeframe.ErrNotHere }
	s := start(t, r, nil, []freezeframe.Collector{fakeSource("kept", freezeframe.Fast, Tick, 0), broken})
	all := freezeframe.Span{End: 1 << 62}
	count := func() int { return len(pinAll(t, r).Series("kept", all).Tables) }
	eventually(t, "readings", func() bool { return count() > 3 })
	if len(s.Missing()) == 0 {
		t.Error("nothing is missing with a source that cannot be opened")
	}
	if !s.Stop() {
		t.Fatal("a lane was left behind")
	}
	had := count()
	next := start(t, r, nil, []freezeframe.Collector{fakeSource("kept", freezeframe.Fast, Tick, 0)})
	if n := next.Missing(); len(n) != 0 {
		t.Errorf("still missing: %v", n)
	}
	eventually(t, "more readings", func() bool { return count() > had+3 })
	tables := pinAll(t, r).Series("kept", all).Tables
	for i := range tables {
		if i > 0 && tables[i].At <= tables[i-1].At {
			t.Errorf("reading %d at %d, after %d", i, tables[i].At, tables[i-1].At)
		}
	}
	if n := len(r.drain); n != 1 {
		t.Errorf("%d samplers are asked for their late ticks", n)
	}
}
