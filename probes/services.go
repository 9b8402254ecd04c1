package probes

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"freezeframe"
)

// services watches every TCP and Unix-stream service of the host without
// sending anything: it reads the tables of listening and connected sockets as
// they are taken. What it reports, by Probe:
//
//   - accept: a connection is established and nobody accepts it. Clients see
//     a connection that opens and then says nothing. Err "overflow": so many
//     waited that the kernel threw new ones away; their clients wait a second
//     or more and try again.
//   - receive: data has arrived and the process does not read it: nobody is
//     at work. Clients see a service that hangs.
//   - answer: a request was read and no byte of an answer has been sent.
//     Clients see a page that loads and loads. Long polling, queues that are
//     waited on and slow reports look the same, so this is held against what
//     the service has done before.
//   - delivery: what was sent is not acknowledged and is sent again: the
//     network, or the peer's host, loses packets. Users wait for the kernel's
//     retransmission timer: 200 ms, 400 ms, 800 ms …
//   - connect: a connection request is not answered: users wait for seconds.
//     Where the other end is a service of this host, users of it certainly do.
//
// Everything runs on the thread that takes the readings, in fixed memory.
type services struct {
	hub    *hub
	owners *serviceOwners
	out    chan report

	listening columns
	connected columns
	listeners listenerTable
	conns     connTable
	reached   addressTable
	began     freezeframe.Instant // the first reading
	learnt    freezeframe.Instant // when the last time of learning began
	own       uint64              // our pid
	name      uint64              // text: what our process is called
}

const (
	// A wait is known to within half a reading, so what opens an incident is a
	// little more than 100 ms.
	acceptFloor   = 110 * time.Millisecond
	receiveFloor  = 110 * time.Millisecond
	answerFloor   = 120 * time.Millisecond
	deliveryFloor = 300 * time.Millisecond
	connectFloor  = 900 * time.Millisecond
	// A service on this host is no round trip around the world away.
	localConnectFloor = 250 * time.Millisecond

	// firstSight is how long an answer must be missing when the service's
	// history is not known.
	firstSight = 500 * time.Millisecond
	// enough is how many answers make a history.
	enough = 20
	// learning is how long services are looked at before an answer that is
	// missing may open an incident, and relearning how often they are looked
	// at closely again, for a second.
	learning   = 3 * time.Second
	relearning = 30 * time.Second
	// gone is how long a connection may be missing from the readings, not all
	// of which have all connections, before its waits are over.
	gone = 300 * time.Millisecond
	// lonely is what one slow request is worth beside others that are answered,
	// and repeats how soon after it another one makes it a slow service.
	lonely  = 0.3
	repeats = 2 * time.Second
	// sparse is how far apart two readings of a connection are when more than
	// one request may have come and gone between them.
	sparse = 100 * time.Millisecond
	// again is how often a wait in flight is reported.
	again = 90 * time.Millisecond
	// slow is the age of a missing answer that makes a reading count as slow,
	// and usuallySlow the share of such readings from which on that is how the
	// service works.
	slow        = 250 * time.Millisecond
	usuallySlow = 0.2
	// peerGone is how long a peer may be silent before it is not a network
	// fault any more but a peer that went away.
	peerGone = 60 * time.Second
	// manyWaits is how many waits of a kind a listener has reported at a time;
	// the others say the same.
	manyWaits = 8

	// resend is the kernel's least time before it sends again.
	resend = 200 * time.Millisecond

	// doubtful is how long a wait is reported of which it is not certain that
	// it is one.
	doubtful = 10 * time.Second
	// manyLosing connections of one service, and losingTimes as many as there
	// usually are, do not lose packets because a client or two went away.
	manyLosing  = 3
	losingTimes = 3
	// losingMemory is over how many readings the usual number is averaged.
	losingMemory = 400

	// sameJiffy is how far apart two moments may be that the kernel told in
	// the same jiffy.
	sameJiffy = 13 * time.Millisecond

	watchMost = 32 // processes
)

