package collectors

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	connNetns = iota
	connInode
	connState
	connServer
	connListener
	connLocal
	connPeer
	connLocalPort
	connPeerPort
	connPID
	connRQueue
	connWQueue
	connUnacked
	connRetransmits
	connTotalRetrans
	connRTO
	connRTT
	connReceivedAt
	connSentAt
	connAckedAt
	connBytesReceived
	connBytesSent
	connBytesAcked
	connSegsIn
	connSegsOut
	connPeerPID
	connPIDs
	connComm
	connOpenedAt
	connProbes
	connUnackedAt
	connWidth
)

const (
	maxConnRows    = 2000 // connections in one reading
	maxConnWatched = 1000 // of those, the ones shown only because of their process
	pollMost       = 32   // connections polled between two dumps
	// maxHalfOpen connection requests that were answered and not completed are
	// shown of a dump: enough to tell one sender from many. In a flood their
	// addresses are made up, and each is a new text.
	maxHalfOpen = 16

	waitingFloor = 50 * time.Millisecond  // a request younger than this is not shown
	unackedFloor = 200 * time.Millisecond // and neither is data on its way
	// A peer that is only ever sent to (a log receiver) looks like a request
	// without an answer; after this long nobody waits for one.
	waitingCeiling = 15 * time.Minute

	dumpEvery = 250 * time.Millisecond
	dumpCalm  = 5 * time.Second // where BPF tells of requests and nothing is lost: a dump goes through the whole hash table

	// synTimeout is the kernel's first for a connection request (TCP_TIMEOUT_INIT).
	synTimeout = time.Second

	// What the kernel tells in jiffies of up to 10 ms moves by one when it is
	// turned into a moment.
	jiffyJitter = 12 * time.Millisecond

	connStates = 1<<kernel.TCPEstablished | 1<<kernel.TCPSynSent | 1<<kernel.TCPSynRecv | 1<<kernel.TCPFinWait1 |
		1<<kernel.TCPCloseWait | 1<<kernel.TCPClosing
)

// connections reads established TCP connections by sock_diag(7): what arrived
// and was not read or not answered yet, and what was sent and not acknowledged.
// While nothing is wrong a reading holds only the connections on which someone
// may be waiting; every fifth reading looks at all, those between only at the
// few that were busiest. Where BPF tells of requests, and of packets that are
// sent again, one in 5 s is enough while there are none.
type connections struct {
	socketsUser
	texts freezeframe.Texts
	focus *freezeframe.Focus

	dump    pace
	dumped  freezeframe.Instant // when the last one was made
	stalled bool
	again   uint64              // packets sent again, by any socket, so far
	againAt freezeframe.Instant // when there were more; 0: never
	socket  kernel.InetSocket
	name    []byte
	times   timesTable
	reverse tupleTable
	rows    []connection // of this reading
	busy    [pollMost]busyConnection
	busies  int
	half    int // half-open connections in this reading
	waiting int // connections in the last dump that someone may be waiting on
	ids     []kernel.InetID
}

// connection is a socket that has earned a row.
type connection struct {
	kernel.InetSocket
	space  *netspace
	serves *listener
	times  socketTimes
}

// busyConnection is polled exactly between two dumps.
type busyConnection struct {
	id    kernel.InetID
	space int
	score freezeframe.Instant
}

