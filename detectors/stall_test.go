package detectors

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"freezeframe"
)

const ms = time.Millisecond

func at(d time.Duration) freezeframe.Instant { return freezeframe.Instant(time.Hour + d) }

func answer(began, seen, done time.Duration) freezeframe.Lateness {
	l := freezeframe.Lateness{
		Probe: "answer", Target: "0.0.0.0:80", Began: at(began), Seen: at(seen), Quality: 0.9, Floor: 200 * ms,
		Victims: []freezeframe.Victim{{PID: 7}},
	}
	if done != 0 {
		l.Done, l.Seen = at(done), at(done)
	}
	return l
}

// run feeds reports in order of Seen, stepping every 50 ms, and returns the
// stalls with the time at which each was called over.
func run(t *testing.T, until time.Duration, reports ...freezeframe.Lateness) (stalls []freezeframe.Stall, ended []time.Duration, opened time.Duration) {
	t.Helper()
	tr := Tracker{Quiet: DefaultQuiet}
	opened = -1
	for now := time.Duration(0); now <= until; now += 50 * ms {
		for len(reports) > 0 && reports[0].Seen <= at(now) {
			tr.Feed(reports[0])
			reports = reports[1:]
		}
		open, over := tr.Step(at(now))
		if open && opened < 0 {
			opened = now
		}
		if over != nil {
			stalls, ended = append(stalls, *over), append(ended, now)
		}
	}
	if s := tr.Current(at(until)); s != nil {
		stalls = append(stalls, *s)
	}
	return stalls, ended, opened
}

// inFlight is what a probe reports of one piece of work: every 100 ms while
// it is late, and at its end.
func inFlight(l freezeframe.Lateness, from, to time.Duration) []freezeframe.Lateness {
	var out []freezeframe.Lateness
	for now := from; now < to; now += 100 * ms {
		l.Seen = at(now)
		out = append(out, l)
	}
	l.Done, l.Seen = at(to), at(to)
	return append(out, l)
}

func TestStallOpensInFlightAndHasTheEdgesOfTheWork(t *testing.T) {
	stalls, ended, opened := run(t, 5*time.Second, inFlight(answer(1000*ms, 0, 0), 1100*ms, 2345*ms)...)
	if len(stalls) != 1 {
		t.Fatalf("%d stalls, want 1", len(stalls))
	}
	if got := stalls[0].Span; got != (freezeframe.Span{Start: at(1000 * ms), End: at(2345 * ms)}) {
		t.Errorf("span %v to %v", got.Start.Sub(at(0)), got.End.Sub(at(0)))
	}
	if opened > 1300*ms {
		t.Errorf("opened at %v: it waited for the work to end", opened)
	}
	if d := ended[0] - 2345*ms; d > time.Second {
		t.Errorf("called over %v after its end", d)
	}
	if s := stalls[0].Symptoms[0]; s.Worst != 1345*ms || s.Count != 1 {
		t.Errorf("symptom worst %v, count %d", s.Worst, s.Count)
	}
}

func TestOverlappingSymptomsAreOneStall(t *testing.T) {
	fsync := freezeframe.Lateness{Probe: "fsync", Target: "/data", Began: at(1200 * ms), Seen: at(2600 * ms), Done: at(2600 * ms), Floor: 100 * ms, Quality: 1}
	stalls, _, _ := run(t, 6*time.Second, answer(1000*ms, 0, 2000*ms), fsync, answer(2300*ms, 0, 2900*ms))
	if len(stalls) != 1 {
		t.Fatalf("%d stalls, want one freeze", len(stalls))
	}
	if len(stalls[0].Symptoms) != 2 || stalls[0].Symptoms[0].Probe != "answer" {
		t.Errorf("symptoms %+v, want the service's first", stalls[0].Symptoms)
	}
	// Between 2.0 and 2.3 s no service was late: that is not to be explained.
	if got := (&stalls[0]).Late().Length(); got != 1600*ms {
		t.Errorf("late for %v, want 1.6 s", got)
	}
}

func TestQuietSeparatesStalls(t *testing.T) {
	stalls, _, _ := run(t, 9*time.Second, answer(1000*ms, 0, 2000*ms), answer(5000*ms, 0, 5600*ms))
	if len(stalls) != 2 {
		t.Fatalf("%d stalls, want 2", len(stalls))
	}
}

