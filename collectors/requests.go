package collectors

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	requestsKind = iota
	requestsState
	requestsListener
	requestsService
	requestsPort
	requestsCookie
	requestsPID
	requestsTID
	requestsComm
	requestsPIDs
	requestsPeer
	requestsPeerPID
	requestsOpenedAt
	requestsBeganAt
	requestsReadAt
	requestsDoneAt
	requestsAnsweredAt
	requestsUnread
	requestsQueue
	requestsAnswers
	requestsUnanswered
	requestsWidth
)

const (
	maxEnded     = 500 // waits that are over, in one reading
	requestSlots = 768
	// A service whose answers often come from another thread than the one that
	// read the request is served by its process, not by threads: one answer in
	// movedShare is often, and movedEnough answers are enough to tell.
	movedShare, movedEnough = 50, 20
)

var errRequestsGone = fmt.Errorf("read requests from BPF: its programs are not in the kernel: %w", freezeframe.ErrNotHere)

// served is what the requests and services collectors share: both are read on
// one lane, so by one thread.
type served struct {
	*bpf.Requests
	slots [requestSlots]servedSlot
	texts freezeframe.Texts
	name  []byte
}

// servedSlot is what is kept of a service.
type servedSlot struct {
	turn     uint32
	service  uint64               // text
	byThread bool                 // its threads serve on their own
	answers  uint64               // so far
	moved    uint64               // of those, written by another thread than read the request
	least    [leastSeconds]uint64 // what was too usual to be told in the last seconds, ns
	second   int
}

func newServed(r *bpf.Requests) *served { return &served{Requests: r, name: make([]byte, 0, 256)} }

// slot returns what is kept of the service in a slot, made anew when the slot
// has been given away since.
func (v *served) slot(i int) *servedSlot {
	at, s := &v.slots[i], &v.Services()[i]
	if at.turn == s.Turn && at.service != 0 {
		return at
	}
	*at = servedSlot{turn: s.Turn}
	if s.Place.Family == familyUnix {
		v.name = appendUnixName(v.name[:0], s.Name())
	} else {
		v.name = appendRawAddress(v.name[:0], s.Place.Addr, s.Place.Port)
	}
	at.service = v.texts.Intern(v.name)
	return at
}

// appendRawAddress writes an address as appendAddress does.
func appendRawAddress(buf []byte, addr [16]byte, port uint16) []byte {
	return appendAddress(buf, netip.AddrPortFrom(netip.AddrFrom16(addr), port))
}

// requests reads from BPF (requests.bpf.c) who waits at the services of the
// host: the waits that last some 20 ms by now, and those that lasted as long
// and ended since the reading before. One row is one wait; it keeps its key.
type requests struct {
	*served
	focus  *freezeframe.Focus
	walk   pace
	walked freezeframe.Instant // when the walk before this one was made
	table  *freezeframe.Table
	row    func(*bpf.Told)
}

