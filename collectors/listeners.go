package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	listenersNetns = iota
	listenersFamily
	listenersPort
	listenersAddress
	listenersQueue
	listenersBacklog
	listenersDrops
	listenersPID
	listenersComm
	listenersInode
	listenersPIDs
	listenersAnswers
	listenersAnsweredAt
	listenersWidth
)

const (
	familyUnix = 1
	// How much of one CPU a dump may take: a fiftieth while nothing is wrong, a
	// tenth while a stall is open.
	calmShare, stalledShare = 50, 10

	elsewhereEvery = 250 * time.Millisecond // other namespaces, and Unix sockets
	stalledEvery   = 50 * time.Millisecond
)

// listeners reads the listening sockets by sock_diag(7): how many connections
// wait to be accepted, and how many were dropped because too many did. Rows of
// TCP listeners in our own network namespace are in every reading, those of
// other namespaces and of Unix stream sockets in every fifth while nothing is
// wrong. Where BPF tells of requests all are read once a second until then.
type listeners struct {
	socketsUser

	own, others, unix pace
	stalled           bool
	noUnix            bool // the kernel has no unix_diag
	texts             freezeframe.Texts
	focus             *freezeframe.Focus
	name              []byte
	inet              kernel.InetSocket
	local             kernel.UnixSocket
}

func (c *listeners) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "listeners", From: "sock_diag(7)", Key: "socket",
		Every: stalledEvery, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			listenersNetns:   {Name: "netns", Kind: freezeframe.Gauge},
			listenersFamily:  {Name: "family", Kind: freezeframe.Gauge},
			listenersPort:    {Name: "port", Kind: freezeframe.Gauge},
			listenersAddress: {Name: "address", Kind: freezeframe.Text},
			listenersQueue:   {Name: "queue", Kind: freezeframe.Gauge},
			listenersBacklog: {Name: "backlog", Kind: freezeframe.Gauge},
			listenersDrops:   {Name: "drops"},
			listenersPID:     {Name: "pid", Kind: freezeframe.Gauge},
			listenersComm:    {Name: "comm", Kind: freezeframe.Text},
			listenersInode:   {Name: "inode", Kind: freezeframe.Gauge},
			// pids is every process that shares the listener, "12,13,14"; empty
			// when it is only pid.
			listenersPIDs: {Name: "pids", Kind: freezeframe.Text},
			// Of TCP, as far as readings of the connections found them: not those of
			// a connection that came and went between two, and one of a connection
			// each time. 0 where BPF tells of requests, or of next to none.
			listenersAnswers:    {Name: "answers"},
			listenersAnsweredAt: {Name: "answered_at", Kind: freezeframe.Gauge}, // the last of them; ns, CLOCK_MONOTONIC
		},
		Needs: c.shared.needs.all(),
	}
}

func (c *listeners) Open(h freezeframe.Host) error {
	c.texts, c.focus = h.Texts, h.Focus
	c.name = make([]byte, 0, 256)
	c.own, c.others, c.unix = pace{}, pace{}, pace{}
	if err := c.open(h); err != nil {
		return err
	}
	d := c.shared.space(0).diag
	d.DumpUnix(1 << kernel.TCPListen)
	for d.NextUnix(&c.local) {
	}
	if err := d.Err(); err != nil {
		c.noUnix = true
		c.shared.needs.add(freezeframe.Need{
			What: "list Unix sockets by sock_diag",
			Lost: "how many connections wait at a service's Unix socket",
			Fix:  "modprobe unix_diag",
			Err:  errnoText(err),
		})
	}
	return nil
}

// Rest is long while BPF tells of requests and nothing is wrong.
func (c *listeners) Rest() time.Duration { return c.shared.rest(c.stalled) }