func (c *connections) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "connections", From: "sock_diag(7)", Key: "socket",
		Every: stalledEvery, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			connNetns:         {Name: "netns", Kind: freezeframe.Gauge},
			connInode:         {Name: "inode", Kind: freezeframe.Gauge}, // 0: not accepted yet
			connState:         {Name: "state", Kind: freezeframe.Gauge},
			connServer:        {Name: "server", Kind: freezeframe.Gauge},
			connListener:      {Name: "listener", Kind: freezeframe.Gauge},
			connLocal:         {Name: "local", Kind: freezeframe.Text},
			connPeer:          {Name: "peer", Kind: freezeframe.Text},
			connLocalPort:     {Name: "local_port", Kind: freezeframe.Gauge},
			connPeerPort:      {Name: "peer_port", Kind: freezeframe.Gauge},
			connPID:           {Name: "pid", Kind: freezeframe.Gauge},
			connRQueue:        {Name: "rqueue", Kind: freezeframe.Gauge},
			connWQueue:        {Name: "wqueue", Kind: freezeframe.Gauge},
			connUnacked:       {Name: "unacked", Kind: freezeframe.Gauge},
			connRetransmits:   {Name: "retransmits", Kind: freezeframe.Gauge},
			connTotalRetrans:  {Name: "total_retrans"},
			connRTO:           {Name: "rto_us", Kind: freezeframe.Gauge},
			connRTT:           {Name: "rtt_us", Kind: freezeframe.Gauge},
			connReceivedAt:    {Name: "received_at", Kind: freezeframe.Gauge},
			connSentAt:        {Name: "sent_at", Kind: freezeframe.Gauge},
			connAckedAt:       {Name: "acked_at", Kind: freezeframe.Gauge},
			connBytesReceived: {Name: "bytes_received"},
			connBytesSent:     {Name: "bytes_sent"},
			connBytesAcked:    {Name: "bytes_acked"},
			connSegsIn:        {Name: "segs_in"},
			connSegsOut:       {Name: "segs_out"},
			connPeerPID:       {Name: "peer_pid", Kind: freezeframe.Gauge},
			connPIDs:          {Name: "pids", Kind: freezeframe.Text}, // as in listeners
			connComm:          {Name: "comm", Kind: freezeframe.Text},
			connOpenedAt:      {Name: "opened_at", Kind: freezeframe.Gauge}, // 0 when it was not seen before its first data
			connProbes:        {Name: "probes", Kind: freezeframe.Gauge},    // of a window that the peer holds closed
			// Since when something that was sent is not acknowledged, data or a
			// connection request; 0: nothing. As data it is no older than acked_at.
			connUnackedAt: {Name: "unacked_at", Kind: freezeframe.Gauge},
		},
		Needs: c.shared.needs.all(),
	}
}

func (c *connections) Open(h freezeframe.Host) error {
	c.texts, c.focus = h.Texts, h.Focus
	c.name = make([]byte, 0, 64)
	c.rows = make([]connection, 0, 512)
	c.ids = make([]kernel.InetID, 0, pollMost)
	c.dump, c.dumped, c.busies = pace{}, 0, 0
	c.again, c.againAt = c.shared.packets.SentAgain(), 0
	c.times.init()
	c.reverse.init()
	return c.open(h)
}

// Rest is between two looks at whether packets are sent again, while BPF tells
// of that and of requests, and nothing is wrong.
func (c *connections) Rest() time.Duration {
	return min(c.shared.rest(c.stalled), dumpEvery)
}

// lossyFor is how long after a packet was sent again the connections are looked
// at often: until it would have been sent again once more, usually.
const lossyFor = 2 * time.Second

// lossy tells whether packets were sent again lately.
func (c *connections) lossy(now freezeframe.Instant) bool {
	if c.shared.packets == nil {
		return true // that cannot be told
	}
	if n := c.shared.packets.SentAgain(); n != c.again {
		c.again, c.againAt = n, now
	}
	return c.againAt != 0 && now.Sub(c.againAt) < lossyFor
}