func TestWhatDoesNotOpenAStall(t *testing.T) {
	usual := answer(1000*ms, 0, 1700*ms)
	usual.Usual = 300 * ms
	doubtful := answer(1000*ms, 0, 4000*ms)
	doubtful.Quality = 0.2
	own := freezeframe.Lateness{Probe: "heartbeat", Began: at(1000 * ms), Done: at(1250 * ms), Seen: at(1250 * ms), Floor: 100 * ms, Quality: 1}
	for name, l := range map[string]freezeframe.Lateness{
		"below the floor": answer(1000*ms, 0, 1150*ms), "usual for the service": usual, "doubtful": doubtful, "only our own heartbeat, a little": own,
	} {
		if stalls, _, _ := run(t, 6*time.Second, l); len(stalls) != 0 {
			t.Errorf("%s: a stall was opened: %+v", name, stalls[0])
		}
	}
}

func TestOwnWorkOpensAStallWhenItIsLateEnough(t *testing.T) {
	own := freezeframe.Lateness{Probe: "heartbeat", Began: at(1000 * ms), Done: at(2000 * ms), Seen: at(2000 * ms), Floor: 100 * ms, Quality: 1}
	stalls, _, _ := run(t, 6*time.Second, own)
	if len(stalls) != 1 || stalls[0].Length() != time.Second {
		t.Fatalf("stalls %+v, want one of 1 s", stalls)
	}
}

func TestOwnStartIsNoStall(t *testing.T) {
	beat := freezeframe.Lateness{Probe: "heartbeat", Target: "cpu0", Floor: 100 * ms, Quality: 0.9}
	watch := func(from, to time.Duration) freezeframe.Span {
		tr := Tracker{Quiet: DefaultQuiet, Settled: at(1000 * ms)}
		beat.Began = at(from)
		for _, l := range inFlight(beat, from+100*ms, to) {
			tr.Feed(l)
			tr.Step(l.Seen)
		}
		if s := tr.Current(at(to)); s != nil {
			return s.Span
		}
		return freezeframe.Span{}
	}
	if got := watch(0, 950*ms); got.Length() != 0 {
		t.Errorf("late while starting: a stall of %v", got.Length())
	}
	if got := watch(500*ms, 1500*ms); got.Length() != 0 {
		t.Errorf("late by 500 ms after the start: a stall of %v", got.Length())
	}
	if got := watch(500*ms, 4000*ms); got != (freezeframe.Span{Start: at(1000 * ms), End: at(4000 * ms)}) {
		t.Errorf("late for 3 s after the start: %v", got)
	}
	if got := watch(1200*ms, 2200*ms); got.Length() != 1000*ms {
		t.Errorf("late for 1 s later on: a stall of %v", got.Length())
	}
	tr := Tracker{Quiet: DefaultQuiet, Settled: at(1000 * ms)}
	tr.Feed(answer(0, 500*ms, 900*ms))
	if open, _ := tr.Step(at(900 * ms)); !open {
		t.Error("what users wait for counts from the first moment")
	}
}

func TestRefusedWorkIsAStall(t *testing.T) {
	refused := freezeframe.Lateness{Probe: "fsync", Target: "/data", Began: at(1000 * ms), Seen: at(1001 * ms), Done: at(1001 * ms), Err: "ENOSPC", Quality: 1}
	stalls, _, _ := run(t, 6*time.Second, refused)
	if len(stalls) != 1 || stalls[0].Symptoms[0].Err != "ENOSPC" || stalls[0].Length() < refusedSpan {
		t.Fatalf("stalls %+v", stalls)
	}
}

func TestOngoingStallIsToldAsItStands(t *testing.T) {
	reports := inFlight(answer(1000*ms, 0, 0), 1100*ms, 9*time.Second)
	stalls, _, _ := run(t, 4*time.Second, reports...)
	if len(stalls) != 1 || !stalls[0].Ongoing || stalls[0].Length() < 2900*ms {
		t.Fatalf("stalls %+v, want one ongoing", stalls)
	}
}

func TestSilentProbeDoesNotHoldAStallOpen(t *testing.T) {
	l := answer(1000*ms, 1500*ms, 0)
	stalls, ended, _ := run(t, 6*time.Second, l)
	if len(stalls) != 1 || len(ended) != 1 {
		t.Fatalf("%d stalls, %d ended: work that nobody reports any more held it open", len(stalls), len(ended))
	}
}