// The kinds of wait, in the order of serviceProbes.
const (
	waitAccept = iota
	waitReceive
	waitAnswer
	waitDelivery
	waitConnect
	waitKinds
)

var serviceProbes = [waitKinds]string{"accept", "receive", "answer", "delivery", "connect"}

var serviceFloors = [waitKinds]time.Duration{acceptFloor, receiveFloor, answerFloor, deliveryFloor, connectFloor}

// States of a TCP socket (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynSent     = 2
)

// report is what the sampling thread hands to Run.
type report struct {
	kind    int8 // -1: only have pid watched
	over    bool // Err "overflow"
	quality float32
	target  uint64 // text
	comm    uint64 // text
	pids    uint64 // text
	pid     uint64
	began   freezeframe.Instant
	done    freezeframe.Instant
	seen    freezeframe.Instant
	usual   time.Duration
	floor   time.Duration
}

// age is how long the wait has taken so far.
func (r *report) age() time.Duration {
	if r.done != 0 {
		return r.done.Sub(r.began)
	}
	return r.seen.Sub(r.began)
}

func newServices(h *hub) *services {
	return &services{hub: h, owners: &serviceOwners{}, out: make(chan report, 1024), own: uint64(os.Getpid())}
}

func (p *services) Name() string { return "services" }

// Observes names the sources whose readings Observe must get.
func (p *services) Observes() []string { return []string{"listeners", "connections"} }

// Run passes on what Observe finds until ctx ends.
func (p *services) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	var watched []int32
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-p.out:
			victims := p.victims(r)
			if next := moveToFront(watched, victims); next != nil {
				watched = next
				if p.hub.Focus != nil {
					p.hub.Focus.Watch(watched)
				}
			}
			if r.kind < 0 {
				if r.target != 0 {
					p.owners.set(p.hub.text(r.target), victims)
				}
				continue
			}
			l := freezeframe.Lateness{
				Probe: serviceProbes[r.kind], Target: p.hub.text(r.target),
				Began: r.began, Done: r.done, Seen: r.seen,
				Usual: r.usual, Floor: r.floor, Quality: float64(r.quality),
				Victims: victims,
			}
			if r.over {
				l.Err = "overflow"
			}
			late(l)
		}
	}
}

// victims is every process that shares the socket.
func (p *services) victims(r report) []freezeframe.Victim {
	comm := p.hub.text(r.comm)
	var out []freezeframe.Victim
	for word := range strings.SplitSeq(p.hub.text(r.pids), ",") {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			out = append(out, freezeframe.Victim{PID: pid, Comm: comm})
		}
	}
	if out == nil && r.pid != 0 {
		out = []freezeframe.Victim{{PID: int(r.pid), Comm: comm}}
	}
	return out
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
	mu sync.Mutex
	by map[string][]freezeframe.Victim
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

// columns finds the columns of a source by name, once.
type columns struct {
	src   *freezeframe.Source
	width int
	at    [32]int
}

func (c *columns) of(src *freezeframe.Source, names []string) bool {
	if c.src != src || c.width != len(src.Columns) {
		c.src, c.width = src, len(src.Columns)
		for i, name := range names {
			c.at[i] = src.Column(name)
		}
	}
	return c.width > 0
}

// get returns a column of a row, 0 where the source has no such column.
func (c *columns) get(row []uint64, i int) uint64 {
	if at := c.at[i]; at >= 0 {
		return row[at]
	}
	return 0
}

const (
	lAddress = iota
	lPort
	lQueue
	lDrops
	lPID
	lPIDs
	lComm
)

var listenerColumns = []string{lAddress: "address", lPort: "port", lQueue: "queue", lDrops: "drops", lPID: "pid", lPIDs: "pids", lComm: "comm"}

