package collectors

import (
	"net"
	"os"
	"testing"
	"time"

	"freezeframe"
)

// TestUDP asks a name server that does not answer and leaves data unread: both
// sockets must be told, with their owner, and a busy one that is read must not.
func TestUDP(t *testing.T) {
	var c freezeframe.Collector
	for _, x := range All(nil) {
		if x.Source().Name == "udp" {
			c = x
		}
	}
	h := live()
	h.Focus.Suspect(freezeframe.Instant(1 << 62))
	if err := c.Open(h); err != nil {
		t.Skipf("no sock_diag: %v", err)
	}
	defer closed(t, c)
	asks, err := net.Dial("udp4", "127.9.9.9:53")
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	unread, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	idle, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	out, err := net.Dial("udp4", unread.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.Write(make([]byte, 700)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for until := began.Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		found := map[string]map[string]any{}
		for _, row := range cells(t, c, h) {
			found[row["local"].(string)] = row
		}
		q, u := found[asks.LocalAddr().String()], found[unread.LocalAddr().String()]
		pid := int64(os.Getpid())
		if q != nil && u != nil && q["pid"] == pid && u["pid"] == pid {
			if q["peer"] != "127.9.9.9:53" || q["peer_port"] != int64(53) || q["since_ns"] == int64(0) {
				t.Errorf("the question: %v", q)
			}
			if u["peer"] != "" || u["rqueue"].(int64) < 700 || u["since_ns"] != int64(0) {
				t.Errorf("what nobody reads: %v", u)
			}
			if x := found[idle.LocalAddr().String()]; x != nil {
				t.Errorf("one with nothing to tell: %v", x)
			}
			return
		}
		if time.Now().After(until) {
			t.Fatalf("not told after %v: %v and %v", time.Since(began), q, u)
		}
	}
}
