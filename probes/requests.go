package probes

import (
	"math"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// requests watches every TCP and Unix-stream service of the host as services
// does, by what BPF tells: each wait to the microsecond, also one that came and
// went between two readings, and the thread that kept it waiting. It reports
// accept, receive and answer; while it does, services does not. And it reports
// listen: nobody listens any more at a service whose clients are refused.
//
// What is usual at a service is counted in the kernel, request by request.
type requests struct {
	judgement
	told    columns
	counted columns
}

// Moments are exact, so what opens an incident is what it says.
const exactFloor = 100 * time.Millisecond

// silent is how long BPF may not tell of a wait in flight before it is over:
// the socket is gone without a word. It tells less often of old waits.
const silent = 300 * time.Millisecond

// counts is how many of the requests of a second are learned from: a busy
// service must not forget last minute.
const counts = 50

func newRequests(h *hub, owners *serviceOwners) *requests {
	floors := serviceFloors
	for kind := waitAccept; kind <= waitAnswer; kind++ {
		floors[kind] = exactFloor
	}
	p := &requests{}
	p.init(h, owners, floors)
	p.exact = true
	return p
}

func (p *requests) Name() string { return "requests" }

// Observes names the sources whose readings Observe must get.
func (p *requests) Observes() []string { return []string{"requests", "services", "waits"} }

const (
	rKind = iota
	rState
	rListener
	rService
	rPort
	rCookie
	rPID
	rTID
	rComm
	rPIDs
	rPeer
	rBegan
	rRead
	rDone
	rAnswered
	rAnswers
	rUnanswered
)

var requestColumns = []string{rKind: "kind", rState: "state", rListener: "listener", rService: "service", rPort: "port", rCookie: "cookie",
	rPID: "pid", rTID: "tid", rComm: "comm", rPIDs: "pids", rPeer: "peer", rBegan: "began_at", rRead: "read_at", rDone: "done_at",
	rAnswered: "answered_at", rAnswers: "answers", rUnanswered: "unanswered"}

const (
	sService = iota
	sPort
	sFar
	sPID
	sComm
	sFirst // of the columns of each kind of wait
)

// The columns of a kind of wait.
const (
	sCount = iota
	sP50
	sP90
	sP99
	sMax
	sEach
)

var serviceColumns = []string{sService: "service", sPort: "port", sFar: "far", sPID: "pid", sComm: "comm",
	sFirst: "accepts", "accept_p50_ns", "accept_p90_ns", "accept_p99_ns", "accept_max_ns",
	"receives", "receive_p50_ns", "receive_p90_ns", "receive_p99_ns", "receive_max_ns",
	"answers", "answer_p50_ns", "answer_p90_ns", "answer_p99_ns", "answer_max_ns"}

// Observe takes one reading, on the thread that took it.
func (p *requests) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	if src.Name == "waits" { // on another thread than the rest
		p.held.observe(src, t, p.send)
		return
	}
	if p.began == 0 {
		p.began = t.At
	}
	switch src.Name {
	case "requests":
		if p.told.of(src, requestColumns) {
			p.hub.exactAt.Store(int64(t.At))
			p.observeRequests(t)
		}
	case "services":
		if p.counted.of(src, serviceColumns) {
			p.observeServices(t)
		}
	}
}

// observeServices learns what is usual from what was counted in a second.
func (p *requests) observeServices(t *freezeframe.Table) {
	now := t.At
	c := &p.counted
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		if c.get(row, sFar) != 0 || p.ours(c.get(row, sPID), c.get(row, sComm), c.get(row, sPort)) {
			continue
		}
		s := p.service(key, c.get(row, sService), now)
		if s == nil {
			continue
		}
		for kind := waitAccept; kind <= waitAnswer; kind++ {
			at := sFirst + kind*sEach
			n := c.get(row, at+sCount)
			learnt := n
			if kind == waitAnswer {
				s.sends = s.sends || n > 0
				s.count(float32(n), now)
				s.slowShare = p.slowShare(s, c.get(row, at+sP50), c.get(row, at+sP90))
				if s.slowShare > 0 {
					learnt = min(n, 1) // a second of a stall is one lesson, not fifty
				}
			}
			l := lesson{at: now, n: learnt, quantiles: [4]uint64{c.get(row, at+sP50), c.get(row, at+sP90), c.get(row, at+sP99), c.get(row, at+sMax)}}
			if b := &s.usual[kind]; b.total >= enough && n > 0 && l.quantiles[3] <= uint64(b.ordinary()) {
				p.learnMany(s, kind, l.n, l.quantiles, now) // it can only make what is usual shorter
				continue
			}
			if s.usual[kind].total < enough {
				// Of what nothing is known, all is news; but its first second may be
				// its start, or ours.
				p.learnMany(s, kind, min(l.n, enough), l.quantiles, now)
				continue
			}
			p.lessons(s, kind, l, now)
		}
	}
	p.listeners.expire(now)
}

// lesson is what was counted of a kind of wait in a second.
type lesson struct {
	at        freezeframe.Instant
	n         uint64
	quantiles [4]uint64 // p50, p90, p99 and the longest, ns
}

// afterwards is how long a second is not learned from: a stall that grows over
// seconds would make itself usual before it is one.
const afterwards = 5 * time.Second