const (
	cInode = iota
	cState
	cServer
	cListener
	cLocal
	cLocalPort
	cPeer
	cPeerPort
	cPID
	cPIDs
	cComm
	cRQueue
	cUnacked
	cRetransmits
	cReceivedAt
	cSentAt
	cAckedAt
	cUnackedAt
	cOpenedAt
	cBytesReceived
	cBytesSent
	cSegsOut
)

var connectionColumns = []string{cInode: "inode", cState: "state", cServer: "server", cListener: "listener", cLocal: "local", cLocalPort: "local_port", cPeer: "peer", cPeerPort: "peer_port",
	cPID: "pid", cPIDs: "pids", cComm: "comm", cRQueue: "rqueue", cUnacked: "unacked", cRetransmits: "retransmits",
	cReceivedAt: "received_at", cSentAt: "sent_at", cAckedAt: "acked_at", cUnackedAt: "unacked_at", cOpenedAt: "opened_at",
	cBytesReceived: "bytes_received", cBytesSent: "bytes_sent", cSegsOut: "segs_out"}

// Observe takes one reading, on the thread that took it.
func (p *services) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	if p.began == 0 {
		p.began = t.At
	}
	switch src.Name {
	case "listeners":
		if p.listening.of(src, listenerColumns) {
			p.observeListeners(t)
		}
	case "connections":
		if p.connected.of(src, connectionColumns) {
			p.observeConnections(t)
		}
	}
}

// ours tells whether a socket is one of our own, or of another freezeframe: a
// diagnose by hand beside the daemon must not take its echo for a service. By
// the process, by what it is called or, where neither is known yet, by the port.
func (p *services) ours(pid, comm, port uint64) bool {
	if pid == p.own {
		p.name = comm
		return true
	}
	return comm != 0 && comm == p.name || pid == 0 && port != 0 && port == uint64(p.hub.echoPort.Load())
}

// send hands a report to Run; when Run is behind, the next one says the same.
func (p *services) send(r report) bool {
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
	answered freezeframe.Instant // the last answer on any connection
	sends    bool                // it has answered at all
	turn     uint32              // counts readings of connections
	readings uint32              // those that count
	slow     uint32              // of those, the ones in which an answer was slow
	waiting  [waitKinds]uint16   // waits reported now
	learnt   freezeframe.Instant // when a slow answer was last learned from
	slowNow  uint16              // missing answers older than slow, in this reading
	overdue  uint16              // and those older than half the floor
	losing   uint16              // connections that lose packets, in this reading
	// losingUsual is how many there are on average: the clients of a public
	// service come and go without a word.
	losingUsual float32
	stalled     bool                // a wait was reported as a stall, in this reading
	stalledAt   freezeframe.Instant // and when one was last
	lone        report              // of the last slow request beside others that were answered
	unseen      bool                // a connection that waits for accept is in the table
}

// usuallySlow tells whether answers are often as long as this at this service.
func (s *service) usuallySlow(age time.Duration) bool {
	b := &s.usual[waitAnswer]
	if b.total >= enough && int64(age) <= farBeyond*b.p99() {
		return true
	}
	return s.readings >= 20 && float64(s.slow) > usuallySlow*float64(s.readings)
}

