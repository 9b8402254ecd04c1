package probes

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// judgement is what the probes that watch services share: who waits where, what
// is usual there, and what a wait is worth. It lives in fixed memory on the
// thread that takes the readings; Run is another.
type judgement struct {
	hub    *hub
	owners *serviceOwners
	out    chan report
	held   held
	floors [waitKinds]time.Duration
	// exact says that waits are told to the moment, those between two readings
	// too, and that what is usual is counted by the kernel.
	exact bool

	listeners listenerTable
	conns     connTable
	reached   addressTable
	began     freezeframe.Instant // the first reading
	armed     freezeframe.Instant // until when early looks at nothing again
	own       uint64              // our pid
	name      uint64              // text: what our process is called
}

func (p *judgement) init(h *hub, owners *serviceOwners, floors [waitKinds]time.Duration) {
	p.hub, p.owners, p.floors = h, owners, floors
	p.out, p.own = make(chan report, 1024), uint64(os.Getpid())
	p.held.init()
	p.listeners.slots, p.conns.slots = kernel.Slots[service](p, maxListeners), kernel.Slots[conn](p, maxConns)
}

// report is what the sampling thread hands to Run.
type report struct {
	kind    int8 // -1: only have pid watched
	over    bool // Err "overflow"
	oneWay  bool // the service answers nobody
	sure    bool // tid is the thread that was held up
	partly  bool // others were answered meanwhile
	quality float32
	target  uint64 // text
	comm    uint64 // text
	pids    uint64 // text
	pid     uint64
	tid     uint64 // 0: the process
	began   freezeframe.Instant
	done    freezeframe.Instant
	seen    freezeframe.Instant
	usual   time.Duration
	floor   time.Duration
	edge    time.Duration
}

// age is how long the wait has taken so far.
func (r *report) age() time.Duration {
	if r.done != 0 {
		return r.done.Sub(r.began)
	}
	return r.seen.Sub(r.began)
}

// Run passes on what Observe finds until ctx ends.
func (p *judgement) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	var stood standing
	var half unfinished
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-p.out:
			stood.look(&r)
			half.look(&r, p.hub.text(r.target))
			victims := p.victims(r)
			p.owners.watch(victims, p.hub.Focus)
			if r.kind < 0 {
				if r.target != 0 {
					p.owners.set(p.hub.text(r.target), victims)
				}
				continue
			}
			l := freezeframe.Lateness{
				Probe: serviceProbes[r.kind], Target: p.hub.text(r.target),
				Began: r.began, Done: r.done, Seen: r.seen,
				Usual: r.usual, Floor: r.floor, Edge: r.edge, OneWay: r.oneWay, Quality: float64(r.quality),
				Victims: victims,
			}
			if r.over {
				l.Err = "overflow"
			}
			late(l)
		}
	}
}

// victims is every process that shares the socket, or the very thread that is
// to serve it; where neither is known, whoever listens there.
func (p *judgement) victims(r report) []freezeframe.Victim {
	comm := p.hub.text(r.comm)
	if r.sure {
		return []freezeframe.Victim{{PID: int(r.pid), TID: int(r.tid), Comm: comm}}
	}
	var out []freezeframe.Victim
	for word := range strings.SplitSeq(p.hub.text(r.pids), ",") {
		process, thread, _ := strings.Cut(word, "/")
		if pid, err := strconv.Atoi(process); err == nil && pid > 0 {
			tid, _ := strconv.Atoi(thread)
			out = append(out, freezeframe.Victim{PID: pid, TID: working(pid, tid), Comm: comm})
		}
	}
	if out == nil && r.pid != 0 {
		out = []freezeframe.Victim{{PID: int(r.pid), TID: working(int(r.pid), int(r.tid)), Comm: comm}}
	}
	if out == nil && p.exact && r.target != 0 {
		out = p.owners.listening(p.hub.text(r.target))
	}
	return out
}

