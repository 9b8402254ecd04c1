package detectors

import (
	"cmp"
	"slices"
	"time"

	"freezeframe"
)

// How lateness becomes a stall.
const (
	// DefaultQuiet is how long all must be well for a stall to be over. The
	// verdict follows at once, so it bounds how late a verdict may be.
	DefaultQuiet = 700 * time.Millisecond
	// timesUsual is how many times a probe's own baseline its lateness must be.
	timesUsual = 4
	// minQuality is how certain a probe must be that somebody waited before
	// its lateness may open a stall on its own.
	minQuality = freezeframe.Felt
	// single is the quality of one slow request beside others that are answered,
	// and adjoins how far from a stall it still belongs to it: a reading.
	single  = 0.3
	adjoins = 50 * time.Millisecond
	// refusedSpan is how long work that failed at once counts as not done:
	// until it is tried again, about.
	refusedSpan = 200 * time.Millisecond
)

// alone is how late our own pieces of work must be to open a stall when no
// service and no process is seen to suffer. A machine that compiles or copies
// a disk delays a heartbeat by 100 ms and an fsync by a second, and nobody is
// waiting for it; what freezes a machine delays them by more. Together with a
// service's lateness they count from their probe's floor on.
var alone = map[string]time.Duration{
	"heartbeat":    600 * time.Millisecond,
	"heartbeat_rt": 150 * time.Millisecond,
	"fsync":        10 * time.Second,
	"page_touch":   600 * time.Millisecond,
	"fork":         1500 * time.Millisecond,
	"loopback":     600 * time.Millisecond,
}

// Tracker turns lateness into stalls. It is used by one goroutine.
type Tracker struct {
	// Quiet is how long nothing must be late before a stall is over.
	Quiet time.Duration
	// Settled is from when on our own work says something about the machine:
	// what is late before may be late because of our own start.
	Settled freezeframe.Instant

	items  []item // what is late or was, of the stall that is open or may open
	open   bool
	closed freezeframe.Instant // the end of the stall before
}

// item is one piece of work, from its first report to its last.
type item struct {
	late freezeframe.Lateness
	at   freezeframe.Instant // the last report
	told bool                // it was part of the stall before
}

// span is when the work was late, up to now while it is in flight.
func (it *item) span(now freezeframe.Instant) freezeframe.Span {
	end := it.late.Done
	switch {
	case it.late.Err != "" && (end == 0 || end.Sub(it.late.Began) < refusedSpan):
		end = max(it.late.Seen, it.late.Began.Add(refusedSpan))
	case end == 0 && now.Sub(it.at) > forgotten:
		end = it.late.Seen // its probe has stopped reporting it
	case end == 0:
		end = max(it.late.Seen, now)
	}
	return freezeframe.Span{Start: it.late.Began, End: end}
}

// forgotten is how long a probe may be silent on work it called in flight
// before it counts as over: probes repeat themselves every 100 ms.
const forgotten = time.Second

func (it *item) inFlight(now freezeframe.Instant) bool {
	return it.late.Done == 0 && it.late.Err == "" && now.Sub(it.at) <= forgotten
}

// counts tells whether the item is late enough to be part of a stall that
// something else opened: half of what opens one, and a little less for what
// users feel, so that a stall does not seem to end while its last waits are
// merely shorter.
func (it *item) counts() bool {
	l := &it.late
	if l.Edge != 0 && l.Err == "" {
		return l.Late() >= l.Edge
	}
	part := max(l.Floor, timesUsual*l.Usual) / 2
	if !synthetic(l.Probe) {
		part = part * 4 / 5
	}
	return l.Err != "" || l.Late() >= part
}

// opens tells whether the item may open a stall by itself.
func (it *item) opens() bool {
	l := &it.late
	if l.Quality < minQuality || it.told && l.Err != "" {
		return false
	}
	return l.Err != "" || l.Late() >= max(l.Floor, timesUsual*l.Usual, alone[l.Probe])
}

// synthetic tells whether a probe does work of its own, which no user waits for.
func synthetic(probe string) bool {
	_, own := alone[probe]
	return own
}

// Feed takes a report of a probe. What ended in a stall that is over was told
// with it; what was refused in one and still is counts from its end, and opens
// none: a limit may stay reached, and be read once a second, when users are
// served again. A wait that goes on is another matter: the stall seemed over
// only because its probe could not look.
func (t *Tracker) Feed(l freezeframe.Lateness) {
	if synthetic(l.Probe) && l.Began < t.Settled {
		if l.Done != 0 && l.Done <= t.Settled {
			return
		}
		l.Began, l.Seen = t.Settled, max(l.Seen, t.Settled)
	}
	told := false
	if l.Began < t.closed {
		if l.Done != 0 && l.Done <= t.closed {
			return
		}
		if told = l.Err != ""; told {
			l.Began = t.closed
		}
	}
	for i := range t.items {
		if have := &t.items[i].late; have.Probe == l.Probe && have.Target == l.Target && have.Began == l.Began {
			if len(l.Victims) == 0 {
				l.Victims = have.Victims
			}
			t.items[i] = item{l, l.Seen, told}
			return
		}
	}
	if len(t.items) >= maxItems {
		t.drop()
	}
	t.items = append(t.items, item{l, l.Seen, told})
}