// learn takes how long a wait of a kind lasted as part of what is usual. A
// thousand clients that waited for one stall are one lesson, and so are the
// four whose answers came in its first pause; and what a stall does to the
// waits that are merely longer than ever must not make the longer ones usual,
// and these the longest.
func (s *service) learn(kind int, took int64, now freezeframe.Instant) {
	b := &s.usual[kind]
	usual, floor := b.p99(), int64(serviceFloors[kind])
	if kind == waitAnswer {
		floor /= 2
	}
	far := took > floor && took > farBeyond*usual || kind == waitAnswer && took > int64(firstSight)
	switch stalled := s.stalledAt != 0 && now.Sub(s.stalledAt) < time.Second; {
	case !far && !(stalled && took > usual && took > floor/3):
		b.add(took)
	case now.Sub(s.learnt) >= time.Second:
		s.learnt = now
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

func (p *services) observeListeners(t *freezeframe.Table) {
	now := t.At
	learn := p.hub.Focus != nil && (p.learnt == 0 || now.Sub(p.learnt) >= relearning)
	if learn {
		span := time.Second
		if p.learnt == 0 {
			span = learning
		}
		p.learnt = now
		p.hub.Focus.Suspect(now.Add(span))
	}
	c := &p.listening
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		if p.ours(c.get(row, lPID), c.get(row, lComm), c.get(row, lPort)) {
			continue
		}
		s := p.listeners.find(key)
		if s == nil {
			continue
		}
		queue, drops := c.get(row, lQueue), c.get(row, lDrops)
		last := s.seen
		fresh := s.seen == 0
		if fresh {
			s.first, s.drops = now, drops
			// It was waiting when we came.
			s.told.calm = queue > 0 && now.Sub(p.began) < slow
		}
		s.seen = now
		had, hadAll := s.pid, s.pids
		p.reached.add(c.get(row, lAddress))
		s.address, s.comm, s.pids, s.pid = c.get(row, lAddress), c.get(row, lComm), c.get(row, lPIDs), c.get(row, lPID)
		if fresh || learn || s.pid != had || s.pids != hadAll {
			p.send(report{kind: -1, target: s.address, comm: s.comm, pids: s.pids, pid: s.pid})
		}

		if drops > s.drops {
			if now.Sub(s.dropped) >= 500*time.Millisecond {
				s.dropped = now
				p.hub.suspect(now)
				p.send(report{kind: waitAccept, over: true, quality: 0.9, target: s.address, comm: s.comm, pids: s.pids, pid: s.pid,
					began: last, done: now, seen: now, floor: acceptFloor})
				s.drops = drops
			}
		} else {
			s.drops = drops // a socket can be cloned; it never counts down
		}

		switch {
		case queue == 0:
			p.endQueue(s, now)
			s.queued = 0
			s.told.calm = false
		case s.queued == 0 || queue < s.queue:
			if s.queued != 0 {
				p.endQueue(s, now)
			}
			s.queued = now
		case !s.unseen || s.told.last != 0:
			p.queueWaits(s, now)
		}
		s.queue = queue
		if queue == 0 {
			s.usual[waitAccept].add(0)
		}
	}
	p.listeners.expire(now)
}

// queueWaits reports a queue whose connections are not in the table of
// connections: those of Unix sockets, and of TCP until the next dump.
func (p *services) queueWaits(s *service, now freezeframe.Instant) {
	age := now.Sub(s.queued)
	usual := s.usual[waitAccept].usual()
	if age < suspectAt || age <= 2*usual || s.told.calm {
		return
	}
	p.hub.suspect(now)
	if s.told.began == 0 {
		s.told.began = s.queued
		p.send(report{kind: -1, comm: s.comm, pids: s.pids, pid: s.pid})
	}
	if age <= acceptFloor/2 || now.Sub(s.told.last) < again {
		return
	}
	s.told.last = now
	p.send(report{kind: waitAccept, quality: 0.9, target: s.address, comm: s.comm, pids: s.pids, pid: s.pid,
		began: s.told.began, seen: now, usual: usual, floor: acceptFloor})
}

func (p *services) endQueue(s *service, now freezeframe.Instant) {
	if s.told.began != 0 {
		usual := s.usual[waitAccept].usual()
		s.learn(waitAccept, int64(now.Sub(s.told.began)), now)
		if s.told.last != 0 {
			p.send(report{kind: waitAccept, quality: 0.9, target: s.address, comm: s.comm, pids: s.pids, pid: s.pid,
				began: s.told.began, done: now, seen: now, usual: usual, floor: acceptFloor})
		}
	}
	s.told.began, s.told.last = 0, 0
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
	arrived  uint64 // bytes that have arrived
	replied  uint64 // bytes that were sent
	segments uint64 // that were sent
	open     bool   // what arrived last is not answered, though the clock cannot tell
	read     uint64 // bytes that the process has read
	talks    bool   // answered several times before
	waits    [waitKinds]wait
}

func (p *services) observeConnections(t *freezeframe.Table) {
	now := t.At
	c := &p.connected
	for i := range p.listeners.n {
		s := &p.listeners.slots[i]
		s.slowNow, s.overdue, s.losing, s.unseen, s.stalled = 0, 0, 0, false, false
		clear(s.waiting[:])
	}
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		if pid, comm := c.get(row, cPID), c.get(row, cComm); p.ours(pid, comm, c.get(row, cLocalPort)) || p.ours(pid, comm, c.get(row, cPeerPort)) {
			continue
		}
		if n := p.conns.find(key); n != nil {
			p.look(n, row, now)
		}
	}
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
			if age >= answerFloor/2 {
				s.overdue++
			}
		}
		if n.waits[waitDelivery].began != 0 {
			s.losing++
		}
		s.unseen = s.unseen || n.waits[waitAccept].began != 0
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
			s.readings++
			if s.slowNow > 0 {
				s.slow++
			}
		}
		if s.readings >= 2400 { // two minutes; forget half
			s.readings, s.slow = s.readings/2, s.slow/2
		}
		if s.waiting[waitReceive] == 0 {
			s.usual[waitReceive].add(0)
		}
		s.losingUsual += (float32(s.losing) - s.losingUsual) / losingMemory
	}
	p.conns.expire(now)
}

