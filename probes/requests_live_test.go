package probes_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// servePlain is a server of one thread a connection, by plain system calls. It
// listens on a network ("tcp", "unix" with a path), prints where, greets each
// connection with "hi" when told to, and does as each request says (see do).
func servePlain(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fail(os.WriteFile("/proc/self/comm", []byte("service"), 0o644))
	domain, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if args[0] == "unix" {
		domain, address = unix.AF_UNIX, &unix.SockaddrUnix{Name: args[1]}
	}
	greets := slices.Contains(args, "greets")
	l, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	fail(err)
	fail(unix.Bind(l, address))
	fail(unix.Listen(l, 64))
	if name, err := unix.Getsockname(l); err == nil && domain == unix.AF_INET {
		fmt.Printf("127.0.0.1:%d\n", name.(*unix.SockaddrInet4).Port)
	} else {
		fmt.Printf("unix:%s\n", args[1])
	}
	file, err := os.CreateTemp("", "answer")
	fail(err)
	fail(os.Remove(file.Name()))
	_, err = file.WriteString("ok\n")
	fail(err)

	var hold atomic.Int64 // how long to sleep before the next accept, ns
	runtime.LockOSThread()
	for {
		if d := hold.Swap(0); d != 0 {
			time.Sleep(time.Duration(d))
		}
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		fail(err)
		go func() {
			runtime.LockOSThread()
			defer unix.Close(fd)
			if greets {
				_, _ = unix.Write(fd, []byte("hi\n"))
			}
			for do(fd, int(file.Fd()), &hold) {
			}
		}()
		// The next accept must see what this connection may say of it.
		time.Sleep(5 * time.Millisecond)
	}
}

// do serves one request, "HOW MILLISECONDS\n".
func do(fd, file int, hold *atomic.Int64) bool {
	buf := make([]byte, 4096)
	var n int
	var err error
	for {
		n, err = unix.Read(fd, buf)
		if err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
			continue
		}
		break
	}
	if err != nil || n <= 0 {
		return false
	}
	var how string
	var ms int
	if _, err := fmt.Sscanf(string(buf[:n]), "%s %d", &how, &ms); err != nil {
		return false
	}
	d := time.Duration(ms) * time.Millisecond
	ok := func() { _, _ = unix.Write(fd, []byte("ok\n")) }
	switch how {
	case "answer":
		time.Sleep(d)
		ok()
	case "writev":
		time.Sleep(d)
		_, _ = unix.Writev(fd, [][]byte{[]byte("o"), []byte("k\n")})
	case "sendfile":
		time.Sleep(d)
		var off int64
		_, _ = unix.Sendfile(fd, file, &off, 3)
	case "unread": // the next request is read late
		ok()
		time.Sleep(d)
	case "unreadv":
		ok()
		time.Sleep(d)
		n, err := unix.Readv(fd, [][]byte{buf[:1], buf[1:]})
		if err != nil || n <= 0 {
			return false
		}
		ok()
	case "peek": // the next request is looked at, read late and answered
		ok()
		_, _, _ = unix.Recvfrom(fd, buf, unix.MSG_PEEK)
		time.Sleep(d)
		_, _ = unix.Read(fd, buf)
		ok()
	case "spin": // from now on it asks again and again
		_ = unix.SetNonblock(fd, true)
		ok()
	case "accept": // the next connection is accepted late
		hold.Store(int64(d))
		ok()
	case "stream": // a line each 50 ms
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			ok()
		}
	case "push": // answers at once, and says more whenever it likes
		ok()
		go func() {
			for range ms / 250 {
				time.Sleep(250 * time.Millisecond)
				ok()
			}
		}()
	case "silent": // says nothing at all
	}
	return true
}

// exact loads BPF and watches a server by it.
func exact(t *testing.T, args ...string) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	programs := bpf.Load(bpf.Options{Without: slices.DeleteFunc(bpf.Names(), func(n string) bool { return n == "requests" })})
	if programs.Requests == nil {
		t.Skipf("no requests from BPF: %+v", programs.Needs())
	}
	t.Cleanup(programs.Close) // after the sampler was stopped
	h := watchBy(t, "plain "+strings.Join(args, " "), programs)
	return h
}