// working returns tid while that thread is the one to look at. One that waits
// for whatever comes next has handed the work to another, or the wait is not its
// doing: then it is the process as a whole, TID 0. So it is when the thread has
// ended.
func working(pid, tid int) int {
	if tid == 0 {
		return 0
	}
	at, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(tid), "wchan"))
	if err != nil || slices.ContainsFunc([]string{"poll", "select", "io_cqring_wait", "accept"}, func(s string) bool { return strings.Contains(string(at), s) }) {
		return 0
	}
	return tid
}

// moveToFront returns the list with the victims' processes first, bounded; nil
// when that changes nothing but the order.
func moveToFront(list []int32, victims []freezeframe.Victim) []int32 {
	fresh := false
	next := make([]int32, 0, watchMost)
	add := func(pid int32) {
		for _, have := range next {
			if have == pid {
				return
			}
		}
		if len(next) < watchMost {
			next = append(next, pid)
		}
	}
	for _, v := range victims {
		known := false
		for _, have := range list {
			known = known || have == int32(v.PID)
		}
		fresh = fresh || !known
		add(int32(v.PID))
	}
	if !fresh {
		return nil
	}
	for _, pid := range list {
		add(pid)
	}
	return next
}

// serviceOwners is who listens on what, as last seen.
type serviceOwners struct {
	mu      sync.Mutex
	by      map[string][]freezeframe.Victim
	watched []int32 // the processes whose threads are sampled, those last late first
}

// watch has the threads of processes sampled.
func (o *serviceOwners) watch(victims []freezeframe.Victim, focus *freezeframe.Focus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if next := moveToFront(o.watched, victims); next != nil {
		o.watched = next
		if focus != nil {
			focus.Watch(next)
		}
	}
}

// listening returns who listens at an address, as last seen.
func (o *serviceOwners) listening(address string) []freezeframe.Victim {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.by[address]
}

func (o *serviceOwners) set(listener string, owners []freezeframe.Victim) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.by == nil || len(o.by) > 4*maxListeners {
		o.by = make(map[string][]freezeframe.Victim)
	}
	o.by[listener] = owners
}

// serves tells whether a process is one of a service's, as last seen.
func (o *serviceOwners) serves(pid int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, owners := range o.by {
		for _, v := range owners {
			if v.PID == pid {
				return true
			}
		}
	}
	return false
}

// of returns who serves host:port, nil when that is nobody on this host.
func (o *serviceOwners) of(address string) []freezeframe.Victim {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for listener, owners := range o.by {
		if _, have, err := net.SplitHostPort(listener); err == nil && have == port && isLocal(listener, host) {
			return owners
		}
	}
	return nil
}

// ours tells whether a socket is one of our own, or of another freezeframe: a
// diagnose by hand beside the daemon must not take its echo for a service. By
// the process, by what it is called or, where neither is known yet, by the port.
func (p *judgement) ours(pid, comm, port uint64) bool {
	if pid == p.own {
		p.name = comm
		return true
	}
	return comm != 0 && comm == p.name || pid == 0 && port != 0 && port == uint64(p.hub.echoPort.Load())
}

// send hands a report to Run; when Run is behind, the next one says the same.
func (p *judgement) send(r report) bool {
	select {
	case p.out <- r:
		return true
	default:
		return false
	}
}

