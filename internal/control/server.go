package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"freezeframe/internal/kernel"
	"freezeframe/reports"
)

// Options bound what clients can cost. What is zero gets its default.
type Options struct {
	// Version of this binary, told to clients.
	Version string
	// Group may read; default DefaultGroup. Where the machine has no such
	// group, only root may.
	Group string
	// Connections is the most at a time, of all users; a quarter of them is
	// kept for root. Default 64.
	Connections int
	// PerUser is the most connections of one user other than root; default 16.
	PerUser int
	// Handshake is how long a client may take to say its versions; default 5 s.
	Handshake time.Duration
	// Idle is how long a client may take from one request to the next; default 30 s.
	Idle time.Duration
	// Answer is how long the handler may take until the first byte, and Stall
	// how long a client may take to read one frame; defaults 60 s and 10 s.
	Answer, Stall time.Duration
	// Whole is the longest that one answer may take until its last byte;
	// default 5 min.
	Whole time.Duration
	// Room is how long a request waits for others to be answered before it is
	// told to come again; default 10 s.
	Room time.Duration
	// Log gets a line about clients that were turned away, at most one a second.
	Log zerolog.Logger
	// Counters, where it is not nil, counts for the daemon's metrics.
	Counters *Counters

	// In tests: who a client is, which group may read, and what is talked.
	peer func(net.Conn) (kernel.Peer, error)
	gid  func(name string) (uint32, error)
	min  int
	max  int
}

// Counters count since the server began.
type Counters struct {
	Open     atomic.Int64 // connections now
	Answered atomic.Uint64
	Refused  atomic.Uint64 // neither root nor in the group
	Busy     atomic.Uint64 // turned away because of a bound
	Broken   atomic.Uint64 // garbage, too slow, gone in the middle
}

// status is what the counters say to a client.
func (c *Counters) status() *reports.ControlStatus {
	return &reports.ControlStatus{
		Connections: c.Open.Load(), Answered: c.Answered.Load(), Refused: c.Refused.Load(), Busy: c.Busy.Load(), Broken: c.Broken.Load(),
	}
}

// counted adds to a status what the server knows of itself.
type counted struct {
	Handler
	counters *Counters
}

func (c counted) Status(ctx context.Context) (reports.Status, error) {
	s, err := c.Handler.Status(ctx)
	s.Control = c.counters.status()
	return s, err
}

func (o Options) withDefaults() Options {
	o.Group = cmp.Or(o.Group, DefaultGroup)
	o.Connections, o.PerUser = cmp.Or(o.Connections, 64), cmp.Or(o.PerUser, 16)
	o.Handshake, o.Idle = cmp.Or(o.Handshake, 5*time.Second), cmp.Or(o.Idle, 30*time.Second)
	o.Answer, o.Stall, o.Whole = cmp.Or(o.Answer, 60*time.Second), cmp.Or(o.Stall, 10*time.Second), cmp.Or(o.Whole, 5*time.Minute)
	o.Room = cmp.Or(o.Room, 10*time.Second)
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	o.min, o.max = cmp.Or(o.min, minVersion), cmp.Or(o.max, maxVersion)
	if o.peer == nil {
		o.peer = peerOf
	}
	if o.gid == nil {
		o.gid = groupID
	}
	return o
}

// backlog is how many may wait to be accepted: enough for a burst, few enough
// that root is not long behind a user who does nothing but connect.
const backlog = 128

// unhurried is how many clients may be turned away one after the other before
// each next one has to wait: a flood of them must not become our load.
const unhurried = 100

type server struct {
	h    Handler
	o    Options
	gid  atomic.Int64 // of the group that may read; -1: there is none
	conn *gate
	work [kinds]*gate
	said atomic.Int64 // when a client was last logged, in Unix seconds
}

// Serve answers clients of l, a Unix stream socket of Listen or of systemd,
// until ctx ends or l fails. It closes l, ends what is being answered, and
// returns nil when ctx was the reason. Calls of the handler that hang are left
// behind.
func Serve(ctx context.Context, l net.Listener, h Handler, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.Close()
	context.AfterFunc(ctx, func() { l.Close() })
	o = o.withDefaults()
	s := &server{h: counted{h, o.Counters}, o: o}
	s.conn = newGate(o.Connections, max(1, o.Connections*3/4), o.PerUser)
	s.work = [kinds]*gate{quick: newGate(8, 6, 2), reading: newGate(8, 6, 2), heavy: newGate(3, 2, 1)}
	s.findGroup()
	if raw, ok := l.(syscall.Conn); ok {
		if err := shorten(raw); err != nil {
			return fmt.Errorf("listen on the control socket: %w", err)
		}
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	pause, turnedAway, since := time.Duration(0), 0, time.Now()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err == nil:
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ECONNABORTED):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.say(err, "a client could not be accepted")
			sleep(ctx, pause)
			continue
		default:
			return fmt.Errorf("accept a client of the control socket: %w", err)
		}
		pause = 0
		if s.admit(ctx, c, &clients) {
			continue
		}
		if now := time.Now(); now.Sub(since) > time.Second {
			turnedAway, since = 0, now
		}
		if turnedAway++; turnedAway > unhurried {
			sleep(ctx, time.Millisecond)
		}
	}
}

