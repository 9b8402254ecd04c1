package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// socketMode lets every user connect. Who may ask is decided in one place, by
// Serve, for this socket and for one of systemd alike, and whoever may not is
// told so, and what to do, by whatever program they ask with; a mode of 0660
// would tell them "permission denied". What a stranger costs is a hello, at a
// bounded rate.
const socketMode = 0o666

// socket is a listener with the lock that keeps a second daemon from it.
type socket struct {
	*net.UnixListener
	lock *os.File
}

// Close removes the socket file, then lets another daemon have the name.
func (s socket) Close() error {
	return errors.Join(s.UnixListener.Close(), s.lock.Close())
}

// Listen makes the socket file, with a mode that lets everyone connect: who
// may ask is decided by Serve. A file that a daemon left behind is replaced;
// one on which somebody answers is an error, and so is what is no socket.
// Its directory is made when it is missing. Closing removes the file.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("make the control socket %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (_ net.Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// Two daemons that start at once would both find the file stale.
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.New("a freezeframe daemon runs already: freezeframe status tells of it, systemctl stop freezeframe ends it")
	} else if err != nil {
		return nil, os.NewSyscallError("flock", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, bare(err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return socket{l, lock}, nil
}

// removeStale removes a socket file that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something of that name that is no socket: move it away, or set daemon.socket to another path")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return errors.New("somebody answers on it already: is another daemon running?")
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("find out whether somebody answers on it: %w", bare(err))
}

// bare is an error of package net without the address, which is told anyway.
func bare(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