// service is a listening socket and what is known of whoever serves it.
type service struct {
	key     freezeframe.Key
	seen    freezeframe.Instant
	first   freezeframe.Instant
	address uint64
	comm    uint64
	pids    uint64
	pid     uint64

	queue   uint64
	queued  freezeframe.Instant // since when the queue has neither shrunk nor been empty
	told    wait                // the wait of the queue, where its connections are not seen
	drops   uint64
	dropped freezeframe.Instant // when drops were last reported

	usual    [waitKinds]baseline
	lessons  [waitAnswer + 1][8]lesson // of the last seconds, not learned yet
	answered freezeframe.Instant       // the last answer on any connection
	latest   freezeframe.Instant       // where answers are inferred, the last that was found; it counts from the next reading on, since those of a reading all come at its end
	sends    bool                      // it has answered at all
	named    freezeframe.Instant       // when Run was last told whose it is
	turn     uint32                    // counts readings of connections
	readings uint32                    // those that count
	slow     uint32                    // of those, the ones in which an answer was slow
	recent   [6]turns                  // those of the last seconds, not yet among them
	waiting  [waitKinds]uint16         // waits reported now
	learnt   freezeframe.Instant       // when a slow answer was last learned from
	slowNow  uint16                    // missing answers older than slow, in this reading
	overdue  uint16                    // and those older than half the floor
	losing   uint16                    // connections that lose packets, in this reading
	// losingUsual is how many there are on average: the clients of a public
	// service come and go without a word.
	losingUsual float32
	stalled     bool                // a wait was reported as a stall, in this reading
	stalledAt   freezeframe.Instant // and when one was last
	lone        report              // of the last slow request beside others that were answered
	alone       baseline            // how long requests took beside which others were answered, one at a time
	aloneAt     freezeframe.Instant // when the last of them ended
	pieces      uint32              // requests of which more came when an answer was already late
	unreadAt    freezeframe.Instant // the last reading in which somebody else's request was not taken for as long as one notices
	answers     float32             // in the last second that was counted
	rate        float32             // answers a second, over the last rateOver
	counted     freezeframe.Instant // when answers were last counted
	slowEnds    float32             // answers that took longer than half the floor, fading within a second
	slowEndsAt  freezeframe.Instant // when the last was
	slowShare   float32             // of the last second that was counted, at least
	heard       uint64              // answers that were counted so far, where they are inferred
	unseen      bool                // a connection that waits for accept is in the table
	absent      absence             // nobody listens any more
}

// usuallySlow tells whether answers are often as long as this at this service.
func (s *service) usuallySlow(age time.Duration) bool {
	b := &s.usual[waitAnswer]
	if b.total >= enough && age <= farBeyond*b.ordinary() {
		return true
	}
	return s.slowOften()
}

// slowOften tells whether an answer is missing for long as often as not, about.
func (s *service) slowOften() bool {
	return s.readings >= 20 && float64(s.slow) > usuallySlow*float64(s.readings)
}

// learn takes how long a wait of a kind lasted as part of what is usual. A
// thousand clients that waited for one stall are one lesson, and so are the
// four whose answers came in its first pause; and what a stall does to the
// waits that are merely longer than ever must not make the longer ones usual,
// and these the longest.
func (p *judgement) learn(s *service, kind int, took int64, now freezeframe.Instant) {
	b := &s.usual[kind]
	usual, floor := int64(b.ordinary()), int64(p.floors[kind])
	if kind == waitAnswer {
		floor /= 2
	}
	far := took > floor && took > farBeyond*usual || kind == waitAnswer && took > int64(firstSight)
	switch stalled := s.stalledAt != 0 && now.Sub(s.stalledAt) < time.Second; {
	case !far && !(stalled && took > usual && took > floor/3):
		b.add(took)
	case now.Sub(s.learnt) >= time.Second:
		s.learnt = now
		if kind == waitAnswer && b.total < enough {
			b.add(took) // of what nothing is known, all is news
			return
		}
		b.doubt(took)
	}
}

// wait is one piece of work that somebody waits for.
type wait struct {
	began freezeframe.Instant // 0: none
	last  freezeframe.Instant // when it was last reported; 0: never
	worth float32             // the quality it was reported with
	calm  bool                // it does not count: it began before anyone watched
	sure  freezeframe.Instant // when it was last certain that the network was to blame
}

// conn is a connection that was in the last readings.
type conn struct {
	key      freezeframe.Key
	listener freezeframe.Key
	service  int // index in the table, -1 when there is none; valid within a reading
	seen     freezeframe.Instant
	missing  freezeframe.Instant // the first reading without it; 0: none
	over     freezeframe.Instant // when what is over by this reading ended, about
	first    freezeframe.Instant
	peer     uint64
	comm     uint64
	pids     uint64
	pid      uint64
	tid      uint64
	told     freezeframe.Instant // when BPF last told of a wait
	odd      bool                // its requests are not always answered
	arrived  uint64              // bytes that have arrived
	replied  uint64              // bytes that were sent
	segments uint64              // that were sent
	open     bool                // what arrived last is not answered, though the clock cannot tell
	read     uint64              // bytes that the process has read
	talks    bool                // answered several times before
	waits    [waitKinds]wait
}