func TestManyLateWaitsAreBounded(t *testing.T) {
	tr := Tracker{Quiet: DefaultQuiet}
	for i := range 20000 {
		tr.Feed(answer(1000*ms+time.Duration(i)*time.Microsecond, 0, 2000*ms))
	}
	if len(tr.items) > maxItems {
		t.Fatalf("%d items kept, bound is %d", len(tr.items), maxItems)
	}
}

func TestDoubtfulWorkDoesNotHoldAStallOpen(t *testing.T) {
	doubtful := answer(1000*ms, 0, 0)
	doubtful.Quality, doubtful.Target = 0.2, "0.0.0.0:81"
	reports := append([]freezeframe.Lateness{answer(1000*ms, 0, 2000*ms)}, inFlight(doubtful, 2000*ms, 9*time.Second)...)
	stalls, ended, _ := run(t, 8*time.Second, reports...)
	if len(ended) != 1 || len(stalls) != 1 || stalls[0].Length() != time.Second {
		t.Fatalf("%d ended, stalls %+v", len(ended), stalls)
	}
}

func TestStallIsNotOverWhileItsLastWaitsAreMerelyShorter(t *testing.T) {
	stalls, _, _ := run(t, 6*time.Second, answer(1000*ms, 0, 2000*ms), answer(2100*ms, 0, 2250*ms), answer(4000*ms, 0, 4150*ms))
	if len(stalls) != 1 || stalls[0].Length() != 1250*ms {
		t.Fatalf("stalls %+v, want one until 2.25 s", stalls)
	}
}

func TestHeartbeatMovesTheEdgesOfAStallItOverlaps(t *testing.T) {
	beat := func(from, to time.Duration) freezeframe.Lateness {
		return freezeframe.Lateness{Probe: "heartbeat", Began: at(from), Done: at(to), Seen: at(to), Floor: 100 * ms, Quality: 1}
	}
	stalls, _, _ := run(t, 6*time.Second, answer(1000*ms, 0, 2000*ms), beat(1900*ms, 2300*ms), beat(2500*ms, 2650*ms))
	if len(stalls) != 1 || stalls[0].Length() != 1300*ms {
		t.Fatalf("stalls %+v, want one of 1.3 s", stalls)
	}
}

func TestRefusedWorkDoesNotBlurTheEdgesOfWaits(t *testing.T) {
	refused := freezeframe.Lateness{Probe: "limits", Target: "ports", Began: at(500 * ms), Done: at(2500 * ms), Seen: at(2500 * ms), Err: "EADDRNOTAVAIL", Quality: 0.8}
	stalls, _, _ := run(t, 6*time.Second, answer(1000*ms, 0, 2000*ms), refused)
	if len(stalls) != 1 || stalls[0].Length() != time.Second || len(stalls[0].Symptoms) != 2 {
		t.Fatalf("stalls %+v, want one with the edges of the wait", stalls)
	}
}

// One slow request beside others that are answered opens nothing; where it
// adjoins what everybody felt it belongs to the stall. At the service that
// stalled the next one follows from it, at another it does not.
func TestSingleSlowRequestsThatAdjoin(t *testing.T) {
	lone := func(began, done time.Duration) freezeframe.Lateness {
		l := answer(began, 0, done)
		l.Quality = 0.3
		return l
	}
	if stalls, _, _ := run(t, 3*time.Second, lone(800*ms, 1100*ms), lone(1000*ms, 1500*ms)); len(stalls) != 0 {
		t.Fatalf("opened by single requests: %+v", stalls)
	}
	for target, want := range map[string]freezeframe.Span{
		"0.0.0.0:80": {Start: at(700 * ms), End: at(1900 * ms)}, "0.0.0.0:81": {Start: at(860 * ms), End: at(1700 * ms)},
	} {
		reports := []freezeframe.Lateness{lone(700*ms, 850*ms), lone(860*ms, 980*ms), answer(1000*ms, 0, 1500*ms), lone(1540*ms, 1700*ms), lone(1710*ms, 1900*ms)}
		for i := range reports {
			if reports[i].Quality < minQuality {
				reports[i].Target = target
			}
		}
		if stalls, _, _ := run(t, 5*time.Second, reports...); len(stalls) != 1 || stalls[0].Span != want {
			t.Errorf("%s: %+v, want one stall %v to %v", target, stalls, want.Start.Sub(at(0)), want.End.Sub(at(0)))
		}
	}
}

