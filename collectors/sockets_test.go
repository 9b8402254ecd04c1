package collectors

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// reader reads collectors that are open, row by row and column by name.
type reader struct {
	t     *testing.T
	host  freezeframe.Host
	table freezeframe.Table
}

// openLive opens collectors on this machine.
func openLive(t *testing.T, cs ...freezeframe.Collector) *reader {
	t.Helper()
	r := &reader{t: t, host: live()}
	for _, c := range cs {
		if err := c.Open(r.host); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closed(t, c) })
	}
	return r
}

// rows reads c once; texts stand in the row's own text map.
func (r *reader) rows(c freezeframe.Collector) []liveRow {
	r.t.Helper()
	r.table.Reset()
	r.table.At = kernel.Now()
	if err := c.Collect(&r.table); err != nil {
		r.t.Fatal(err)
	}
	s := c.Source()
	var out []liveRow
	for i, k := range r.table.Keys {
		row := liveRow{key: k, values: map[string]uint64{}, texts: map[string]string{}}
		if s.Key == "text" {
			row.name = r.host.Texts.(dictionary)[uint64(k)]
		}
		for j, v := range r.table.Values(i, len(s.Columns)) {
			row.values[s.Columns[j].Name] = v
			if s.Columns[j].Kind == freezeframe.Text {
				row.texts[s.Columns[j].Name] = r.host.Texts.(dictionary)[v]
			}
		}
		out = append(out, row)
	}
	return out
}

type liveRow struct {
	key    freezeframe.Key
	name   string
	values map[string]uint64
	texts  map[string]string
}

// until reads c until a row satisfies ok, for at most half a minute.
func (r *reader) until(c freezeframe.Collector, what string, ok func(liveRow) bool) liveRow {
	r.t.Helper()
	var last []liveRow
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last = r.rows(c)
		if i := slices.IndexFunc(last, ok); i >= 0 {
			return last[i]
		}
	}
	r.t.Fatalf("no row %s; the last reading was %.2000s", what, fmt.Sprint(last))
	return liveRow{}
}

func socketsPair() (*listeners, *connections, *ports) {
	shared := socketsUser{shared: newSockets()}
	return &listeners{socketsUser: shared}, &connections{socketsUser: shared}, &ports{socketsUser: shared}
}

// overfull listens with a backlog and makes more connections than fit.
func overfull(t *testing.T, backlog int) (address string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range backlog + 4 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		if err := unix.Connect(c, name); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	return address
}

func TestListenersFullQueue(t *testing.T) {
	c, conns, _ := socketsPair()
	r := openLive(t, c, conns)
	address := overfull(t, 2)
	row := r.until(c, "of "+address+" with an owner", func(row liveRow) bool {
		return row.texts["address"] == address && row.values["pid"] != 0
	})
	// A queue takes one more than its backlog (net/ipv4/tcp_ipv4.c).
	if v := row.values; v["queue"] != 3 || v["backlog"] != 2 || v["drops"] == 0 || v["family"] != unix.AF_INET {
		t.Errorf("%v", v)
	}
	if row.values["pid"] != uint64(os.Getpid()) || row.texts["comm"] == "" || row.texts["pids"] != "" {
		t.Errorf("owner %d %q %q, want us (%d) alone", row.values["pid"], row.texts["comm"], row.texts["pids"], os.Getpid())
	}
	if port := netip.MustParseAddrPort(address).Port(); row.values["port"] != uint64(port) {
		t.Errorf("port %d, want %d", row.values["port"], port)
	}
	// The connections that wait to be accepted are the listener's.
	waiting := r.until(conns, "that nobody accepted", func(row liveRow) bool {
		return row.texts["local"] == address && row.values["inode"] == 0
	})
	if v := waiting.values; v["server"] != 1 || v["listener"] != uint64(row.key) || v["pid"] != uint64(os.Getpid()) || v["opened_at"] == 0 {
		t.Errorf("%v", waiting)
	}
}