func (c *requests) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "requests", From: "BPF: sk_data_ready, sock_recv_length, sock_send_length, inet_sock_set_state", Key: "wait",
		Every: 100 * time.Millisecond, Stalled: stalledEvery, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			requestsKind:     {Name: "kind", Kind: freezeframe.Gauge},  // bpf.WaitAccept, WaitReceive, WaitAnswer, WaitReply, Absence
			requestsState:    {Name: "state", Kind: freezeframe.Gauge}, // bpf.ToldInFlight, ToldDone, ToldClosed …
			requestsListener: {Name: "listener", Kind: freezeframe.Gauge},
			requestsService:  {Name: "service", Kind: freezeframe.Text}, // the listener's address; of a reply, the other host's
			requestsPort:     {Name: "port", Kind: freezeframe.Gauge},
			requestsCookie:   {Name: "cookie", Kind: freezeframe.Gauge}, // of the socket, the key in connections
			// The thread that served the socket last, or reads its request. tid 0:
			// the process. Where none did, pids are those that take up the
			// connections of the listener, "12/13,12/14".
			requestsPID:     {Name: "pid", Kind: freezeframe.Gauge},
			requestsTID:     {Name: "tid", Kind: freezeframe.Gauge},
			requestsComm:    {Name: "comm", Kind: freezeframe.Text},
			requestsPIDs:    {Name: "pids", Kind: freezeframe.Text},
			requestsPeer:    {Name: "peer", Kind: freezeframe.Text},
			requestsPeerPID: {Name: "peer_pid", Kind: freezeframe.Gauge}, // of a Unix socket
			// Moments; 0: not yet, or not known. read_at is began_at where it was
			// read within two jiffies.
			requestsOpenedAt:   {Name: "opened_at", Kind: freezeframe.Gauge},
			requestsBeganAt:    {Name: "began_at", Kind: freezeframe.Gauge},
			requestsReadAt:     {Name: "read_at", Kind: freezeframe.Gauge},
			requestsDoneAt:     {Name: "done_at", Kind: freezeframe.Gauge},
			requestsAnsweredAt: {Name: "answered_at", Kind: freezeframe.Gauge}, // the service's last answer to anybody
			requestsUnread:     {Name: "unread_bytes", Kind: freezeframe.Gauge},
			requestsQueue:      {Name: "queue", Kind: freezeframe.Gauge},
			// How many requests of this connection were answered, and how many were
			// followed by more data instead.
			requestsAnswers:    {Name: "answers", Kind: freezeframe.Gauge},
			requestsUnanswered: {Name: "unanswered", Kind: freezeframe.Gauge},
		},
	}
}

func (c *requests) Open(h freezeframe.Host) error {
	if c.Gone() {
		return errRequestsGone
	}
	c.texts, c.focus = h.Texts, h.Focus
	c.walk, c.walked = pace{}, kernel.Now()
	c.row = c.add // once, so that a reading allocates nothing
	return nil
}

func (c *requests) Close() error { return nil }

func (c *requests) Collect(t *freezeframe.Table) error {
	if c.Gone() {
		return errRequestsGone
	}
	began := kernel.Now()
	c.table = t
	c.Drain(maxEnded, c.row)
	if !c.walk.due(began) {
		return nil
	}
	share := time.Duration(calmShare)
	if c.focus.Stalled(t.At) {
		share = stalledShare
	}
	err := c.Walk(c.row)
	c.walked = began
	c.walk.done(began, stalledEvery, share)
	return err
}

// add adds the row of one wait.
func (c *requests) add(x *bpf.Told) {
	if int(x.Service) >= len(c.slots) || x.Service == 0 {
		return
	}
	s := &c.Services()[x.Service]
	if s.Turn != x.Turn {
		return // the service is gone, and another has its slot
	}
	slot := c.slot(int(x.Service))
	// Of one socket there is one wait of a kind at a time.
	row := c.table.Row(freezeframe.Key((x.Cookie<<2|uint64(x.Kind))*0x9e3779b97f4a7c15^x.Began), requestsWidth)
	row[requestsKind] = uint64(x.Kind)
	row[requestsState] = uint64(x.How)
	row[requestsListener] = s.Cookie
	row[requestsService] = slot.service
	row[requestsPort] = uint64(s.Place.Port)
	row[requestsCookie] = x.Cookie
	if x.Thread != 0 {
		row[requestsPID] = uint64(x.PID())
		row[requestsComm] = c.texts.Intern(x.Comm())
		if slot.byThread || x.Kind == bpf.WaitReply {
			row[requestsTID] = uint64(x.TID())
		}
	} else {
		row[requestsPIDs] = c.servers(s, slot)
	}
	if x.Family != familyUnix {
		c.name = appendRawAddress(c.name[:0], x.Addr, x.Port)
		row[requestsPeer] = c.texts.Intern(c.name)
	}
	row[requestsPeerPID] = uint64(x.PeerPID)
	row[requestsOpenedAt] = x.Opened
	row[requestsBeganAt] = x.Began
	row[requestsReadAt] = x.Read
	row[requestsDoneAt] = c.done(x)
	row[requestsAnsweredAt] = x.Answered
	row[requestsUnread] = uint64(x.Unread)
	row[requestsQueue] = uint64(x.Queue)
	row[requestsAnswers] = uint64(x.Answers)
	row[requestsUnanswered] = uint64(x.Unanswered)
}