func (h *host) connect() net.Conn {
	h.t.Helper()
	network, address := "tcp", h.address
	if path, ok := strings.CutPrefix(h.address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// request sends a line and waits for the answer's first byte.
func (h *host) request(c net.Conn, line string) time.Duration {
	h.t.Helper()
	began := time.Now()
	if _, err := fmt.Fprintln(c, line); err != nil {
		h.t.Fatal(err)
	}
	var b [64]byte
	n, err := c.Read(b[:])
	if err != nil || !bytes.Equal(b[:n], []byte("ok\n")) {
		h.t.Fatalf("%s: %q, %v", line, b[:n], err)
	}
	return time.Since(began)
}

// history has the service answer quickly for long enough to be known. It
// returns a wait, in ms, that is long beside what was usual on this machine.
func (h *host) history(c net.Conn) (long int) {
	var took []time.Duration
	for range 200 {
		took = append(took, h.request(c, "answer 1"))
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(1200 * time.Millisecond) // what was counted is read once a second
	slices.Sort(took)
	return max(700, 8*int(took[len(took)-3]/time.Millisecond))
}

func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.late = nil
}

// over waits for the report of a wait's end.
func (h *host) over(probe string) freezeframe.Lateness { return h.until(probe, true) }

// within tells whether what was told is what the client saw, of several tries
// the best: the machine of a test has other work.
const within = 2 * time.Millisecond

func TestLiveRequestsAreExact(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			args := []string{network}
			if network == "unix" {
				args = append(args, filepath.Join(t.TempDir(), "socket"))
			}
			h := exact(t, args...)
			c := h.connect()
			long := h.history(c)
			for _, tc := range []struct {
				name, probe string
				wait        func() time.Duration
			}{
				{"answer", "answer", func() time.Duration { return h.request(c, fmt.Sprint("answer ", long)) }},
				{"writev", "answer", func() time.Duration { return h.request(c, fmt.Sprint("writev ", long)) }},
				{"sendfile", "answer", func() time.Duration { return h.request(c, fmt.Sprint("sendfile ", long)) }},
				{"read", "receive", func() time.Duration { h.request(c, fmt.Sprint("unread ", long)); return h.request(c, "answer 0") }},
				{"readv", "receive", func() time.Duration { h.request(c, fmt.Sprint("unreadv ", long)); return h.request(c, "x 0") }},
				{"peek", "answer", func() time.Duration { h.request(c, fmt.Sprint("peek ", long)); return h.request(c, "x 0") }},
				{"accept", "accept", func() time.Duration {
					h.request(c, fmt.Sprint("accept ", long))
					h.connect().Close() // the accept that is waiting already
					time.Sleep(3 * time.Millisecond)
					began := time.Now()
					d := h.connect()
					fmt.Fprintln(d, "answer 0")
					var b [8]byte
					d.Read(b[:])
					return time.Since(began)
				}},
				{"answer to a loop that spins", "answer", func() time.Duration {
					d := h.connect()
					h.request(d, "spin 0")
					return h.request(d, fmt.Sprint("answer ", long))
				}},
			} {
				t.Run(tc.name, func(t *testing.T) {
					best := time.Hour
					for range 4 {
						h.t = t
						h.forget()
						saw := tc.wait()
						l := h.over(tc.probe)
						if diff := (l.Late() - saw).Abs(); diff < best {
							best = diff
						}
						if v := l.Victims; len(v) == 0 || v[0].PID != h.cmd.Process.Pid {
							t.Errorf("victims %+v, the server is %d", v, h.cmd.Process.Pid)
						}
						if l.Target != h.address {
							t.Errorf("target %q, want %q", l.Target, h.address)
						}
						for _, other := range []string{"accept", "receive", "answer"} {
							for _, o := range h.reports(other) {
								// A busy machine has waits of its own, though not such.
								if other != tc.probe && !(other == "answer" && tc.probe == "receive") && o.Late() > saw/2 {
									t.Errorf("%s was reported too: %+v", other, o)
								}
							}
						}
						if best <= within {
							break
						}
						time.Sleep(1500 * time.Millisecond)
					}
					if best > within {
						t.Errorf("what was told is %v off what the client saw", best)
					}
				})
			}
		})
	}
}

