package bpf

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"freezeframe/internal/kernel"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Kernels before 6.3 tell by other tracepoints how long clients of TCP wait,
// and so does this one.
func TestRequestsOfOlderKernels(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	types, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	for _, older := range []bool{true, false} {
		t.Run(map[bool]string{true: "older", false: "newer"}[older], func(t *testing.T) {
			p := &Programs{}
			l := &loaded{family: family{name: "requests", load: func(l *loading) error {
				if err := l.lacks(requestEvents(older)); err != nil {
					t.Skip(err)
				}
				return loadRequestsOf(l, older)
			}}}
			if err := l.tryLoad(p, types); err != nil {
				t.Fatal(err)
			}
			p.loaded = append(p.loaded, l)
			defer p.Close()
			// Two addresses in a namespace of this thread's own, which ends with
			// it: to BPF the one is another host's.
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			for _, args := range []string{"link set lo up", "addr add 192.0.2.1/32 dev lo", "addr add 192.0.2.2/32 dev lo"} {
				if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
					t.Skipf("ip %s: %v: %s", args, err, out)
				}
			}
			waitsOfAServer(t, p.Requests)
			absenceOf(t, p.Requests)
		})
	}
}

// A connection that is busy while the programs are loaded is its service's like
// any other.
func TestRequestsOfAConnectionThatIsThereAlready(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	types, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		for buf := make([]byte, 1); err == nil; {
			if _, err = c.Read(buf); err == nil {
				_, err = c.Write(buf)
			}
		}
	}()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var err error
		for buf := make([]byte, 1); err == nil; {
			if _, err = c.Write(buf); err == nil {
				_, err = c.Read(buf)
			}
		}
	}()
	defer func() { c.Close(); <-ended }()
	time.Sleep(20 * time.Millisecond)
	p := &Programs{}
	loaded := &loaded{family: requestsFamily}
	if err := loaded.tryLoad(p, types); err != nil {
		t.Skip(err)
	}
	p.loaded = append(p.loaded, loaded)
	defer p.Close()
	time.Sleep(100 * time.Millisecond)
	for i := range p.Requests.Services() {
		s := &p.Requests.Services()[i]
		if s.Used() && int(s.Place.Port) == l.Addr().(*net.TCPAddr).Port && s.Place.Far == 0 {
			var h History
			if err := p.Requests.Take(i, &h); err != nil {
				t.Fatal(err)
			}
			if h.Bins[WaitAnswer] == [RequestBins]uint32{} {
				t.Error("its answers are not counted")
			}
			return
		}
	}
	t.Error("its service is not known")
}

