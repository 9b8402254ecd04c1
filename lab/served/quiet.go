package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"freezeframe/lab"
)

// custom is a service that lets its clients wait by design, and what they do.
type custom struct {
	name  string
	about string
	// serve returns the service; handle and speak are alternatives.
	handle func() http.Handler
	speak  func() func(net.Conn)
	// visit is a client: one of several, until the process ends.
	clients int
	visit   func(g *guest)
}

var customs = []custom{
	{name: "longpoll", about: "answers come after 5 to 30 s", handle: longPoll, clients: 6, visit: pollClient},
	{name: "queue", about: "a blocking pop, without a timeout and with one of 5 s; a value every 5 to 20 s", speak: queueServer, clients: 7, visit: queueClient},
	{name: "websocket", about: "idle websockets with a ping every 20 s", handle: webSocket, clients: 5, visit: webSocketClient},
	{name: "download", about: "10 MB at 200 kB/s: a slow reader, and a slow writer", handle: download, clients: 4, visit: downloadClient},
	{name: "push", about: "server-sent events, one every 2 to 6 s", handle: push, clients: 3, visit: pushClient},
	{name: "mixed", about: "a report that takes 3 s by design beside quick requests", handle: mixed, clients: 4, visit: mixedClient},
	{name: "idle", about: "connections that are kept, and idle for 1 to 4 minutes", handle: quick, clients: 5, visit: idleClient},
	{name: "banner", about: "the server speaks first, as databases do", speak: bannerServer, clients: 3, visit: bannerClient},
	{name: "rare", about: "a service that is used once a minute", handle: quick, clients: 1, visit: rareClient},
}

func customOf(name string) *custom {
	for i := range customs {
		if customs[i].name == name {
			return &customs[i]
		}
	}
	fmt.Fprintf(os.Stderr, "no service is called %q\n", name)
	os.Exit(2)
	return nil
}

// patientServices is a process with one of these services, on TCP and on a
// Unix socket: NAME PATH.
func patientServices(args []string) {
	c := customOf(args[0])
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	unix, err := net.Listen("unix", args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var handler http.Handler
	var speak func(net.Conn)
	if c.handle != nil {
		handler = c.handle()
	} else {
		speak = c.speak()
	}
	for _, l := range []net.Listener{tcp, unix} {
		go func() {
			if handler != nil {
				fmt.Fprintln(os.Stderr, (&http.Server{Handler: handler}).Serve(l))
				os.Exit(1)
			}
			for {
				conn, err := l.Accept()
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				go func() { defer conn.Close(); speak(conn) }()
			}
		}()
	}
	lab.Listen(tcp.Addr().String(), nil)
}

// visits is what the clients of a service over a family of sockets saw.
type visits struct {
	Count   int
	Late    []lateVisit // 100 ms or more after it was due by design
	WorstMs float64     // lateness
	Errors  []string
}

type lateVisit struct {
	Due, At int64
}

// guest is one client.
type guest struct {
	network, address string
	index            int
	random           *rand.Rand
	client           *http.Client

	mu  *sync.Mutex
	out *visits
}

// guests is a process with the clients of a service: -seed N NAME TCP UNIX.
func guests(args []string) {
	flags := flag.NewFlagSet("guests", flag.ExitOnError)
	seed := flags.Uint64("seed", 1, "")
	_ = flags.Parse(args)
	debug.SetGCPercent(800)
	c := customOf(flags.Arg(0))
	var mu sync.Mutex
	out := map[string]*visits{}
	start := func() {
		for i, network := range families {
			out[network] = &visits{}
			for n := range c.clients {
				g := &guest{network: network, address: flags.Arg(1 + i), index: n, random: rand.New(rand.NewPCG(*seed, uint64(100*i+n))), mu: &mu, out: out[network]}
				g.client = &http.Client{Transport: &http.Transport{
					DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial(network, g.address) },
				}}
				go c.visit(g)
			}
		}
	}
	lab.Listen("", func(line string) {
		switch line {
		case "go":
			start()
		case "report":
			mu.Lock()
			text, err := json.Marshal(out)
			mu.Unlock()
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(string(text))
		}
	})
}