// maxItems bounds what is kept of one stall: a service with ten thousand
// waiting clients is as stalled as one with a few hundred.
const maxItems = 4096

// drop makes room by merging finished items of the same probe and target that
// lie inside another.
func (t *Tracker) drop() {
	half := len(t.items) / 2
	slices.SortFunc(t.items, func(a, b item) int {
		return int(b.late.Late()/time.Microsecond) - int(a.late.Late()/time.Microsecond)
	})
	t.items = t.items[:half]
}

// Step says how things stand: whether a stall is open now, and the stall that
// has just ended, if one has. Call it a few times a second.
func (t *Tracker) Step(now freezeframe.Instant) (open bool, ended *freezeframe.Stall) {
	if !t.open {
		for i := range t.items {
			if t.items[i].opens() {
				t.open = true // even when we come late to look
				return true, nil
			}
		}
		t.forget(now)
		return false, nil
	}
	last := freezeframe.Instant(0)
	for i := range t.items {
		it := &t.items[i]
		if !it.counts() {
			continue
		}
		if it.late.Quality < minQuality {
			continue // it may have been felt; it does not keep a stall open
		}
		if it.inFlight(now) {
			return true, nil
		}
		last = max(last, it.span(now).End)
	}
	if now.Sub(last) < t.Quiet {
		return true, nil
	}
	if now.Sub(t.edges(now).End) < t.Quiet {
		return true, nil // it fades
	}
	stall := t.stall(now, false)
	t.open, t.items, t.closed = false, nil, stall.End
	return false, stall
}

// Current returns the stall that is open, as it stands, or nil.
func (t *Tracker) Current(now freezeframe.Instant) *freezeframe.Stall {
	if !t.open {
		return nil
	}
	ongoing := false
	for i := range t.items {
		ongoing = ongoing || t.items[i].counts() && t.items[i].inFlight(now)
	}
	return t.stall(now, ongoing)
}

// forget drops what was late long ago without opening a stall: a stall that
// grows begins long before it opens, so its service's first waits are kept for a
// while when others follow.
func (t *Tracker) forget(now freezeframe.Instant) {
	recent := map[string]bool{}
	for i := range t.items {
		if it := &t.items[i]; it.borders() && (it.inFlight(now) || now.Sub(it.span(now).End) <= t.Quiet) {
			recent[it.late.Target] = true
		}
	}
	t.items = slices.DeleteFunc(t.items, func(it item) bool {
		since := now.Sub(it.span(now).End)
		return !it.inFlight(now) && since > t.Quiet && (since > growsFor || !it.borders() || !recent[it.late.Target])
	})
}

// growsFor is how long a service's waits are kept that may be the beginning of a
// stall.
const growsFor = 5 * time.Second

// borders tells whether the item is a request that was slow: beside others that
// were answered it proves nothing, but a stall that grows begins, and one that
// fades ends, with such.
func (it *item) borders() bool {
	switch it.late.Probe {
	case "accept", "receive", "answer":
		return it.late.Err == "" && !it.late.OneWay && it.late.Quality >= single && it.counts()
	}
	return false
}

// adjoining returns the span of a stall with the single slow requests before and
// after it: those of any service that adjoin it, and of the services that it is
// a stall of all that follow each other without as much calm between as a stall
// is over with.
func (t *Tracker) adjoining(stall freezeframe.Span, services map[string]bool, now freezeframe.Instant) freezeframe.Span {
	out := stall
	for {
		grown := out
		for i := range t.items {
			it := &t.items[i]
			if !it.borders() {
				continue
			}
			gap, to := t.Quiet, out
			if !services[it.late.Target] {
				gap, to = adjoins, stall
			}
			span := it.span(now)
			if !services[it.late.Target] && span.Length() > growsFor && span.Length() > 2*stall.Length() {
				continue // a queue that somebody waits at for a minute has nothing to do with it
			}
			if span.Start < to.End.Add(gap) && span.End > to.Start.Add(-gap) {
				grown = hull(grown, span)
			}
		}
		if grown == out {
			return out
		}
		out = grown
	}
}

