package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a TCP connection over loopback with its listener.
func pair(t testing.TB, network, address string) (l net.Listener, client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("cannot listen on %s %s here: %v", network, address, err)
	}
	t.Cleanup(func() { l.Close() })
	client, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return l, client, server
}

func openDiag(t testing.TB) *SockDiag {
	t.Helper()
	d, err := OpenSockDiag()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func mapped(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	ap := netip.MustParseAddrPort(a.String())
	return netip.AddrPortFrom(netip.AddrFrom16(ap.Addr().As16()), ap.Port())
}

func TestDumpTCPFindsBothFamilies(t *testing.T) {
	for _, tt := range []struct {
		network, address string
		family           uint8
	}{
		{"tcp4", "127.0.0.1:0", unix.AF_INET},
		{"tcp6", "[::1]:0", unix.AF_INET6},
	} {
		l, client, server := pair(t, tt.network, tt.address)
		d := openDiag(t)
		var s InetSocket
		found := 0
		d.DumpTCP(1<<TCPListen, WantMemInfo)
		for d.NextInet(&s) {
			if s.Local == mapped(t, l.Addr()) {
				found++
				if s.Family != tt.family || s.State != TCPListen || s.Inode == 0 || s.Cookie == 0 || s.WQueue == 0 {
					t.Errorf("%s listener: %+v", tt.network, s)
				}
			}
		}
		if err := d.Err(); err != nil || found != 1 {
			t.Fatalf("%s: found %d listeners, want 1 (%v)", tt.network, found, err)
		}

		if _, err := client.Write(make([]byte, 1234)); err != nil {
			t.Fatal(err)
		}
		var ids []InetID
		d.DumpTCP(1<<TCPEstablished, WantInfo)
		for d.NextInet(&s) {
			if s.Local == mapped(t, server.LocalAddr()) && s.Peer == mapped(t, server.RemoteAddr()) {
				ids = append(ids, s.ID())
				if s.RQueue != 1234 || !s.HasInfo || s.Info.BytesReceived != 1234 || s.Info.LastDataRecv > 1000 || s.Info.RTOUs == 0 {
					t.Errorf("%s server: %+v", tt.network, s)
				}
			}
			if s.Local == mapped(t, client.LocalAddr()) {
				if s.Info.BytesSent != 1234 || s.Info.SegsOut == 0 {
					t.Errorf("%s client: %+v", tt.network, s)
				}
			}
		}
		if len(ids) != 1 {
			t.Fatalf("%s: found %d servers, want 1", tt.network, len(ids))
		}

		// Asked by name, beside one that does not exist.
		gone := ids[0]
		gone.Cookie++
		d.Ask([]InetID{gone, ids[0], gone})
		answers := 0
		for d.NextInet(&s) {
			answers++
			if s.Cookie != ids[0].Cookie || s.RQueue != 1234 {
				t.Errorf("%s: asked for %+v, got %+v", tt.network, ids[0], s)
			}
		}
		if err := d.Err(); err != nil || answers != 1 {
			t.Errorf("%s: %d answers, want 1 (%v)", tt.network, answers, err)
		}
	}
}

func TestAbandonedDumpDoesNotSpoilTheNext(t *testing.T) {
	l, _, _ := pair(t, "tcp4", "127.0.0.1:0")
	d := openDiag(t)
	var s InetSocket
	for range 3 {
		d.DumpTCP(1<<TCPListen|1<<TCPEstablished, WantInfo)
		d.NextInet(&s)
	}
	found := false
	d.DumpTCP(1<<TCPListen, 0)
	for d.NextInet(&s) {
		if s.State != TCPListen {
			t.Errorf("a socket of the abandoned dump: %+v", s)
		}
		found = found || s.Local == mapped(t, l.Addr())
	}
	if err := d.Err(); err != nil || !found {
		t.Errorf("found %v, error %v", found, err)
	}
}

func TestDumpUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, name := range []string{path, "@freezeframe-test-" + filepath.Base(t.TempDir())} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 3 {
			c, err := net.Dial("unix", name)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		want := []byte(name)
		if name[0] == '@' {
			want[0] = 0
		} else {
			want = append(want, 0)
		}
		d := openDiag(t)
		var s UnixSocket
		found := 0
		d.DumpUnix(1 << TCPListen)
		for d.NextUnix(&s) {
			if string(s.Name) == string(want) || string(s.Name) == name {
				found++
				if s.State != TCPListen || s.RQueue != 3 || s.WQueue == 0 || s.Inode == 0 || s.Cookie == 0 {
					t.Errorf("%q: %+v", name, s)
				}
			}
		}
		if err := d.Err(); err != nil || found != 1 {
			t.Errorf("%q: found %d, want 1 (%v)", name, found, err)
		}
	}
}