// got notes something that was due and came, or failed.
func (g *guest) got(due int64, err error) {
	at := lab.Monotonic()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out.Count++
	late := ms(at - due)
	g.out.WorstMs = max(g.out.WorstMs, late)
	if late >= feltMs && len(g.out.Late) < 1000 {
		g.out.Late = append(g.out.Late, lateVisit{due, at})
	}
	if err != nil && len(g.out.Errors) < 10 {
		g.out.Errors = append(g.out.Errors, err.Error())
	}
}

func (g *guest) rest(from, to time.Duration) {
	time.Sleep(from + time.Duration(g.random.Int64N(int64(to-from)+1)))
}

// between returns a random time, for servers.
func between(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// get asks for a path and reads the whole answer, which is due so much later.
func (g *guest) get(path string, due time.Duration) {
	at := lab.Monotonic() + int64(due)
	resp, err := g.client.Get("http://lab" + path)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	g.got(at, err)
}

func quick() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
}

// A client of a long poll says how long nothing will happen, so that it knows
// when its answer is due; the server does not know before either.
func longPoll() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		_, _ = io.WriteString(w, "news\n")
	})
}

func pollClient(g *guest) {
	for {
		d := 5*time.Second + time.Duration(g.random.Int64N(int64(25*time.Second)))
		g.get("/"+d.Round(time.Millisecond).String(), d)
	}
}

// queueServer knows "POP SECONDS" (0: for ever) and "PUSH VALUE".
func queueServer() func(net.Conn) {
	values := make(chan string, 1000)
	return func(conn net.Conn) {
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			what, arg, _ := strings.Cut(lines.Text(), " ")
			answer := "+" + arg
			if what == "POP" {
				var timeout <-chan time.Time
				if s, _ := strconv.Atoi(arg); s > 0 {
					timeout = time.After(time.Duration(s) * time.Second)
				}
				select {
				case v := <-values:
					answer = "$" + v
				case <-timeout:
					answer = "nil"
				}
			} else {
				values <- arg
			}
			if _, err := io.WriteString(conn, answer+"\n"); err != nil {
				return
			}
		}
	}
}

func queueClient(g *guest) {
	conn, r := g.dial()
	if conn == nil {
		return
	}
	for {
		if g.index == 0 {
			g.rest(5*time.Second, 20*time.Second)
			due := lab.Monotonic()
			g.ask(conn, r, fmt.Sprintf("PUSH %d", due), due)
			continue
		}
		timeout := []int{0, 5}[g.index%2]
		sent := lab.Monotonic()
		line, err := talk(conn, r, fmt.Sprintf("POP %d", timeout))
		due := sent + int64(timeout)*1e9
		if value, ok := strings.CutPrefix(line, "$"); ok {
			pushed, _ := strconv.ParseInt(value, 10, 64)
			due = max(sent, pushed)
		}
		g.got(due, err)
		if err != nil {
			return
		}
	}
}

func (g *guest) dial() (net.Conn, *bufio.Reader) {
	conn, err := net.Dial(g.network, g.address)
	if err != nil {
		g.got(lab.Monotonic(), err)
		return nil, nil
	}
	return conn, bufio.NewReader(conn)
}

func talk(conn net.Conn, r *bufio.Reader, line string) (string, error) {
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	answer, err := r.ReadString('\n')
	return strings.TrimSpace(answer), err
}

func (g *guest) ask(conn net.Conn, r *bufio.Reader, line string, due int64) {
	_, err := talk(conn, r, line)
	g.got(due, err)
}

// Websockets, as far as pings and pongs need them (RFC 6455).
const webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

const pingEvery = 20 * time.Second

func webSocket() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + webSocketGUID))
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		if rw.Flush() != nil {
			return
		}
		for {
			time.Sleep(pingEvery)
			ping := binary.BigEndian.AppendUint64([]byte{0x89, 8}, uint64(lab.Monotonic()))
			if _, err := conn.Write(ping); err != nil {
				return
			}
			var pong [14]byte // header, mask, the same 8 bytes
			if _, err := io.ReadFull(rw, pong[:]); err != nil || pong[0] != 0x8a {
				return
			}
		}
	})
}