func (c *listeners) Collect(t *freezeframe.Table) error {
	share, own, elsewhere := time.Duration(calmShare), stalledEvery, elsewhereEvery
	if c.shared.exact() {
		own, elsewhere = socketsEvery, socketsEvery
	}
	stalled := c.focus.Stalled(t.At)
	if stalled && !c.stalled {
		c.own.next, c.others.next, c.unix.next = 0, 0, 0 // at once
	}
	c.stalled = stalled
	if stalled {
		share, own, elsewhere = stalledShare, stalledEvery, stalledEvery
	}
	var failed error
	if began := kernel.Now(); c.own.due(began) {
		failed = c.tcp(t, c.shared.space(0))
		c.own.done(began, own, share)
	}
	if began := kernel.Now(); c.others.due(began) {
		// One that is being torn down may fail; it is no loss.
		for i := 1; i < maxNamespaces; i++ {
			if ns := c.shared.space(i); ns != nil {
				_ = c.tcp(t, ns)
			}
		}
		c.others.done(began, elsewhere, share)
	}
	if began := kernel.Now(); !c.noUnix && c.unix.due(began) {
		for i := range maxNamespaces {
			if ns := c.shared.space(i); ns != nil {
				err := c.streams(t, ns)
				if i == 0 && failed == nil {
					failed = err
				}
			}
		}
		c.unix.done(began, elsewhere, share)
	}
	return failed
}

// tcp adds the TCP listeners of a namespace.
func (c *listeners) tcp(t *freezeframe.Table, ns *netspace) error {
	ns.serving.reset(kernel.Now())
	ns.diag.DumpTCP(1<<kernel.TCPListen, kernel.WantMemInfo)
	for s := &c.inet; ns.diag.NextInet(s); {
		if s.State != kernel.TCPListen {
			continue
		}
		ns.serving.add(s)
		row := c.row(t, ns, s.Cookie, s.Inode)
		row[listenersFamily] = uint64(s.Family)
		row[listenersPort] = uint64(s.Local.Port())
		c.name = appendAddress(c.name[:0], s.Local)
		row[listenersAddress] = c.texts.Intern(c.name)
		row[listenersQueue] = uint64(s.RQueue)
		row[listenersBacklog] = uint64(s.WQueue)
		row[listenersDrops] = uint64(s.Drops)
		if !c.shared.exact() {
			answers := c.shared.answers.of(s.Cookie)
			row[listenersAnswers], row[listenersAnsweredAt] = answers.n, uint64(answers.last)
		}
	}
	return ns.diag.Err()
}

// streams adds the listening Unix sockets of a namespace.
func (c *listeners) streams(t *freezeframe.Table, ns *netspace) error {
	ns.diag.DumpUnix(1 << kernel.TCPListen)
	for s := &c.local; ns.diag.NextUnix(s); {
		if s.State != kernel.TCPListen {
			continue
		}
		row := c.row(t, ns, s.Cookie, s.Inode)
		row[listenersFamily] = familyUnix
		c.name = appendUnixName(c.name[:0], s.Name)
		row[listenersAddress] = c.texts.Intern(c.name)
		row[listenersQueue] = uint64(s.RQueue)
		row[listenersBacklog] = uint64(s.WQueue)
	}
	return ns.diag.Err()
}

func (c *listeners) row(t *freezeframe.Table, ns *netspace, cookie uint64, inode uint32) []uint64 {
	row := t.Row(freezeframe.Key(cookie), listenersWidth)
	row[listenersNetns] = uint64(ns.inode)
	row[listenersInode] = uint64(inode)
	if own := c.shared.of(inode, 0); own != nil {
		own.listening.Store(true)
		row[listenersPID] = uint64(own.pid)
		row[listenersComm] = c.texts.Intern(own.comm)
		row[listenersPIDs] = c.texts.Intern(own.text)
	}
	return row
}

// appendUnixName writes the name of a Unix socket: unix:/run/x, unix:@abstract.
// NUL bytes of an abstract name become @, as ss(8) writes them.
func appendUnixName(buf, name []byte) []byte {
	buf = append(buf, "unix:"...)
	for i, b := range name {
		if b == 0 {
			if i > 0 && i == len(name)-1 && name[0] != 0 {
				break // the NUL that ends a path
			}
			b = '@'
		}
		buf = append(buf, b)
	}
	return buf
}
