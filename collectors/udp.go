package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	udpNetns = iota
	udpInode
	udpLocal
	udpPeer
	udpLocalPort
	udpPeerPort
	udpPID
	udpComm
	udpPIDs
	udpRQueue
	udpDrops
	udpSince
	udpWidth
)

const (
	maxUDPRows = 256
	portDNS    = 53
	// queryFloor is the age from which on a socket that asks a name server is
	// shown: an answer that is in some cache takes a tenth of it.
	queryFloor = 100 * time.Millisecond
)

// udp reads the UDP sockets that say something by sock_diag(7): those that ask a
// name server, which exist as long as the answer takes, the name servers
// themselves, and those whose data nobody reads or was dropped for it.
type udp struct {
	socketsUser
	texts freezeframe.Texts
	focus *freezeframe.Focus

	dump    pace
	socket  kernel.InetSocket
	name    []byte
	queries [maxUDPRows]query // sockets that ask a name server
	turn    uint32
}

// query is a socket to a name server, and when it was seen first.
type query struct {
	cookie uint64
	since  freezeframe.Instant
	turn   uint32
}

func (c *udp) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "udp", From: "sock_diag(7)", Key: "socket",
		Every: 250 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			udpNetns:     {Name: "netns", Kind: gauge},
			udpInode:     {Name: "inode", Kind: gauge},
			udpLocal:     {Name: "local", Kind: text},
			udpPeer:      {Name: "peer", Kind: text}, // "" while it is not connected
			udpLocalPort: {Name: "local_port", Kind: gauge},
			udpPeerPort:  {Name: "peer_port", Kind: gauge},
			udpPID:       {Name: "pid", Kind: gauge},
			udpComm:      {Name: "comm", Kind: text},
			udpPIDs:      {Name: "pids", Kind: text},    // as in listeners
			udpRQueue:    {Name: "rqueue", Kind: gauge}, // bytes that nobody has read yet
			udpDrops:     {Name: "drops"},
			udpSince:     {Name: "since_ns", Kind: gauge}, // of a socket that asks a name server: when it was first seen
		},
		Needs: c.shared.needs.all(),
	}
}

func (c *udp) Open(h freezeframe.Host) error {
	c.texts, c.focus = h.Texts, h.Focus
	c.name = make([]byte, 0, 64)
	c.dump, c.queries = pace{}, [maxUDPRows]query{}
	if err := c.open(h); err != nil {
		return err
	}
	d := c.shared.space(0).diag
	d.DumpUDP(kernel.Families[0])
	for d.NextInet(&c.socket) {
	}
	if err := d.Err(); err != nil {
		c.shared.needs.add(freezeframe.Need{
			What: "list UDP sockets by sock_diag", Lost: "who waits for a name server, and whose UDP data nobody reads",
			Fix: "modprobe udp_diag", Err: errnoText(err),
		})
	}
	return nil
}

func (c *udp) Collect(t *freezeframe.Table) error {
	share := time.Duration(calmShare)
	if c.focus.Stalled(t.At) {
		share = stalledShare
	}
	began := kernel.Now()
	if !c.dump.due(began) {
		return nil
	}
	c.turn++
	for i := range maxNamespaces {
		ns := c.shared.space(i)
		if ns == nil {
			continue
		}
		for _, family := range kernel.Families {
			ns.diag.DumpUDP(family)
			for ns.diag.NextInet(&c.socket) {
				c.consider(t, ns, began)
			}
			// A kernel without udp_diag said so when it was opened; a namespace
			// that is being torn down is no loss.
		}
	}
	c.dump.done(began, 250*time.Millisecond, share)
	return nil
}

func (c *udp) consider(t *freezeframe.Table, ns *netspace, now freezeframe.Instant) {
	s := &c.socket
	var since freezeframe.Instant
	asks := s.Peer.Port() == portDNS
	if asks {
		since = c.since(s.Cookie, now)
	}
	switch {
	case asks && now.Sub(since) >= queryFloor:
	case s.Local.Port() == portDNS, s.RQueue > 0, s.Drops > 0:
	default:
		return
	}
	if len(t.Keys) >= maxUDPRows {
		return
	}
	row := t.Row(freezeframe.Key(s.Cookie), udpWidth)
	row[udpNetns], row[udpInode] = uint64(ns.inode), uint64(s.Inode)
	c.name = appendAddress(c.name[:0], s.Local)
	row[udpLocal] = c.texts.Intern(c.name)
	if s.Peer.Port() != 0 {
		c.name = appendAddress(c.name[:0], s.Peer)
		row[udpPeer] = c.texts.Intern(c.name)
	}
	row[udpLocalPort], row[udpPeerPort] = uint64(s.Local.Port()), uint64(s.Peer.Port())
	row[udpRQueue], row[udpDrops] = uint64(s.RQueue), uint64(s.Drops)
	row[udpSince] = uint64(since)
	if own := c.shared.of(s.Inode, 0); own != nil {
		row[udpPID] = uint64(own.pid)
		row[udpComm] = c.texts.Intern(own.comm)
		row[udpPIDs] = c.texts.Intern(own.text)
	}
}

// since returns when a socket was first seen. A reading sees few that ask, so
// they are searched one by one; one that was not seen last time makes room.
func (c *udp) since(cookie uint64, now freezeframe.Instant) freezeframe.Instant {
	var free *query
	for i := range c.queries {
		q := &c.queries[i]
		if q.cookie == cookie && q.turn+1 >= c.turn {
			q.turn = c.turn
			return q.since
		}
		if free == nil && (q.cookie == 0 || q.turn+1 < c.turn) {
			free = q
		}
	}
	if free != nil {
		*free = query{cookie: cookie, since: now, turn: c.turn}
	}
	return now
}