// look takes one row of the table of connections.
func (p *services) look(n *conn, row []uint64, now freezeframe.Instant) {
	c := &p.connected
	fresh := n.first == 0
	if fresh {
		n.first = now
	}
	last := n.seen
	n.seen = now
	n.listener = freezeframe.Key(c.get(row, cListener))
	n.peer, n.comm, n.pids, n.pid = c.get(row, cPeer), c.get(row, cComm), c.get(row, cPIDs), c.get(row, cPID)
	state, server := c.get(row, cState), c.get(row, cServer) != 0
	received, sent := freezeframe.Instant(c.get(row, cReceivedAt)), freezeframe.Instant(c.get(row, cSentAt))
	// What is over by this reading ended with the answer, or we do not know
	// when since the last reading.
	n.over = now
	switch {
	case sent >= last && last != 0 && sent < now:
		n.over = sent
	case last != 0:
		n.over = last.Add(now.Sub(last) / 2)
	}
	rqueue, retransmits := c.get(row, cRQueue), c.get(row, cRetransmits)
	n.talks = c.get(row, cBytesSent) > 0 && c.get(row, cSegsOut) >= 5

	// Nobody waits on a connection whose client has closed it.
	serving := server && state == tcpEstablished
	unaccepted := serving && c.get(row, cInode) == 0
	if opened := freezeframe.Instant(c.get(row, cOpenedAt)); unaccepted && opened == 0 {
		// It had sent its request before we saw it.
		if received == 0 {
			received = now
		}
		p.set(n, waitAccept, unaccepted, received, now)
	} else {
		p.set(n, waitAccept, unaccepted, opened, now)
	}

	// Whether something came is told by the bytes: received_at is made from an
	// age in jiffies, and moves a little without anything having come.
	arrived := c.get(row, cBytesReceived)
	more := !fresh && arrived != n.arrived
	read := arrived - min(rqueue, arrived)
	if !fresh && read != n.read {
		p.end(n, waitReceive, n.over, now) // it is being read
	}
	n.read = read
	unread := serving && !unaccepted && rqueue > 0
	since := received
	if n.waits[waitReceive].began == 0 && !fresh && !more {
		since = now // read a part, and the rest is not older than this
	}
	p.set(n, waitReceive, unread, since, now)

	s := p.listeners.at(n.listener)
	if s != nil && c.get(row, cBytesSent) > 0 {
		s.sends = true
	}
	wrote := !fresh && c.get(row, cBytesSent) != n.replied
	n.open = stillOpen(n, fresh, arrived, c.get(row, cBytesSent), c.get(row, cSegsOut), now.Sub(received))
	n.arrived, n.replied, n.segments = arrived, c.get(row, cBytesSent), c.get(row, cSegsOut)
	answered := sent != 0 && sent >= received
	if answered && n.open && sent.Sub(received) < sameJiffy {
		answered = false
	}
	done := sent
	if more && now.Sub(last) >= sparse {
		done = last // the answer to another request, perhaps
	}
	if serving && !unaccepted && answered {
		if s != nil {
			s.answered = max(s.answered, sent)
			// One answer, once: those that were waited for count when they end.
			if more && received > p.began && n.waits[waitAnswer].began == 0 {
				s.learn(waitAnswer, int64(sent.Sub(received)), now)
			}
		}
		p.end(n, waitAnswer, max(done, n.waits[waitAnswer].began), now)
	} else {
		switch {
		case more && wrote && done > n.waits[waitAnswer].began:
			p.end(n, waitAnswer, done, now) // the next request has come already
		case more:
			// More of the request came: it was not complete, and nobody could
			// have answered it.
			p.drop(n, waitAnswer, now)
		}
		p.set(n, waitAnswer, serving && !unaccepted && rqueue == 0 && received != 0, received, now)
	}

	// A client that has closed waits for nothing, though the kernel goes on
	// sending for it; what a server sends last its client may wait for.
	orphan := !server && c.get(row, cInode) == 0 && state != tcpEstablished
	delivery := retransmits > 0 && c.get(row, cUnacked) > 0 && state != tcpSynSent && !orphan
	acked, unacked := freezeframe.Instant(c.get(row, cAckedAt)), freezeframe.Instant(c.get(row, cUnackedAt))
	if !delivery && acked > n.waits[waitDelivery].began {
		p.end(n, waitDelivery, acked, now)
	}
	p.set(n, waitDelivery, delivery, max(acked, unacked), now)
	p.set(n, waitConnect, state == tcpSynSent && unacked != 0, unacked, now)
	if serving {
		p.reached.add(c.get(row, cLocal))
	}
}