// done returns when a wait ended. Of a connection that was accepted and nothing
// more it is known that it was so after the walk before; if a thread has since
// touched one for the first time, that was it.
func (c *requests) done(x *bpf.Told) uint64 {
	if x.How != bpf.ToldTakenUp {
		return x.Done
	}
	before := max(uint64(c.walked), x.Began)
	if x.Accepted > before && x.Accepted < x.Done {
		return x.Accepted
	}
	gap := x.Done - min(before, x.Done)
	if gap > walksNear {
		return before // all that is known: with many sockets walks lie far apart
	}
	return before + gap/2
}

// walksNear is how far apart two walks tell well enough when something happened
// between them (ns).
const walksNear = uint64(3 * 50 * time.Millisecond)

// servers is the text of the threads that take up a service's connections.
func (c *requests) servers(s *bpf.Service, slot *servedSlot) uint64 {
	c.name = c.name[:0]
	for i := range s.Threads {
		th := &s.Threads[i]
		// One that took up a single connection may be that connection's own.
		if th.Times < 2 || !slot.byThread {
			continue
		}
		if len(c.name) > 0 {
			c.name = append(c.name, ',')
		}
		c.name = strconv.AppendUint(c.name, th.Thread>>32, 10)
		c.name = append(c.name, '/')
		c.name = strconv.AppendUint(c.name, uint64(uint32(th.Thread)), 10)
	}
	return c.texts.Intern(c.name)
}

const (
	servicesService = iota
	servicesPort
	servicesNetns
	servicesFar
	servicesPID
	servicesComm
	servicesLost
	servicesFirst // of the columns of each kind of wait
	servicesWidth = servicesFirst + bpf.WaitKinds*servicesEach
)

// The columns of a kind of wait.
const (
	servicesCount = iota
	servicesP50
	servicesP90
	servicesP99
	servicesMax
	servicesEach
)

// services reads from BPF how long everyone waited at each service in the last
// second; another host's that nobody asked has no row.
type services struct {
	*served
	counts bpf.History
}

func (c *services) Source() freezeframe.Source {
	columns := []freezeframe.Column{
		servicesService: {Name: "service", Kind: freezeframe.Text}, // the address
		servicesPort:    {Name: "port", Kind: freezeframe.Gauge},
		servicesNetns:   {Name: "netns", Kind: freezeframe.Gauge},
		servicesFar:     {Name: "far", Kind: freezeframe.Gauge}, // 1: another host's, asked from here
		servicesPID:     {Name: "pid", Kind: freezeframe.Gauge}, // of a thread that takes up its connections
		servicesComm:    {Name: "comm", Kind: freezeframe.Text},
		servicesLost:    {Name: "lost"}, // waits of any service for which there was no room in requests
	}
	for _, kind := range [bpf.WaitKinds]string{"accept", "receive", "answer", "reply"} {
		columns = append(columns,
			freezeframe.Column{Name: kind + "s", Kind: freezeframe.Gauge}, // in this second
			freezeframe.Column{Name: kind + "_p50_ns", Kind: freezeframe.Gauge},
			freezeframe.Column{Name: kind + "_p90_ns", Kind: freezeframe.Gauge},
			freezeframe.Column{Name: kind + "_p99_ns", Kind: freezeframe.Gauge},
			freezeframe.Column{Name: kind + "_max_ns", Kind: freezeframe.Gauge},
		)
	}
	return freezeframe.Source{
		Name: "services", From: "BPF: sk_data_ready, sock_recv_length, sock_send_length, inet_sock_set_state", Key: "socket",
		Every: time.Second, Lane: freezeframe.Fast, Columns: columns,
	}
}

