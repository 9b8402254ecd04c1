package collectors

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

// maxNamespaces is how many network namespaces are watched, our own included.
const maxNamespaces = 17

// sockets is what the listeners, connections and ports collectors share: a
// sock_diag socket in every network namespace, the listeners found there, and
// who owns what. All three are read on one lane, so by one thread.
type sockets struct {
	*owners
	// spaces[0] is our own namespace. The goroutine that finds namespaces fills
	// an empty slot and marks one as gone; only the sampling thread, which may
	// be using it, closes it and empties the slot.
	spaces [maxNamespaces]atomic.Pointer[netspace]
	users  int
	// requests tells of waits at services to the moment; nil: these tables do.
	requests *bpf.Requests
	// packets tells when something is lost on the way; nil: these tables do.
	packets *bpf.Packets
	// answers is what connections and listeners find, on the lane of both.
	answers answersTable
}

// exact tells whether BPF tells of requests.
func (s *sockets) exact() bool { return !s.requests.Gone() }

// socketsEvery is how often the tables are worth reading while nothing is wrong
// and BPF tells of requests: for who listens, and for drops.
const socketsEvery = time.Second

// rest is how long they may be left alone now.
func (s *sockets) rest(stalled bool) time.Duration {
	if stalled || !s.exact() {
		return 0
	}
	return socketsEvery
}

// answersTable counts, by listener, the answers that readings of the
// connections found: at most one of a connection each time, and none of one that
// came and went between two.
type answersTable struct {
	entries []answersEntry
	used    int
}

type answersEntry struct {
	cookie uint64 // of the listener; 0: free
	n      uint64
	last   freezeframe.Instant
}

const answersSize = 1 << 11

// of returns what was counted of a listener. When there are too many, all are
// counted from the beginning.
func (t *answersTable) of(cookie uint64) *answersEntry {
	if t.entries == nil {
		t.entries = kernel.Slots[answersEntry](t, answersSize)
	}
	for i := cookie * 0x9e3779b97f4a7c15 >> 40 % answersSize; ; i = (i + 1) % answersSize {
		e := &t.entries[i]
		if e.cookie == cookie {
			return e
		}
		if e.cookie != 0 {
			continue
		}
		if t.used++; t.used > answersSize/2 {
			clear(t.entries)
			t.used = 1
			e = &t.entries[cookie*0x9e3779b97f4a7c15>>40%answersSize]
		}
		e.cookie = cookie
		return e
	}
}

func (t *answersTable) count(cookie uint64, at freezeframe.Instant) {
	e := t.of(cookie)
	e.n++
	e.last = max(e.last, at)
}

// netspace is a network namespace.
type netspace struct {
	inode    uint32
	gone     atomic.Bool
	diag     *kernel.SockDiag
	sockstat *kernel.File // net/sockstat; nil when it could not be opened
	ports    *kernel.File // net.ipv4.ip_local_port_range, as well
	serving  listenerSet
}

// socketsUser is one collector's hold on the shared sockets; closing it twice
// is allowed.
type socketsUser struct {
	shared *sockets
	opened bool
}

func (u *socketsUser) Close() error {
	if u.opened {
		u.opened = false
		u.shared.shut()
	}
	return nil
}

// open readies the sockets for one more collector.
func (u *socketsUser) open(h freezeframe.Host) error {
	if u.opened {
		return nil
	}
	err := u.shared.open(h)
	u.opened = err == nil
	return err
}

// newSockets returns the shared sockets, closed. The walk of the owners may
// begin before they are opened, for another collector's sake.
func newSockets() *sockets {
	s := &sockets{owners: &owners{}}
	s.owners.namespaces = s.found
	return s
}

func (s *sockets) open(h freezeframe.Host) error {
	if h.Proc != "/proc" {
		return fmt.Errorf("sock_diag tells of this kernel's sockets, not of a captured tree's: %w", freezeframe.ErrNotHere)
	}
	if s.users == 0 {
		own, err := openNetspace()
		if err != nil {
			return err
		}
		// A kernel without inet_diag says so at the first dump.
		own.diag.DumpTCP(1<<kernel.TCPListen, 0)
		var ignored kernel.InetSocket
		for own.diag.NextInet(&ignored) {
		}
		if err := own.diag.Err(); err != nil {
			own.close()
			return fmt.Errorf("list listening sockets (is the kernel module tcp_diag there?): %w: %w", err, freezeframe.ErrNotHere)
		}
		own.inode, _ = kernel.NetnsInode("/proc/thread-self/ns/net")
		s.spaces[0].Store(own)
	}
	s.users++
	s.owners.start(h)
	return nil
}

// shut closes the sockets with the last collector that uses them.
func (s *sockets) shut() {
	s.owners.end()
	if s.users--; s.users > 0 {
		return
	}
	for i := range s.spaces {
		if ns := s.spaces[i].Swap(nil); ns != nil {
			ns.close()
		}
	}
}

func openNetspace() (*netspace, error) {
	diag, err := kernel.OpenSockDiag()
	if err != nil {
		return nil, err
	}
	ns := &netspace{diag: diag}
	// Both are of the namespace that the opening thread is in, and stay so.
	ns.sockstat, _ = kernel.OpenFile("/proc/thread-self/net/sockstat", 1024)
	ns.ports, _ = kernel.OpenFile("/proc/sys/net/ipv4/ip_local_port_range", 256)
	return ns, nil
}

func (ns *netspace) close() {
	ns.diag.Close()
	ns.sockstat.Close()
	ns.ports.Close()
}