// waitsOfAServer lets a client wait for a server that reads late and answers
// later, twice, and compares what is told with what the server did.
func waitsOfAServer(t *testing.T, r *Requests) {
	l, err := net.Listen("tcp4", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	const unread, unanswered = 130 * time.Millisecond, 170 * time.Millisecond
	failed := make(chan error, 1)
	type times struct{ read, sent uint64 }
	did := make(chan times, 2)
	go func() {
		c, err := l.Accept()
		if err != nil {
			failed <- err
			return
		}
		defer c.Close()
		buf := make([]byte, 64)
		for range 2 {
			time.Sleep(unread)
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) != "how much?" {
				failed <- fmt.Errorf("read %q: %w", buf[:n], err)
				return
			}
			x := times{read: uint64(kernel.Now())}
			time.Sleep(unanswered)
			x.sent = uint64(kernel.Now())
			if _, err := c.Write([]byte("4711")); err != nil {
				failed <- err
				return
			}
			did <- x
		}
	}()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}}).Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inFlight := map[uint8]bool{}
	var told []Told
	ours := func(x *Told) {
		if r.Services()[x.Service].Place.Port != port {
			return
		}
		if x.How == ToldInFlight {
			inFlight[x.Kind] = true
			return
		}
		told = append(told, *x)
	}
	for range 2 {
		asked := uint64(kernel.Now())
		if _, err := c.Write([]byte("how much?")); err != nil {
			t.Fatal(err)
		}
		answer := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 64))
			answer <- err
		}()
		for waiting := true; waiting; {
			select {
			case err := <-answer:
				if err != nil {
					t.Fatal(err)
				}
				waiting = false
			case err := <-failed:
				t.Fatal(err)
			case <-time.After(10 * time.Millisecond):
				if err := r.Walk(ours); err != nil {
					t.Fatal(err)
				}
			}
		}
		server := <-did
		r.Drain(1000, ours)
		// How late the test's own threads were is not measured: the kernel's
		// moments lie between what client and server noted before and after.
		for kind, limits := range map[uint8][2]uint64{WaitReceive: {asked + uint64(unread)/2, server.read}, WaitAnswer: {server.sent, uint64(kernel.Now())}, WaitReply: {server.sent, uint64(kernel.Now())}} {
			found := 0
			for i := range told {
				x := &told[i]
				if x.Kind != kind || x.Began < asked {
					continue
				}
				found++
				if x.Began >= server.read || x.Done < limits[0] || x.Done > limits[1] || x.PID() != uint32(os.Getpid()) {
					t.Errorf("kind %d: from %d to %d by process %d, asked at %d, read at %d, answered at %d", kind, x.Began, x.Done, x.PID(), asked, server.read, server.sent)
				}
			}
			if found != 1 {
				t.Errorf("%d waits of kind %d were told: %+v", found, kind, told)
			}
		}
		told = told[:0]
	}
	if !inFlight[WaitReceive] || !inFlight[WaitAnswer] || !inFlight[WaitReply] {
		t.Errorf("told while they lasted: %v", inFlight)
	}
}

