package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The states of a TCP or Unix stream socket (include/net/tcp_states.h).
const (
	TCPEstablished = 1
	TCPSynSent     = 2
	TCPSynRecv     = 3
	TCPFinWait1    = 4
	TCPTimeWait    = 6
	TCPCloseWait   = 8
	TCPListen      = 10
	TCPClosing     = 11
)

// The numbers of linux/sock_diag.h, inet_diag.h and unix_diag.h.
const (
	tcpDiagGetSock   = 18 // the older request: both address families in one walk
	sockDiagByFamily = 20

	inetDiagInfo      = 2
	inetDiagSkMemInfo = 7
	inetDiagV6Only    = 11 // INET_DIAG_SKV6ONLY
	skMemInfoDrops    = 8
	timerRetransmit   = 1 // idiag_timer

	// WantInfo and WantMemInfo are what a dump can add to each socket.
	WantInfo    = 1 << (inetDiagInfo - 1)
	WantMemInfo = 1 << (inetDiagSkMemInfo - 1)

	unixDiagName  = 0
	unixDiagRQLen = 4
	unixShowName  = 1 << 0
	unixShowRQLen = 1 << 4

	nlHeaderSize    = 16
	inetRequestSize = 56 // struct inet_diag_req_v2
	inetOldReqSize  = 60 // struct inet_diag_req
	inetMessageSize = 72 // struct inet_diag_msg
	unixRequestSize = 24 // struct unix_diag_req
	unixMessageSize = 16 // struct unix_diag_msg

	// maxExact is how many sockets one Ask may name.
	maxExact = 32
)

// InetSocket is one TCP socket as the kernel describes it. Addresses are 16
// bytes whatever the family; an IPv4 one is mapped (::ffff:1.2.3.4).
type InetSocket struct {
	Family uint8 // AF_INET or AF_INET6 of the socket, not of the address
	State  uint8
	V6Only bool
	Iface  uint32
	Cookie uint64
	Local  netip.AddrPort
	Peer   netip.AddrPort
	RQueue uint32 // bytes not read yet; of a listener: connections not accepted
	WQueue uint32 // bytes not acknowledged; of a listener: its backlog
	Inode  uint32 // 0: no process has accepted it yet, or it is closed
	Drops  uint32 // with WantMemInfo
	// Retransmit is in how many ms the retransmission timer fires, 0 when it
	// is not running.
	Retransmit uint32
	HasInfo    bool // with WantInfo: Info was there
	Info       TCPInfo
}

// TCPInfo is what freezeframe reads of struct tcp_info (linux/tcp.h). Fields
// that an older kernel does not have read as 0.
type TCPInfo struct {
	Retransmits, Probes, Backoff uint8

	RTOUs, RTTUs  uint32
	Unacked       uint32 // segments
	LastDataSent  uint32 // ms ago
	LastDataRecv  uint32 // ms ago
	LastAckRecv   uint32 // ms ago
	TotalRetrans  uint32
	SegsIn        uint32
	SegsOut       uint32
	BytesAcked    uint64
	BytesReceived uint64
	BytesSent     uint64
	BusyUs        uint64 // with data that was not acknowledged, in all
}

// DroppedHere tells, by TCPInfo's Probes and Unacked, whether what a connection
// has to send does not leave this host: nothing of it is under way, and two tries
// in a row were answered by nobody. A closed window is probed alike, but each answer
// sets the count to 0 (tcp_ack in net/ipv4/tcp_input.c).
func DroppedHere(probes, unacked uint64) bool { return probes >= 2 && unacked == 0 }

// UnixSocket is one Unix socket. Name is valid until the next call; an
// abstract name starts with a NUL byte.
type UnixSocket struct {
	State  uint8
	Inode  uint32
	Cookie uint64
	Name   []byte
	RQueue uint32
	WQueue uint32
}