func (c *connections) Collect(t *freezeframe.Table) error {
	share, every := time.Duration(calmShare), dumpEvery
	var watched []int32
	stalled := c.focus.Stalled(t.At)
	if stalled && !c.stalled {
		c.dump.next = 0 // at once
	}
	c.stalled = stalled
	calm := c.shared.exact() && !c.lossy(t.At) // nobody needs to know at once who waits
	if stalled {
		c.shared.rounds.soon()
		share, watched = stalledShare, c.focus.PIDs()
		if !calm {
			every = stalledEvery
		}
	}
	// A little early counts, as for a pace.
	resting := calm && !stalled && t.At.Sub(c.dumped) < dumpCalm-dumpEvery/2
	c.rows, c.half = c.rows[:0], 0
	var failed error
	if began := kernel.Now(); !resting && c.dump.due(began) {
		c.busies, c.waiting = 0, 0
		c.times.turn()
		c.reverse.reset()
		for i := range maxNamespaces {
			ns := c.shared.space(i)
			if ns == nil {
				continue
			}
			c.shared.refresh(ns, began, &c.socket)
			ns.diag.DumpTCP(connStates, kernel.WantInfo)
			for s := &c.socket; ns.diag.NextInet(s); {
				if s.State == kernel.TCPSynRecv {
					c.sample(ns)
					continue
				}
				c.reverse.add(c.reverse.hash(ns, s.Local, s.Peer), s.Inode)
				c.consider(ns, i, watched)
			}
			if err := ns.diag.Err(); err != nil && i == 0 {
				failed = err
			}
		}
		if c.waiting > pollMost && !c.shared.exact() {
			every = stalledEvery // more than can be asked for by name
		}
		c.dump.done(began, every, share)
		c.dumped = began
	} else if stalled || !c.shared.exact() {
		c.poll(watched)
	}
	for i := range c.rows {
		c.emit(t, &c.rows[i])
	}
	return failed
}

// poll asks for the connections that were busiest at the last dump, by name.
func (c *connections) poll(watched []int32) {
	for i := range maxNamespaces {
		c.ids = c.ids[:0]
		for j := range c.busy[:c.busies] {
			if c.busy[j].space == i {
				c.ids = append(c.ids, c.busy[j].id)
			}
		}
		ns := c.shared.space(i)
		if ns == nil || len(c.ids) == 0 {
			continue
		}
		ns.diag.Ask(c.ids)
		for ns.diag.NextInet(&c.socket) {
			if 1<<c.socket.State&connStates != 0 {
				c.consider(ns, -1, watched)
			}
		}
	}
}

// sample keeps some of the half-open connections: they have no socket yet, and
// nobody here waits on them.
func (c *connections) sample(ns *netspace) {
	if c.half < maxHalfOpen && len(c.rows) < maxConnRows {
		c.half++
		c.rows = append(c.rows, connection{InetSocket: c.socket, space: ns})
	}
}

// consider looks at the socket that was just read and keeps it when it earns a
// row. space is its namespace's slot, -1 when this is not a dump.
func (c *connections) consider(ns *netspace, space int, watched []int32) {
	s := &c.socket
	now := kernel.Now()
	var serves *listener
	if s.State != kernel.TCPSynSent {
		serves = ns.serving.of(s.Local)
	}
	times := c.times.settle(s, now)
	if times.answered && serves != nil {
		c.shared.answers.count(serves.cookie, times.sent)
	}
	waiting := isWaiting(s, serves != nil, &times, now)
	if space >= 0 && serves != nil && s.State == kernel.TCPEstablished {
		score := times.received
		if waiting {
			score = math.MaxInt64
		}
		c.keepBusy(s, space, score)
	} else if space >= 0 && waiting {
		c.keepBusy(s, space, math.MaxInt64)
	}
	if waiting {
		c.waiting++
	}
	if len(c.rows) >= maxConnRows || !waiting && (len(c.rows) >= maxConnWatched || !c.isWatched(s, serves, watched)) {
		return
	}
	c.rows = append(c.rows, connection{InetSocket: *s, space: ns, serves: serves, times: times})
}

// isWaiting tells whether someone may be waiting on a connection: for the
// process to accept it, to read, to answer, or for the peer to acknowledge.
func isWaiting(s *kernel.InetSocket, server bool, times *socketTimes, now freezeframe.Instant) bool {
	info := &s.Info
	if s.RQueue > 0 && s.State != kernel.TCPSynSent {
		return true
	}
	if info.Retransmits > 0 || info.Backoff > 0 || info.Probes > 0 && s.WQueue > 0 {
		return true
	}
	if s.State == kernel.TCPSynSent {
		return times.unacked != 0 && now.Sub(times.unacked) >= unackedFloor
	}
	floor := uint32(unackedFloor / time.Millisecond)
	if info.Unacked > 0 && info.LastAckRecv >= floor && info.LastDataSent >= floor {
		return true
	}
	if !server || s.State != kernel.TCPEstablished || !s.HasInfo {
		return false
	}
	if s.Inode == 0 && times.opened != 0 && now.Sub(times.opened) >= waitingFloor {
		return true
	}
	// The two ages are of one moment and of the same clock, so they compare
	// better than the moments made of them.
	age := time.Duration(info.LastDataRecv) * time.Millisecond
	return info.BytesReceived > 0 && age >= waitingFloor && age <= waitingCeiling &&
		(info.BytesSent == 0 || info.LastDataRecv < info.LastDataSent)
}

