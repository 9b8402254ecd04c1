package probes

import (
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	// fewRefused is how many clients must have been refused for it to be more than
	// one that came too late.
	fewRefused = 2
	// wanted is how long after the last refusal it is taken that somebody still
	// waits for the service: clients try again about once a second.
	wanted = 1500 * time.Millisecond
	// stoppedForGood is how long a service must be away to be one that was stopped,
	// not one that is down: whoever still asks is not told apart from a forgotten
	// check of its health.
	stoppedForGood = 60 * time.Second
	// livedFor is how long a service must have been there, unless it was before we
	// came: what comes and goes, as the servers of a test run do, is waited for by
	// nobody but its own test.
	livedFor = 2 * time.Second
)

// absence is the time in which nobody listens at a service that had answered.
// The zero value is none.
type absence struct {
	began   freezeframe.Instant // since when; after a while without a client, since the next of them
	refused freezeframe.Instant // when a client was last refused; 0: none was
	count   uint64              // clients that were, since began
	before  uint64              // clients that were before that
	told    freezeframe.Instant // when it was last reported; 0: never
	pid     uint64              // who closed the listener: it ended, mostly
	comm    uint64
}

// lookAbsent takes one row of the kind bpf.Absence.
func (p *requests) lookAbsent(row []uint64, now freezeframe.Instant) {
	c := &p.told
	s := p.service(freezeframe.Key(c.get(row, rListener)), c.get(row, rService), now)
	if s == nil {
		return
	}
	a := &s.absent
	at, count := freezeframe.Instant(c.get(row, rDone)), c.get(row, rUnanswered)
	switch c.get(row, rState) {
	case bpf.ToldInFlight:
		*a = absence{}
		if began := freezeframe.Instant(c.get(row, rBegan)); p.hasServed(s, began) {
			*a = absence{began: began, pid: c.get(row, rPID), comm: c.get(row, rComm)}
		}
	case bpf.ToldRefused:
		switch {
		case a.began == 0:
		case a.refused != 0 && at.Sub(a.refused) >= wanted:
			// Nobody had asked for a while: that was over.
			*a = absence{began: at, refused: at, count: 1, before: count - 1, pid: a.pid, comm: a.comm}
		default:
			a.refused, a.count = at, count-min(a.before, count)
			p.hub.suspect(now)
		}
	case bpf.ToldDone:
		if a.began != 0 && a.told != 0 {
			a.count = max(a.count, count-min(a.before, count))
			p.tellAbsent(s, at, now)
		}
		*a = absence{}
	}
}

// hasServed tells whether a service is one that somebody may miss: it was known
// for a while and has answered often enough.
func (p *requests) hasServed(s *service, gone freezeframe.Instant) bool {
	there := s.first.Sub(p.began) < livedFor || gone.Sub(s.first) >= livedFor
	return s.first != 0 && there && s.usual[waitAnswer].total >= enough
}

// absent reports the services that are down while clients ask for them.
func (p *requests) absent(now freezeframe.Instant) {
	for i := range p.listeners.n {
		s := &p.listeners.slots[i]
		a := &s.absent
		if a.began == 0 || a.refused == 0 {
			continue
		}
		s.seen = now
		switch {
		case now.Sub(a.began) > stoppedForGood:
			*a = absence{}
		case now.Sub(a.refused) >= wanted:
			if a.told != 0 {
				p.tellAbsent(s, a.refused, now)
			}
			a.told = 0
		case a.refused.Sub(a.began) >= exactFloor/2 && now.Sub(a.told) >= again:
			p.hub.suspect(now)
			p.tellAbsent(s, 0, now)
			a.told = now
		}
	}
}

func (p *requests) tellAbsent(s *service, done, now freezeframe.Instant) {
	a := &s.absent
	r := report{kind: reportListen, quality: lonely, target: s.address, comm: a.comm, pid: a.pid, began: a.began, done: done, seen: now, floor: exactFloor}
	if a.count >= fewRefused {
		r.quality = 0.9
	}
	p.send(r)
}
