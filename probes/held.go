package probes

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"freezeframe"
)

// held is slow requests beside others that were answered, and what their
// threads waited in. An endpoint that is slow by design and a request that was
// held up look the same from outside: what tells them apart is that the
// machine kept the thread of the second from its work. A thread that sleeps
// for a while, polls a queue or asks another service chose to; one that stands
// in uninterruptible sleep for most of the request, or in line for a CPU, did
// not.
//
// It belongs to the thread that reads waits; the requests come through asked.
type held struct {
	told  columns
	asked chan report

	waits [1024]forced // the last ones, as a ring
	next  int
	slots [64]report
	n     int
}

// forced is a wait that a thread did not choose.
type forced struct {
	tid   uint64
	began freezeframe.Instant
	ended freezeframe.Instant
}

const (
	// heldFloor is from when on one slow request among others counts.
	heldFloor = 200 * time.Millisecond
	// A scan of a table is a thousand short reads, and takes as long as it
	// takes: only waits that are long each count.
	longSleep = 50 * time.Millisecond
	longQueue = 20 * time.Millisecond
	// heldShare is how much of a request its thread must have been held up.
	heldShare = 0.5
	// heldWorth is what such a request is worth.
	heldWorth = 0.6
)

const (
	wKind = iota
	wState
	wBegan
	wEnded
)

var waitColumns = []string{wKind: "kind", wState: "state", wBegan: "began_ns", wEnded: "ended_ns"}

// The kinds of waits as the source has them.
const (
	kindSlept  = 1
	kindQueued = 2
)

func (h *held) init() { h.asked = make(chan report, 256) }

// ask has a request that is over looked into.
func (h *held) ask(r report) {
	select {
	case h.asked <- r:
	default: // hundreds of requests at a time are slow: more than one would tell
	}
}

// observe takes a reading of waits and passes on the requests that were held
// up, once all waits of their time are told.
func (h *held) observe(src *freezeframe.Source, t *freezeframe.Table, pass func(report) bool) {
	if !h.told.of(src, waitColumns) {
		return
	}
	c := &h.told
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		w := forced{uint64(key.TID()), freezeframe.Instant(c.get(row, wBegan)), freezeframe.Instant(c.get(row, wEnded))}
		switch took := w.ended.Sub(w.began); c.get(row, wKind) {
		case kindSlept:
			if c.get(row, wState) != 'D' || took < longSleep {
				continue
			}
		case kindQueued:
			if took < longQueue {
				continue
			}
		default:
			continue
		}
		h.waits[h.next] = w
		h.next = (h.next + 1) % len(h.waits)
	}
	for more := true; more && h.n < len(h.slots); {
		select {
		case r := <-h.asked:
			h.slots[h.n] = r
			h.n++
		default:
			more = false
		}
	}
	kept := 0
	for i := range h.n {
		r := h.slots[i]
		switch {
		case r.done >= t.At: // a wait of its last moments may come with the next reading
			h.slots[kept] = r
			kept++
		case h.of(&r) >= time.Duration(heldShare*float64(r.age())):
			r.quality, r.sure = heldWorth, true
			pass(r)
		}
	}
	h.n = kept
}

// of is how long a request's thread was held up in its time.
func (h *held) of(r *report) time.Duration {
	span := freezeframe.Span{Start: r.began, End: r.done}
	sum := time.Duration(0)
	for i := range h.waits {
		if w := &h.waits[i]; w.tid == r.tid {
			sum += span.And(freezeframe.Span{Start: w.began, End: w.ended}).Length()
		}
	}
	return sum
}

// standing tells of requests in flight whether their threads stand in one and
// the same uninterruptible sleep from report to report: its end, and so its
// length, is not told yet. It belongs to the goroutine that passes reports on.
type standing struct {
	at map[uint64]stand // by thread
}

// stand is a thread in uninterruptible sleep.
type stand struct {
	began  freezeframe.Instant // of the request
	seen   freezeframe.Instant
	slices string // how often it had got a CPU by then
}

// look raises what a request in flight is worth when its thread does not get
// on.
func (s *standing) look(r *report) {
	if r.kind != waitAnswer || r.done != 0 || r.quality >= 0.5 || r.tid == 0 || r.age() < heldFloor/2 {
		return
	}
	slices, ok := uninterruptible(r.pid, r.tid)
	if !ok {
		delete(s.at, r.tid)
		return
	}
	was, again := s.at[r.tid]
	switch {
	case !again || was.began != r.began || was.slices != slices:
		if s.at == nil || len(s.at) >= 1024 {
			s.at = make(map[uint64]stand)
		}
		s.at[r.tid] = stand{r.began, r.seen, slices}
	case r.age() >= heldFloor && r.seen.Sub(was.seen) >= min(time.Duration(heldShare*float64(r.age())), time.Second):
		r.quality, r.sure = heldWorth, true
	}
}

// uninterruptible tells whether a thread is in uninterruptible sleep, and how
// often it had got a CPU by then (/proc/PID/task/TID/stat and schedstat).
func uninterruptible(pid, tid uint64) (slices string, ok bool) {
	dir := fmt.Sprintf("/proc/%d/task/%d/", pid, tid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return "", false
	}
	if i := bytes.LastIndexByte(stat, ')'); i < 0 || !bytes.HasPrefix(stat[i+1:], []byte(" D ")) {
		return "", false
	}
	sched, err := os.ReadFile(dir + "schedstat")
	if f := strings.Fields(string(sched)); err == nil && len(f) == 3 {
		return f[2], true
	}
	return "", false
}