func (c *connections) isWatched(s *kernel.InetSocket, serves *listener, watched []int32) bool {
	if len(watched) == 0 {
		return false
	}
	inode := s.Inode
	if inode == 0 && serves != nil {
		inode = serves.inode
	}
	own := c.shared.peek(inode)
	if own == nil {
		return false
	}
	for _, pid := range own.pids {
		if slices.Contains(watched, pid) {
			return true
		}
	}
	return false
}

// keepBusy keeps the connections with the highest scores.
func (c *connections) keepBusy(s *kernel.InetSocket, space int, score freezeframe.Instant) {
	at := c.busies
	if at == pollMost {
		at = 0
		for i := range c.busy {
			if c.busy[i].score < c.busy[at].score {
				at = i
			}
		}
		if c.busy[at].score >= score {
			return
		}
	} else {
		c.busies++
	}
	c.busy[at] = busyConnection{id: s.ID(), space: space, score: score}
}

func (c *connections) emit(t *freezeframe.Table, s *connection) {
	row := t.Row(freezeframe.Key(s.Cookie), connWidth)
	row[connNetns] = uint64(s.space.inode)
	row[connInode] = uint64(s.Inode)
	row[connState] = uint64(s.State)
	inode, from := s.Inode, uint32(0)
	if s.serves != nil {
		row[connServer] = 1
		row[connListener] = s.serves.cookie
		from = s.serves.inode
		if inode == 0 {
			inode = from // nobody has accepted it: it is the listener's
		}
	}
	if own := c.shared.of(inode, from); own != nil {
		row[connPID] = uint64(own.pid)
		row[connPIDs] = c.texts.Intern(own.text)
		row[connComm] = c.texts.Intern(own.comm)
	}
	if other := c.peer(s); other != nil {
		row[connPeerPID] = uint64(other.pid)
	}
	c.name = appendAddress(c.name[:0], s.Local)
	row[connLocal] = c.texts.Intern(c.name)
	c.name = appendAddress(c.name[:0], s.Peer)
	row[connPeer] = c.texts.Intern(c.name)
	row[connLocalPort] = uint64(s.Local.Port())
	row[connPeerPort] = uint64(s.Peer.Port())
	row[connRQueue] = uint64(s.RQueue)
	row[connWQueue] = uint64(s.WQueue)
	info := &s.Info
	row[connUnacked] = uint64(info.Unacked)
	row[connRetransmits] = uint64(info.Retransmits)
	row[connProbes] = uint64(info.Probes)
	row[connTotalRetrans] = uint64(info.TotalRetrans)
	row[connRTO] = uint64(info.RTOUs)
	row[connRTT] = uint64(info.RTTUs)
	row[connReceivedAt] = uint64(s.times.received)
	row[connSentAt] = uint64(s.times.sent)
	row[connAckedAt] = uint64(s.times.acked)
	row[connOpenedAt] = uint64(s.times.opened)
	row[connUnackedAt] = uint64(s.times.unacked)
	row[connBytesReceived] = info.BytesReceived
	row[connBytesSent] = info.BytesSent
	row[connBytesAcked] = info.BytesAcked
	row[connSegsIn] = uint64(info.SegsIn)
	row[connSegsOut] = uint64(info.SegsOut)
}

// peer returns who holds the other end, when that is on this host.
func (c *connections) peer(s *connection) *owner {
	inode, ok := c.reverse.find(c.reverse.hash(s.space, s.Peer, s.Local))
	if !ok {
		return nil
	}
	from := uint32(0)
	if l := s.space.serving.of(s.Peer); l != nil {
		from = l.inode
		if inode == 0 {
			inode = from
		}
	}
	return c.shared.of(inode, from)
}

