package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/reports"
)

// running is a daemon as a process, with a service manager that only listens.
type running struct {
	t       testing.TB
	dir     string
	config  string
	command *exec.Cmd
	manager *net.UnixConn
	stderr  *syncBuffer
	ended   chan error

	mu   sync.Mutex
	told []string // by the daemon to the manager
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startDaemon starts one in dir; what it needs beside is in more.
func startDaemon(t testing.TB, dir, configuration string, more ...string) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := &running{t: t, dir: dir, config: filepath.Join(dir, "config.yaml"), stderr: &syncBuffer{}, ended: make(chan error, 1)}
	d.configure(configuration)
	socket := filepath.Join(dir, "notify")
	_ = os.Remove(socket) // of the daemon before
	if d.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go d.listen()
	args := append([]string{"daemon", "--config", d.config, "--state-dir", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "control.sock"), "--log-level", "info"}, more...)
	// Under this name the test binary is the command.
	link := filepath.Join(dir, "freezeframe")
	if err := os.Symlink(exe, link); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	d.command = exec.Command(link, args...)
	d.command.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=60000000", "FREEZEFRAME_BOX_SYNC=500ms", "FREEZEFRAME_BOX_FREE_FLOOR_BYTES=0")
	d.command.Stderr = d.stderr
	if err := d.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.command.Wait() }()
	t.Cleanup(func() {
		_ = d.command.Process.Kill() // it has ended, mostly
		d.manager.Close()
	})
	return d
}

func (d *running) configure(text string) {
	d.t.Helper()
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *running) listen() {
	buf := make([]byte, 4096)
	for {
		n, err := d.manager.Read(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.told = append(d.told, strings.Split(string(buf[:n]), "\n")...)
		d.mu.Unlock()
	}
}

// saw tells whether the manager was told a line that begins so, after it had been
// told n lines.
func (d *running) saw(n int, prefix string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.told[min(n, len(d.told)):], func(line string) bool { return strings.HasPrefix(line, prefix) })
}

func (d *running) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.told)
}

// until waits for something that a busy machine takes its time for.
func (d *running) until(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-d.ended:
			d.t.Fatalf("the daemon ended (%v) before %s:\n%s", err, what, d.stderr.String())
		default:
		}
		if time.Now().After(end) {
			d.t.Fatalf("waited in vain for %s:\n%v\n%s", what, d.told, d.stderr.String())
		}
	}
}

func (d *running) ready() {
	d.t.Helper()
	d.until("readiness", func() bool { return d.saw(0, "READY=1") })
}

func (d *running) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.command.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// stop ends it in order, and returns how it ended.
func (d *running) stop() error {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		return err
	case <-time.After(2 * time.Minute):
		d.t.Fatalf("it does not stop:\n%s", d.stderr.String())
		return nil
	}
}

// reports are those in the archive.
func (d *running) reports() []freezeframe.Report {
	d.t.Helper()
	var out []freezeframe.Report
	err := filepath.WalkDir(filepath.Join(d.dir, "state", "reports"), func(path string, _ os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was being written, and has its name now
		}
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if r, _, err := reports.Read(f); err == nil && r != nil {
			out = append(out, *r)
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// deafService takes requests and answers none before answer is closed. It
// returns its address.
func deafService(t *testing.T, answer <-chan struct{}) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				<-answer
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}()
		}
	}()
	return l.Addr().String()
}

func TestDaemonFromStartToStop(t *testing.T) {
	dir := t.TempDir()
	metrics := filepath.Join(dir, "metrics.sock")
	d := startDaemon(t, dir, "daemon: {metrics: "+metrics+"}\n")
	d.ready()
	d.until("a ping of the watchdog", func() bool { return d.saw(0, "WATCHDOG=1") })
	d.until("the status", func() bool { return d.saw(0, "STATUS=Recording") })

	c := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", metrics) }}}
	answer, err := c.Get("http://x/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || !bytes.Contains(body, []byte("\nfreezeframe_readings_total ")) || !bytes.Contains(body, []byte(`freezeframe_lane_behind_seconds{lane="slow"}`)) {
		t.Errorf("metrics: %v\n%s", err, body)
	}

	// A bad configuration changes nothing and says why; a good one is in force.
	n := d.count()
	d.configure("stall: {quiet: never}\n")
	d.signal(syscall.SIGHUP)
	d.until("the reload", func() bool { return d.saw(n, "RELOADING=1") && d.saw(n, "MONOTONIC_USEC=") && d.saw(n, "READY=1") })
	d.until("the reason in the log", func() bool {
		return strings.Contains(d.stderr.String(), "the configuration before it stays") && strings.Contains(d.stderr.String(), `key \"stall.quiet\": want a time`)
	})
	d.until("the reason in the status", func() bool { return d.saw(n, "STATUS=Recording; the last reload kept the configuration before it: ") })
	if _, err := c.Get("http://x/metrics"); err != nil {
		t.Errorf("the old configuration is not in force: %v", err)
	}
	n = d.count()
	d.configure("stall: {quiet: 300ms}\nbpf: {without: [locks]}\nbox: {bytes: 33554432}\n")
	d.signal(syscall.SIGHUP)
	d.until("the second reload", func() bool { return d.saw(n, "RELOADING=1") && d.saw(n, "READY=1") })
	d.until("the status", func() bool {
		return d.saw(n, "STATUS=Recording; nothing has stalled") || d.saw(n, "STATUS=Recording; last stall")
	})
	if _, err := c.Get("http://x/metrics"); err == nil {
		t.Error("metrics are served still, though the configuration does not say so any more")
	}

	if err := d.stop(); err != nil {
		t.Errorf("it ended with %v:\n%s", err, d.stderr.String())
	}
	if !d.saw(0, "STOPPING=1") {
		t.Errorf("the manager was told %q", d.told)
	}
	// The end was clean: the next start finds none that was not.
	again := startDaemon(t, dir, "")
	again.ready()
	if err := again.stop(); err != nil {
		t.Error(err)
	}
	for _, r := range again.reports() {
		for _, s := range r.Stall.Symptoms {
			if s.Probe == reports.ProbeUnclean {
				t.Errorf("an unclean end: %+v", r)
			}
		}
	}
}