// Whoever waits at another service's queue for a minute has nothing to do with a
// stall that falls into it; for a second, he may.
func TestLongWaitAtAnotherServiceDoesNotBlurTheEdges(t *testing.T) {
	for began, want := range map[time.Duration]time.Duration{time.Second: 30 * time.Second, 29 * time.Second: 29 * time.Second} {
		queue := answer(began, 0, 0)
		queue.Target, queue.Quality = "0.0.0.0:81", single
		reports := inFlight(queue, began+500*ms, 30*time.Second+400*ms)
		i := slices.IndexFunc(reports, func(l freezeframe.Lateness) bool { return l.Seen >= at(30*time.Second+300*ms) })
		reports = slices.Insert(reports, i, answer(30*time.Second, 0, 30*time.Second+300*ms))
		stalls, _, _ := run(t, 35*time.Second, reports...)
		if len(stalls) != 1 || stalls[0].Span.Start != at(want) {
			t.Errorf("from %v: %+v, want one stall from %v on", began, stalls, want)
		}
	}
}

// edged is a wait that BPF told of: it belongs to a stall from 50 ms on, though
// what opens one is far longer.
func edged(probe string, began, done time.Duration) freezeframe.Lateness {
	l := answer(began, 0, done)
	l.Probe, l.Quality, l.Floor, l.Usual, l.Edge = probe, single, 100*ms, 150*ms, 50*ms
	return l
}

// A stall grows over seconds before anything opens it, and fades: its edges are
// the first and the last slow request with no calm between, be they ever so much
// shorter than what opened it.
func TestStallThatGrowsAndFades(t *testing.T) {
	var reports []freezeframe.Lateness
	reports = append(reports, edged("answer", 0, 60*ms)) // long before
	for began := 1000 * ms; began < 4000*ms; began += 400 * ms {
		reports = append(reports, edged("accept", began, began+55*ms))
	}
	reports = append(reports, inFlight(answer(4000*ms, 0, 0), 4100*ms, 5000*ms)...)
	for began := 5600 * ms; began < 8000*ms; began += 650 * ms {
		reports = append(reports, edged("receive", began, began+60*ms))
	}
	late := edged("answer", 9000*ms, 9060*ms) // and long after
	short := edged("answer", 8100*ms, 8140*ms)
	stalls, ended, _ := run(t, 11*time.Second, append(reports, short, late)...)
	want := freezeframe.Span{Start: at(1000 * ms), End: at(7610 * ms)}
	if len(stalls) != 1 || stalls[0].Span != want {
		t.Fatalf("%+v, want one stall from 1 s to 7.61 s", stalls)
	}
	if d := ended[0] - 7610*ms; d < DefaultQuiet || d > DefaultQuiet+100*ms {
		t.Errorf("called over %v after its end", d)
	}
}

// What grows without end is no beginning of a stall, and what is not certain
// opens none.
func TestSlowRequestsWithoutAStallAreForgotten(t *testing.T) {
	var reports []freezeframe.Lateness
	for began := time.Duration(0); began < 20*time.Second; began += 400 * ms {
		reports = append(reports, edged("answer", began, began+60*ms))
	}
	tr := Tracker{Quiet: DefaultQuiet}
	for _, l := range reports {
		tr.Feed(l)
		if open, _ := tr.Step(l.Seen); open {
			t.Fatal("single requests opened a stall")
		}
		if most := int(growsFor/(400*ms)) + 3; len(tr.items) > most {
			t.Fatalf("%d requests kept, want %d at most", len(tr.items), most)
		}
	}
}

// A queue that overflowed since the reading before says nothing of when.
func TestOverflowIsNoEdge(t *testing.T) {
	over := answer(100*ms, 0, 1050*ms)
	over.Probe, over.Err = "accept", "overflow"
	stalls, _, _ := run(t, 5*time.Second, over, answer(1000*ms, 0, 1500*ms))
	if len(stalls) != 1 || stalls[0].Start != at(1000*ms) {
		t.Fatalf("%+v, want one stall from 1 s on", stalls)
	}
}