// begin forgets what the reading before said of the services.
func (p *judgement) begin() {
	for i := range p.listeners.n {
		s := &p.listeners.slots[i]
		s.slowNow, s.overdue, s.losing, s.unseen, s.stalled = 0, 0, 0, false, false
		clear(s.waiting[:])
	}
}

// settle judges every wait in flight once the rows of a reading were taken.
func (p *judgement) settle(now freezeframe.Instant) {
	for i := range p.conns.n {
		n := &p.conns.slots[i]
		n.service = p.listeners.index(n.listener)
		if n.seen != now {
			if n.missing == 0 {
				n.missing = now
			}
			continue
		}
		n.missing = 0
		if n.service < 0 {
			continue
		}
		s := &p.listeners.slots[n.service]
		if w := &n.waits[waitAnswer]; w.began != 0 {
			age := now.Sub(w.began)
			if age >= slow {
				s.slowNow++
			}
			if age >= p.floors[waitAnswer]/2 && age >= p.slowAt(s) {
				s.overdue++
			}
		}
		if n.waits[waitDelivery].began != 0 {
			s.losing++
		}
		s.unseen = s.unseen || n.waits[waitAccept].began != 0
		for _, kind := range [...]int{waitAccept, waitReceive} {
			if w := &n.waits[kind]; w.began != 0 && now.Sub(w.began) >= noticed {
				s.unreadAt = now
			}
		}
		for kind := range n.waits {
			if w := &n.waits[kind]; w.last != 0 {
				s.waiting[kind]++
				s.stalled = s.stalled || w.worth >= 0.5
				if s.stalled {
					s.stalledAt = now
				}
			}
		}
	}
	for i := range p.conns.n {
		n := &p.conns.slots[i]
		for kind := range n.waits {
			w := &n.waits[kind]
			switch {
			case w.began == 0:
			case n.missing == 0:
				p.judge(n, kind, now)
			case now.Sub(n.missing) >= gone:
				// It was answered and closed at some time since it was seen last.
				p.end(n, kind, max(w.began, n.seen.Add(n.missing.Sub(n.seen)/2)), now)
			}
		}
	}
	for i := range p.listeners.n {
		s := &p.listeners.slots[i]
		// What is a stall says little about what is usual, but if it said
		// nothing, a service that always looks stalled would never be known.
		s.turn++
		if !s.stalled || s.turn%oneIn == 0 {
			p.countReading(s, now)
		}
		if s.readings >= 2400 { // two minutes; forget half
			s.readings, s.slow, s.pieces = s.readings/2, s.slow/2, s.pieces/2
		}
		if !p.exact && s.waiting[waitReceive] == 0 {
			s.usual[waitReceive].add(0)
		}
		s.losingUsual += (float32(s.losing) - s.losingUsual) / losingMemory
		s.answered = max(s.answered, s.latest)
	}
	p.conns.expire(now)
}

// countReading counts a reading as one in which an answer was slow, or not: what
// is told exactly only when some seconds are over, so that a stall is not how
// the service works before it is one.
func (p *judgement) countReading(s *service, now freezeframe.Instant) {
	second := now / freezeframe.Instant(time.Second)
	in := &s.recent[int(second)%len(s.recent)]
	if in.second != second || !p.exact {
		s.readings += in.readings
		s.slow += in.slow
		*in = turns{second: second}
	}
	in.readings++
	if s.slowNow > 0 {
		in.slow++
	}
}

// turns are the readings of a second, and those of them in which an answer was
// slow.
type turns struct {
	second         freezeframe.Instant
	readings, slow uint32
}

// set begins or ends a wait; one that has begun keeps its beginning.
func (p *judgement) set(n *conn, kind int, waits bool, began, now freezeframe.Instant) {
	w := &n.waits[kind]
	switch {
	case !waits:
		p.end(n, kind, max(n.over, w.began), now)
	case w.began == 0:
		*w = wait{began: min(began, now), calm: began < p.began}
	}
}

