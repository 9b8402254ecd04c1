package probes

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"freezeframe"

	"golang.org/x/sys/unix"
)

const (
	loopbackEvery   = 250 * time.Millisecond
	loopbackConnect = 4 // every fourth time over a fresh connection
	loopbackFloor   = 100 * time.Millisecond
)

// loopback sends a byte over TCP to itself and back, and once a second over a
// fresh connection. Both ends are on one thread, so what it adds to the
// heartbeat is the network stack alone: it is late in a softirq storm, under
// packet filters that drop, or when the kernel is out of socket memory. Users
// feel every local connection drag: database, cache, proxy to application.
type loopback struct{ hub *hub }

func (p *loopback) Name() string { return "loopback" }

// Run sends until ctx ends.
func (p *loopback) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	e := &echo{listener: -1, client: -1, server: -1}
	if err := e.listen(); err != nil {
		return fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	p.hub.echoPort.Store(uint32(e.port()))
	j := &job{hub: p.hub, probe: p.Name(), target: "127.0.0.1",
		loop: func(w *worker) { e.loop(w) },
		done: func() {
			for _, fd := range []int{e.client, e.server, e.listener} {
				if fd >= 0 {
					unix.Close(fd)
				}
			}
		},
	}
	if err := j.start(ctx, plan{every: int64(loopbackEvery), backoff: 20, floor: int64(loopbackFloor)}, late); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// echo is both ends of a connection. Its sockets block: a thread that waits in
// one is overdue, and the watchers say so.
type echo struct {
	listener, client, server int
	addr                     unix.RawSockaddrInet4
	local, peer              unix.RawSockaddrInet4
	length                   uint32
	byte                     [1]byte
}

func (e *echo) listen() (err error) {
	if e.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err = unix.Bind(e.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
		err = unix.Listen(e.listener, 4)
	}
	if err == nil {
		length := uint32(unsafe.Sizeof(e.addr))
		_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(e.listener), uintptr(unsafe.Pointer(&e.addr)), uintptr(unsafe.Pointer(&length)))
		if errno != 0 {
			err = errno
		}
	}
	if err != nil {
		unix.Close(e.listener)
		e.listener = -1
	}
	return err
}

func (e *echo) port() uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&e.addr.Port))[:])
}

//go:nosplit
//go:norace
func (e *echo) loop(w *worker) {
	entersyscallblock()
	for n := 0; w.wait(); n++ {
		var errno uintptr
		if n%loopbackConnect == 0 || e.client < 0 {
			errno = e.connect()
		}
		if errno == 0 {
			errno = e.trip()
		}
		w.finish(errno)
	}
	exitsyscall()
}

// trip sends the byte there and back.
//
//go:nosplit
//go:norace
func (e *echo) trip() uintptr {
	p := uintptr(unsafe.Pointer(&e.byte))
	for _, step := range [4]struct {
		nr uintptr
		fd int
	}{
		{unix.SYS_SENDTO, e.client}, {unix.SYS_RECVFROM, e.server},
		{unix.SYS_SENDTO, e.server}, {unix.SYS_RECVFROM, e.client},
	} {
		n, _, errno := unix.RawSyscall6(step.nr, uintptr(step.fd), p, 1, unix.MSG_NOSIGNAL, 0, 0)
		for errno == unix.EINTR {
			n, _, errno = unix.RawSyscall6(step.nr, uintptr(step.fd), p, 1, unix.MSG_NOSIGNAL, 0, 0)
		}
		if errno == 0 && n == 0 {
			errno = unix.ECONNRESET
		}
		if errno != 0 {
			e.hangUp()
			return uintptr(errno)
		}
	}
	return 0
}

// connect replaces the connection by a fresh one.
//
//go:nosplit
//go:norace
func (e *echo) connect() uintptr {
	e.hangUp()
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return uintptr(errno)
	}
	e.client = int(fd)
	_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&e.addr)), unsafe.Sizeof(e.addr))
	if errno == 0 {
		e.length = uint32(unsafe.Sizeof(e.local))
		_, _, errno = unix.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&e.local)), uintptr(unsafe.Pointer(&e.length)))
	}
	for errno == 0 {
		e.length = uint32(unsafe.Sizeof(e.peer))
		fd, _, errno = unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(e.listener), uintptr(unsafe.Pointer(&e.peer)), uintptr(unsafe.Pointer(&e.length)), unix.SOCK_CLOEXEC, 0, 0)
		if errno != 0 {
			break
		}
		if e.peer.Port == e.local.Port {
			e.server = int(fd)
			return 0
		}
		// A stranger found the port.
		unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	e.hangUp()
	return uintptr(errno)
}

//go:nosplit
//go:norace
func (e *echo) hangUp() {
	if e.client >= 0 {
		unix.RawSyscall(unix.SYS_CLOSE, uintptr(e.client), 0, 0)
	}
	if e.server >= 0 {
		unix.RawSyscall(unix.SYS_CLOSE, uintptr(e.server), 0, 0)
	}
	e.client, e.server = -1, -1
}