// When work was refused is known by a reading a second; where requests were slow
// meanwhile, they tell when.
func TestSlowRequestsTellWhenWorkWasRefused(t *testing.T) {
	refused := freezeframe.Lateness{Probe: "limits", Target: "ports", Began: at(500 * ms), Done: at(1500 * ms), Seen: at(1500 * ms), Err: "EADDRNOTAVAIL", Quality: 0.8}
	one, two := edged("answer", 1100*ms, 1400*ms), edged("answer", 1200*ms, 1800*ms)
	stalls, _, _ := run(t, 6*time.Second, one, refused, two)
	if len(stalls) != 1 || stalls[0].Span != (freezeframe.Span{Start: at(1100 * ms), End: at(1800 * ms)}) {
		t.Errorf("%+v, want one with the edges of the requests", stalls)
	}
	// One alone may be slow for its own reasons.
	stalls, _, _ = run(t, 6*time.Second, one, refused)
	if len(stalls) != 1 || stalls[0].Span != (freezeframe.Span{Start: at(500 * ms), End: at(1500 * ms)}) {
		t.Errorf("%+v, want one with the edges of the refusal", stalls)
	}
}

// Nobody waits for what a service reads that answers nobody, until its buffers
// are full and another service is late.
func TestOneWayWorkDoesNotMoveTheEdgesOfWaits(t *testing.T) {
	oneWay := answer(500*ms, 0, 2500*ms)
	oneWay.Probe, oneWay.Target, oneWay.OneWay = "receive", "0.0.0.0:81", true
	stalls, _, _ := run(t, 6*time.Second, answer(1000*ms, 0, 2000*ms), oneWay)
	if len(stalls) != 1 || stalls[0].Start != at(1000*ms) || stalls[0].End != at(2000*ms) || len(stalls[0].Symptoms) != 2 {
		t.Errorf("%+v, want one from 1 s to 2 s with both symptoms", stalls)
	}
	stalls, _, _ = run(t, 6*time.Second, oneWay)
	if len(stalls) != 1 || stalls[0].Length() != 2*time.Second {
		t.Errorf("%+v, want one with its edges where there are no others", stalls)
	}
}

// A limit that is still reached when users are served again, and is read once
// a second, is not a second stall, least of all one from before the first.
func TestLimitThatOutlastsItsStall(t *testing.T) {
	limit := func(seen time.Duration) freezeframe.Lateness {
		return freezeframe.Lateness{Probe: "limits", Target: "local ports", Err: "EADDRNOTAVAIL", Quality: 0.8, Began: at(900 * ms), Seen: at(seen)}
	}
	waits := func(from, to time.Duration) []freezeframe.Lateness {
		return inFlight(answer(from, 0, 0), from+100*ms, to)
	}
	reports := append(waits(1000*ms, 1400*ms), limit(1450*ms), limit(2450*ms), limit(3450*ms))
	stalls, _, _ := run(t, 5*time.Second, reports...)
	if len(stalls) != 1 || stalls[0].End != at(1400*ms) {
		t.Fatalf("%+v, want one stall to 1.4 s", stalls)
	}
	reports = append(append(reports, waits(3500*ms, 3900*ms)...), limit(4000*ms))
	stalls, _, _ = run(t, 6*time.Second, reports...)
	if len(stalls) != 2 || stalls[1].Start != at(3500*ms) || len(stalls[1].Symptoms) != 2 {
		t.Fatalf("%+v, want a second stall with users who wait again", stalls)
	}
}

// A batch job that sits in its read longer than any service was late is part of
// the stall, and does not say when users were served again.
func TestStuckProcessDoesNotMoveTheEdgesOfWaits(t *testing.T) {
	job := freezeframe.Lateness{Probe: "stuck", Target: "backup", Began: at(900 * ms), Quality: 0.6, Floor: time.Second, Victims: []freezeframe.Victim{{PID: 9}}}
	late := answer(1000*ms, 1900*ms, 2000*ms)
	reports := append(inFlight(job, 1950*ms, 3500*ms), late)
	slices.SortStableFunc(reports, func(a, b freezeframe.Lateness) int { return cmp.Compare(a.Seen, b.Seen) })
	stalls, _, _ := run(t, 6*time.Second, reports...)
	if len(stalls) != 1 || stalls[0].Start != at(1000*ms) || stalls[0].End != at(2000*ms) || len(stalls[0].Symptoms) != 2 {
		t.Errorf("stalls: %+v, want one from 1 s to 2 s with both symptoms", stalls)
	}
	// Alone it is all there is.
	stalls, _, _ = run(t, 6*time.Second, inFlight(job, 1950*ms, 3500*ms)...)
	if len(stalls) != 1 || stalls[0].Start != at(900*ms) || stalls[0].End != at(3500*ms) {
		t.Errorf("stalls: %+v, want one with the edges of the job", stalls)
	}
}