// stillOpen tells whether what arrived last is known not to be answered. A
// client that sends its next request as soon as it has the answer leaves
// received_at and sent_at in the same jiffy, so that the clock cannot tell. It
// is open when bytes arrived and none were sent since the reading before, or
// when the kernel sent an acknowledgement by itself soon after: it does so 40
// ms after data that nobody answers.
func stillOpen(n *conn, fresh bool, arrived, replied, segments uint64, age time.Duration) bool {
	switch {
	case fresh || replied != n.replied:
		return false
	case arrived != n.arrived:
		return true
	}
	return n.open || segments > n.segments && age < 2*slow && age >= 30*time.Millisecond
}

// set begins or ends a wait; one that has begun keeps its beginning.
func (p *services) set(n *conn, kind int, waits bool, began, now freezeframe.Instant) {
	w := &n.waits[kind]
	switch {
	case !waits:
		p.end(n, kind, max(n.over, w.began), now)
	case w.began == 0:
		*w = wait{began: min(began, now), calm: began < p.began}
	}
}

// end ends a wait that came to its end: it is learned from and reported.
func (p *services) end(n *conn, kind int, done, now freezeframe.Instant) {
	w := &n.waits[kind]
	if w.began == 0 {
		return
	}
	usual := time.Duration(0)
	s := p.listeners.at(n.listener)
	told := w.last != 0
	if s != nil {
		usual = s.usual[kind].usual()
		took := int64(done.Sub(w.began))
		if kind == waitAnswer {
			if w.last == 0 && took > int64(answerPart) {
				// Too short to be seen while it lasted; in a stall it counts.
				w.worth = p.worth(n, s, kind, time.Duration(took), now)
				told = w.worth >= lonely
			}
			s.answered = max(s.answered, done)
		}
		s.learn(kind, took, now)
	}
	if told {
		p.tell(n, s, kind, done, now, usual)
	}
	*w = wait{}
}