// end ends a wait that came to its end: it is learned from and reported.
func (p *judgement) end(n *conn, kind int, done, now freezeframe.Instant) {
	w := &n.waits[kind]
	if w.began == 0 {
		return
	}
	usual := time.Duration(0)
	s := p.listeners.at(n.listener)
	told := w.last != 0
	if s != nil {
		usual = s.usual[kind].ordinary()
		took := done.Sub(w.began)
		if (kind == waitAnswer || p.exact) && (w.last == 0 || !p.exact && w.worth < freezeframe.Felt) && took > p.part(kind) {
			// Too short to be seen while it lasted, or for long enough; in a stall
			// it counts.
			w.worth = max(w.worth, p.worth(n, s, kind, took, now))
			told = w.worth >= lonely
		}
		if kind == waitAnswer {
			if p.exact && w.worth > 0 && w.worth < 0.5 && took >= heldFloor && n.tid != 0 {
				p.held.ask(p.report(n, s, kind, done, now, usual))
			}
			if took > p.floors[kind] && w.began > s.aloneAt.Add(apart) && othersAnswered(s, w, took) {
				s.alone.add(int64(took))
				s.aloneAt = done
			}
			if took > p.floors[kind]/2 && took > p.slowAt(s) { // as overdue
				s.slowEnds, s.slowEndsAt = s.slowSince(now)+1, now
			}
			s.answered = max(s.answered, done)
		}
		// What the kernel counts comes once a second; of a service that is new
		// the next wait must not be judged without the last.
		if !p.exact || kind == waitAnswer && s.usual[kind].total < enough && took >= p.floors[kind] {
			p.learn(s, kind, int64(took), now)
		}
		if w.worth < lonely && p.belongs(n, s, kind, took) {
			r := p.report(n, s, kind, done, now, usual)
			r.quality, told = lonely, false
			p.send(r)
		}
	}
	if told {
		p.tell(n, s, kind, done, now, usual)
	}
	*w = wait{}
}

// edge is from when on a wait of a kind that is told exactly belongs to a stall
// of its service: it is longer than its users would not mind and than is
// ordinary there. What is usual in the other sense opens one; of a short history
// it is what was held up once.
func (p *judgement) edge(s *service, kind int) time.Duration {
	if !p.exact || s == nil || kind > waitAnswer {
		return 0
	}
	return max(noticed, 2*s.usual[kind].ordinary())
}

// slowAt is from when on an answer is one of the slow ones of its service.
func (p *judgement) slowAt(s *service) time.Duration {
	return max(p.floors[waitAnswer]/2, p.edge(s, waitAnswer))
}

// manySlow tells whether so many of a service's answers are slow at a time, and
// such a share of them, that it is no chance: of its history it was one in a
// hundred.
func (p *judgement) manySlow(s *service, now freezeframe.Instant) bool {
	return p.exact && s.partly(now) >= partlyStalled && s.slowOnes(now) >= fewSlow
}

// noticed is what a user begins to notice, without the way there and back.
const noticed = 49 * time.Millisecond

// belongs tells whether a wait that is over and proves nothing by itself is part
// of a stall of its service, should there be one just then: it was longer than
// what is ordinary, and not of those that always are.
func (p *judgement) belongs(n *conn, s *service, kind int, took time.Duration) bool {
	if took < noticed || n.waits[kind].calm || !p.exact || kind > waitAnswer || took < p.edge(s, kind) {
		return false
	}
	if kind != waitAnswer {
		return true
	}
	return s.usual[kind].total >= enough && !n.odd && !s.slowOften() && !s.byDesign(took)
}

// byDesign tells whether requests beside which others were answered have always
// taken so long.
func (s *service) byDesign(took time.Duration) bool {
	return s.alone.total >= byDesign && int64(took)*4 <= s.alone.p99()*5
}

// drop ends a wait that turned out to be none.
func (p *judgement) drop(n *conn, kind int, now freezeframe.Instant) {
	w := &n.waits[kind]
	if w.last != 0 {
		w.worth = min(w.worth, 0.2)
		p.tell(n, p.listeners.at(n.listener), kind, now, now, 0)
	}
	*w = wait{}
}

