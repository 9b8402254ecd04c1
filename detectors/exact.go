package detectors

import (
	"cmp"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	// sameWait is how far apart the beginning of a wait may be told by a sample
	// and by the record of the wait itself.
	sameWait = time.Millisecond
	// shortGap is the longest time between two exact waits of which nothing was
	// told because it had nothing over a threshold in it: the thread ran, with
	// pauses that are too short to count.
	shortGap = 25 * time.Millisecond
)

// An exact wait is a stretch of a thread's time of which beginning and end are
// known to the microsecond: it slept in one place, stood in line for a CPU, or
// ran without a break.
type exact struct {
	freezeframe.Span
	kind  uint64
	place place
	// woken is who ended it; nil where an interrupt did, or nobody knows.
	woken *freezeframe.Party
	timer bool // an interrupt did
	open  bool // a sample found it asleep; it may have slept on
}

// readWaits takes the waits of every thread; one that no sample shows becomes
// known by them.
func (b *book) readWaits(s freezeframe.Series) {
	byKey := map[freezeframe.Key]*thread{}
	for _, list := range b.threads {
		for _, th := range list {
			byKey[th.key] = th
		}
	}
	columns := []string{"pid", "comm", "kind", "began_ns", "ended_ns", "state", "syscall", "file", "stack", "wchan", "other_pid", "other_tid", "other_comm", "by_interrupt"}
	s.Each(columns, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		span := freezeframe.Span{Start: freezeframe.Instant(v[3]), End: freezeframe.Instant(v[4])}
		if span.And(b.span).Length() <= 0 {
			return
		}
		th := byKey[key]
		if th == nil {
			th = &thread{key: key, pid: int(v[0]), comm: v[1]}
			byKey[key] = th
			b.threads[th.pid] = append(b.threads[th.pid], th)
		}
		e := exact{Span: span, kind: v[2]}
		if e.kind == bpf.Slept {
			e.place = b.place(&sample{state: byte(v[5]), syscall: int64(v[6]), file: v[7], stack: v[8], wchan: v[9]})
			e.timer = v[13] != 0
			if v[13] == 0 && v[11] != 0 {
				e.woken = &freezeframe.Party{PID: int(v[10]), TID: int(v[11]), Comm: b.w.Text(v[12]), Why: "woke it"}
			}
		}
		th.exact = append(th.exact, e)
	})
	for _, list := range b.threads {
		for _, th := range list {
			b.settle(th)
		}
	}
}

// settle puts the exact waits of a thread in order and without overlaps. A
// sleep that goes on has no record yet, but the samples that find it tell
// since when it lasts.
func (b *book) settle(th *thread) {
	for i := range th.samples {
		x := &th.samples[i]
		if x.since == 0 || x.state == 'R' || x.at.Sub(x.since) < sameWait {
			continue
		}
		told := slices.IndexFunc(th.exact, func(e exact) bool {
			return e.kind == bpf.Slept && e.Start.Sub(x.since).Abs() < sameWait
		})
		if told < 0 {
			th.exact = append(th.exact, exact{Span: freezeframe.Span{Start: x.since, End: x.at}, kind: bpf.Slept, place: b.place(x), open: true})
			continue
		}
		e := &th.exact[told]
		if e.open {
			e.End = max(e.End, x.at)
		}
		// A sample can look up the whole path of a file.
		if p := b.place(x); len(p.file) > len(e.place.file) {
			e.place.file = p.file
		}
	}
	slices.SortStableFunc(th.exact, func(x, y exact) int { return cmp.Compare(x.Start, y.Start) })
	kept := th.exact[:0]
	for _, e := range th.exact {
		if n := len(kept); n > 0 && e.Start < kept[n-1].End {
			// The clocks are adjusted all the time, by microseconds.
			e.Start = kept[n-1].End
		}
		if e.End > e.Start {
			kept = append(kept, e)
		}
	}
	th.exact = kept
}

// layExact lays the exact waits of a thread over the span, and what the samples
// tell into the time between them.
func (b *book) layExact(l *layer, th *thread) {
	first, _ := slices.BinarySearchFunc(th.exact, l.span.Start, func(e exact, at freezeframe.Instant) int { return cmp.Compare(e.End, at) })
	for i := first; i < len(th.exact) && th.exact[i].Start < l.span.End; i++ {
		e := &th.exact[i]
		b.between(l, th, e.Start, i > first)
		l.lay(e.End, b.exactWait(th, e))
	}
	b.between(l, th, l.span.End, false)
}

