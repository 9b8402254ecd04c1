package victim

import (
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stalls is what a Go service does wrong for a while when it is told so on its
// standard input: "sleep 800ms", "compute 800ms", "accept 800ms" (accept
// nothing), "hold 800ms" (the lock that requests take), "deadlock 800ms".
type stalls struct {
	sleep, compute, accept atomic.Int64 // until when, CLOCK_MONOTONIC
	lock, a, b             sync.Mutex
	mapped                 [][]byte // the files that are looked things up in
}

// step is the work of a request that can be told to go wrong.
func (s *stalls) step(what string) func() error {
	switch what {
	case "till":
		return func() error {
			sleepThread(s.sleep.Load())
			for now() < s.compute.Load() {
			}
			return nil
		}
	case "lock":
		return func() error {
			s.lock.Lock()
			defer s.lock.Unlock()
			return nil
		}
	case "pair":
		return func() error {
			s.a.Lock()
			defer s.a.Unlock()
			s.b.Lock()
			defer s.b.Unlock()
			return nil
		}
	}
	return nil
}

// begin begins what the line says; false if it says nothing of the kind.
func (s *stalls) begin(what, arg string) bool {
	length, err := time.ParseDuration(arg)
	if err != nil {
		return false
	}
	switch what {
	case "sleep":
		s.sleep.Store(now() + int64(length))
	case "compute":
		s.compute.Store(now() + int64(length))
	case "accept":
		s.accept.Store(now() + int64(length))
	case "hold":
		go func() {
			s.lock.Lock()
			defer s.lock.Unlock()
			sleepThread(now() + int64(length))
		}()
	case "deadlock":
		go s.deadlock(length)
	default:
		return false
	}
	return true
}

// deadlock takes b and then wants a, while a request holds a and wants b; it
// gives up after so long.
func (s *stalls) deadlock(length time.Duration) {
	s.b.Lock()
	defer s.b.Unlock()
	for end := int64(0); end == 0 || now() < end; time.Sleep(time.Millisecond) {
		if s.a.TryLock() {
			s.a.Unlock()
		} else if end == 0 {
			end = now() + int64(length)
		}
	}
}

// sleepThread sleeps in the kernel, as a blocking call of a C library does.
func sleepThread(until int64) {
	if until <= now() {
		return
	}
	ts := unix.NsecToTimespec(until)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}

// listen listens on an address, or on unix:PATH.
func listen(host string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(host, "unix:"); ok {
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", host+":0")
}

// listensOn returns the address as the lab writes it.
func listensOn(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "unix:" + l.Addr().String()
	}
	return l.Addr().String()
}

// Socket opens a socket for an address as the lab writes it, and says what to
// connect it to.
func Socket(address string) (fd int, to unix.Sockaddr, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return fd, &unix.SockaddrUnix{Name: path}, err
	}
	at, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return -1, nil, err
	}
	if at.IP.To4() == nil {
		return -1, nil, errors.New(address + " is not an IPv4 address")
	}
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	return fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())}, err
}