// report is what there is to tell of a wait; done is 0 while it is in flight.
func (p *judgement) report(n *conn, s *service, kind int, done, now freezeframe.Instant, usual time.Duration) report {
	w := &n.waits[kind]
	r := report{kind: int8(kind), quality: w.worth, target: n.peer, comm: n.comm, pids: n.pids, pid: n.pid, tid: n.tid,
		began: w.began, done: done, seen: now, usual: usual, floor: p.floor(n, kind), edge: p.edge(s, kind)}
	if s != nil && kind < waitDelivery {
		r.target, r.oneWay = s.address, p.exact && kind == waitReceive && !s.sends
		if r.pid == 0 {
			r.pid, r.pids, r.comm = s.pid, s.pids, s.comm
		}
	}
	r.partly = s != nil && kind == waitAnswer && othersAnswered(s, w, r.age())
	if s != nil && kind == waitAnswer && p.manySlow(s, now) {
		r.usual /= 2 // many together say as much as one that is twice as late
	}
	return r
}

func (p *judgement) tell(n *conn, s *service, kind int, done, now freezeframe.Instant, usual time.Duration) bool {
	w := &n.waits[kind]
	r := p.report(n, s, kind, done, now, usual)
	long := r.age() >= r.floor
	if s != nil && w.worth >= 0.5 && long {
		s.stalledAt = now
	}
	if s != nil && kind == waitAnswer && w.worth == lonely && long {
		s.lone = r
		s.lone.quality = 0.6
	}
	return p.send(r)
}

// part is from when on a wait of a kind is reported: it opens nothing, but a
// stall that is open has not ended while waits are merely shorter than what
// opened it.
func (p *judgement) part(kind int) time.Duration {
	if kind == waitAnswer {
		return p.floors[kind] * 2 / 5
	}
	return p.floors[kind] / 2
}

// floor is from when on a wait of a kind counts.
func (p *judgement) floor(n *conn, kind int) time.Duration {
	if kind == waitConnect && p.reached.has(n.peer) {
		return localConnectFloor
	}
	return p.floors[kind]
}

// repeated tells whether one slow request follows another: then the service is
// slow, and the first one counts as well.
func (p *judgement) repeated(s *service, w *wait, age time.Duration, now freezeframe.Instant) bool {
	if s.lone.began == 0 || s.lone.began == w.began || age < p.floors[waitAnswer] || now.Sub(s.lone.seen) > repeats || p.exact && s.lone.age() >= firstSight {
		return false
	}
	p.send(s.lone)
	s.lone = report{}
	return true
}

// judge decides what a wait in flight is worth, and reports it.
func (p *judgement) judge(n *conn, kind int, now freezeframe.Instant) {
	w := &n.waits[kind]
	var s *service
	usual := time.Duration(0)
	if n.service >= 0 {
		s = &p.listeners.slots[n.service]
		usual = s.usual[kind].ordinary()
	}
	age := now.Sub(w.began)
	if w.last != 0 && now.Sub(w.last) < again || age < suspectAt || age <= 2*usual && kind != waitAnswer {
		return
	}
	if kind == waitAnswer && s != nil {
		p.early(s, age, now)
	}
	if kind > waitReceive && age < 2*suspectAt {
		return
	}
	quality := p.worth(n, s, kind, age, now)
	if kind == waitAnswer {
		quality = max(quality, w.worth) // a stall does not become usual by lasting
		if quality == 0 && p.exact && s != nil && s.overdue >= 2 && p.silent(s, w, age) {
			p.hub.suspect(now) // what usually takes long may be a stall yet: its evidence must be there
		}
	}
	if kind == waitDelivery {
		// Each time it waits twice as long before it sends again: the loss ends
		// before the waits that it brought about do.
		switch {
		case quality >= 0.5:
			w.sure = now
		case w.sure != 0 && age <= 2*w.sure.Sub(w.began)+resend && age <= peerGone:
			quality = max(quality, w.worth)
		}
	}
	if quality == 0 || quality < 0.5 && age > doubtful {
		return
	}
	if quality >= 0.5 || w.last == 0 {
		p.hub.suspect(now)
		p.send(report{kind: -1, comm: n.comm, pids: n.pids, pid: n.pid})
	}
	if age <= min(p.floor(n, kind)/2, p.part(kind)) {
		return
	}
	if w.last == 0 && s != nil {
		if s.waiting[kind] >= manyWaits {
			return
		}
		s.waiting[kind]++
	}
	w.worth, w.last = quality, now
	p.tell(n, s, kind, 0, now, usual)
}