func (c *services) Open(h freezeframe.Host) error {
	if c.Gone() {
		return errRequestsGone
	}
	c.texts = h.Texts
	return nil
}

func (c *services) Close() error { return nil }

func (c *services) Collect(t *freezeframe.Table) error {
	if c.Gone() {
		return errRequestsGone
	}
	all := c.Services()
	for i := 1; i < len(all) && i < requestSlots; i++ {
		s := &all[i]
		if !s.Used() {
			continue
		}
		slot := c.slot(i)
		if err := c.Take(i, &c.counts); err != nil {
			return err
		}
		if s.Place.Far != 0 && c.counts.Bins[bpf.WaitReply] == [bpf.RequestBins]uint32{} {
			continue
		}
		row := t.Row(freezeframe.Key(s.Cookie), servicesWidth)
		row[servicesService] = slot.service
		row[servicesPort] = uint64(s.Place.Port)
		row[servicesNetns] = uint64(s.Place.Netns)
		row[servicesFar] = uint64(s.Place.Far)
		for j := range s.Threads {
			if th := &s.Threads[j]; th.Times > 0 {
				row[servicesPID] = th.Thread >> 32
				row[servicesComm] = c.texts.Intern(until0(th.CommBytes[:]))
				break
			}
		}
		row[servicesLost] = c.Lost()
		for kind := range bpf.WaitKinds {
			quantiles(&c.counts.Bins[kind], row[servicesFirst+kind*servicesEach:])
		}
		answers := row[servicesFirst+bpf.WaitAnswer*servicesEach:]
		slot.answers += answers[servicesCount]
		slot.moved += uint64(c.counts.Moved)
		slot.byThread = slot.answers >= movedEnough && slot.moved*movedShare <= slot.answers
		// What is usual at a service is not told for itself.
		least := uint64(leastTold)
		if answers[servicesCount] >= movedEnough {
			least = min(max(least, answers[servicesP90]), mostTold)
		}
		s.Least += slot.calmest(least)/8 - s.Least/8
	}
	return c.Tidy(uint64(kernel.Now()))
}

func until0(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

const leastTold, mostTold = 20_000_000, 500_000_000 // ns

// leastSeconds is how long a service must have been slow for that to be usual: a
// stall must not hide its own last waits.
const leastSeconds = 8

// calmest takes what would be too usual to be told by the last second, and
// returns it by the calmest of the last seconds.
func (s *servedSlot) calmest(least uint64) uint64 {
	s.least[s.second] = least
	s.second = (s.second + 1) % leastSeconds
	for _, other := range s.least {
		least = min(least, max(other, leastTold))
	}
	return least
}

// quantiles writes the columns of a kind of wait.
func quantiles(bins *[bpf.RequestBins]uint32, row []uint64) {
	total := uint64(0)
	for _, n := range bins {
		total += uint64(n)
	}
	row[servicesCount] = total
	below := uint64(0)
	for bin := range bins {
		n := uint64(bins[bin])
		if n == 0 {
			continue
		}
		for at, percent := range [servicesEach]uint64{servicesP50: 50, servicesP90: 90, servicesP99: 99} {
			if percent != 0 && below*100 < total*percent && (below+n)*100 >= total*percent {
				row[at] = binMiddle(bin)
			}
		}
		row[servicesMax] = binMiddle(bin)
		below += n
	}
}

// binMiddle is the middle of a bin of requests.bpf.c, in ns.
func binMiddle(bin int) uint64 {
	const shift = 16
	if bin < 4 {
		return uint64(2*bin+1) << (shift - 1)
	}
	octave := bin/4 - 1
	return uint64(2*(bin%4+4)+1) << (octave + shift - 1)
}
