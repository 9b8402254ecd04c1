package collectors

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	portsUsed = iota
	portsRange
	portsPID
	portsComm
	portsNetns
	portsTimeWait
	portsWidth
)

const (
	maxDestinations = 4096
	maxPortRows     = 16
	// Sockets are looked through only when this share (in percent) of the local
	// port range could be in use, and a destination is shown from a tenth of it.
	portsAlarm, portsShown = 80, 10

	portStates = connStates | 1<<kernel.TCPTimeWait | 1<<3 | 1<<5 | 1<<9 // SYN_RECV, FIN_WAIT2, LAST_ACK
)

// ports counts the local ports in use towards each destination, in the network
// namespaces whose sockstat says that they may be running out: only sockets
// that connect to the same address and port compete for them.
type ports struct {
	socketsUser
	texts freezeframe.Texts

	dump   pace
	socket kernel.InetSocket
	used   []destination // open addressing by hash
	best   []int         // indexes into used, most used first
	name   []byte
}

// destination is an address and port that local sockets are connected to. leader
// and votes find who holds most of them in one pass (Boyer and Moore).
type destination struct {
	peer     netip.AddrPort
	count    uint32
	timeWait uint32
	leader   *owner
	votes    int
}

func (c *ports) Source() freezeframe.Source {
	gauge := freezeframe.Gauge
	return freezeframe.Source{
		Name: "ports", From: "net/sockstat, sock_diag(7)", Key: "text",
		Every: time.Second, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			portsUsed:     {Name: "used", Kind: gauge},
			portsRange:    {Name: "range", Kind: gauge},
			portsPID:      {Name: "pid", Kind: gauge},
			portsComm:     {Name: "comm", Kind: freezeframe.Text},
			portsNetns:    {Name: "netns", Kind: gauge},
			portsTimeWait: {Name: "time_wait", Kind: gauge}, // of those used
		},
		Needs: c.shared.owners.needs.all(),
	}
}

func (c *ports) Open(h freezeframe.Host) error {
	c.texts, c.dump = h.Texts, pace{}
	c.name = make([]byte, 0, 128)
	c.best = make([]int, 0, maxPortRows+1)
	return c.open(h)
}

func (c *ports) Collect(t *freezeframe.Table) error {
	began := kernel.Now()
	if !c.dump.due(began) {
		return nil
	}
	for i := range maxNamespaces {
		ns := c.shared.space(i)
		if ns == nil || ns.sockstat == nil || ns.ports == nil {
			continue
		}
		low, top := portRange(ns.ports)
		if top <= low {
			continue
		}
		span := top - low + 1
		b, err := ns.sockstat.Read()
		if err != nil {
			if i == 0 {
				return err
			}
			continue
		}
		if tcpInUse(b)*100 < span*portsAlarm {
			continue
		}
		if err := c.count(t, ns, low, top); err != nil && i == 0 {
			return err
		}
	}
	c.dump.done(began, time.Second, calmShare)
	return nil
}

func portRange(f *kernel.File) (low, top uint64) {
	b, err := f.Read()
	if err != nil {
		return 0, 0
	}
	s := kernel.Scan(b)
	low, _ = s.Uint()
	top, _ = s.Uint()
	return low, top
}

// tcpInUse returns the sockets in use and in TIME_WAIT of a sockstat file.
func tcpInUse(b []byte) (n uint64) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		if string(s.Word()) != "TCP:" {
			continue
		}
		for !s.EndOfLine() {
			name := s.Word()
			v, ok := s.Uint()
			if !ok {
				s.Word()
				continue
			}
			if string(name) == "inuse" || string(name) == "tw" {
				n += v
			}
		}
	}
	return n
}

// count goes through the sockets of a namespace.
func (c *ports) count(t *freezeframe.Table, ns *netspace, low, top uint64) error {
	span := top - low + 1
	if c.used == nil {
		c.used = make([]destination, maxDestinations) // only hosts that come near the limit pay for it
	}
	clear(c.used)
	c.shared.refresh(ns, kernel.Now(), &c.socket)
	ns.diag.DumpTCP(portStates, 0)
	for s := &c.socket; ns.diag.NextInet(s); {
		port := uint64(s.Local.Port())
		if port < low || port > top || ns.serving.of(s.Local) != nil {
			continue
		}
		d := c.to(s.Peer)
		if d == nil {
			continue
		}
		d.count++
		if s.State == kernel.TCPTimeWait {
			d.timeWait++
			continue
		}
		own := c.shared.peek(s.Inode)
		switch {
		case d.votes == 0:
			d.leader, d.votes = own, 1
		case d.leader == own:
			d.votes++
		default:
			d.votes--
		}
		if own == nil && d.count%256 == 1 {
			c.shared.of(s.Inode, 0) // one in many: a walk finds them all
		}
	}
	c.best = c.best[:0]
	for i := range c.used {
		if n := uint64(c.used[i].count); n*100 < span*portsShown || n == 0 {
			continue
		}
		at := len(c.best)
		for at > 0 && c.used[c.best[at-1]].count < c.used[i].count {
			at--
		}
		if at < maxPortRows {
			c.best = slices.Insert(c.best, at, i)
			c.best = c.best[:min(len(c.best), maxPortRows)]
		}
	}
	for _, i := range c.best {
		d := &c.used[i]
		c.name = append(strconv.AppendUint(c.name[:0], uint64(ns.inode), 10), '|')
		c.name = appendAddress(c.name, d.peer)
		row := t.Row(freezeframe.Key(c.texts.Intern(c.name)), portsWidth)
		row[portsUsed] = uint64(d.count)
		row[portsRange] = span
		row[portsNetns] = uint64(ns.inode)
		row[portsTimeWait] = uint64(d.timeWait)
		if d.leader != nil {
			row[portsPID] = uint64(d.leader.pid)
			row[portsComm] = c.texts.Intern(d.leader.comm)
		}
	}
	return ns.diag.Err()
}

// to returns the entry of a destination, nil when there are too many.
func (c *ports) to(peer netip.AddrPort) *destination {
	a := peer.Addr().As16()
	h := uint32(peer.Port())
	for _, b := range a {
		h = (h ^ uint32(b)) * 16777619
	}
	for i := range uint32(64) {
		d := &c.used[(h+i)%maxDestinations]
		if d.count == 0 {
			d.peer = peer
			return d
		}
		if d.peer == peer {
			return d
		}
	}
	return nil
}