// edges returns when the stall began and ended, so far: when people and services
// felt it; of our own work only the heartbeats may move that, unless nothing else
// was late.
func (t *Tracker) edges(now freezeframe.Instant) (out freezeframe.Span) {
	// The best there is decides: waits of users' work, else work of theirs
	// that was refused (whose moments are known only by the reading), else a
	// process that was stuck, else our own.
	best := edgeOwn
	for i := range t.items {
		if t.items[i].opens() {
			best = max(best, t.items[i].edge())
		}
	}
	felt := best > edgeOwn
	services := map[string]bool{}
	for i := range t.items {
		it := &t.items[i]
		if it.counts() && it.edge() >= best && (!felt || it.late.Quality >= minQuality) {
			out = hull(out, it.span(now))
			services[it.late.Target] = services[it.late.Target] || it.borders()
		}
	}
	if !felt {
		return out
	}
	if best == edgeRefused {
		out = t.within(out, services, now)
	}
	out = t.adjoining(out, services, now)
	// A thread that only wants to wake up feels what every thread feels,
	// those of the users' programs among them.
	for i := range t.items {
		if it := &t.items[i]; it.counts() && (it.late.Probe == "heartbeat" || it.late.Probe == "heartbeat_rt") {
			if span := it.span(now); span.And(out).Length() > 0 {
				out = hull(out, span)
			}
		}
	}
	return out
}

// within returns the span of the requests that were slow while work was refused,
// of which the moment is known only by the reading; that one itself where there
// are no two such.
func (t *Tracker) within(refused freezeframe.Span, services map[string]bool, now freezeframe.Instant) freezeframe.Span {
	var out freezeframe.Span
	slow := 0
	for i := range t.items {
		if it := &t.items[i]; it.borders() && it.span(now).And(refused).Length() > 0 {
			out = hull(out, it.span(now))
			services[it.late.Target] = true
			slow++
		}
	}
	if slow < 2 {
		return refused
	}
	return out
}

const (
	edgeOwn   = iota
	edgeStuck // a process that does not get on, or does not read: who waits for it is not known
	edgeRefused
	edgeWait
)

// edge is how well an item's moments tell when a stall began and ended.
func (it *item) edge() int {
	switch {
	case synthetic(it.late.Probe):
		return edgeOwn
	case it.late.Err != "":
		return edgeRefused
	case it.late.Probe == "stuck", it.late.OneWay:
		return edgeStuck
	}
	return edgeWait
}

// stall merges the items into symptoms.
func (t *Tracker) stall(now freezeframe.Instant, ongoing bool) *freezeframe.Stall {
	s := &freezeframe.Stall{Ongoing: ongoing, Span: t.edges(now)}
	for i := range t.items {
		if it := &t.items[i]; it.counts() {
			addSymptom(s, it, it.span(now))
		}
	}
	// A symptom that began long before what people felt would only blur it.
	s.Symptoms = slices.DeleteFunc(s.Symptoms, func(sy freezeframe.Symptom) bool {
		return sy.Span.And(s.Span).Length() == 0
	})
	// What people felt comes first, then what may have been felt, then our own
	// work; the longest of each first.
	slices.SortStableFunc(s.Symptoms, func(a, b freezeframe.Symptom) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), cmp.Compare(b.Worst, a.Worst))
	})
	return s
}

func hull(a, b freezeframe.Span) freezeframe.Span {
	if a.Start == 0 {
		return b
	}
	return freezeframe.Span{Start: min(a.Start, b.Start), End: max(a.End, b.End)}
}

func rank(sy *freezeframe.Symptom) int {
	switch {
	case sy.Own:
		return 2
	case sy.Doubtful():
		return 1
	}
	return 0
}

func addSymptom(s *freezeframe.Stall, it *item, span freezeframe.Span) {
	l := &it.late
	i := slices.IndexFunc(s.Symptoms, func(sy freezeframe.Symptom) bool {
		return sy.Probe == l.Probe && sy.Target == l.Target && sy.Err == l.Err
	})
	if i < 0 {
		s.Symptoms = append(s.Symptoms, freezeframe.Symptom{
			Probe: l.Probe, Target: l.Target, Span: span, Quality: l.Quality, Err: l.Err, Own: synthetic(l.Probe),
		})
		i = len(s.Symptoms) - 1
	}
	sy := &s.Symptoms[i]
	sy.Span.Start = min(sy.Span.Start, span.Start)
	sy.Span.End = max(sy.Span.End, span.End)
	sy.Quality = max(sy.Quality, l.Quality)
	sy.Count++
	sy.Late = freezeframe.Union(append(sy.Late, span)...)
	if span.Length() > sy.Worst && l.Err == "" {
		sy.Worst = span.Length()
	}
	for _, v := range l.Victims {
		if !slices.Contains(sy.Victims, v) && len(sy.Victims) < maxVictims {
			sy.Victims = append(sy.Victims, v)
		}
	}
}

// maxVictims is how many victims of one symptom are accounted for.
const maxVictims = 64