// socketTimes is when things last happened on a socket. The kernel tells how
// many ms ago, which moves by a few ms from reading to reading; here a moment
// stays what it was until its byte count moves.
type socketTimes struct {
	bytesReceived, bytesSent               uint64
	idleBusyUs                             uint64 // when all was acknowledged
	received, sent, acked, opened, unacked freezeframe.Instant
	answered                               bool // something since the reading before
}

// timesTable keeps the times of sockets by cookie: open addressing, two halves
// that take turns so that sockets which are gone are left behind.
type timesTable struct {
	now, spare []timesEntry
	used       int
	turns      uint32
	overflow   timesEntry
}

type timesEntry struct {
	cookie uint64 // 0: free
	turn   uint32 // when it was last seen
	socketTimes
}

const timesSize = 1 << 13

func (t *timesTable) init() {
	*t = timesTable{now: kernel.Slots[timesEntry](t, timesSize), spare: kernel.Slots[timesEntry](t, timesSize)}
}

// turn begins a dump. When the table is getting full it forgets the sockets
// that the last dump did not see.
func (t *timesTable) turn() {
	t.turns++
	if t.used < timesSize*5/8 {
		return
	}
	old := t.now
	t.now, t.spare, t.used = t.spare, old, 0
	clear(t.now)
	for i := range old {
		if e := &old[i]; e.cookie != 0 && e.turn+1 >= t.turns {
			if to := t.slot(e.cookie); to != &t.overflow {
				*to = *e
			}
		}
	}
	if t.used >= timesSize*5/8 {
		clear(t.now) // more sockets than fit: remember the next ones instead
		t.used = 0
	}
}

// slot returns the entry of a cookie, a new one when there is none; past three
// quarters full it is one that is not kept.
func (t *timesTable) slot(cookie uint64) *timesEntry {
	for i := cookie * 0x9e3779b97f4a7c15 >> 40 % timesSize; ; i = (i + 1) % timesSize {
		e := &t.now[i]
		if e.cookie == cookie {
			return e
		}
		if e.cookie == 0 {
			if t.used >= timesSize*3/4 {
				t.overflow = timesEntry{cookie: cookie}
				return &t.overflow
			}
			t.used++
			e.cookie = cookie
			return e
		}
	}
}

// settle turns the ages of a socket that was just read into moments.
func (t *timesTable) settle(s *kernel.InetSocket, now freezeframe.Instant) socketTimes {
	if !s.HasInfo || s.Cookie == 0 {
		return socketTimes{}
	}
	e := t.slot(s.Cookie)
	fresh := e.turn == 0
	e.turn = t.turns
	info := &s.Info
	asked := info.BytesReceived != e.bytesReceived || e.received > e.sent
	wrote := info.BytesSent != e.bytesSent
	switch {
	case e == &t.overflow:
		wrote = false // it is not kept, and would be counted each time
	case fresh:
		wrote = info.BytesSent > 0 && time.Duration(info.LastDataSent)*time.Millisecond <= dumpEvery
	}
	ago := func(ms uint32) freezeframe.Instant {
		return now.Add(-time.Duration(ms) * time.Millisecond)
	}
	switch at := ago(info.LastDataRecv); {
	case info.BytesReceived == 0:
		e.received = 0
	case info.BytesReceived != e.bytesReceived || e.received == 0:
		e.received = at
	default:
		// A reading that was held up between the kernel and here is late, never
		// early: the earliest is right.
		e.received = min(e.received, at)
	}
	switch at := ago(info.LastDataSent); {
	case info.BytesSent == 0:
		e.sent = 0
	case info.BytesSent != e.bytesSent || e.sent == 0:
		e.sent = at
	default:
		e.sent = min(e.sent, at)
	}
	if at := ago(info.LastAckRecv); at.Sub(e.acked) > jiffyJitter || e.acked == 0 {
		e.acked = at
	} else {
		e.acked = min(e.acked, at)
	}
	// Until data flows these count from the handshake.
	if info.BytesReceived == 0 && info.BytesSent == 0 && s.State == kernel.TCPEstablished {
		if at := ago(info.LastDataSent); e.opened == 0 || at < e.opened {
			e.opened = at
		}
	}
	switch {
	case s.State == kernel.TCPSynSent:
		if at := now.Add(-requested(s)); e.unacked == 0 || at < e.unacked {
			e.unacked = at
		}
	case info.Unacked == 0 && s.WQueue == 0:
		e.unacked, e.idleBusyUs = 0, info.BusyUs
	case e.unacked == 0:
		// The kernel adds up how long there was something to acknowledge: to
		// the microsecond, though it may have been several times since we looked.
		e.unacked = now.Add(-time.Duration(info.BusyUs-min(e.idleBusyUs, info.BusyUs)) * time.Microsecond)
	}
	e.bytesReceived, e.bytesSent = info.BytesReceived, info.BytesSent
	e.answered = asked && wrote
	return e.socketTimes
}