// lessons learns from the seconds that are over for long enough, and keeps the
// last one. Those in which something stalled, or soon after which it did, teach
// what was ordinary in them and, as one lesson, that their median and their
// longest were not: what such a second does to the longest waits is the stall,
// and a service that stalls every few seconds must not be one at which that is
// usual. What stays slow is in the end.
func (p *requests) lessons(s *service, kind int, last lesson, now freezeframe.Instant) {
	line := &s.lessons[kind]
	oldest := 0
	for i := range line {
		l := &line[i]
		if l.at != 0 && now.Sub(l.at) >= afterwards {
			switch {
			case l.n == 0:
			case s.stalledAt.Add(time.Second) >= l.at && s.stalledAt != 0:
				b := &s.usual[kind]
				if median := int64(l.quantiles[0]); median > int64(b.ordinary()) {
					p.learn(s, kind, median, now)
				} else {
					for range min(l.n, counts) / 2 {
						b.add(median)
					}
				}
				b.doubt(int64(l.quantiles[3]))
			default:
				p.learnMany(s, kind, l.n, l.quantiles, now)
			}
			l.at = 0
		}
		if l.at < line[oldest].at {
			oldest = i
		}
	}
	line[oldest] = last
}

// slowShare is how many of the answers of a second were slow, at least, by their
// quantiles: each single wait is told only when it is far beyond what is usual.
func (p *requests) slowShare(s *service, p50, p90 uint64) float32 {
	limit := uint64(p.slowAt(s))
	switch {
	case p50 > limit:
		return 0.5
	case p90 > limit:
		return partlyStalled
	}
	return 0
}

// learnMany learns from n waits of which the quantiles are known: as many of
// each as there are in counts of them.
func (p *requests) learnMany(s *service, kind int, n uint64, quantiles [4]uint64, now freezeframe.Instant) {
	w := min(n, counts)
	var weights [4]uint64
	weights[1] = w * 2 / 5
	if n >= 100 {
		weights[2] = w / 10
	} else if w > 0 {
		weights[3] = 1 // of so few the longest is the 99th percentile
	}
	weights[0] = w - weights[1] - weights[2] - weights[3]
	// Those between the median and the p90 lie anywhere between: a few that were
	// slow must not look like two in five.
	between := weights[1] - weights[1]/4
	weights[1] -= between
	middle := math.Sqrt(float64(quantiles[0])) * math.Sqrt(float64(min(quantiles[1], farBeyond*farBeyond*quantiles[0])))
	for range between {
		p.learn(s, kind, int64(middle), now)
	}
	for i, q := range quantiles {
		for range weights[i] {
			p.learn(s, kind, int64(q), now)
		}
	}
}

// service returns what is known of a service, and keeps it known.
func (p *requests) service(key freezeframe.Key, address uint64, now freezeframe.Instant) *service {
	s := p.listeners.find(key)
	if s == nil {
		return nil
	}
	if s.first == 0 {
		s.first = now
	}
	s.seen, s.address = now, address
	return s
}

func (p *requests) observeRequests(t *freezeframe.Table) {
	now := t.At
	p.begin()
	for i := range t.Keys {
		p.look(t.Values(i, p.told.width), now)
	}
	for i := range p.conns.n {
		if n := &p.conns.slots[i]; n.waits[waitAccept].began != 0 || n.waits[waitReceive].began != 0 || n.waits[waitAnswer].began != 0 {
			oldest := now
			for kind := waitAccept; kind <= waitAnswer; kind++ {
				if w := &n.waits[kind]; w.began != 0 {
					oldest = min(oldest, w.began)
				}
			}
			if now.Sub(n.told) <= silent+now.Sub(oldest)/8 {
				n.seen = now
			}
		}
	}
	p.absent(now)
	p.settle(now)
}

// look takes one row: a wait.
func (p *requests) look(row []uint64, now freezeframe.Instant) {
	c := &p.told
	kind := int(c.get(row, rKind))
	if kind == bpf.Absence {
		p.lookAbsent(row, now)
		return
	}
	if kind > waitAnswer || p.ours(c.get(row, rPID), c.get(row, rComm), c.get(row, rPort)) {
		return // of other hosts' answers the rules make something
	}
	s := p.service(freezeframe.Key(c.get(row, rListener)), c.get(row, rService), now)
	n := p.conns.find(freezeframe.Key(c.get(row, rCookie)))
	if s == nil || n == nil {
		return
	}
	if n.first == 0 {
		n.first = now
	}
	n.told, n.seen, n.missing = now, now, 0
	n.listener = freezeframe.Key(c.get(row, rListener))
	n.peer, n.comm, n.pids, n.pid, n.tid = c.get(row, rPeer), c.get(row, rComm), c.get(row, rPIDs), c.get(row, rPID), c.get(row, rTID)
	answers, unanswered := c.get(row, rAnswers), c.get(row, rUnanswered)
	n.talks = answers >= 3
	n.odd = unanswered > 0 && 4*unanswered > answers
	s.sends = s.sends || answers > 0
	s.answered = max(s.answered, freezeframe.Instant(c.get(row, rAnswered)))

	began, done := freezeframe.Instant(c.get(row, rBegan)), freezeframe.Instant(c.get(row, rDone))
	w := &n.waits[kind]
	if w.began != 0 && w.began != began {
		p.end(n, kind, max(w.began, min(began, now)), now) // its end was not told
	}
	if w.began == 0 {
		*w = wait{began: min(began, now), calm: began < p.began}
	}
	switch c.get(row, rState) {
	case bpf.ToldInFlight, bpf.ToldQueued:
		// What came before this kind of wait is over, should its end not have
		// been told.
		if kind > waitAccept {
			p.end(n, waitAccept, now, now)
		}
		if kind == waitAnswer {
			p.end(n, waitReceive, max(n.waits[waitReceive].began, freezeframe.Instant(c.get(row, rRead))), now)
		}
	case bpf.ToldSuperseded:
		if w.last != 0 {
			s.pieces++
		}
		p.drop(n, kind, now)
	default:
		p.end(n, kind, max(done, w.began), now)
	}
}
