package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func packetsOf(t *testing.T) *Packets {
	t.Helper()
	p := load(t).Packets
	if p == nil {
		t.Fatal("no packets")
	}
	return p
}

// counted returns how often something happened to packets between two ports
// (0: a client's).
func counted(t *testing.T, p *Packets, what string, from, to netip.AddrPort) uint64 {
	t.Helper()
	n := uint64(0)
	names := PacketEvents()
	if err := p.Each(func(b *Between, h *Happened) {
		if names[b.What] == what && b.From() == from.Addr() && b.To() == to.Addr() && b.FromPort == from.Port() && b.ToPort == to.Port() {
			n += h.Count
			if h.First == 0 || h.Last < h.First || h.Last > nowNS() {
				t.Errorf("%s first at %d, last at %d", what, h.First, h.Last)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// udpDropped sends packets to a socket of which nobody reads: what the receiver
// does not have in the end was dropped for its buffer, to the last packet.
func TestFullReceiveBufferIsCounted(t *testing.T) {
	p := packetsOf(t)
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	_ = in.SetReadBuffer(4096)
	port := in.LocalAddr().(*net.UDPAddr).Port
	// The sender's port must be the larger one, as clients' are.
	var out *net.UDPConn
	for {
		if out, err = net.DialUDP("udp4", nil, in.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if out.LocalAddr().(*net.UDPAddr).Port > port {
			break
		}
	}
	const sent = 200
	for range sent {
		if _, err := out.Write(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	for buf := make([]byte, 1024); ; got++ {
		_ = in.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := in.Read(buf); err != nil {
			break
		}
	}
	if got == 0 || got == sent {
		t.Fatalf("%d of %d arrived: nothing was dropped", got, sent)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	if n := counted(t, p, "socket_rcvbuff", addrPort("127.0.0.1:0"), to); n != uint64(sent-got) {
		t.Errorf("%d drops counted, %d packets did not arrive", n, sent-got)
	}
	if allocations := testing.AllocsPerRun(20, func() { _ = p.Each(func(*Between, *Happened) {}) }); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}

// A connection to a port where nobody listens is reset; one that is closed in
// the ordinary way leaves nothing behind.
func TestResetsAreCountedAndClosesAreNot(t *testing.T) {
	p := packetsOf(t)
	// A port below those of clients: it is the lower one that is counted by.
	var l net.Listener
	err := error(nil)
	for port := 20000; port < 20100; port++ {
		if l, err = net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	address := addrPort(l.Addr().String())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for range 50 {
		if conn, err := net.Dial("tcp4", address.String()); err == nil {
			_, _ = conn.Read(make([]byte, 1))
			conn.Close()
		}
	}
	names := PacketEvents()
	_ = p.Each(func(b *Between, h *Happened) {
		if b.FromPort == address.Port() || b.ToPort == address.Port() {
			t.Errorf("closing a connection counts as %d × %s", h.Count, names[b.What])
		}
	})
	l.Close()
	before := counted(t, p, "reset_sent", address, addrPort("127.0.0.1:0"))
	for range 3 {
		if _, err := net.Dial("tcp4", address.String()); !errorsIs(err, unix.ECONNREFUSED) {
			t.Fatalf("dial: %v", err)
		}
	}
	if n := counted(t, p, "reset_sent", address, addrPort("127.0.0.1:0")) - before; n < 3 || n > 6 {
		t.Errorf("%d resets sent for 3 connections", n)
	}
}

func errorsIs(err error, want syscall.Errno) bool {
	return err != nil && strings.Contains(err.Error(), want.Error())
}

// TestFirewallDropsAreCounted drops packets by a rule, in a network namespace
// of its own.
func TestFirewallDropsAreCounted(t *testing.T) {
	p := packetsOf(t)
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	ns := fmt.Sprintf("fftest%d", unix.Getpid())
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	run("ip", "netns", "add", ns)
	defer run("ip", "netns", "del", ns)
	run("ip", "-n", ns, "link", "set", "lo", "up")
	run("ip", "-n", ns, "addr", "add", "192.0.2.7/32", "dev", "lo")
	run("ip", "netns", "exec", ns, "nft", "table inet t { chain in { type filter hook input priority 0; udp dport 5353 drop; }; }")
	// 7 packets to the port that is closed by the rule, and 5 to another.
	send := `i=0; while [ $i -lt 7 ]; do echo x >/dev/udp/192.0.2.7/5353; i=$((i+1)); done; i=0; while [ $i -lt 5 ]; do echo x >/dev/udp/192.0.2.7/5354; i=$((i+1)); done`
	run("ip", "netns", "exec", ns, "bash", "-c", send)
	to := addrPort("192.0.2.7:5353")
	if n := counted(t, p, "netfilter_drop", addrPort("192.0.2.7:0"), to); n != 7 {
		t.Errorf("%d drops counted, want 7", n)
	}
	if n := counted(t, p, "netfilter_drop", addrPort("192.0.2.7:0"), addrPort("192.0.2.7:5354")); n != 0 {
		t.Errorf("%d drops at a port that is open", n)
	}
	// What is lost on the way is sent again: TCP to an address that drops all.
	run("ip", "netns", "exec", ns, "nft", "add rule inet t in tcp dport 7777 drop")
	again := p.SentAgain()
	_ = exec.Command("ip", "netns", "exec", ns, "timeout", "1.4", "bash", "-c", "echo x >/dev/tcp/192.0.2.7/7777").Run()
	if n := counted(t, p, "syn_retransmit", addrPort("192.0.2.7:0"), addrPort("192.0.2.7:7777")); n != 1 {
		t.Errorf("%d SYNs sent again after 1.4 s, want 1", n)
	}
	if p.SentAgain() == again {
		t.Error("nothing says that a packet was sent again")
	}
	if n := counted(t, p, "netfilter_drop", addrPort("192.0.2.7:0"), addrPort("192.0.2.7:7777")); n != 2 {
		t.Errorf("%d SYNs dropped, want 2", n)
	}
}

func TestPacketEventsAreKnown(t *testing.T) {
	names := PacketEvents()
	for _, want := range []string{"netfilter_drop", "tcp_listen_overflow", "socket_rcvbuff", "retransmit", "buffer_limit"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s", want)
		}
	}
	if names[0] != "" || names[firstPacketEvent] != "retransmit" || len(dropReasons) >= firstPacketEvent {
		t.Errorf("numbers collide: %q", names)
	}
}