// requested returns how long ago the connection request of a socket in
// SYN_SENT was sent for the first time: what the timeout that is running has
// run, and those before it. Since Linux 6.5 the first four are one second each
// (tcp_syn_linear_timeouts); the others are twice as long as the one before.
func requested(s *kernel.InetSocket) time.Duration {
	timeout := time.Duration(s.Info.RTOUs) * time.Microsecond
	left := time.Duration(s.Retransmit) * time.Millisecond
	if left == 0 || left > timeout {
		left = timeout // the timer is not running
	}
	first := min(timeout, synTimeout)
	doubled := 0
	for t := first; t < timeout; t *= 2 {
		doubled++
	}
	passed := timeout - first + time.Duration(max(0, int(s.Info.Retransmits)-doubled))*first
	return passed + timeout - left
}

// tupleTable finds the inode of the socket with given addresses: a
// connection's other end. It is filled anew by each dump.
type tupleTable struct {
	entries []tupleEntry
	seed    uint64 // addresses are the peers' choice: they must not know where they land
	turn    uint32
	used    int
}

type tupleEntry struct {
	hash  uint64
	inode uint32
	turn  uint32 // another than the table's: free
}

const tupleSize = 1 << 14

func (t *tupleTable) init() {
	*t = tupleTable{entries: kernel.Slots[tupleEntry](t, tupleSize), seed: rand.Uint64()}
}

func (t *tupleTable) reset() {
	t.turn++
	t.used = 0
}

func (t *tupleTable) add(hash uint64, inode uint32) {
	if t.used >= tupleSize*3/4 {
		return
	}
	i := hash % tupleSize
	for t.entries[i].turn == t.turn {
		if t.entries[i].hash == hash {
			return
		}
		i = (i + 1) % tupleSize
	}
	t.used++
	t.entries[i] = tupleEntry{hash: hash, inode: inode, turn: t.turn}
}

func (t *tupleTable) find(hash uint64) (inode uint32, ok bool) {
	for i := hash % tupleSize; t.entries[i].turn == t.turn; i = (i + 1) % tupleSize {
		if t.entries[i].hash == hash {
			return t.entries[i].inode, true
		}
	}
	return 0, false
}

// hash mixes two addresses, in order. Every namespace has its own loopback.
func (t *tupleTable) hash(ns *netspace, from, to netip.AddrPort) uint64 {
	h := t.seed
	if from.Addr().Unmap().IsLoopback() {
		h ^= uint64(ns.inode)
	}
	mix := func(v uint64) {
		hi, lo := bits.Mul64(h^v, 0x9e3779b97f4a7c15)
		h = hi ^ lo
	}
	a, b := from.Addr().As16(), to.Addr().As16()
	mix(binary.NativeEndian.Uint64(a[:8]))
	mix(binary.NativeEndian.Uint64(a[8:]))
	mix(binary.NativeEndian.Uint64(b[:8]))
	mix(binary.NativeEndian.Uint64(b[8:]))
	mix(uint64(from.Port())<<16 | uint64(to.Port()))
	return h
}