func (b *book) exactWait(th *thread, e *exact) freezeframe.Wait {
	switch e.kind {
	case bpf.Queued:
		return freezeframe.Wait{Class: freezeframe.Runnable}
	case bpf.Ran:
		return freezeframe.Wait{Class: freezeframe.OnCPU}
	}
	w := b.wait(th, &e.place, false, false)
	w.Woken = e.woken
	if w.Class == freezeframe.UserLock {
		// Another program shares no lock with this one: it ran when the timer did.
		stranger := w.Woken != nil && w.Woken.PID != th.pid && b.comm(th.pid) != "" && b.comm(w.Woken.PID) != "" && b.comm(w.Woken.PID) != b.comm(th.pid)
		if stranger {
			w.Woken = nil
		}
		w.TimedOut = e.timer || stranger
	}
	return w
}

// between lays the time up to a moment in which no exact wait lies. The
// scheduler's counters say how much of it the thread ran and stood in line.
func (b *book) between(l *layer, th *thread, until freezeframe.Instant, enclosed bool) {
	until = min(until, l.span.End)
	s := th.samples
	for i := 0; i+1 < len(s) && l.at < until; i++ {
		x, y := &s[i], &s[i+1]
		if y.at <= l.at || x.at >= until {
			continue
		}
		if i == 0 && x.at > l.at && th.exact[0].Start >= l.at {
			// Before it began: see laySampled.
			l.lay(min(b.began(th, min(x.at, th.exact[0].Start), l.at), until), freezeframe.Wait{Class: freezeframe.Idle})
		}
		b.unknown(l, x.at, enclosed) // before the first sample
		b.rest(l, th, x, y, min(y.at, until))
	}
	if n := len(s); n > 0 && l.at < until && s[n-1].at <= l.at && !enclosed {
		// After the last sample: it sleeps on, or has ended.
		last := &s[n-1]
		p := b.place(last)
		l.lay(min(b.ended(th, last.at, until), until), b.wait(th, &p, last.state == 'R', false))
		if !b.lives(th, until) {
			l.lay(until, freezeframe.Wait{Class: freezeframe.Idle})
		}
	}
	b.unknown(l, until, enclosed)
}

// lives tells whether the thread is known to have been there at a moment or
// after it.
func (b *book) lives(th *thread, at freezeframe.Instant) bool {
	n := len(th.exact)
	return n > 0 && th.exact[n-1].End >= at || b.ended(th, th.samples[len(th.samples)-1].at, at) >= at
}

// unknown lays time of which nothing was told.
func (b *book) unknown(l *layer, until freezeframe.Instant, enclosed bool) {
	class := freezeframe.Unseen
	if enclosed && until.Sub(l.at) <= shortGap {
		class = freezeframe.OnCPU
	}
	l.lay(until, freezeframe.Wait{Class: class})
}

// rest lays a part of the time between two samples that no exact wait covers:
// what the counters say of the whole, less what the exact waits account for, is
// spread over what they leave.
func (b *book) rest(l *layer, th *thread, x, y *sample, until freezeframe.Instant) {
	here := until.Sub(max(l.at, x.at))
	if here <= 0 {
		return
	}
	whole := freezeframe.Span{Start: x.at, End: y.at}
	left := whole.Length()
	ran := time.Duration(y.run - min(x.run, y.run))
	queued := time.Duration(y.wait - min(x.wait, y.wait))
	first, _ := slices.BinarySearchFunc(th.exact, x.at, func(e exact, at freezeframe.Instant) int { return cmp.Compare(e.End, at) })
	for i := first; i < len(th.exact) && th.exact[i].Start < y.at; i++ {
		e := &th.exact[i]
		part := e.And(whole).Length()
		left -= part
		switch e.kind {
		case bpf.Queued:
			queued -= e.Length() // the kernel counts it at its end
		case bpf.Ran:
			ran -= part
		}
	}
	left = max(left, here)
	ran = min(max(ran, 0), left)
	queued = min(max(queued, 0), left-ran)
	share := float64(here) / float64(left)
	at := func(d time.Duration) freezeframe.Instant {
		return min(l.at.Add(time.Duration(float64(d)*share)), until)
	}
	if x.state == 'R' && y.state == 'R' && ran == 0 && queued == 0 && x.run == y.run {
		// Runnable at both ends, and the counters have not moved: it stands in
		// line, which is counted when it is over.
		l.lay(until, freezeframe.Wait{Class: freezeframe.Runnable})
		return
	}
	l.lay(at(queued), freezeframe.Wait{Class: freezeframe.Runnable})
	l.lay(at(ran), freezeframe.Wait{Class: freezeframe.OnCPU})
	if l.at >= until {
		return
	}
	// Sleeps below the threshold, or one that was not told: where it was seen.
	for _, z := range []*sample{y, x} {
		if z.state != 'R' {
			p := b.place(z)
			l.lay(until, b.wait(th, &p, false, false))
			return
		}
	}
	b.unknown(l, until, until.Sub(l.at) <= shortGap)
}
