package probes_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/collectors"
	"freezeframe/probes"
	"freezeframe/recorder"
)

// The services of these tests run in another process: this test's binary.
func TestMain(m *testing.M) {
	if mode := os.Getenv("FREEZEFRAME_TEST_SERVICE"); strings.HasPrefix(mode, "plain ") {
		servePlain(strings.Fields(mode)[1:])
		return
	} else if mode != "" {
		serve(mode)
		return
	}
	os.Exit(m.Run())
}

// serve listens, prints where, and answers each line "MILLISECONDS\n" after
// that long; "unread MILLISECONDS\n" is answered at once, and the next line is
// left unread for that long. Mode "deaf" never accepts. All the while it works
// a little, as a service does.
func serve(mode string) {
	// What is called as we are is another freezeframe, and no service.
	if err := os.WriteFile("/proc/self/comm", []byte("service"), 0o644); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	if mode == "deaf" {
		select {}
	}
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			for range 1000 {
				_ = fmt.Sprint(mode)
			}
		}
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			lines := bufio.NewReader(conn)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					conn.Close()
					return
				}
				var n int
				if _, err := fmt.Sscanf(line, "unread %d", &n); err == nil {
					fmt.Fprintln(conn, "ok")
					time.Sleep(time.Duration(n) * time.Millisecond)
					continue
				}
				fmt.Sscanf(line, "%d", &n)
				time.Sleep(time.Duration(n) * time.Millisecond)
				fmt.Fprintln(conn, "ok")
			}
		}()
	}
}

// host is a service in its own process, and everything that watches it.
type host struct {
	t       *testing.T
	address string
	cmd     *exec.Cmd

	mu   sync.Mutex
	late []freezeframe.Lateness
}

func watch(t *testing.T, mode string) *host { return watchBy(t, mode, nil) }

// watchBy watches with what BPF tells; nil: without.
func watchBy(t *testing.T, mode string, programs *bpf.Programs) *host {
	h := &host{t: t}
	h.cmd = exec.Command(os.Args[0])
	h.cmd.Env = append(os.Environ(), "FREEZEFRAME_TEST_SERVICE="+mode)
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal, as a service has none
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.cmd.Process.Signal(syscall.SIGCONT)
		h.cmd.Process.Kill()
		h.cmd.Wait()
	})
	if h.address, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	h.address = strings.TrimSpace(h.address)

	focus := &freezeframe.Focus{}
	ring := recorder.NewRing(recorder.MinBytes)
	ctx, cancel := context.WithCancel(t.Context())
	var observers []recorder.Observer
	var running sync.WaitGroup
	for _, p := range probes.All(probes.Options{Focus: focus, Events: ring.AddEvent, Texts: ring.Texts().String}) {
		if o, ok := p.(recorder.Observer); ok {
			observers = append(observers, o)
			running.Go(func() { p.Run(ctx, h.report) })
		}
	}
	if len(observers) != 4 {
		t.Fatalf("%d observers", len(observers))
	}
	sampler := recorder.NewSampler(ring, freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: ring.Texts(), Focus: focus}, collectors.All(programs), observers...)
	if err := sampler.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); running.Wait(); sampler.Stop() })
	time.Sleep(4 * time.Second) // what is learned at first
	return h
}

func (h *host) report(l freezeframe.Lateness) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.late = append(h.late, l)
}

// reports returns what was said about our service, that would open an incident.
func (h *host) reports(probe string) []freezeframe.Lateness {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []freezeframe.Lateness
	for _, l := range h.late {
		if len(l.Victims) > 0 && l.Victims[0].PID == h.cmd.Process.Pid && l.Probe == probe && l.Quality >= 0.5 && l.Late() >= max(l.Floor, 4*l.Usual) {
			out = append(out, l)
		}
	}
	return out
}

// until waits for a report in flight and one of the end of the same wait.
func (h *host) until(probe string, done bool) freezeframe.Lateness {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, l := range h.reports(probe) {
			if (l.Done != 0) == done {
				return l
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var same []freezeframe.Lateness
	for _, l := range h.late {
		if l.Probe == probe && len(l.Victims) > 0 && l.Victims[0].PID == h.cmd.Process.Pid {
			same = append(same, l)
		}
	}
	h.t.Fatalf("no report of %s (done: %v); there were %+v", probe, done, same)
	return freezeframe.Lateness{}
}

func (h *host) dial() net.Conn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *host) ask(c net.Conn, line string) {
	h.t.Helper()
	fmt.Fprintln(c, line)
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		h.t.Fatal(err)
	}
}

func TestLiveNobodyAccepts(t *testing.T) {
	h := watch(t, "deaf")
	h.dial()
	l := h.until("accept", false)
	if l.Target != h.address || l.Err != "" {
		t.Errorf("%+v", l)
	}
}

func TestLiveReadLate(t *testing.T) {
	h := watch(t, "serve")
	c := h.dial()
	for range 20 {
		h.ask(c, "0")
	}
	if early := h.reports("receive"); len(early) != 0 {
		t.Errorf("before anything was late: %+v", early)
	}
	h.ask(c, "unread 1000")
	h.ask(c, "0")
	in, done := h.until("receive", false), h.until("receive", true)
	if in.Target != h.address || done.Late() < 700*time.Millisecond {
		t.Errorf("%+v, then %+v: took %v", in, done, done.Late())
	}
}

func TestLiveAnswerThatNeverTookSoLong(t *testing.T) {
	h := watch(t, "serve")
	c := h.dial()
	// The probe looks at services closely only now and then; here it may take
	// its time until it has seen enough answers.
	for range 50 {
		h.ask(c, "60")
		time.Sleep(20 * time.Millisecond) // a client that does something with the answer
	}
	if early := h.reports("answer"); len(early) != 0 {
		t.Errorf("before anything was late: %+v", early)
	}
	h.ask(c, "4000")
	done := h.until("answer", true)
	if done.Target != h.address || done.Late() < 3900*time.Millisecond {
		t.Errorf("%+v took %v", done, done.Late())
	}
}

func TestLiveStoppedProcess(t *testing.T) {
	h := watch(t, "serve")
	c := h.dial()
	h.ask(c, "0")
	time.Sleep(3 * time.Second) // to be known as regularly active
	h.cmd.Process.Signal(syscall.SIGSTOP)
	// It stops when it next runs; until then it would still read what comes.
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(h.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait for the process to stop: %v, %v", err, status)
	}
	fmt.Fprintln(c, "0")
	h.until("receive", false)
	l := h.until("stuck", false)
	if l.Victims[0].PID != h.cmd.Process.Pid {
		t.Errorf("%+v", l)
	}
	h.cmd.Process.Signal(syscall.SIGCONT)
	h.until("stuck", true)
	h.until("receive", true)
}