// The server speaks first, and accepts late.
func TestLiveRequestsGreeting(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			args := []string{network}
			if network == "unix" {
				args = append(args, filepath.Join(t.TempDir(), "socket"))
			}
			h := exact(t, append(args, "greets")...)
			hello := func() (net.Conn, time.Duration) {
				began := time.Now()
				c := h.connect()
				var b [8]byte
				if n, err := c.Read(b[:]); err != nil || string(b[:n]) != "hi\n" {
					t.Fatalf("%q, %v", b[:n], err)
				}
				return c, time.Since(began)
			}
			c, _ := hello()
			long := h.history(c)
			best := time.Hour
			for range 5 {
				h.request(c, fmt.Sprint("accept ", long))
				hello()
				time.Sleep(3 * time.Millisecond)
				h.forget()
				_, saw := hello()
				l := h.over("accept")
				if best = min(best, (l.Late() - saw).Abs()); best <= within {
					return
				}
			}
			t.Errorf("what was told is %v off what the client saw", best)
		})
	}
}

// What looks like a wait and is none: long polls, idle connections, a server
// that pushes, a stream, a client that is half closed, an endpoint that is slow
// by design beside quick ones.
func TestLiveRequestsNearMisses(t *testing.T) {
	h := exact(t, "tcp")
	c := h.connect()
	h.history(c)
	// The machine of a test stalls by itself. A client that asks all the time
	// knows when: nothing that was reported then counts.
	stop := make(chan struct{})
	var hard []freezeframe.Span
	done := make(chan struct{})
	quick := h.connect()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := kernel.Now()
			if h.request(quick, "answer 1") >= 30*time.Millisecond {
				hard = append(hard, freezeframe.Span{Start: began, End: kernel.Now()})
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	const design = 800
	slow := h.connect()
	for range 4 { // it has been so before
		h.request(slow, fmt.Sprint("answer ", design))
		time.Sleep(300 * time.Millisecond)
	}
	time.Sleep(time.Second)
	h.forget()
	began := kernel.Now()

	idle := h.connect()
	h.request(idle, "answer 0")
	push, stream := h.connect(), h.connect()
	h.request(push, "push 3000")
	fmt.Fprintln(stream, "stream 3000")
	half := h.connect()
	fmt.Fprintln(half, "answer 400")
	if err := half.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	h.request(slow, fmt.Sprint("answer ", design))
	time.Sleep(3 * time.Second)
	close(stop)
	<-done
	told := 0
	for _, probe := range []string{"accept", "receive", "answer"} {
		for _, l := range h.reports(probe) {
			own := false
			for _, s := range hard {
				own = own || l.Began < s.End.Add(50*time.Millisecond) && max(l.Done, l.Seen) > s.Start.Add(-50*time.Millisecond)
			}
			if !own && l.Began > began {
				t.Errorf("%s: %+v", probe, l)
			}
			told++
		}
	}
	t.Logf("%d times the machine itself was slow; %d reports in all", len(hard), told)
}

// A long poll is how its service works: nobody else ever asks anything.
func TestLiveRequestsLongPoll(t *testing.T) {
	h := exact(t, "tcp")
	polls := make(chan struct{})
	for range 3 {
		c := h.connect()
		go func() {
			for range 4 {
				h.request(c, "answer 1500")
			}
			polls <- struct{}{}
		}()
	}
	for range 3 {
		<-polls
	}
	for _, probe := range []string{"accept", "receive", "answer"} {
		for _, l := range h.reports(probe) {
			if l.Late() > time.Second {
				t.Errorf("%s: %+v", probe, l)
			}
		}
	}
}
