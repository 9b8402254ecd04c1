package probes

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"freezeframe"
)

// reader is a thread that waits in a read from a TCP connection.
type reader struct {
	tid   uint64
	local string // the address of its side
}

// readsFrom has a thread read from one side of a new connection: the accepted
// one, or the one that asked.
func readsFrom(t *testing.T, accepted bool) reader {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	side := out
	if accepted {
		side = in
	}
	f, err := side.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	tid := make(chan uint64)
	go func() {
		runtime.LockOSThread()
		tid <- uint64(unix.Gettid())
		_, _ = unix.Read(fd, make([]byte, 1))
	}()
	return reader{<-tid, side.LocalAddr().String()}
}

func TestUnfinishedRequest(t *testing.T) {
	served, asks := readsFrom(t, true), readsFrom(t, false)
	sleeps := make(chan uint64)
	go func() {
		runtime.LockOSThread()
		sleeps <- uint64(unix.Gettid())
		_ = unix.Nanosleep(&unix.Timespec{Sec: 60}, nil)
	}()
	sleeper := <-sleeps
	time.Sleep(50 * time.Millisecond)
	for _, c := range []struct {
		about   string
		tid     uint64
		address string
		partly  bool
		want    float32
	}{
		{"reads from its client", served.tid, served.local, true, lonely},
		{"reads from its client, and nobody is answered", served.tid, served.local, false, 0.6},
		{"reads from another service", asks.tid, served.local, true, 0.6},
		{"does not read", sleeper, served.local, true, 0.6},
		{"is gone", 1 << 30, served.local, true, 0.6},
	} {
		var u unfinished
		r := report{kind: waitAnswer, quality: 0.6, pid: uint64(os.Getpid()), tid: c.tid, partly: c.partly, began: 1, seen: freezeframe.Instant(time.Second)}
		u.look(&r, c.address)
		if r.quality != c.want {
			t.Errorf("%s: quality %v, want %v", c.about, r.quality, c.want)
		}
		// At its end the thread is elsewhere.
		r.quality, r.done, r.pid = 0.6, r.seen, 1<<30
		if u.look(&r, c.address); r.quality != c.want {
			t.Errorf("%s, and is over: quality %v, want %v", c.about, r.quality, c.want)
		}
		r.began++
		r.quality = 0.6
		if u.look(&r, c.address); r.quality != 0.6 {
			t.Errorf("%s: the next request is worth %v", c.about, r.quality)
		}
	}
}

func FuzzFirstArgument(f *testing.F) {
	for _, s := range []string{"0 0x5 0x7f0000 0x1 0x0 0x0 0x0 0x7ffd 0x7f12\n", "running\n", "-1 0x7ffd 0x7f\n", "", "0", "0 zz", "99999999999999999999 0x1", "45 0xffffffffffffffffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		call, _, ok := firstArgument(s)
		if ok && call < 0 {
			t.Errorf("%q: system call %d", s, call)
		}
	})
}