// SockDiag asks the kernel about the sockets of one network namespace
// (sock_diag(7)). It is used by one thread at a time; after the first dump it
// allocates nothing, and it never waits: the kernel answers in the call.
//
//	d.DumpTCP(…)
//	for d.NextInet(&s) { … }
//	err := d.Err()
type SockDiag struct {
	fd    int
	seq   uint32
	buf   []byte // the datagram being read
	rest  []byte // what is left of it
	req   []byte
	open  int  // answers that are still to come: a dump's end, or one each
	exact bool // Ask, not a dump
	err   error
}

// OpenSockDiag opens a socket in the calling thread's network namespace.
func OpenSockDiag() (*SockDiag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a sock_diag socket: %w", err)
	}
	return &SockDiag{fd: fd, buf: make([]byte, 64<<10), req: make([]byte, 0, maxExact*(nlHeaderSize+inetRequestSize))}, nil
}

// Close closes the socket; closing it twice is allowed.
func (d *SockDiag) Close() error {
	if d == nil || d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// DumpTCP asks for every TCP socket, IPv4 and IPv6, in one of the states (bits
// 1<<TCPListen …), with what want adds.
func (d *SockDiag) DumpTCP(states uint32, want uint8) {
	// The family-less request of 2.6 walks the hash table once for both
	// families; the newer one has to be asked twice, and the walk over the
	// empty buckets is what a dump costs.
	d.start(tcpDiagGetSock, inetOldReqSize, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := d.req[nlHeaderSize:]
	r[0] = unix.AF_INET
	r[3] = want
	binary.NativeEndian.PutUint32(r[52:], states)
	d.send(1, false)
}

// DumpUDP asks for every UDP socket of a family (AF_INET or AF_INET6), with
// their drops. Kernels without udp_diag answer with an error.
func (d *SockDiag) DumpUDP(family uint8) {
	d.start(sockDiagByFamily, inetRequestSize, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := d.req[nlHeaderSize:]
	r[0] = family
	r[1] = unix.IPPROTO_UDP
	r[2] = WantMemInfo
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0))
	d.send(1, false)
}

// Families are the address families of DumpUDP.
var Families = [...]uint8{unix.AF_INET, unix.AF_INET6}

// DumpUnix asks for the Unix sockets in one of the states, with their names
// and queue lengths.
func (d *SockDiag) DumpUnix(states uint32) {
	d.start(sockDiagByFamily, unixRequestSize, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := d.req[nlHeaderSize:]
	r[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(r[4:], states)
	binary.NativeEndian.PutUint32(r[12:], unixShowName|unixShowRQLen)
	d.send(1, false)
}

// Ask asks for the tcp_info of up to 32 sockets that were seen before, by
// their addresses and cookies. Those that are gone are left out of the answer.
func (d *SockDiag) Ask(sockets []InetID) {
	sockets = sockets[:min(len(sockets), maxExact)]
	d.drain()
	d.req = d.req[:0]
	d.seq++
	for i := range sockets {
		r := d.message(sockDiagByFamily, inetRequestSize, unix.NLM_F_REQUEST)
		s := &sockets[i]
		r[0] = s.Family
		r[1] = unix.IPPROTO_TCP
		r[2] = WantInfo
		binary.NativeEndian.PutUint32(r[4:], ^uint32(0))
		binary.BigEndian.PutUint16(r[8:], s.Local.Port())
		binary.BigEndian.PutUint16(r[10:], s.Peer.Port())
		putAddress(r[12:28], s.Family, s.Local.Addr())
		putAddress(r[28:44], s.Family, s.Peer.Addr())
		binary.NativeEndian.PutUint32(r[44:], s.Iface)
		binary.NativeEndian.PutUint32(r[48:], uint32(s.Cookie))
		binary.NativeEndian.PutUint32(r[52:], uint32(s.Cookie>>32))
	}
	if len(sockets) > 0 {
		d.send(len(sockets), true)
	}
}

// InetID is what Ask needs to find a socket again.
type InetID struct {
	Family      uint8
	Iface       uint32
	Cookie      uint64
	Local, Peer netip.AddrPort
}

// ID returns what Ask needs to find the socket again.
func (s *InetSocket) ID() InetID {
	return InetID{Family: s.Family, Iface: s.Iface, Cookie: s.Cookie, Local: s.Local, Peer: s.Peer}
}

func putAddress(to []byte, family uint8, a netip.Addr) {
	b := a.As16()
	if family == unix.AF_INET {
		copy(to, b[12:])
		return
	}
	copy(to, b[:])
}

func (d *SockDiag) start(kind uint16, size int, flags uint16) {
	d.drain()
	d.req = d.req[:0]
	d.seq++
	d.message(kind, size, flags)
}

// message appends a zeroed request and returns its body.
func (d *SockDiag) message(kind uint16, size int, flags uint16) []byte {
	n := len(d.req)
	d.req = d.req[:n+nlHeaderSize+size]
	m := d.req[n:]
	clear(m)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	binary.NativeEndian.PutUint32(m[8:], d.seq)
	return m[nlHeaderSize:]
}

func (d *SockDiag) send(answers int, exact bool) {
	d.err, d.rest, d.open, d.exact = nil, nil, 0, exact
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(d.fd), uintptr(pointer(&d.req[0])), uintptr(len(d.req)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case 0:
			d.open = answers
		default:
			d.err = fmt.Errorf("ask sock_diag: %w", errno)
		}
		return
	}
}

// drain reads what an unfinished dump left, or the next one is refused.
func (d *SockDiag) drain() {
	for tries := 0; d.open > 0 && tries < 1000; tries++ {
		d.err = nil
		d.next()
	}
	d.rest, d.err, d.open = nil, nil, 0
}

// Err returns what ended the answer early, nil when it was complete.
func (d *SockDiag) Err() error { return d.err }

var errCutShort = errors.New("a sock_diag message is cut short")

// next returns the next message that describes a socket; ok is false at the
// end of the answer.
func (d *SockDiag) next() (kind uint16, body []byte, ok bool) {
	for d.open > 0 && d.err == nil {
		if len(d.rest) < nlHeaderSize {
			n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(d.fd), uintptr(pointer(&d.buf[0])), uintptr(len(d.buf)), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 {
				d.err, d.open = fmt.Errorf("read sock_diag: %w", errno), 0
				break
			}
			if int(n) > len(d.buf) {
				d.err = errCutShort
				n = uintptr(len(d.buf))
			}
			d.rest = d.buf[:n]
			if n < nlHeaderSize {
				d.err, d.open = errCutShort, 0
				break
			}
		}
		m, rest, fits := netlinkMessage(d.rest)
		d.rest = rest
		if !fits {
			d.err = errCutShort
			break
		}
		if binary.NativeEndian.Uint32(m[8:]) != d.seq {
			continue // what an abandoned request left
		}
		switch kind := binary.NativeEndian.Uint16(m[4:]); kind {
		case unix.NLMSG_DONE:
			d.open = 0
		case unix.NLMSG_ERROR:
			d.open--
			var errno unix.Errno
			if len(m) >= nlHeaderSize+4 {
				errno = unix.Errno(-int32(binary.NativeEndian.Uint32(m[nlHeaderSize:])))
			}
			// A socket that was asked for by name and is gone is no failure.
			if errno != 0 && !(d.exact && (errno == unix.ENOENT || errno == unix.ESTALE)) {
				d.err = fmt.Errorf("sock_diag: %w", errno)
			}
		case tcpDiagGetSock, sockDiagByFamily:
			if d.exact {
				d.open--
			}
			return kind, m[nlHeaderSize:], true
		}
	}
	return 0, nil, false
}

// netlinkMessage cuts the first message off b; fits is false when its length
// does not fit into b.
func netlinkMessage(b []byte) (m, rest []byte, fits bool) {
	if len(b) < nlHeaderSize {
		return nil, nil, false
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < nlHeaderSize || n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[min((n+3)&^3, len(b)):], true
}

// NextInet fills s with the next TCP socket of the answer; it returns false
// after the last.
func (d *SockDiag) NextInet(s *InetSocket) bool {
	for {
		_, body, ok := d.next()
		if !ok {
			return false
		}
		if ParseInet(body, s) {
			return true
		}
		d.err = errCutShort
	}
}

// NextUnix fills s with the next Unix socket of the answer; it returns false
// after the last.
func (d *SockDiag) NextUnix(s *UnixSocket) bool {
	for {
		_, body, ok := d.next()
		if !ok {
			return false
		}
		if ParseUnix(body, s) {
			return true
		}
		d.err = errCutShort
	}
}

// ParseInet reads a struct inet_diag_msg with its attributes; it returns false
// when the message is too short to be one.
func ParseInet(b []byte, s *InetSocket) bool {
	if len(b) < inetMessageSize {
		return false
	}
	*s = InetSocket{
		Family: b[0],
		State:  b[1],
		Local:  netip.AddrPortFrom(address(b[0], b[8:24]), binary.BigEndian.Uint16(b[4:])),
		Peer:   netip.AddrPortFrom(address(b[0], b[24:40]), binary.BigEndian.Uint16(b[6:])),
		Iface:  binary.NativeEndian.Uint32(b[40:]),
		Cookie: uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32,
		RQueue: binary.NativeEndian.Uint32(b[56:]),
		WQueue: binary.NativeEndian.Uint32(b[60:]),
		Inode:  binary.NativeEndian.Uint32(b[68:]),
	}
	if b[2] == timerRetransmit {
		s.Retransmit = binary.NativeEndian.Uint32(b[52:])
	}
	for kind, value := range attributes(b[inetMessageSize:]) {
		switch kind {
		case inetDiagInfo:
			s.HasInfo = true
			s.Info = parseTCPInfo(value)
		case inetDiagSkMemInfo:
			s.Drops = word(value, 4*skMemInfoDrops)
		case inetDiagV6Only:
			s.V6Only = len(value) > 0 && value[0] != 0
		}
	}
	return true
}

// ParseUnix reads a struct unix_diag_msg with its attributes; it returns false
// when the message is too short to be one.
func ParseUnix(b []byte, s *UnixSocket) bool {
	if len(b) < unixMessageSize {
		return false
	}
	*s = UnixSocket{
		State:  b[2],
		Inode:  binary.NativeEndian.Uint32(b[4:]),
		Cookie: uint64(binary.NativeEndian.Uint32(b[8:])) | uint64(binary.NativeEndian.Uint32(b[12:]))<<32,
	}
	for kind, value := range attributes(b[unixMessageSize:]) {
		switch kind {
		case unixDiagName:
			s.Name = value
		case unixDiagRQLen:
			s.RQueue, s.WQueue = word(value, 0), word(value, 4)
		}
	}
	return true
}

// attributes yields the netlink attributes of b up to the first that does not
// fit.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

func address(family uint8, b []byte) netip.Addr {
	var a [16]byte
	if family == unix.AF_INET {
		a[10], a[11] = 0xff, 0xff
		copy(a[12:], b[:4])
	} else {
		copy(a[:], b)
	}
	return netip.AddrFrom16(a)
}

// parseTCPInfo reads the fields by their offsets; struct tcp_info has only
// ever grown at its end, so a field that is not there is an older kernel's.
func parseTCPInfo(b []byte) TCPInfo {
	return TCPInfo{
		Retransmits:   octet(b, 2),
		Probes:        octet(b, 3),
		Backoff:       octet(b, 4),
		RTOUs:         word(b, 8),
		Unacked:       word(b, 24),
		LastDataSent:  word(b, 44),
		LastDataRecv:  word(b, 52),
		LastAckRecv:   word(b, 56),
		RTTUs:         word(b, 68),
		TotalRetrans:  word(b, 100),
		BytesAcked:    long(b, 120),
		BytesReceived: long(b, 128),
		SegsOut:       word(b, 136),
		SegsIn:        word(b, 140),
		BusyUs:        long(b, 168),
		BytesSent:     long(b, 200),
	}
}

func octet(b []byte, at int) uint8 {
	if at >= len(b) {
		return 0
	}
	return b[at]
}

func word(b []byte, at int) uint32 {
	if at+4 > len(b) {
		return 0
	}
	return binary.NativeEndian.Uint32(b[at:])
}

func long(b []byte, at int) uint64 {
	if at+8 > len(b) {
		return 0
	}
	return binary.NativeEndian.Uint64(b[at:])
}