// SIGTERM in the middle of a stall: its report is there, as it stood.
func TestDaemonFinishesTheOpenReport(t *testing.T) {
	dir := t.TempDir()
	d, address := stalledDaemon(t, dir)
	if err := d.stop(); err != nil {
		t.Errorf("it ended with %v:\n%s", err, d.stderr.String())
	}
	found := false
	for _, r := range d.reports() {
		for _, s := range r.Stall.Symptoms {
			found = found || strings.Contains(s.Target, address) && r.Stall.Ongoing
		}
	}
	if !found {
		t.Errorf("no report of the stall:\n%s", d.stderr.String())
	}
	// The recording knows of it, whatever becomes of the report.
	if err := os.RemoveAll(filepath.Join(dir, "state", "reports")); err != nil {
		t.Fatal(err)
	}
	got, _, errs, code := asks(t, dir, "--since", "10m", "--json")
	if code != 0 || !slices.ContainsFunc(got.Reports, func(r freezeframe.Report) bool { return strings.Contains(fmt.Sprint(r.Stall.Symptoms), address) }) {
		t.Errorf("exit %d, %d reports: %s", code, len(got.Reports), errs)
	}
}

// stalledDaemon is one in whose eyes something stalls: the service at address.
func stalledDaemon(t *testing.T, dir string) (d *running, address string) {
	t.Helper()
	answer := make(chan struct{})
	t.Cleanup(func() { close(answer) })
	address = deafService(t, answer)
	d = startDaemon(t, dir, "probes: {http: ['http://"+address+"/']}\n")
	d.ready()
	d.until("a stall", func() bool { return strings.Contains(d.stderr.String(), "a stall has begun") })
	return d, address
}

// kill ends it without a word, when what was recorded has reached the disk.
func (d *running) kill() {
	d.t.Helper()
	time.Sleep(3 * time.Second) // it does every half second
	d.signal(syscall.SIGKILL)
	<-d.ended
	d.manager.Close()
}

// SIGKILL: the next start says what was going on, with the stall that was open.
func TestDaemonWasKilled(t *testing.T) {
	dir := t.TempDir()
	d, address := stalledDaemon(t, dir)
	d.kill()

	next := startDaemon(t, dir, "")
	next.ready()
	var unclean *freezeframe.Report
	next.until("the report", func() bool {
		for _, r := range next.reports() {
			for _, s := range r.Stall.Symptoms {
				if s.Probe == reports.ProbeUnclean && s.Target == "freezeframe" {
					unclean = &r
				}
			}
		}
		return unclean != nil
	})
	var targets []string
	for _, s := range unclean.Stall.Symptoms {
		targets = append(targets, s.Target)
	}
	if !slices.ContainsFunc(targets, func(s string) bool { return strings.Contains(s, address) }) {
		t.Errorf("the stall that was open is not in it: %q", targets)
	}
	if err := next.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(next.stderr.String(), "then freezeframe was killed here") {
		t.Errorf("the log does not say so:\n%s", next.stderr.String())
	}
}

// A second daemon says why it cannot be, and leaves the first alone.
func TestDaemonIsAlone(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, "")
	d.ready()
	var stderr bytes.Buffer
	c := exec.Command(d.command.Path, "daemon", "--config", "", "--state-dir", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "other.sock"))
	c.Stderr = &stderr
	if err := c.Run(); err == nil || !strings.Contains(stderr.String(), "another freezeframe daemon uses it") {
		t.Errorf("a second daemon: %v: %s", err, stderr.String())
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// A stop of the daemon's own is a stall of its own, and breaks nothing.
func TestDaemonWasStopped(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, "")
	d.ready()
	time.Sleep(2 * time.Second) // what is late because of its own start does not count
	d.signal(syscall.SIGSTOP)
	time.Sleep(4 * time.Second)
	n := d.count()
	d.signal(syscall.SIGCONT)
	d.until("going on", func() bool { return d.saw(n, "WATCHDOG=1") })
	var own *freezeframe.Report
	d.until("the report", func() bool {
		for _, r := range d.reports() {
			if r.Causes[0].ID == "app.stopped" {
				own = &r
			}
		}
		return own != nil
	})
	if c := own.Causes[0]; c.ExplainedPct < 50 {
		b, err := json.Marshal(c)
		t.Errorf("%s %v", b, err)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}