func TestListenersAddresses(t *testing.T) {
	c, _, _ := socketsPair()
	r := openLive(t, c)
	path := filepath.Join(t.TempDir(), "s")
	abstract := fmt.Sprintf("@freezeframe-%d", os.Getpid())
	for _, l := range []struct{ network, address string }{{"unix", path}, {"unix", abstract}, {"tcp6", "[::1]:0"}, {"tcp", ":0"}, {"tcp4", "0.0.0.0:0"}} {
		s, err := net.Listen(l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		want := s.Addr().String()
		if l.network == "unix" {
			want = "unix:" + l.address
		}
		row := r.until(c, "of "+want+" that is ours", func(row liveRow) bool {
			return row.texts["address"] == want && row.values["pid"] == uint64(os.Getpid())
		})
		if row.values["backlog"] == 0 || row.values["inode"] == 0 || row.values["netns"] == 0 {
			t.Errorf("%s: %v", want, row.values)
		}
	}
}

// A listener that a parent and its children hold has them all.
func TestListenersPrefork(t *testing.T) {
	c, _, _ := socketsPair()
	r := openLive(t, c)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Known as ours first, so that the children have to be noticed later.
	r.until(c, "that is ours", func(row liveRow) bool {
		return row.texts["address"] == l.Addr().String() && row.values["pid"] != 0
	})
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := []string{strconv.Itoa(os.Getpid())}
	for range 2 {
		child := exec.Command("sleep", "60")
		child.ExtraFiles = []*os.File{f}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer child.Wait()
		defer child.Process.Kill()
		want = append(want, strconv.Itoa(child.Process.Pid))
	}
	row := r.until(c, "of all three", func(row liveRow) bool {
		return row.texts["address"] == l.Addr().String() && strings.Count(row.texts["pids"], ",") == 2
	})
	if row.texts["pids"] != strings.Join(want, ",") || row.values["pid"] != uint64(os.Getpid()) {
		t.Errorf("pids %q pid %d, want %q", row.texts["pids"], row.values["pid"], want)
	}
}

// A new child of a listener's holder is looked at by itself, without a walk
// over every process.
func TestOwnersNewChild(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	inode := uint32(st.Ino)
	o := &owners{}
	o.start(live())
	o.end() // from here on the test does the goroutine's work
	own := o.peek(inode)
	if own == nil || own.pid != int32(os.Getpid()) {
		t.Fatalf("owner %+v, want us", own)
	}
	own.listening.Store(true)
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	o.list()
	want := []int32{int32(os.Getpid()), int32(child.Process.Pid)}
	if got := o.peek(inode); !slices.Equal(got.pids, want) || got.pid != want[0] || !got.listening.Load() {
		t.Errorf("pids %d, want %d", got.pids, want)
	}
	if len(own.pids) != 1 {
		t.Error("what was published has changed")
	}
	// When one of them ends, everything is walked again.
	o.walkSoon.Store(false)
	child.Process.Kill()
	child.Wait()
	o.list()
	if !o.walkSoon.Load() {
		t.Error("a holder is gone and nobody looks")
	}
	o.walk()
	if got := o.peek(inode); !slices.Equal(got.pids, want[:1]) {
		t.Errorf("pids %d, want %d", got.pids, want[:1])
	}
}

// What was accepted from a listener whose process cannot be seen is not looked
// for in every process.
func TestOwnersOfHiddenListener(t *testing.T) {
	o := &owners{}
	o.start(live())
	o.end()
	const listener, inode = 1<<32 - 3, 1<<32 - 2 // no socket has these
	o.giveUp([]uint32{listener})
	if o.peek(listener) != nobody {
		t.Fatal("the listener is not given up")
	}
	walked := kernel.Now().Add(-2 * fullWalkSoon)
	o.walked, o.walkTook = walked, 0 // one could begin at once
	o.of(inode, listener)
	o.round()
	if o.peek(inode) != nobody || o.walked != walked {
		t.Errorf("owner %v, walked at %d: want nobody, without a walk since %d", o.peek(inode), o.walked, walked)
	}
}

func connect(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestConnectionsUnread(t *testing.T) {
	ls, c, _ := socketsPair()
	r := openLive(t, ls, c)
	client, server := connect(t)
	time.Sleep(30 * time.Millisecond)
	sent := kernel.Now()
	if _, err := client.Write(make([]byte, 321)); err != nil {
		t.Fatal(err)
	}
	mine := func(row liveRow) bool {
		return row.texts["local"] == server.LocalAddr().String() && row.texts["peer"] == server.RemoteAddr().String()
	}
	row := r.until(c, "with an owner", func(row liveRow) bool {
		return mine(row) && row.values["pid"] != 0 && row.values["peer_pid"] != 0
	})
	v := row.values
	if v["rqueue"] != 321 || v["bytes_received"] != 321 || v["server"] != 1 || v["state"] != kernel.TCPEstablished || v["listener"] == 0 {
		t.Errorf("%v", v)
	}
	if v["pid"] != uint64(os.Getpid()) || v["peer_pid"] != uint64(os.Getpid()) {
		t.Errorf("pid %d, peer %d, want %d twice", v["pid"], v["peer_pid"], os.Getpid())
	}
	if off := freezeframe.Instant(v["received_at"]).Sub(sent); off < -30*time.Millisecond || off > 30*time.Millisecond {
		t.Errorf("received_at is %s off", off)
	}
	if v["sent_at"] != 0 {
		t.Errorf("sent_at %d of a socket that sent nothing", v["sent_at"])
	}
	// It stays what it was, whether dumped or asked for by name.
	first := v["received_at"]
	for range 12 {
		time.Sleep(50 * time.Millisecond)
		again := r.rows(c)
		i := slices.IndexFunc(again, mine)
		if i < 0 {
			t.Fatalf("the connection is missing from a reading: %.2000s", fmt.Sprint(again))
		}
		at := again[i].values["received_at"]
		if at > first || first-at > uint64(jiffyJitter) {
			t.Errorf("received_at moved by %d ns", int64(at-first))
		}
	}
	// More data is another event.
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	row = r.until(c, "with 322 bytes", func(row liveRow) bool { return mine(row) && row.values["rqueue"] == 322 })
	if row.values["received_at"] <= first {
		t.Error("received_at did not move with new data")
	}
}

// Of half-open connections a few show, with nobody behind them.
func TestConnectionsHalfOpen(t *testing.T) {
	ls, c, _ := socketsPair()
	r := openLive(t, ls, c)
	// The kernel keeps a connection half open that has sent nothing yet.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if got := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
		}); got != nil {
			return got
		}
		return err
	}}
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 * maxHalfOpen {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	half := func(row liveRow) bool { return row.values["state"] == kernel.TCPSynRecv }
	row := r.until(c, "half open", func(row liveRow) bool { return half(row) && row.texts["local"] == l.Addr().String() })
	if v := row.values; v["inode"] != 0 || v["server"] != 0 || v["retransmits"] != 0 || !strings.HasPrefix(row.texts["peer"], "127.0.0.1:") {
		t.Errorf("%v %v", v, row.texts)
	}
	for range 20 {
		n := 0
		for _, row := range r.rows(c) {
			if half(row) {
				n++
			}
		}
		if n > maxHalfOpen {
			t.Fatalf("%d half-open connections in a reading, want at most %d", n, maxHalfOpen)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A request that was read and not answered shows; one that was answered does
// not.
func TestConnectionsUnanswered(t *testing.T) {
	ls, c, _ := socketsPair()
	r := openLive(t, ls, c)
	client, server := connect(t)
	buf := make([]byte, 16)
	mine := func(row liveRow) bool { return row.texts["local"] == server.LocalAddr().String() }

	client.Write([]byte("ask"))
	server.Read(buf)
	row := r.until(c, "that waits for its answer", mine)
	if row.values["rqueue"] != 0 || row.values["received_at"] == 0 {
		t.Errorf("%v", row)
	}
	time.Sleep(30 * time.Millisecond)
	server.Write([]byte("answer"))
	client.Read(buf)
	time.Sleep(100 * time.Millisecond)
	for range 8 {
		if rows := r.rows(c); slices.ContainsFunc(rows, mine) {
			t.Fatalf("answered, and still shown: %v", rows)
		}
		time.Sleep(50 * time.Millisecond)
	}
	// While a stall is open the watched process's are shown all the same.
	r.host.Focus.Watch([]int32{int32(os.Getpid())})
	r.host.Focus.Suspect(kernel.Now().Add(time.Minute))
	row = r.until(c, "of a watched process", mine)
	if row.values["sent_at"] <= row.values["received_at"] {
		t.Errorf("answered at %d, asked at %d", row.values["sent_at"], row.values["received_at"])
	}
}

func TestOtherNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace takes root")
	}
	name := fmt.Sprintf("ffsock%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	removed := false
	remove := func() {
		if !removed {
			removed = true
			if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	}
	defer remove()
	c, conns, _ := socketsPair()
	r := openLive(t, c, conns)
	child := exec.Command("ip", "netns", "exec", name, "python3", "-c",
		"import socket,time; s=socket.socket(); s.bind(('0.0.0.0',4321)); s.listen(7); time.sleep(60)")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	own, _ := kernel.NetnsInode("/proc/self/ns/net")
	row := r.until(c, "in the namespace", func(row liveRow) bool {
		return row.texts["address"] == "0.0.0.0:4321" && row.values["netns"] != uint64(own) && row.values["pid"] != 0
	})
	if row.values["pid"] != uint64(child.Process.Pid) || row.values["backlog"] != 7 {
		t.Errorf("%v, want pid %d", row, child.Process.Pid)
	}
	// When its last process is gone we let go of it.
	child.Process.Kill()
	child.Wait()
	remove()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r.rows(c)
		held := false
		for i := 1; i < maxNamespaces; i++ {
			ns := c.shared.spaces[i].Load()
			held = held || ns != nil && uint64(ns.inode) == row.values["netns"]
		}
		if !held {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the namespace is still held")
		}
	}
}

func TestSocketsDoNotAllocate(t *testing.T) {
	ls, c, _ := socketsPair()
	r := openLive(t, ls, c)
	client, server := connect(t)
	client.Write([]byte("unread"))
	r.until(c, "with an owner", func(row liveRow) bool {
		return row.texts["local"] == server.LocalAddr().String() && row.values["pid"] != 0 && row.values["peer_pid"] != 0
	})
	r.rows(ls)
	c.shared.rounds.stop() // whoever looks for owners may allocate
	for _, c := range []freezeframe.Collector{ls, c} {
		rows := 0
		if n := testing.AllocsPerRun(100, func() {
			ls.own, ls.others, ls.unix = pace{}, pace{}, pace{}
			if rows%2 == 0 {
				switch c := c.(type) {
				case *connections:
					c.dump = pace{} // half of them dumps, half asked by name
				}
			}
			r.table.Reset()
			if err := c.Collect(&r.table); err != nil {
				t.Error(err)
			}
			rows += len(r.table.Keys)
		}); n != 0 || rows == 0 {
			t.Errorf("%s: %v allocations a reading, %d rows in all", c.Source().Name, n, rows)
		}
	}
}

// Where BPF tells of requests the table of connections is left alone, until a
// packet is sent again or something stalls.
func TestConnectionsRest(t *testing.T) {
	p := programs(t, "requests", "packets")
	if p.Requests == nil || p.Packets == nil {
		t.Fatalf("not loaded: %v", p.Needs())
	}
	_, c, _ := socketsPair()
	c.shared.requests, c.shared.packets = p.Requests, p.Packets
	r := openLive(t, c)
	dumps := func() bool {
		before := c.dumped
		c.dump = pace{} // nothing else keeps it from one
		r.rows(c)
		return c.dumped != before
	}
	if !dumps() {
		t.Fatal("no first one")
	}
	rested := false
	for range 20 { // unless packets of this machine are sent again just now
		c.again, c.againAt = p.Packets.SentAgain(), 0
		dumped := dumps()
		if rested = !dumped; rested || p.Packets.SentAgain() == c.again && c.againAt == 0 {
			break
		}
	}
	if !rested {
		t.Error("nothing is wrong, and all connections are looked at")
	}
	if rest := c.Rest(); rest != dumpEvery {
		t.Errorf("it looks at what is lost every %v, want %v", rest, dumpEvery)
	}
	c.again++ // as if one had been since
	if !dumps() {
		t.Error("a packet was sent again, and nobody looks")
	}
	c.again, c.againAt = p.Packets.SentAgain(), 0
	r.host.Focus.Suspect(kernel.Now().Add(time.Minute))
	if !dumps() || c.Rest() != 0 {
		t.Errorf("something stalls, and nobody looks; rests for %v", c.Rest())
	}
}

func TestListenerOf(t *testing.T) {
	var set listenerSet
	mapped := func(s string) netip.AddrPort {
		a := netip.MustParseAddrPort(s)
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	for i, l := range []struct {
		at     string
		v6only bool
	}{
		{"0.0.0.0:80", false}, {"10.0.0.1:80", false}, {"[::]:443", false}, {"[::]:8443", true},
		{"[::1]:25", false}, {"0.0.0.0:1104", false}, // 80 + 1024: the same bucket
	} {
		set.add(&kernel.InetSocket{Local: mapped(l.at), V6Only: l.v6only, Cookie: uint64(i + 1)})
	}
	for local, want := range map[string]uint64{
		"10.0.0.2:80": 1, "10.0.0.1:80": 2, "[2001:db8::1]:80": 0,
		"1.2.3.4:443": 3, "[2001:db8::1]:443": 3,
		"1.2.3.4:8443": 0, "[2001:db8::1]:8443": 4,
		"[::1]:25": 5, "127.0.0.1:25": 0, "127.0.0.1:1104": 6, "127.0.0.1:81": 0,
	} {
		var got uint64
		if l := set.of(mapped(local)); l != nil {
			got = l.cookie
		}
		if got != want {
			t.Errorf("%s: listener %d, want %d", local, got, want)
		}
	}
}

func TestTimesTableForgetsTheGone(t *testing.T) {
	var table timesTable
	table.init()
	settle := func(cookie, received uint64, now freezeframe.Instant) freezeframe.Instant {
		return table.settle(&kernel.InetSocket{Cookie: cookie, HasInfo: true, State: kernel.TCPEstablished,
			Info: kernel.TCPInfo{BytesReceived: received, LastDataRecv: 10}}, now).received
	}
	const start = freezeframe.Instant(time.Hour)
	stays := settle(7, 1, start)
	for turn := range 50 {
		table.turn()
		// Sockets that come and go, and one that stays.
		for i := range uint64(1000) {
			settle(1000+uint64(turn)*1000+i, 1, start)
		}
		if got := settle(7, 1, start.Add(time.Duration(turn)*time.Second)); got != stays {
			t.Fatalf("turn %d: %d, was %d", turn, got, stays)
		}
	}
	// More at once than fit: nothing breaks, and they are told all the same.
	table.turn()
	for i := range uint64(3 * timesSize) {
		if got := settle(1e6+i, 1, start); got != start.Add(-10*time.Millisecond) {
			t.Fatalf("socket %d: %d", i, got)
		}
	}
}

// The moments at which a request to connect was first sent, as the kernel's
// timers tell: linear since Linux 6.5, doubling before.
func TestRequested(t *testing.T) {
	for _, c := range []struct {
		rto         time.Duration
		retransmits uint8
		left        time.Duration
		want        time.Duration
	}{
		{time.Second, 0, 700 * time.Millisecond, 300 * time.Millisecond},
		{time.Second, 1, 700 * time.Millisecond, 1300 * time.Millisecond},
		{time.Second, 3, 100 * time.Millisecond, 3900 * time.Millisecond},
		{2 * time.Second, 5, 2 * time.Second, 5 * time.Second},
		{2 * time.Second, 1, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{4 * time.Second, 2, time.Second, 6 * time.Second},
		{time.Second, 0, 0, 0},
		{0, 0, 0, 0},
	} {
		s := kernel.InetSocket{Retransmit: uint32(c.left / time.Millisecond),
			Info: kernel.TCPInfo{RTOUs: uint32(c.rto / time.Microsecond), Retransmits: c.retransmits}}
		if got := requested(&s); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestUnackedSince(t *testing.T) {
	var table timesTable
	table.init()
	now := freezeframe.Instant(time.Hour)
	settle := func(unacked uint32, busy time.Duration) freezeframe.Instant {
		now = now.Add(50 * time.Millisecond)
		return table.settle(&kernel.InetSocket{Cookie: 7, HasInfo: true, State: kernel.TCPEstablished, WQueue: 100 * unacked,
			Info: kernel.TCPInfo{Unacked: unacked, BusyUs: uint64(busy / time.Microsecond)}}, now).unacked
	}
	if at := settle(0, 3*time.Second); at != 0 {
		t.Errorf("all is acknowledged: %v", at)
	}
	since := settle(1, 3*time.Second+30*time.Millisecond)
	if since != now.Add(-30*time.Millisecond) {
		t.Errorf("since %v before", now.Sub(since))
	}
	if at := settle(2, 3*time.Second+80*time.Millisecond); at != since {
		t.Errorf("moved by %v", at.Sub(since))
	}
	if at := settle(0, 3*time.Second+81*time.Millisecond); at != 0 {
		t.Errorf("acknowledged: %v", at)
	}
	if at := settle(1, 3*time.Second+91*time.Millisecond); now.Sub(at) != 10*time.Millisecond {
		t.Errorf("again since %v before", now.Sub(at))
	}
}

func TestAppendUnixName(t *testing.T) {
	for name, want := range map[string]string{
		"/run/x\x00": "unix:/run/x", "/run/x": "unix:/run/x", "\x00abs": "unix:@abs", "\x00a\x00b\x00": "unix:@a@b@", "": "unix:",
	} {
		if got := string(appendUnixName(nil, []byte(name))); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestSocketInode(t *testing.T) {
	for link, want := range map[string]uint32{
		"socket:[123]": 123, "socket:[]": 0, "socket:[x]": 0, "socket:[12": 0, "pipe:[5]": 0, "": 0, "socket:[99999999999]": 0,
	} {
		if got := socketInode([]byte(link)); got != want {
			t.Errorf("%q: %d, want %d", link, got, want)
		}
	}
}

func TestTCPInUse(t *testing.T) {
	const sockstat = "sockets: used 9\nTCP: inuse 5 orphan 1 tw 7 alloc 12 mem 3\nUDP: inuse 90 mem 0\n"
	if got := tcpInUse([]byte(sockstat)); got != 12 {
		t.Errorf("%d, want 12", got)
	}
	for n := range sockstat {
		tcpInUse([]byte(sockstat[:n]))
	}
}

// In a namespace with a range of a few ports, half a dozen connections to one
// address use them up.
func TestPortsRunOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace takes root")
	}
	child := exec.Command("unshare", "-n", "sh", "-c", `ip link set lo up; echo "40000 40009" >/proc/sys/net/ipv4/ip_local_port_range
exec python3 -c '
import socket,time
l=socket.socket(); l.bind(("127.0.0.1",5000)); l.listen(50)
c=[socket.create_connection(("127.0.0.1",5000)) for i in range(5)]
a=[l.accept() for i in range(4)]
time.sleep(60)'`)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	_, _, c := socketsPair()
	r := openLive(t, c)
	pid := uint64(child.Process.Pid)
	row := r.until(c, "of the small range", func(row liveRow) bool {
		c.dump = pace{}
		return row.values["range"] == 10 && row.values["used"] == 5 && row.values["pid"] == pid
	})
	if want := fmt.Sprintf("%d|127.0.0.1:5000", row.values["netns"]); row.name != want {
		t.Errorf("%q, want %q", row.name, want)
	}
	if n := testing.AllocsPerRun(50, func() {
		c.dump = pace{}
		r.table.Reset()
		c.Collect(&r.table)
	}); n != 0 || len(r.table.Keys) == 0 {
		t.Errorf("%v allocations, %d rows", n, len(r.table.Keys))
	}
}

func BenchmarkOwnersWalk(b *testing.B) {
	o := &owners{}
	o.start(live())
	defer o.end()
	for b.Loop() {
		o.walk()
	}
	b.ReportMetric(float64(len(*o.known.Load())), "sockets")
}

func BenchmarkListeners(b *testing.B)   { benchmarkSockets(b, 0) }
func BenchmarkConnections(b *testing.B) { benchmarkSockets(b, 1) }

func benchmarkSockets(b *testing.B, which int) {
	ls, conns, _ := socketsPair()
	for _, c := range []freezeframe.Collector{ls, conns} {
		if err := c.Open(live()); err != nil {
			b.Fatal(err)
		}
		defer c.Close()
	}
	var table freezeframe.Table
	b.ReportAllocs()
	for b.Loop() {
		table.Reset()
		var err error
		if which == 0 {
			ls.own = pace{}
			err = ls.Collect(&table)
		} else {
			conns.dump = pace{}
			err = conns.Collect(&table)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(table.Keys)), "rows")
}

// An answer is counted once, whether its request was seen before or came with it;
// what a server says of its own accord is none.
func TestAnswersAreTold(t *testing.T) {
	var table timesTable
	table.init()
	table.turn()
	now := freezeframe.Instant(time.Hour)
	info := kernel.TCPInfo{BytesReceived: 100, BytesSent: 500, LastDataRecv: 9000, LastDataSent: 9000}
	look := func() bool {
		now = now.Add(50 * time.Millisecond)
		return table.settle(&kernel.InetSocket{Cookie: 7, HasInfo: true, State: kernel.TCPEstablished, Info: info}, now).answered
	}
	for _, tc := range []struct {
		what                 string
		received, sent       uint64 // more bytes of each
		receivedAgo, sentAgo uint32
		want                 bool
	}{
		{"long ago, seen for the first time", 0, 0, 9000, 9000, false},
		{"nothing new", 0, 0, 9050, 9050, false},
		{"a request", 10, 0, 20, 9100, false},
		{"its answer", 0, 90, 70, 10, true},
		{"nothing new after it", 0, 0, 120, 60, false},
		{"a request and its answer", 10, 90, 8, 4, true},
		{"news that the server sends", 0, 40, 60, 5, false},
		{"more of them", 0, 40, 110, 5, false},
	} {
		info.BytesReceived, info.BytesSent = info.BytesReceived+tc.received, info.BytesSent+tc.sent
		info.LastDataRecv, info.LastDataSent = tc.receivedAgo, tc.sentAgo
		if got := look(); got != tc.want {
			t.Errorf("%s: answered %v", tc.what, got)
		}
	}
	info = kernel.TCPInfo{BytesReceived: 100, BytesSent: 500, LastDataRecv: 30, LastDataSent: 20}
	if !table.settle(&kernel.InetSocket{Cookie: 8, HasInfo: true, State: kernel.TCPEstablished, Info: info}, now).answered {
		t.Error("a connection that was answered since the reading before is not counted")
	}
	for cookie := uint64(100); table.used < timesSize*3/4; cookie++ {
		table.slot(cookie)
	}
	if table.settle(&kernel.InetSocket{Cookie: 9, HasInfo: true, State: kernel.TCPEstablished, Info: info}, now).answered {
		t.Error("one of which nothing is kept is counted, and would be in each reading")
	}
}

func TestAnswersTable(t *testing.T) {
	var table answersTable
	for range 3 {
		table.count(7, 50)
		table.count(9, 60)
	}
	if e := table.of(7); e.n != 3 || e.last != 50 {
		t.Errorf("%+v", *e)
	}
	for cookie := uint64(100); cookie < 100+2*answersSize; cookie++ {
		table.count(cookie, 70)
		if e := table.of(cookie); e.n != 1 || e.last != 70 {
			t.Fatalf("listener %d: %+v", cookie, *e)
		}
		if table.used > answersSize/2 {
			t.Fatalf("%d of %d slots in use", table.used, answersSize)
		}
	}
	if n := testing.AllocsPerRun(100, func() { table.count(7, 80) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