// TestRequestsWalkDoesNotAllocate reads with a wait in flight.
func TestRequestsWalkDoesNotAllocate(t *testing.T) {
	r := load(t).Requests
	if r == nil {
		t.Fatal("no requests")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	ours := func(x *Told) bool { return r.Services()[x.Service].Place.Port == port }
	// Nobody accepts, so that it is told by and by.
	found := 0
	for deadline := time.Now().Add(2 * time.Second); found < 3 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := r.Walk(func(x *Told) {
			if ours(x) && x.Kind == WaitAccept && x.How == ToldInFlight {
				found++
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if found < 3 {
		t.Fatalf("a connection that nobody accepts was told %d times", found)
	}
	n := 0
	take := func(*Told) { n++ }
	var h History
	if allocations := testing.AllocsPerRun(100, func() {
		if err := r.Walk(take); err != nil {
			t.Error(err)
		}
		r.Drain(100, take)
		if err := r.Take(1, &h); err != nil {
			t.Error(err)
		}
		if err := r.Tidy(1); err != nil {
			t.Error(err)
		}
		r.Lost()
	}); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}

// TestRequestsGiveAwaySlots closes a listener: its slot is for another, that of
// one that is idle is not.
func TestRequestsGiveAwaySlots(t *testing.T) {
	r := load(t).Requests
	if r == nil {
		t.Fatal("no requests")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	slot := func() int {
		for i := range r.Services() {
			if s := &r.Services()[i]; s.Used() && s.Place.Port == port && s.Place.Far == 0 {
				return i
			}
		}
		return 0
	}
	at := slot()
	if at == 0 {
		t.Fatal("a listener has no slot")
	}
	now := func() uint64 {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		return uint64(ts.Nano())
	}
	// As if half a minute had gone by: the walk finds those that are still there.
	for i := range r.Services() {
		r.Services()[i].Seen = now() - 2*slotIdle
	}
	if err := r.Walk(func(*Told) {}); err != nil {
		t.Fatal(err)
	}
	if err := r.Tidy(now()); err != nil {
		t.Fatal(err)
	}
	if slot() != at {
		t.Fatal("the slot of a listener that is there was given away")
	}
	l.Close()
	for range 50 { // the kernel frees it a little later
		r.Services()[at].Seen = now() - 2*slotIdle
		if err := r.Walk(func(*Told) {}); err != nil {
			t.Fatal(err)
		}
		if err := r.Tidy(now()); err != nil {
			t.Fatal(err)
		}
		if slot() == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the slot of a listener that is gone is still in use")
}

// TestRequestsWalkSeesAll has more sockets than one stretch of a walk looks at,
// all with a request that nobody reads: sooner or later each is told.
func TestRequestsWalkSeesAll(t *testing.T) {
	r := load(t).Requests
	if r == nil {
		t.Fatal("no requests")
	}
	const n = 4000 // connections of two sockets
	fds, closeAll := connections(t, n)
	defer closeAll()
	for _, fd := range fds {
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	told := map[uint64]bool{}
	for range 200 {
		if err := r.Walk(func(x *Told) {
			if x.Kind == WaitReceive && x.PID() == uint32(os.Getpid()) {
				told[x.Cookie] = true
			}
		}); err != nil {
			t.Fatal(err)
		}
		if len(told) == n {
			return
		}
	}
	t.Errorf("%d of %d waits were told", len(told), n)
}

// BenchmarkRequestsWalk walks over many connections, of which none waits
// and each has two sockets: run it with -benchtime 20x. It needs a limit of
// 20,000 descriptors.
func BenchmarkRequestsWalk(b *testing.B) {
	for _, n := range []int{100, 1000, 9000, 25000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			walkOver(b, n)
		})
	}
}

func walkOver(b *testing.B, n int) {
	if os.Geteuid() != 0 {
		b.Skip("not root: BPF programs cannot be loaded")
	}
	const most = 9000 // in one process
	var without int64
	if n <= most {
		_, closeAll := connections(b, n) // the slabs grow
		closeAll()
		slab := slabBytes(b)
		_, closeAll = connections(b, n)
		without = slabBytes(b) - slab
		closeAll()
	}
	p := Load(onlyRequests())
	defer p.Close()
	r := p.Requests
	if r == nil {
		b.Fatalf("%+v", p.Needs())
	}
	if n <= most {
		slab := slabBytes(b)
		_, closeAll := connections(b, n)
		defer closeAll()
		b.Logf("%d bytes of slab a connection without, %d with", without/int64(n), (slabBytes(b)-slab)/int64(n))
	}
	for left := n; n > most && left > 0; left -= most {
		startServer(b, fmt.Sprintf("crowd %d", min(left, most)))
	}
	cpu := threadCPU()
	b.ResetTimer()
	for b.Loop() {
		if err := r.Walk(func(*Told) {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(threadCPU()-cpu)/float64(b.N)/1e3, "cpu-us/walk")
	b.ReportMetric(float64(threadCPU()-cpu)/float64(b.N)/float64(2*n), "cpu-ns/socket")
}

// connections makes connections that have each answered a request, and returns
// the clients' ends and what closes all.
func connections(b testing.TB, n int) (clients []int, closeAll func()) {
	var fds []int
	keep := func(fd int) int { fds = append(fds, fd); return fd }
	closeAll = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		time.Sleep(300 * time.Millisecond) // the kernel frees what they had
	}
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	keep(l)
	name := &unix.SockaddrUnix{Name: fmt.Sprintf("@freezeframe-%d", os.Getpid())}
	if err := unix.Bind(l, name); err != nil {
		b.Fatal(err)
	}
	if err := unix.Listen(l, 16); err != nil {
		b.Fatal(err)
	}
	buf := []byte("x")
	for range n {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		keep(c)
		clients = append(clients, c)
		if err := unix.Connect(c, name); err != nil {
			b.Fatal(err)
		}
		s, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		keep(s)
		for _, fds := range [][2]int{{c, s}, {s, c}} {
			if _, err := unix.Write(fds[0], buf); err != nil {
				b.Fatal(err)
			}
			if _, err := unix.Read(fds[1], buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	return clients, closeAll
}

func threadCPU() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

func slabBytes(b testing.TB) int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "Slab: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

// TestRequestsGiveSlotsBack opens and closes more connections than there are
// slots, over TCP and Unix sockets: the slots of those that are gone must serve
// the next, or nothing would be seen any more.
func TestRequestsGiveSlotsBack(t *testing.T) {
	p := load(t)
	r := p.Requests
	if r == nil {
		t.Fatal("no requests")
	}
	for _, network := range []string{"tcp", "unix"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				var b [1]byte
				if _, err := c.Read(b[:]); err == nil {
					_, _ = c.Write(b[:])
				}
				c.Close()
			}
		}()
		var taken uint32
		for i := range 600 {
			c, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			var b [1]byte
			_, _ = c.Write(b[:])
			_, _ = c.Read(b[:])
			c.Close()
			for range 16 * (1 - min(i%50, 1)) { // a walk looks at each in 16 for itself
				if err := r.Walk(func(*Told) {}); err != nil {
					t.Fatal(err)
				}
			}
			if i == 300 {
				if err := r.objects.Taken.Get(&taken); err != nil {
					t.Fatal(err)
				}
			}
		}
		var after uint32
		if err := r.objects.Taken.Get(&after); err != nil {
			t.Fatal(err)
		}
		if after > taken+100 { // others open connections too
			t.Errorf("%s: 300 connections more took %d new slots", network, after-taken)
		}
	}
}

func TestAbsenceIsTold(t *testing.T) {
	r := load(t).Requests
	if r == nil {
		t.Fatal("no requests")
	}
	absenceOf(t, r)
}

// absenceOf closes the listening socket of a service that has answered, while
// clients ask for it, and opens it again.
func absenceOf(t *testing.T, r *Requests) {
	t.Helper()
	serve := func(address string) net.Listener {
		l, err := net.Listen("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 1)
				_, _ = c.Read(buf)
				_, _ = c.Write(buf)
				c.Close()
			}
		}()
		return l
	}
	ask := func(address string) error {
		c, err := net.Dial("tcp4", address)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := []byte("x")
		if _, err = c.Write(buf); err == nil {
			_, err = c.Read(buf)
		}
		return err
	}
	told := func() (out []Told) {
		r.Drain(1e6, func(x *Told) {
			if x.Kind == Absence {
				out = append(out, *x)
			}
		})
		return out
	}
	l := serve("127.0.0.1:0")
	address := l.Addr().String()
	if err := ask(address); err != nil {
		t.Fatal(err)
	}
	told()
	before := nowNS()
	l.Close()
	after := nowNS()
	for range 3 {
		if err := ask(address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("asking gave %v", err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	l = serve(address)
	if err := ask(address); err != nil {
		t.Fatal(err)
	}
	got := told()
	if len(got) != 5 {
		t.Fatalf("%d told, want 5: gone, 3 refused, there again: %+v", len(got), got)
	}
	for i, how := range []uint8{ToldInFlight, ToldRefused, ToldRefused, ToldRefused, ToldDone} {
		x := &got[i]
		if x.How != how || x.Began < before || x.Began > after || x.Done < x.Began || x.Unanswered != uint32(min(i, 3)) || x.Service != got[0].Service {
			t.Errorf("%d: %+v, want %d since %d to %d", i, x, how, before, after)
		}
		if (how == ToldInFlight || how == ToldDone) && x.PID() != uint32(os.Getpid()) {
			t.Errorf("%d: by process %d", i, x.PID())
		}
	}
	// One that has never answered is not missed, nor one whose socket another has too.
	quiet := serve("127.0.0.1:0")
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	quiet.Close()
	_ = ask(quiet.Addr().String()) // refused
	l.Close()
	if got := told(); len(got) != 0 {
		t.Errorf("told: %+v", got)
	}
	f.Close()
	if got := told(); len(got) != 1 || got[0].How != ToldInFlight {
		t.Errorf("when the last of the socket's owners has closed it: %+v", got)
	}
}