func TestSockDiagDoesNotAllocate(t *testing.T) {
	_, _, server := pair(t, "tcp4", "127.0.0.1:0")
	d := openDiag(t)
	var s InetSocket
	var u UnixSocket
	var ids []InetID
	d.DumpTCP(1<<TCPEstablished, WantInfo)
	for d.NextInet(&s) {
		if s.Local == mapped(t, server.LocalAddr()) {
			ids = append(ids, s.ID())
		}
	}
	sockets := 0
	n := testing.AllocsPerRun(50, func() {
		d.DumpTCP(1<<TCPListen|1<<TCPEstablished, WantInfo|WantMemInfo)
		for d.NextInet(&s) {
			sockets++
		}
		d.Ask(ids)
		for d.NextInet(&s) {
			sockets++
		}
		d.DumpUnix(1 << TCPListen)
		for d.NextUnix(&u) {
			sockets++
		}
	})
	if n != 0 || sockets == 0 {
		t.Errorf("%v allocations a round over %d sockets, want 0", n, sockets)
	}
}

func TestInNetns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace takes root")
	}
	child := exec.Command("unshare", "-n", "sh", "-c", "echo; exec sleep 60")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid)
	theirs, err := NetnsInode(path)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := NetnsInode("/proc/self/ns/net")
	if err != nil || ours == theirs {
		t.Fatal(ours, theirs, err)
	}
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			var inside uint32
			if err := InNetns(path, func() (err error) {
				time.Sleep(time.Millisecond) // so that there are many at once
				inside, err = NetnsInode("/proc/thread-self/ns/net")
				return err
			}); err != nil || inside != theirs {
				t.Errorf("in %d, want %d (%v)", inside, theirs, err)
			}
		})
	}
	all.Wait()
	// None of this process's threads stays there, the first least of all.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stayed := ""
		threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, thread := range append(threads, "/proc/self/ns/net") {
			if now, err := NetnsInode(thread); err == nil && now != ours {
				stayed = thread
			}
		}
		if stayed == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stayed in the namespace", stayed)
		}
	}
	if err := InNetns("/proc/0/ns/net", func() error { return nil }); !IsGone(err) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}

// message builds an inet_diag_msg with a tcp_info of n bytes.
func message(n int) []byte {
	b := make([]byte, inetMessageSize)
	b[0], b[1] = unix.AF_INET, TCPEstablished
	binary.BigEndian.PutUint16(b[4:], 8080)
	copy(b[8:], []byte{10, 1, 2, 3})
	binary.NativeEndian.PutUint64(b[44:], 0x1122334455667788)
	binary.NativeEndian.PutUint32(b[56:], 17)
	info := make([]byte, n)
	for i := range info {
		info[i] = byte(i)
	}
	b = binary.NativeEndian.AppendUint16(b, uint16(4+n))
	b = binary.NativeEndian.AppendUint16(b, inetDiagInfo)
	return append(b, info...)
}

func TestParseInetOfOlderKernels(t *testing.T) {
	// 104 bytes: 2.6; 192: 4.13; 232: 5.10; 248: 6.x. What is there is read, the
	// rest is 0, and nothing is read from beyond.
	whole := message(248)
	var want, s InetSocket
	if !ParseInet(whole, &want) {
		t.Fatal("not parsed")
	}
	if want.Local != netip.MustParseAddrPort("[::ffff:10.1.2.3]:8080") || want.Cookie != 0x1122334455667788 || want.RQueue != 17 {
		t.Errorf("%+v", want)
	}
	if want.Info.LastDataRecv != binary.NativeEndian.Uint32([]byte{52, 53, 54, 55}) ||
		want.Info.BytesSent != binary.NativeEndian.Uint64([]byte{200, 201, 202, 203, 204, 205, 206, 207}) {
		t.Errorf("%+v", want.Info)
	}
	for n := range 249 {
		if !ParseInet(message(n), &s) {
			t.Fatalf("%d bytes of tcp_info: not parsed", n)
		}
		if n >= 208 && s.Info != want.Info {
			t.Errorf("%d bytes: %+v", n, s.Info)
		}
		if n < 208 && s.Info.BytesSent != 0 || n < 56 && s.Info.LastDataRecv != 0 {
			t.Errorf("%d bytes: %+v", n, s.Info)
		}
	}
}

