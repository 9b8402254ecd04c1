package daemon

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)+\})? (\S+)$`)
)

// parseMetrics reads the text format as its specification says, and returns the
// values by name and labels.
func parseMetrics(t *testing.T, text string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	help, kind := map[string]bool{}, map[string]string{}
	current := ""
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line does not end")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, words, _ := strings.Cut(rest, " ")
			if help[name] || !metricName.MatchString(name) || words == "" {
				t.Errorf("a bad help line: %q", line)
			}
			help[name], current = true, name
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, k, _ := strings.Cut(rest, " ")
			if name != current || kind[name] != "" || k != counter && k != gauge {
				t.Errorf("a bad type line: %q", line)
			}
			kind[name] = k
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != current {
			t.Errorf("a bad sample of %s: %q", current, line)
			continue
		}
		v, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			t.Errorf("a bad value: %q", line)
		}
		if kind[current] == counter && (!strings.HasSuffix(current, "_total") || v < 0) {
			t.Errorf("a bad counter: %q", line)
		}
		if _, twice := out[m[1]+m[2]]; twice {
			t.Errorf("twice: %q", line)
		}
		out[m[1]+m[2]] = v
	}
	return out
}

func TestMetricsAreEscaped(t *testing.T) {
	f := family{name: "x_total", help: "a \\ b\nc", kind: counter}
	f.with("what", "q\"\\\n\xff", 1)
	f.with("what", "", 2.5e9)
	var b bytes.Buffer
	if err := writeMetrics(&b, []family{f, {name: "empty", help: "nothing", kind: gauge}}); err != nil {
		t.Fatal(err)
	}
	got := parseMetrics(t, b.String())
	if len(got) != 2 || got[`x_total{what="q\"\\\n?"}`] != 1 || got[`x_total{what=""}`] != 2.5e9 {
		t.Errorf("%q: %v", b.String(), got)
	}
}

func serve(t *testing.T, address string) *metricsServer {
	t.Helper()
	n := 0.0
	m, err := serveMetrics(address, func() []family { n++; return []family{one(counter, "asked_total", n, "How often.")} }, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m
}

// freePort is one that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestMetricsAreServed(t *testing.T) {
	address := freePort(t)
	serve(t, address)
	get := func(method, path string) (int, string) {
		req, err := http.NewRequest(method, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(b)
	}
	code, body := get("GET", "/metrics")
	if code != 200 || parseMetrics(t, body)["asked_total"] != 1 {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := get("GET", "/"); code != 404 {
		t.Errorf("/ gives %d", code)
	}
	if code, _ := get("POST", "/metrics"); code != 405 {
		t.Errorf("POST gives %d", code)
	}
	if _, err := serveMetrics(address, nil, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "daemon.metrics") {
		t.Errorf("an address that is taken: %v", err)
	}
}

func TestMetricsOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.sock")
	m := serve(t, path)
	if _, err := serveMetrics(path, nil, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "listens there already") {
		t.Errorf("a socket in use: %v", err)
	}
	c := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	answered := func() {
		t.Helper()
		answer, err := c.Get("http://x/metrics")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	answered()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("who may ask: %v %v", info.Mode(), err)
	}
	m.close()
	// One that a daemon left behind is replaced.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	m = serve(t, path)
	answered()
	m.close()
	// A file that is no socket is not ours to remove.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serveMetrics(path, nil, zerolog.Nop()); err == nil {
		t.Error("a file was replaced by a socket")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file: %q %v", b, err)
	}
}

// Whoever asks again at once gets the same figures: to find them costs something.
func TestMetricsAreNotGatheredForEach(t *testing.T) {
	n := 0.0
	m := &metricsServer{gather: func() []family { n++; return []family{one(counter, "asked_total", n, "How often.")} }}
	if first := m.render(); parseMetrics(t, first)["asked_total"] != 1 {
		t.Fatal(first)
	}
	m.at = time.Now().Add(time.Hour) // however slow the machine is
	if again := m.render(); parseMetrics(t, again)["asked_total"] != 1 {
		t.Error("gathered anew at once")
	}
	m.at = time.Now().Add(-2 * metricsFresh)
	if later := m.render(); parseMetrics(t, later)["asked_total"] != 2 {
		t.Error("never gathered anew")
	}
}

// listening gives as many connections as are wanted, and counts them.
type listening struct {
	net.Listener
	given int
}

func (l *listening) Accept() (net.Conn, error) {
	l.given++
	c, _ := net.Pipe()
	return c, nil
}

// So many are served at a time, and the next when one of them has gone.
func TestFewClientsOfMetricsAtATime(t *testing.T) {
	l := &listening{}
	p := &paced{Listener: l, slots: make(chan struct{}, maxClients)}
	var taken []net.Conn
	for range maxClients {
		c, err := p.Accept()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, c)
	}
	next := make(chan struct{})
	go func() { defer close(next); _, _ = p.Accept() }()
	select {
	case <-next:
		t.Errorf("%d at a time", l.given)
	case <-time.After(5 * clientPause):
	}
	taken[0].Close()
	taken[0].Close() // which frees one place, however often
	<-next
	if len(p.slots) != maxClients {
		t.Errorf("%d of %d places are taken", len(p.slots), maxClients)
	}
}

// Whoever sends garbage, or nothing, or too much, is let go; the next is answered.
func TestHostileClientsOfMetrics(t *testing.T) {
	address := freePort(t)
	serve(t, address)
	var idle []net.Conn
	for range maxClients { // all places taken by clients that say nothing
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	answered := make(chan error, 1)
	go func() {
		answer, err := http.Get("http://" + address + "/metrics")
		if err == nil {
			answer.Body.Close()
		}
		answered <- err
	}()
	// They are let go without anybody's doing.
	for _, c := range idle {
		if err := c.SetReadDeadline(time.Now().Add(20 * clientTime)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatalf("a client that says nothing is not let go: %v", err)
		}
	}
	if err := <-answered; err != nil {
		t.Errorf("the one behind them: %v", err)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := 0
	line := []byte("X-Y: " + strings.Repeat("z", 1000) + "\r\n")
	fmt.Fprint(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n")
	for sent < 1<<30 {
		n, err := c.Write(line)
		if sent += n; err != nil {
			break
		}
	}
	if sent > 64<<20 {
		t.Errorf("%d bytes of a header were taken", sent)
	}
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("an endless header gives %d", answer.StatusCode)
	}
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}
