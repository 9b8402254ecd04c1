package lab

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"freezeframe/lab/victim"
)

// A wait counts as late from Late on, and as a stall from Stalled on: what
// people notice, and what a report is expected for.
const (
	Late    = 50 * time.Millisecond
	Stalled = 100 * time.Millisecond
)

// View is a stall as the users saw it, on CLOCK_MONOTONIC nanoseconds: from
// when the first late request was wanted to when the last one was answered.
type View struct {
	Start, End int64
	// Calm is when the last request before Start was wanted that was answered in
	// time: what the users saw began after it, and by Start.
	Calm int64
	// Served is End without the requests that were late only because they had
	// to wait in their client, for the one before: those that were late counted
	// from when they were sent.
	Served int64
	Worst  time.Duration
	Count  int    // late requests
	Errors int    // of them, those that failed
	Err    string // of the first that did
}

// Length returns how long it was.
func (v View) Length() time.Duration { return time.Duration(v.End - v.Start) }

// apart is the calm between two late requests that makes two stalls of them.
const apart = 700 * time.Millisecond

// Views returns the stalls that the users saw, in order. A request that failed
// is late however fast it failed.
func Views(waits []victim.Wait) []View {
	waits = slices.Clone(waits)
	slices.SortFunc(waits, func(a, b victim.Wait) int { return int(min(max(a.Intended-b.Intended, -1), 1)) })
	var views []View
	var calm int64
	for _, w := range waits {
		wait := time.Duration(w.Done - w.Intended)
		if wait < Late && w.Err == "" {
			calm = w.Intended
			continue
		}
		if n := len(views); n == 0 || w.Intended-views[n-1].End > int64(apart) {
			if n > 0 {
				calm = max(calm, views[n-1].End)
			}
			views = append(views, View{Start: w.Intended, Calm: cmp.Or(calm, w.Intended)})
		}
		v := &views[len(views)-1]
		v.End = max(v.End, w.Done)
		if time.Duration(w.Done-w.Sent) >= Late || w.Err != "" {
			v.Served = max(v.Served, w.Done)
		}
		v.Worst = max(v.Worst, wait)
		v.Count++
		if w.Err != "" {
			v.Errors++
			if v.Err == "" {
				v.Err = w.Err
			}
		}
	}
	for i := range views {
		if v := &views[i]; v.Served == 0 {
			v.Served = v.End // they were late in being sent, all of them
		}
	}
	return slices.DeleteFunc(views, func(v View) bool { return v.Worst < Stalled && v.Errors == 0 })
}

// during returns the users' view of a fault: the stalls that overlap it, as
// one. ok is false when there is none. lead is how long before the fault a
// request that it caught may have been wanted.
func during(views []View, t Truth) (v View, ok bool) {
	const lead, trail = int64(60 * time.Millisecond), int64(300 * time.Millisecond)
	for _, have := range views {
		if have.End < t.Start || have.Start > t.End+trail {
			continue
		}
		if have.Start < t.Start-lead {
			// They already waited before; the fault's own edge cannot be seen.
			return have, false
		}
		if !ok {
			v, ok = have, true
			continue
		}
		v.End = max(v.End, have.End)
		v.Served = max(v.Served, have.Served)
		v.Worst = max(v.Worst, have.Worst)
		v.Count += have.Count
		v.Errors += have.Errors
	}
	return v, ok
}

// String tells the view in words.
func (v View) String() string {
	s := fmt.Sprintf("%d ms, worst wait %d ms, %d late", v.Length().Milliseconds(), v.Worst.Milliseconds(), v.Count)
	if v.Errors > 0 {
		s += fmt.Sprintf(", %d failed (%s)", v.Errors, v.Err)
	}
	return s
}