func webSocketClient(g *guest) {
	g.rest(0, 10*time.Second)
	conn, r := g.dial()
	if conn == nil {
		return
	}
	asked := lab.Monotonic()
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", base64.StdEncoding.EncodeToString(make([]byte, 16)))
	resp, err := http.ReadResponse(r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(resp.Status)
	}
	g.got(asked, err)
	for err == nil {
		var ping [10]byte
		if _, err = io.ReadFull(r, ping[:]); err == nil {
			g.got(int64(binary.BigEndian.Uint64(ping[2:])), nil)
			pong := append([]byte{0x8a, 0x88, 0, 0, 0, 0}, ping[2:]...) // a mask of zeros changes nothing
			_, err = conn.Write(pong)
		}
	}
	g.got(lab.Monotonic(), err)
}

const (
	downloadBytes = 10 << 20
	downloadPart  = 20 << 10 // every 100 ms
)

func download() http.Handler {
	part := bytes.Repeat([]byte("x"), downloadPart)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(downloadBytes))
		for n := 0; n < downloadBytes; n += len(part) {
			if _, err := w.Write(part[:min(len(part), downloadBytes-n)]); err != nil {
				return
			}
			if r.URL.Path == "/slow" {
				_ = http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
}

func downloadClient(g *guest) {
	for {
		g.rest(time.Second, 5*time.Second)
		asked := lab.Monotonic()
		path := []string{"/fast", "/slow"}[g.index%2]
		resp, err := g.client.Get("http://lab" + path)
		g.got(asked, err)
		if err != nil {
			continue
		}
		buf := make([]byte, downloadPart)
		for err == nil {
			_, err = io.ReadFull(resp.Body, buf)
			if path == "/fast" {
				time.Sleep(100 * time.Millisecond)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		g.got(lab.Monotonic(), errors.Join(err, resp.Body.Close()))
	}
}

func push() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := fmt.Fprintf(w, "data: %d\n\n", lab.Monotonic()); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(between(2*time.Second, 6*time.Second))
		}
	})
}

func pushClient(g *guest) {
	g.rest(0, 5*time.Second)
	resp, err := g.client.Get("http://lab/events")
	if err != nil {
		g.got(lab.Monotonic(), err)
		return
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			due, err := strconv.ParseInt(at, 10, 64)
			g.got(due, err)
		}
	}
	g.got(lab.Monotonic(), errors.New("the events ended"))
}

const reportTakes = 3 * time.Second

func mixed() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/report" {
			time.Sleep(reportTakes)
		}
		_, _ = io.WriteString(w, "ok\n")
	})
}

func mixedClient(g *guest) {
	for {
		if g.index == 0 {
			g.rest(4*time.Second, 8*time.Second)
			g.get("/report", reportTakes)
			continue
		}
		g.rest(50*time.Millisecond, 150*time.Millisecond)
		g.get("/quick", 0)
		if g.index == 3 {
			g.client.CloseIdleConnections() // this one makes new connections
		}
	}
}

func idleClient(g *guest) {
	g.rest(0, 10*time.Second)
	for {
		g.get("/", 0)
		g.rest(time.Minute, 4*time.Minute)
	}
}

func bannerServer() func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.WriteString(conn, "ready for you\n"); err != nil {
			return
		}
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			if _, err := io.WriteString(conn, "1 row\n"); err != nil || lines.Text() == "quit" {
				return
			}
		}
	}
}

func bannerClient(g *guest) {
	for {
		began := lab.Monotonic()
		conn, r := g.dial()
		if conn == nil {
			time.Sleep(time.Second)
			continue
		}
		_, err := r.ReadString('\n')
		g.got(began, err)
		for n := 0; err == nil && (g.index > 0 || n < 3); n++ { // a session, or a few questions
			g.rest(300*time.Millisecond, 700*time.Millisecond)
			due := lab.Monotonic()
			_, err = talk(conn, r, "select 1")
			g.got(due, err)
		}
		if err == nil {
			g.ask(conn, r, "quit", lab.Monotonic())
		}
		conn.Close()
		g.rest(time.Second, 3*time.Second)
	}
}