// shorten makes the queue of a listening socket short, whoever made it.
func shorten(l syscall.Conn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := raw.Control(func(fd uintptr) { lerr = syscall.Listen(int(fd), backlog) }); err != nil {
		return err
	}
	return os.NewSyscallError("listen", lerr)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// peerOf asks the kernel who connected.
func peerOf(c net.Conn) (kernel.Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return kernel.Peer{}, fmt.Errorf("a client by %s, where only a Unix socket tells who it is", c.LocalAddr().Network())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return kernel.Peer{}, err
	}
	var p kernel.Peer
	var perr error
	if err := raw.Control(func(fd uintptr) { p, perr = kernel.PeerOf(int(fd)) }); err != nil {
		return p, err
	}
	return p, perr
}

// groupID looks a group up in /etc/group.
func groupID(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(id), err
}

// findGroup remembers the group that may read: looking it up for each client
// would wait for the disk that is perhaps what hangs.
func (s *server) findGroup() {
	s.gid.Store(-1)
	gid, err := s.o.gid(s.o.Group)
	if err != nil {
		s.o.Log.Warn().Err(err).Str("group", s.o.Group).Msg("only root may ask the daemon: the group that may read is not there")
		return
	}
	s.gid.Store(int64(gid))
}

// refusal is why a client may ask nothing; nil: it may.
func (s *server) refusal(p *kernel.Peer) *Error {
	gid := s.gid.Load()
	switch {
	case p.UID == 0 || gid >= 0 && p.In(uint32(gid)):
		return nil
	case gid < 0:
		return &Error{CodeRefused, fmt.Sprintf("only root may ask the daemon: this machine has no group %q, whose members might: make it (groupadd --system %[1]s) and restart the daemon, or ask as root", s.o.Group)}
	}
	return &Error{CodeRefused, fmt.Sprintf("only root and members of the group %q may ask the daemon: ask as root, or join it (usermod -aG %[1]s NAME, as root) and log in again", s.o.Group)}
}

func (s *server) greeting() hello {
	return hello{Protocol: protocolName, Min: s.o.min, Max: s.o.max, Version: s.o.Version}
}

// admit starts to serve a client, or tells it why not. It never waits: a hello
// fits into a new socket.
func (s *server) admit(ctx context.Context, c net.Conn, clients *sync.WaitGroup) bool {
	greeting := s.greeting()
	p, err := s.o.peer(c)
	var no *Error
	switch {
	case err != nil:
		no = &Error{CodeFailed, err.Error()}
	default:
		no = s.refusal(&p)
	}
	switch {
	case no != nil:
		s.o.Counters.Refused.Add(1)
	case !s.conn.try(p.UID):
		no = &Error{CodeBusy, "the daemon has too many clients: try again in a moment"}
		s.o.Counters.Busy.Add(1)
	}
	if no != nil {
		e := endingOf(no, nil, 0)
		greeting.Refused = &e
		s.sayPeer(&p, no, "a client was turned away")
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // fails only when the write will
	if _, err := c.Write(jsonFrame(frameHello, greeting)); err != nil || no != nil {
		c.Close()
		if no == nil {
			s.conn.leave(p.UID)
		}
		return false
	}
	s.o.Counters.Open.Add(1)
	clients.Go(func() {
		defer s.o.Counters.Open.Add(-1)
		defer s.conn.leave(p.UID)
		newSession(s, c, p).run(ctx)
	})
	return true
}

// say logs at most once a second: whoever makes many mistakes must not fill
// the log.
func (s *server) say(err error, what string) { s.sayPeer(nil, err, what) }

func (s *server) sayPeer(p *kernel.Peer, err error, what string) {
	now := time.Now().Unix()
	if last := s.said.Load(); last == now || !s.said.CompareAndSwap(last, now) {
		return
	}
	e := s.o.Log.Warn().Err(err)
	if p != nil {
		e = e.Int("pid", p.PID).Uint32("uid", p.UID)
	}
	e.Msg(what)
}
