package victim

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	endOfHead   = []byte("\r\n\r\n")
	wantsClose  = []byte("\r\nConnection: close")
	okStays     = []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nok\n")
	okAndCloses = []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
)

// EpollService is a server as one writes it in C: one thread, one epoll loop,
// sockets that do not block, and a handler that may. Its arguments are those
// of Spec.Command.
func EpollService(args []string) {
	flags := flag.NewFlagSet("epoll", flag.ExitOnError)
	host := flags.String("host", "127.0.0.1", "")
	_ = flags.Parse(args)
	log.Fatal(epollService(*host, flags.Args()))
}

// epollService serves until it cannot any more.
func epollService(host string, specs []string) error {
	stall := &stalls{}
	steps, err := work(specs, 0, stall)
	if err != nil {
		return err
	}
	fd, address, err := listenRaw(host)
	if err != nil {
		return err
	}
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			what, arg, _ := strings.Cut(lines.Text(), " ")
			if !stall.begin(what, arg) {
				log.Printf("what is %q?", lines.Text())
			}
		}
	}()
	fmt.Println("ready", address)
	runtime.LockOSThread()
	return (&epollLoop{listener: fd, steps: steps, stall: stall, conns: map[int32]*bytes.Buffer{}}).run()
}

// listenRaw returns a listening socket that the Go runtime knows nothing of.
func listenRaw(host string) (fd int, address string, err error) {
	l, err := listen(host)
	if err != nil {
		return -1, "", err
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return -1, "", err
	}
	address = listensOn(l)
	fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	return fd, address, errors.Join(err, f.Close(), l.Close())
}

type epollLoop struct {
	epoll, listener int
	steps           []func() error
	stall           *stalls
	conns           map[int32]*bytes.Buffer // what has come of the next request
}

func (e *epollLoop) run() (err error) {
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := e.add(int32(e.listener)); err != nil {
		return err
	}
	accepts := true
	events := make([]unix.EpollEvent, 64)
	for {
		// At its limit of connections a server takes its listener out of the set.
		wait := -1
		rest := time.Duration(e.stall.accept.Load() - now())
		if may := rest <= 0; may != accepts {
			accepts = may
			op := unix.EPOLL_CTL_DEL
			if may {
				op = unix.EPOLL_CTL_ADD
			}
			if err := unix.EpollCtl(e.epoll, op, e.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(e.listener)}); err != nil {
				return fmt.Errorf("epoll_ctl: %w", err)
			}
		}
		if !accepts {
			wait = int(rest.Milliseconds()) + 1
		}
		n, err := unix.EpollWait(e.epoll, events, wait)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if ev.Fd == int32(e.listener) {
				if err := e.accept(); err != nil {
					return err
				}
			} else if !e.serve(ev.Fd) {
				delete(e.conns, ev.Fd)
				_ = unix.Close(int(ev.Fd))
			}
		}
	}
}

func (e *epollLoop) add(fd int32) error {
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd})
}

func (e *epollLoop) accept() error {
	for e.stall.accept.Load() <= now() {
		fd, from, err := unix.Accept4(e.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		if _, tcp := from.(*unix.SockaddrInet4); tcp {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
		e.conns[int32(fd)] = &bytes.Buffer{}
		if err := e.add(int32(fd)); err != nil {
			return fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return nil
}

// serve reads what has come and answers what is complete; false when the
// connection is over.
func (e *epollLoop) serve(fd int32) bool {
	have := e.conns[fd]
	var chunk [4096]byte
	n, err := unix.Read(int(fd), chunk[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	have.Write(chunk[:n])
	for {
		head, _, complete := bytes.Cut(have.Bytes(), endOfHead)
		if !complete {
			return true
		}
		closes := bytes.Contains(head, wantsClose)
		have.Next(len(head) + len(endOfHead))
		for _, step := range e.steps {
			if err := step(); err != nil {
				log.Print(err)
				return false
			}
		}
		answer := okStays
		if closes {
			answer = okAndCloses
		}
		// It fits: a client asks for one thing at a time.
		if _, err := unix.Write(int(fd), answer); err != nil || closes {
			return false
		}
	}
}
