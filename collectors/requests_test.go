package collectors

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// TestRequestsNameTheService has a connection wait at each kind of listener, and
// looks for the row under the text by which listeners calls it.
func TestRequestsNameTheService(t *testing.T) {
	p := programs(t, "requests")
	h := live()
	words := h.Texts.(dictionary)
	c := opened(t, p, "requests", h)
	path := filepath.Join(t.TempDir(), "socket")
	for _, tc := range []struct{ network, address string }{
		{"tcp4", "127.0.0.1:0"}, {"tcp4", "0.0.0.0:0"}, {"tcp6", "[::1]:0"}, {"tcp", "[::]:0"}, {"unix", path}, {"unix", fmt.Sprintf("@freezeframe-test-%d", os.Getpid())},
	} {
		l, err := net.Listen(tc.network, tc.address)
		if err != nil {
			t.Logf("%s %s: %v", tc.network, tc.address, err)
			continue
		}
		defer l.Close()
		name := l.Addr().String()
		if tc.network == "unix" {
			name = "unix:" + name
		}
		dial := l.Addr().String()
		if a, ok := l.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
			dial = fmt.Sprintf("127.0.0.1:%d", a.Port)
		}
		conn, err := net.Dial(strings.TrimRight(tc.network, "46"), dial)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		found := false
		var table freezeframe.Table
		for deadline := time.Now().Add(3 * time.Second); !found && time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
			if err := collect(t, c, &table); err != nil {
				t.Fatal(err)
			}
			for i := range table.Keys {
				row := table.Values(i, requestsWidth)
				found = found || words[row[requestsService]] == name && row[requestsKind] == bpf.WaitAccept && row[requestsDoneAt] == 0
			}
		}
		if !found {
			t.Errorf("%s %s: no row of a connection that nobody accepts at %q", tc.network, tc.address, name)
		}
	}
	noAllocations(t, c)
}

// TestServicesCount asks a service, and compares what was counted.
func TestServicesCount(t *testing.T) {
	p := programs(t, "requests")
	h := live()
	words := h.Texts.(dictionary)
	c := opened(t, p, "services", h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 16)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
			_, _ = conn.Write(buf[:n])
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var table freezeframe.Table
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	const n = 30
	buf := make([]byte, 16)
	for range n {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // the last is counted when its write returns
	if err := collect(t, c, &table); err != nil {
		t.Fatal(err)
	}
	for i := range table.Keys {
		row := table.Values(i, servicesWidth)
		if words[row[servicesService]] != l.Addr().String() {
			continue
		}
		answers := row[servicesFirst+bpf.WaitAnswer*servicesEach:]
		if answers[servicesCount] != n {
			t.Errorf("%d answers, there were %d", answers[servicesCount], n)
		}
		if p50 := time.Duration(answers[servicesP50]); p50 < 8*time.Millisecond || answers[servicesP99] < answers[servicesP50] || answers[servicesMax] < answers[servicesP99] {
			t.Errorf("p50 %v, p99 %v, max %v of answers that take 10 ms", p50, time.Duration(answers[servicesP99]), time.Duration(answers[servicesMax]))
		}
		// Whose it is is looked up beside the readings.
		deadline := time.Now().Add(10 * time.Second)
		for pid := row[servicesPID]; int(pid) != os.Getpid(); {
			if time.Now().After(deadline) {
				t.Fatalf("pid %d, want %d", pid, os.Getpid())
			}
			time.Sleep(50 * time.Millisecond)
			if err := collect(t, c, &table); err != nil {
				t.Fatal(err)
			}
			for i := range table.Keys {
				if row := table.Values(i, servicesWidth); words[row[servicesService]] == l.Addr().String() {
					pid = row[servicesPID]
				}
			}
		}
		noAllocations(t, c)
		return
	}
	t.Error("no row of the service")
}

// When the programs are taken out, nothing old is told as if it were new.
func TestRequestsThatWereShed(t *testing.T) {
	p := programs(t, "requests")
	c := opened(t, p, "requests", live())
	var table freezeframe.Table
	if err := c.Collect(&table); err != nil {
		t.Fatal(err)
	}
	p.Shed("requests", "for this test")
	if err := c.Collect(&table); err == nil {
		t.Error("what was shed is still read")
	}
}

func TestQuantiles(t *testing.T) {
	var now [bpf.RequestBins]uint32
	now[10], now[20], now[40] = 90, 9, 1
	row := make([]uint64, servicesEach)
	quantiles(&now, row)
	want := []uint64{100, binMiddle(10), binMiddle(10), binMiddle(20), binMiddle(40)}
	for i := range want {
		if row[i] != want[i] {
			t.Errorf("column %d: %d, want %d", i, row[i], want[i])
		}
	}
	// Each middle lies in its bin: the next is a quarter on at most.
	for bin := 4; bin+1 < bpf.RequestBins; bin++ {
		if r := float64(binMiddle(bin+1)) / float64(binMiddle(bin)); r < 1.1 || r > 1.25 {
			t.Errorf("bin %d to %d: %v", bin, bin+1, r)
		}
	}
}

// What is slow for a moment is still told; what is slow for long is only counted.
func TestCalmestOfTheLastSeconds(t *testing.T) {
	var s servedSlot
	for range 20 {
		s.calmest(leastTold)
	}
	for i := range leastSeconds - 1 {
		if got := s.calmest(400_000_000); got != leastTold {
			t.Fatalf("after %d slow seconds: %d ns", i+1, got)
		}
	}
	if got := s.calmest(400_000_000); got != 400_000_000 {
		t.Errorf("after %d slow seconds: %d ns", leastSeconds, got)
	}
	if got := s.calmest(leastTold); got != leastTold {
		t.Errorf("after a quick one: %d ns", got)
	}
}

// When a connection was accepted is known by the walks before and after. Far
// apart they prove no wait: that it was seen late is ours.
func TestAcceptedBetweenWalks(t *testing.T) {
	const ms = uint64(time.Millisecond)
	for _, c := range []struct {
		name                               string
		walked, began, accepted, done, end uint64
	}{
		{"between two walks", 1000 * ms, 900 * ms, 0, 1050 * ms, 1025 * ms},
		{"begun after the first", 1000 * ms, 1010 * ms, 0, 1050 * ms, 1030 * ms},
		{"a thread touched it meanwhile", 1000 * ms, 900 * ms, 1012 * ms, 1050 * ms, 1012 * ms},
		{"walks far apart", 1000 * ms, 900 * ms, 0, 1800 * ms, 1000 * ms},
		{"begun between walks far apart", 1000 * ms, 1040 * ms, 0, 1800 * ms, 1040 * ms},
	} {
		r := &requests{walked: freezeframe.Instant(c.walked)}
		x := &bpf.Told{How: bpf.ToldTakenUp, Began: c.began, Accepted: c.accepted, Done: c.done}
		if got := r.done(x); got != c.end {
			t.Errorf("%s: accepted at %d ms, want %d", c.name, got/ms, c.end/ms)
		}
	}
}