func rareClient(g *guest) {
	for {
		g.rest(50*time.Second, 70*time.Second)
		g.get("/", 0)
		g.client.CloseIdleConnections()
	}
}

// quietReport is a report, and which client waited meanwhile, if one did.
type quietReport struct {
	said
	Felt string
}

// stayQuiet lets freezeframe watch all of them at once for so long; any report
// is wrong.
func stayQuiet(l *lab.Lab, length time.Duration, seed uint64, w io.Writer) (ok bool, err error) {
	var reports []report
	seen := map[string]map[string]*visits{}
	pids := map[int]bool{} // of the services
	err = l.Free(seed, func(s *lab.Scene) {
		s.Prefer(serverNice)
		clients := map[string]*lab.Proc{}
		for _, c := range customs {
			path := filepath.Join(s.Dir, c.name+".sock")
			server := s.Start(lab.Cmd{Name: c.name, Role: "patient", Args: []string{c.name, path}, Place: lab.Place{RR: 5}})
			pids[server.PID] = true
			clients[c.name] = s.Start(lab.Cmd{Name: "guest", Role: "guests", Place: lab.Place{RR: 80},
				Args: []string{"-seed", strconv.FormatUint(s.Rand.Uint64(), 10), c.name, server.Ready, path}})
		}
		dir := s.Dir
		if l.Out != "" {
			dir = filepath.Join(l.Out, "quiet")
		}
		// Half of the clients were there before freezeframe came.
		for i, c := range customs {
			if i%2 == 0 {
				s.Check(clients[c.name].Say("go"))
			}
		}
		watch := s.Diagnose(length+time.Minute, dir, l.Out != "")
		time.Sleep(2 * time.Second)
		for i, c := range customs {
			if i%2 == 1 {
				s.Check(clients[c.name].Say("go"))
			}
		}
		time.Sleep(length)
		var d diagnosis
		s.Check(watch.End(&d))
		if d.Schema != "freezeframe.diagnosis/v1" {
			s.Fail("the diagnosis's schema is %q", d.Schema)
		}
		reports = d.onClock(lab.WallOffset())
		for name, p := range clients {
			line, err := p.Ask("report", 20*time.Second)
			s.Check(err)
			var v map[string]*visits
			s.Check(json.Unmarshal([]byte(line), &v))
			seen[name] = v
		}
	})
	if err != nil {
		return false, err
	}
	ok = len(reports) == 0
	fmt.Fprintf(w, "%-20s %8s %10s %12s  %s\n", "service", "visits", "felt late", "worst ms", "")
	for _, c := range customs {
		for _, family := range families {
			v := seen[c.name][family]
			fmt.Fprintf(w, "%-20s %8d %10d %12.3f  %s\n", c.name+"/"+family, v.Count, len(v.Late), v.WorstMs, c.about)
			for _, e := range v.Errors {
				fmt.Fprintf(w, "    FAILED %s\n", e)
				ok = false
			}
		}
	}
	fmt.Fprintf(w, "%d reports in %v, should be 0\n", len(reports), length)
	all := []quietReport{}
	for i := range reports {
		r := &reports[i]
		felt := " (none of these services: something else on this machine)"
		for _, sy := range r.Stall.Symptoms {
			if slices.ContainsFunc(sy.Victims, func(v string) bool { return pids[pidOf(v)] }) {
				felt = ""
			}
		}
		for _, c := range customs {
			for _, family := range families {
				for _, v := range seen[c.name][family].Late {
					if felt == "" && r.start < v.At && r.end > v.Due {
						felt = fmt.Sprintf(" (a client of %s/%s waited %.0f ms longer than by design)", c.name, family, ms(v.At-v.Due))
					}
				}
			}
		}
		short := r.short()
		all = append(all, quietReport{short, felt})
		fmt.Fprintf(w, "    %s %s%s\n", short.Span, short, felt)
	}
	if l.Out != "" {
		text, err := json.MarshalIndent(map[string]any{"Length": length.String(), "Reports": all, "Visits": seen}, "", "  ")
		if err == nil {
			err = os.WriteFile(filepath.Join(l.Out, "quiet.json"), text, 0o644)
		}
		if err != nil {
			return false, err
		}
	}
	return ok, nil
}
