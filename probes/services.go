package probes

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
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
// The first three are told by the probe requests where BPF is to be had, and
// only by it; what is here stays for where it is not.
//
// Everything runs on the thread that takes the readings, in fixed memory.
type services struct {
	judgement

	listening columns
	connected columns
	learnt    freezeframe.Instant // when the last time of learning began
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
	// reportListen is no wait on a connection: nobody listens.
	reportListen = waitKinds
)

var serviceProbes = [...]string{"accept", "receive", "answer", "delivery", "connect", reportListen: "listen"}

var serviceFloors = [waitKinds]time.Duration{acceptFloor, receiveFloor, answerFloor, deliveryFloor, connectFloor}

// States of a TCP socket (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynSent     = 2
)

func newServices(h *hub) *services {
	p := &services{}
	p.init(h, &serviceOwners{}, serviceFloors)
	return p
}

func (p *services) Name() string { return "services" }

// Observes names the sources whose readings Observe must get.
func (p *services) Observes() []string { return []string{"listeners", "connections"} }

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
	lAnswers
	lAnsweredAt
)

var listenerColumns = []string{lAddress: "address", lPort: "port", lQueue: "queue", lDrops: "drops", lPID: "pid", lPIDs: "pids", lComm: "comm",
	lAnswers: "answers", lAnsweredAt: "answered_at"}

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
	cWQueue
	cUnacked
	cRetransmits
	cProbes
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
	cPID: "pid", cPIDs: "pids", cComm: "comm", cRQueue: "rqueue", cWQueue: "wqueue", cUnacked: "unacked", cRetransmits: "retransmits", cProbes: "probes",
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

func (p *services) observeListeners(t *freezeframe.Table) {
	now := t.At
	exact := p.hub.exactly(now)
	learn := !exact && p.hub.Focus != nil && (p.learnt == 0 || now.Sub(p.learnt) >= relearning)
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
		if fresh {
			s.heard = c.get(row, lAnswers)
		}
		s.hear(c.get(row, lAnswers), now)
		s.latest = max(s.latest, freezeframe.Instant(c.get(row, lAnsweredAt)))
		had, hadAll := s.pid, s.pids
		p.reached.add(c.get(row, lAddress))
		s.address, s.comm, s.pids, s.pid = c.get(row, lAddress), c.get(row, lComm), c.get(row, lPIDs), c.get(row, lPID)
		if fresh || learn || exact && now.Sub(s.named) >= relearning || s.pid != had || s.pids != hadAll {
			s.named = now
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

		// A Unix socket has no port.
		exact := exact && !(p.hub.OnlyTCP && c.get(row, lPort) == 0)
		switch {
		case exact:
			s.told, s.queued = wait{}, 0
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
		if queue == 0 && !exact {
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
		p.learn(s, waitAccept, int64(now.Sub(s.told.began)), now)
		if s.told.last != 0 {
			p.send(report{kind: waitAccept, quality: 0.9, target: s.address, comm: s.comm, pids: s.pids, pid: s.pid,
				began: s.told.began, done: now, seen: now, usual: usual, floor: acceptFloor})
		}
	}
	s.told.began, s.told.last = 0, 0
}

func (p *services) observeConnections(t *freezeframe.Table) {
	now := t.At
	c := &p.connected
	p.begin()
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		if pid, comm := c.get(row, cPID), c.get(row, cComm); p.ours(pid, comm, c.get(row, cLocalPort)) || p.ours(pid, comm, c.get(row, cPeerPort)) {
			continue
		}
		if n := p.conns.find(key); n != nil {
			p.look(n, row, now)
		}
	}
	p.settle(now)
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
	retransmits := c.get(row, cRetransmits)
	n.talks = c.get(row, cBytesSent) > 0 && c.get(row, cSegsOut) >= 5

	// What is over by this reading ended with the answer, or we do not know when
	// since the last reading.
	n.over = now
	switch sent := freezeframe.Instant(c.get(row, cSentAt)); {
	case sent >= last && last != 0 && sent < now:
		n.over = sent
	case last != 0:
		n.over = last.Add(now.Sub(last) / 2)
	}

	// Nobody waits on a connection whose client has closed it.
	serving := server && state == tcpEstablished
	if p.hub.exactly(now) {
		for kind := waitAccept; kind <= waitAnswer; kind++ {
			p.drop(n, kind, now)
		}
		n.first = 0 // should that end, it is as if seen for the first time
	} else {
		p.infer(n, row, fresh, serving, last, now)
	}

	// A client that has closed waits for nothing, though the kernel goes on
	// sending for it; what a server sends last its client may wait for.
	orphan := !server && c.get(row, cInode) == 0 && state != tcpEstablished
	delivery := retransmits > 0 && c.get(row, cUnacked) > 0 && state != tcpSynSent && !orphan
	if kernel.DroppedHere(c.get(row, cProbes), c.get(row, cUnacked)) && c.get(row, cWQueue) > 0 && state == tcpEstablished {
		delivery = true
	}
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

// infer tells from one row who waits for the process: for it to accept, to
// read or to answer.
func (p *services) infer(n *conn, row []uint64, fresh, serving bool, last, now freezeframe.Instant) {
	c := &p.connected
	received, sent := freezeframe.Instant(c.get(row, cReceivedAt)), freezeframe.Instant(c.get(row, cSentAt))
	rqueue := c.get(row, cRQueue)
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
			s.latest = max(s.latest, sent)
			// One answer, once: those that were waited for count when they end.
			if more && received > p.began && n.waits[waitAnswer].began == 0 {
				p.learn(s, waitAnswer, int64(sent.Sub(received)), now)
			}
		}
		p.end(n, waitAnswer, max(done, n.waits[waitAnswer].began), now)
	} else {
		switch {
		case more && wrote && done > n.waits[waitAnswer].began:
			if s != nil {
				s.latest = max(s.latest, done)
			}
			p.end(n, waitAnswer, done, now) // the next request has come already
		case more:
			// More of the request came: it was not complete, and nobody could
			// have answered it.
			p.drop(n, waitAnswer, now)
		}
		p.set(n, waitAnswer, serving && !unaccepted && rqueue == 0 && received != 0, received, now)
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