// early has the evidence of a wait looked at for a moment that is far beyond the
// half of its service's, whatever it is worth: a stall of little more than what is
// read every tenth of a second would else be over before anybody looks, and one at
// a service that stalls often is known as one only when it is over. It does so
// rarely: a service may be like that all day.
func (p *judgement) early(s *service, age time.Duration, now freezeframe.Instant) {
	if b := &s.usual[waitAnswer]; !p.exact || now < p.armed || b.total < enough || age < earlyTimes*time.Duration(b.without(b.total/2)) {
		return
	}
	p.armed = now.Add(earlyEvery)
	if p.hub.Focus != nil {
		p.hub.Focus.Suspect(now.Add(earlyFor))
	}
}

const (
	earlyTimes = 8
	earlyFor   = 300 * time.Millisecond
	earlyEvery = 8 * time.Second
)

// othersAnswered tells whether a service has answered others since a wait began
// or soon after.
func othersAnswered(s *service, w *wait, age time.Duration) bool {
	return s.answered > w.began.Add(min(100*time.Millisecond, age/2))
}

// byDesign is how many requests, one after the other, must have taken long
// beside others that were answered for such to be how the service works.
const byDesign = 3

// apart is how far from each other they must be: requests that are slow in the
// same seconds are slow for one reason.
const apart = 2 * time.Second

const (
	// partlyStalled is the share of a service's requests that must be slow, while
	// others are answered, for it to be stalled and not merely to have requests
	// that take longer.
	partlyStalled = 0.25
	// fewSlow is how many they must be: a service of few users has an endpoint
	// that is slow by design in every other second.
	fewSlow = 4
	// enoughMissed is how many answers must be missing, by how many there are in a
	// second, for it to say something that no other request was answered.
	enoughMissed = 3
	// inferred is how many answers a second a service must give for a missing one
	// to prove something where waits are inferred: a server that pushes news, and
	// whose clients acknowledge them, looks like one that answers at once.
	inferred = 3
	// rateOver is the time over which a service's answers are averaged.
	rateOver = 10 * time.Second
	// known is how long a service must have been known for two slow requests at
	// a time to be something that it does not do.
	known = time.Minute
)

// slowSince is how many slow answers there were within about a second.
func (s *service) slowSince(now freezeframe.Instant) float32 {
	left := 1 - float32(now.Sub(s.slowEndsAt).Seconds())
	return s.slowEnds * max(left, 0)
}

// count takes n answers in the time since the last were counted. One second says
// too little: two websockets that are pinged in the same one are not a service
// of two answers a second.
func (s *service) count(n float32, now freezeframe.Instant) {
	since := max(s.counted, s.first)
	s.answers, s.counted = n, now
	gap := float32(max(now.Sub(since), time.Second).Seconds())
	weight := min(1, max(gap/float32(rateOver.Seconds()), gap/float32(max(now.Sub(s.first), time.Second).Seconds())))
	s.rate += (n/gap - s.rate) * weight
}

// hear counts the answers that readings of the connections found, where they are
// inferred: n in all so far.
func (s *service) hear(n uint64, now freezeframe.Instant) {
	if n < s.heard {
		s.heard = 0 // counted from the beginning
	}
	if now.Sub(max(s.counted, s.first)) < time.Second {
		return
	}
	s.count(float32(n-s.heard), now)
	s.heard = n
}

// slowOnes is how many slow requests there were within about a second, or are.
func (s *service) slowOnes(now freezeframe.Instant) float32 {
	return max(s.slowSince(now)+float32(s.overdue), s.slowShare*s.answers)
}

// silent tells whether a service that would have answered several others by now
// has answered none since a wait began, or none any more.
func (p *judgement) silent(s *service, w *wait, age time.Duration) bool {
	enough := float64(enoughMissed)
	if !p.exact {
		enough-- // there are more answers than are found
	}
	missed := func(d time.Duration) bool { return d.Seconds()*float64(s.rate) >= enough }
	return s.answered <= w.began && missed(age) || !othersAnswered(s, w, age) && missed(age-min(100*time.Millisecond, age/2))
}