// found takes the listing of namespaces (inode → one of its processes), on the
// owners' goroutine.
func (s *sockets) found(spaces map[uint32]int32) {
	if s.spaces[0].Load() == nil {
		return // not open: our own namespace must be known before others
	}
	for i := range s.spaces {
		ns := s.spaces[i].Load()
		if ns == nil {
			continue
		}
		if _, alive := spaces[ns.inode]; !alive && i > 0 {
			ns.gone.Store(true)
		}
		delete(spaces, ns.inode)
	}
	left := 0
	for inode, pid := range spaces {
		slot := s.free()
		if slot == nil {
			left++
			continue
		}
		var ns *netspace
		path := filepath.Join(s.proc, strconv.Itoa(int(pid)), "ns", "net")
		err := kernel.InNetns(path, func() (err error) {
			ns, err = openNetspace()
			return err
		})
		switch {
		case err == nil:
			ns.inode = inode
			slot.Store(ns)
		case kernel.IsForbidden(err):
			s.needs.add(namespacesNeed(errnoText(err)))
			return
		}
	}
	if left > 0 {
		s.needs.add(freezeframe.Need{
			What: fmt.Sprintf("watch more than %d network namespaces", maxNamespaces-1),
			Lost: "listeners and connections inside the other containers",
			Err:  fmt.Sprintf("%d more namespaces are there", left),
		})
	}
}

func namespacesNeed(err string) freezeframe.Need {
	return freezeframe.Need{
		What: "enter other network namespaces",
		Lost: "listeners and connections inside containers",
		Fix:  "run as root, or with CAP_SYS_ADMIN and CAP_SYS_PTRACE",
		Err:  err,
	}
}

func (s *sockets) free() *atomic.Pointer[netspace] {
	for i := 1; i < len(s.spaces); i++ {
		if s.spaces[i].Load() == nil {
			return &s.spaces[i]
		}
	}
	return nil
}

// space returns the namespace in slot i, nil when there is none. It is called
// on the sampling thread, which thereby closes one that is gone: our socket
// would keep the namespace, and its interfaces, alive.
func (s *sockets) space(i int) *netspace {
	ns := s.spaces[i].Load()
	if ns != nil && ns.gone.Load() {
		ns.close()
		s.spaces[i].Store(nil)
		return nil
	}
	return ns
}

// refresh reads the listeners of a namespace where their own collector has not
// done so lately.
func (s *sockets) refresh(ns *netspace, now freezeframe.Instant, into *kernel.InetSocket) {
	if now.Sub(ns.serving.at) < time.Second {
		return
	}
	ns.serving.reset(now)
	ns.diag.DumpTCP(1<<kernel.TCPListen, 0)
	for ns.diag.NextInet(into) {
		ns.serving.add(into)
	}
}

// errnoText returns the innermost error of a chain: what the kernel said.
func errnoText(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// listener is a listening TCP socket.
type listener struct {
	local  netip.AddrPort
	v6only bool
	cookie uint64
	inode  uint32
	next   uint16 // index+1 of another one on the same port
}

// listenerSet finds the listener that a connection belongs to. It is rebuilt
// with each reading of the listeners.
type listenerSet struct {
	at    freezeframe.Instant
	list  []listener
	ports [1024]uint16 // index+1 into list by the port's low bits
}

func (l *listenerSet) reset(now freezeframe.Instant) {
	l.at = now
	l.list = l.list[:0]
	clear(l.ports[:])
}

func (l *listenerSet) add(s *kernel.InetSocket) {
	if len(l.list) >= 1<<16-2 {
		return
	}
	head := &l.ports[s.Local.Port()%uint16(len(l.ports))]
	l.list = append(l.list, listener{local: s.Local, v6only: s.V6Only, cookie: s.Cookie, inode: s.Inode, next: *head})
	*head = uint16(len(l.list))
}

// of returns the listener that accepts connections to a local address, nil
// without one. One bound to that very address wins over one bound to all.
func (l *listenerSet) of(local netip.AddrPort) *listener {
	var best *listener
	v4 := local.Addr().Is4In6()
	for i := l.ports[local.Port()%uint16(len(l.ports))]; i != 0; {
		c := &l.list[i-1]
		i = c.next
		if c.local.Port() != local.Port() {
			continue
		}
		if c.local.Addr() == local.Addr() {
			return c
		}
		// 0.0.0.0 takes IPv4; :: takes both unless it is told not to.
		at := c.local.Addr()
		any4 := at.Is4In6() && at.Unmap().IsUnspecified()
		any6 := at.IsUnspecified()
		if any4 && v4 || any6 && !(v4 && c.v6only) {
			best = c
		}
	}
	return best
}

// appendAddress writes an address the way people do: 1.2.3.4:80, [::1]:80.
func appendAddress(buf []byte, a netip.AddrPort) []byte {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(buf)
}

// pace spaces work that may turn out expensive: it is due at its interval, but
// never so often that it takes more than one share-th of a CPU. It is the CPU
// time that counts: where the machine is short of CPUs the work takes long and
// is wanted all the more.
type pace struct {
	next freezeframe.Instant
	cpu  time.Duration
}

// due tells whether the work is due, and if so begins it. A little early
// counts, so that a reading that comes early does not halve the rate.
func (p *pace) due(now freezeframe.Instant) bool {
	if now < p.next-freezeframe.Instant(20*time.Millisecond) {
		return false
	}
	p.cpu = kernel.ThreadCPU()
	return true
}

// usedSince is the CPU time that work took which began at a moment, when its
// thread had used cpu. Whoever is not locked to his thread may have another by
// now, with another's CPU time; no more than has passed was used.
func usedSince(cpu time.Duration, began freezeframe.Instant) time.Duration {
	return min(max(kernel.ThreadCPU()-cpu, 0), kernel.Now().Sub(began))
}

// done ends the work that began at the given moment.
func (p *pace) done(began freezeframe.Instant, every, share time.Duration) {
	p.next = began.Add(max(every, usedSince(p.cpu, began)*share))
}