// drop ends a wait that turned out to be none.
func (p *services) drop(n *conn, kind int, now freezeframe.Instant) {
	w := &n.waits[kind]
	if w.last != 0 {
		w.worth = min(w.worth, 0.2)
		p.tell(n, p.listeners.at(n.listener), kind, now, now, 0)
	}
	*w = wait{}
}

func (p *services) tell(n *conn, s *service, kind int, done, now freezeframe.Instant, usual time.Duration) bool {
	w := &n.waits[kind]
	r := report{kind: int8(kind), quality: w.worth, target: n.peer, comm: n.comm, pids: n.pids, pid: n.pid,
		began: w.began, done: done, seen: now, usual: usual, floor: p.floor(n, kind)}
	if s != nil && kind < waitDelivery {
		r.target = s.address
		if r.pid == 0 {
			r.pid, r.pids, r.comm = s.pid, s.pids, s.comm
		}
	}
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

// answerPart is from when on a missing answer is reported: it opens nothing,
// but a stall that is open has not ended while waits are merely shorter than
// what opened it.
const answerPart = answerFloor * 2 / 5

// floor is from when on a wait of a kind counts.
func (p *services) floor(n *conn, kind int) time.Duration {
	if kind == waitConnect && p.reached.has(n.peer) {
		return localConnectFloor
	}
	return serviceFloors[kind]
}

// repeated tells whether one slow request follows another: then the service is
// slow, and the first one counts as well.
func (p *services) repeated(s *service, w *wait, age time.Duration, now freezeframe.Instant) bool {
	if s.lone.began == 0 || s.lone.began == w.began || age < answerFloor || now.Sub(s.lone.seen) > repeats {
		return false
	}
	p.send(s.lone)
	s.lone = report{}
	return true
}

// judge decides what a wait in flight is worth, and reports it.
func (p *services) judge(n *conn, kind int, now freezeframe.Instant) {
	w := &n.waits[kind]
	var s *service
	usual := time.Duration(0)
	if n.service >= 0 {
		s = &p.listeners.slots[n.service]
		usual = s.usual[kind].usual()
	}
	age := now.Sub(w.began)
	if w.last != 0 && now.Sub(w.last) < again || age < suspectAt || age <= 2*usual && kind != waitAnswer {
		return
	}
	if kind > waitReceive && age < 2*suspectAt {
		return
	}
	quality := p.worth(n, s, kind, age, now)
	if kind == waitAnswer {
		quality = max(quality, w.worth) // a stall does not become usual by lasting
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
	if age <= p.floor(n, kind)/2 && (kind != waitAnswer || age <= answerPart) {
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

// worth says how certain it is that somebody waits, 0 to 1.
func (p *services) worth(n *conn, s *service, kind int, age time.Duration, now freezeframe.Instant) float32 {
	w := &n.waits[kind]
	if w.calm {
		return 0 // whether this is how it always is, nobody has seen
	}
	others := s != nil && s.answered > w.began.Add(min(100*time.Millisecond, age/2))
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
		case s.usuallySlow(age):
			return 0
		case s.usual[kind].total >= enough:
			switch {
			case !others:
				return 0.9
			case s.overdue < 2 && age < firstSight && now.Sub(s.stalledAt) > time.Second && !p.repeated(s, w, age, now):
				return lonely // one request takes longer, and all others do not
			}
			return 0.6
		case age < firstSight || others || !s.sends || w.began.Sub(p.began) < learning || int64(age) < 2*s.usual[waitAnswer].p99():
			return 0.2
		case n.talks || s.slowNow >= 2:
			return 0.6
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