// partly is the share of the requests of the last second that were slow, or are.
func (s *service) partly(now freezeframe.Instant) float32 {
	slow := s.slowSince(now) + float32(s.overdue)
	return max(slow/max(s.answers, slow, 1), s.slowShare)
}

// pieceWait is how long a request whose pieces come slowly is not taken for one
// without an answer, at a service where such were seen.
const pieceWait = 2 * time.Second

// worth says how certain it is that somebody waits, 0 to 1.
func (p *judgement) worth(n *conn, s *service, kind int, age time.Duration, now freezeframe.Instant) float32 {
	w := &n.waits[kind]
	if w.calm {
		return 0 // whether this is how it always is, nobody has seen
	}
	others := s != nil && othersAnswered(s, w, age)
	// Whoever does not take the requests of others is not merely slow with one.
	unread := s != nil && p.exact && s.unreadAt > w.began
	switch kind {
	case waitAccept:
		return 0.9
	case waitReceive:
		switch {
		case !others:
			return 0.9
		case age < 10*time.Second:
			return 0.5
		}
		return 0.2 // a forgotten connection of a service that works
	case waitAnswer:
		switch {
		case s == nil:
			return 0.2
		case s.usuallySlow(age) && (s.slowOften() || !p.manySlow(s, now) || age <= farBeyond/2*s.usual[kind].ordinary()):
			return 0
		case n.odd:
			return 0.2
		case s.usual[kind].total >= enough:
			switch {
			case !unread && s.byDesign(age) && (s.overdue < 2 || others && s.overdue <= byDesign):
				return 0.25 // such requests have always taken so long
			case !unread && s.pieces >= 2 && s.overdue < 2 && age < pieceWait:
				return 0.25 // the rest of the request may be on its way
			case !p.exact && age < p.floors[kind]:
				return lonely // what is told of a wait stays with it
			case !p.exact && s.rate < inferred:
				if !others && s.overdue >= fewSlow && age >= firstSight && now.Sub(s.first) >= known {
					return 0.6 // it did not do this in a minute, and answers may come and go unseen
				}
				return lonely // whoever waits for news looks like this
			case p.silent(s, w, age):
				return 0.9
			case p.manySlow(s, now):
				return 0.6
			case p.exact && others && (age >= firstSight || s.overdue >= 2) && s.partly(now) < partlyStalled:
				return lonely // most are answered as ever: slow requests, not a service that stalls
			case age >= firstSight && (s.overdue < 2 || now.Sub(s.first) < known):
				return lonely // a few requests take long, and most do not: it may be how they are
			case s.overdue < 2 && age < firstSight && now.Sub(s.stalledAt) > time.Second && !p.repeated(s, w, age, now):
				return lonely // one request takes longer, and all others do not
			}
			return 0.6
		case age < firstSight || others || !s.sends || w.began.Sub(p.began) < learning || age < 2*s.usual[waitAnswer].ordinary():
			return 0.2
		case !p.exact && s.rate >= inferred && p.silent(s, w, age):
			return 0.6 // what each of its answers took was not seen, but that there were many
		case n.talks:
			// Of a service of a few requests nobody knows what they take: only
			// that its thread was held up would tell.
			return lonely
		}
		return 0.2
	case waitDelivery, waitConnect:
		if age > peerGone {
			return 0
		}
		if kind == waitConnect && p.reached.has(n.peer) {
			p.reached.trouble(n.peer, now)
			return 0.6 // a service of this host: nobody went away
		}
		if kind == waitDelivery && p.reached.troubled(n.peer, now) {
			return 0.6 // others do not even get through to it
		}
		if n.listener == 0 && p.listeners.has(n.pid) {
			return 0.6 // a service that waits for another
		}
		if kind == waitDelivery && s != nil && s.losing >= manyLosing && float32(s.losing) >= losingTimes*s.losingUsual {
			return 0.6
		}
	}
	return 0.3 // one client may simply have gone away
}