func TestParseInetTruncated(t *testing.T) {
	whole := message(232)
	var s InetSocket
	for n := range whole {
		ok := ParseInet(slices.Clip(slices.Clone(whole[:n])), &s)
		if ok != (n >= inetMessageSize) {
			t.Errorf("%d bytes: %v", n, ok)
		}
		if n >= inetMessageSize && n < len(whole) && s.HasInfo {
			t.Errorf("%d bytes: an attribute that does not fit was read", n)
		}
	}
}

// TestDatagrams feeds datagrams to a SockDiag through a socket pair in place
// of the kernel.
func TestDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name     string
		datagram []byte
		fails    bool
	}{
		{"nothing", []byte{1}, true},
		{"length 0", make([]byte, 16), true},
		{"longer than it is", append(binary.NativeEndian.AppendUint32(nil, 1<<20), make([]byte, 28)...), true},
		{"an error", reply(2, []byte{0xff, 0xff, 0xff, 0xff}), true},
		{"an error cut short", reply(2, nil), false},
		{"a message cut short", append(reply(20, make([]byte, 10)), reply(3, nil)...), true},
		{"another kind", append(reply(99, make([]byte, 10)), reply(3, nil)...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			d := openDiag(t)
			d.Close()
			d.fd = fds[0]
			defer unix.Close(fds[1])
			d.DumpTCP(1<<TCPListen, 0)
			if err := unix.Send(fds[1], tt.datagram, 0); err != nil {
				t.Fatal(err)
			}
			var s InetSocket
			for range 10 {
				if !d.NextInet(&s) {
					break
				}
			}
			if (d.Err() != nil) != tt.fails {
				t.Errorf("error %v, want one: %v", d.Err(), tt.fails)
			}
		})
	}
}

func reply(kind uint16, body []byte) []byte {
	b := make([]byte, nlHeaderSize, 64)
	binary.NativeEndian.PutUint32(b, uint32(nlHeaderSize+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint32(b[8:], 1)
	b = append(b, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func FuzzSockDiag(f *testing.F) {
	f.Add(append(reply(sockDiagByFamily, message(232)), reply(3, nil)...))
	f.Add(reply(tcpDiagGetSock, message(10)))
	f.Add(reply(2, []byte{1, 2, 3, 4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s InetSocket
		var u UnixSocket
		ParseInet(b, &s)
		ParseUnix(b, &u)
		for rest := b; ; {
			m, next, ok := netlinkMessage(rest)
			if !ok {
				break
			}
			if len(next) >= len(rest) {
				t.Fatalf("no progress: %d then %d bytes", len(rest), len(next))
			}
			ParseInet(m[nlHeaderSize:], &s)
			ParseUnix(m[nlHeaderSize:], &u)
			rest = next
		}
		_ = s.Local.String()
	})
}

func BenchmarkDumpListen(b *testing.B) {
	benchmarkDump(b, 1<<TCPListen, WantMemInfo)
}

func BenchmarkDumpEstablished(b *testing.B) {
	benchmarkDump(b, 1<<TCPEstablished, WantInfo)
}

func benchmarkDump(b *testing.B, states uint32, want uint8) {
	pair(b, "tcp4", "127.0.0.1:0")
	d := openDiag(b)
	var s InetSocket
	b.ReportAllocs()
	for b.Loop() {
		d.DumpTCP(states, want)
		for d.NextInet(&s) {
		}
	}
	if d.Err() != nil {
		b.Fatal(d.Err())
	}
}

func BenchmarkAsk(b *testing.B) {
	_, _, server := pair(b, "tcp4", "127.0.0.1:0")
	d := openDiag(b)
	var s InetSocket
	var ids []InetID
	d.DumpTCP(1<<TCPEstablished, WantInfo)
	for d.NextInet(&s) {
		if s.Local.Port() == netip.MustParseAddrPort(server.LocalAddr().String()).Port() {
			for range 32 {
				ids = append(ids, s.ID())
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		d.Ask(ids)
		n := 0
		for d.NextInet(&s) {
			n++
		}
		if n != 32 {
			b.Fatal(n, d.Err())
		}
	}
}
