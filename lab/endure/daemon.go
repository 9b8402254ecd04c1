package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"freezeframe/lab"
)

const (
	// startMost is how long a start may take until it is answered and something
	// is on the disk, on a machine that does other things too.
	startMost = 60 * time.Second
	// answerMost is how long whoever asks waits.
	answerMost = 60 * time.Second
	// stopMost is how long is waited until it has ended when it is told to;
	// orderly is what it says it takes at most.
	stopMost = 25 * time.Second
	orderly  = 15 * time.Second
	// recoverMost is how long after a condition the recording may take to be
	// written again: after failures in a row it is tried once a minute.
	recoverMost = 100 * time.Second
	// freeFloor is what the recording leaves free on the small filesystem here.
	freeFloor = 8 << 20
)

// daemon is the built freezeframe with files of its own.
type daemon struct {
	bin     string
	state   string // directory
	config  string // file
	metrics string // socket
	log     string // file

	mu     sync.Mutex
	proc   *lab.Proc // nil: none was started yet
	starts int
}

// newDaemon writes the configuration of a daemon whose data is in state; what
// else it has is in dir.
func newDaemon(bin, dir, state string) (*daemon, error) {
	d := &daemon{
		bin: bin, state: state, config: filepath.Join(dir, "config.yaml"),
		metrics: filepath.Join(dir, "metrics.sock"), log: filepath.Join(dir, "daemon.log"),
	}
	text := fmt.Sprintf("daemon: {state_dir: %q, socket: %q, metrics: %q}\nbox: {free_floor_bytes: %d}\nlog: {level: info}\n",
		d.state, d.socket(), d.metrics, freeFloor)
	return d, os.WriteFile(d.config, []byte(text), 0o600)
}

func (d *daemon) socket() string { return filepath.Join(filepath.Dir(d.config), "control.sock") }

// start starts it, and waits until it answers and readings are on its disk.
func (d *daemon) start(s *lab.Scene) error {
	began := time.Now()
	p := s.Start(lab.Cmd{
		Path:  "/bin/sh",
		Args:  []string{"-c", `exec "$0" daemon --config "$1" 2>>"$2"`, d.bin, d.config, d.log},
		Quiet: true,
	})
	d.mu.Lock()
	d.proc = p
	d.starts++
	d.mu.Unlock()
	return d.recorded(began, startMost)
}

func (d *daemon) running() *lab.Proc {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proc
}

// recorded waits until a reading is on the disk that was made after at.
func (d *daemon) recorded(at time.Time, most time.Duration) error {
	return until(most, func() error {
		if how, dead := d.running().Dead(); dead {
			return errors.Join(errGone, fmt.Errorf("the daemon ended: %s: %s", how, d.lastWords()))
		}
		st, err := d.status()
		if err == nil && !st.Box.Newest.After(at) {
			err = fmt.Errorf("the newest reading on the disk is of %s, wanted is one after %s (%s)", clock(st.Box.Newest), clock(at), st.Box.Err)
		}
		return err
	})
}

// kill ends it at once and waits until it is gone.
func (d *daemon) kill() error {
	p := d.running()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the daemon: %w", err)
	}
	return errors.Join(d.gone(p, stopMost), p.Kill())
}

// stop ends it in order, and says how long that took, and what was not as it has
// to be.
func (d *daemon) stop() (took time.Duration, err error) {
	began := time.Now()
	err = d.terminate()
	took = time.Since(began)
	if err == nil && took > orderly+time.Second {
		err = fmt.Errorf("it took %s to end", seconds(took))
	}
	if text, e := os.ReadFile(d.log); e != nil {
		err = errors.Join(err, e)
	} else if strings.Contains(string(text), unclean) {
		err = errors.Join(err, errors.New("it says that "+unclean))
	}
	return took, err
}

// unclean is what its log says of an end that was ordered and did not come in
// time.
const unclean = "the next start will take this end for an unclean one"

func (d *daemon) terminate() error {
	p := d.running()
	if how, dead := p.Dead(); dead {
		return fmt.Errorf("it had ended before: %s", how)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	err := d.gone(p, stopMost)
	if err == nil {
		if how, _ := p.Dead(); !strings.HasPrefix(how, "exit status 0") {
			err = fmt.Errorf("it ended with %s", how)
		}
	}
	return errors.Join(err, p.Kill()) // a process group that is gone is not somebody else's later
}

func (d *daemon) gone(p *lab.Proc, most time.Duration) error {
	return until(most, func() error {
		if _, dead := p.Dead(); !dead {
			return fmt.Errorf("process %d does not end", p.PID)
		}
		return nil
	})
}

// lastWords are the last lines of its log.
func (d *daemon) lastWords() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "\n    ")
}

// status is what freezeframe status --json says, as far as it is read here.
type status struct {
	PID int `json:"pid"`
	Box struct {
		Bytes  int64     `json:"bytes"`
		Oldest time.Time `json:"oldest"`
		Newest time.Time `json:"newest"`
		LagMs  float64   `json:"lag_ms"`
		Gaps   uint64    `json:"gaps"`
		Err    string    `json:"error"`
	} `json:"black_box"`
	Reports struct {
		Count int    `json:"count"`
		Err   string `json:"error"`
	} `json:"reports"`
}

// incident is a line of freezeframe list --json.
type incident struct {
	ID    string    `json:"id"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Cause string    `json:"cause"`
}

// gap is a time of which nothing is recorded, or not all.
type gap struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Why   string    `json:"why"`
	Part  bool      `json:"part"`
}

// diagnosis is what freezeframe diagnose --json says of a span.
type diagnosis struct {
	Coverage struct {
		Gaps []gap `json:"gaps"`
	} `json:"coverage"`
	Reports []report `json:"reports"`
}

type report struct {
	ID    string `json:"id"`
	Stall struct {
		Start    time.Time `json:"start"`
		End      time.Time `json:"end"`
		Symptoms []struct {
			Probe string    `json:"probe"`
			End   time.Time `json:"end"`
		} `json:"symptoms"`
	} `json:"stall"`
	Causes []struct {
		ID string `json:"id"`
	} `json:"causes"`
}

// uncleanEnd is when a run ended, of the report of an end that nobody asked for.
func (r *report) uncleanEnd() (at time.Time, ok bool) {
	for _, s := range r.Stall.Symptoms {
		if s.Probe == "unclean_end" {
			return s.End, true
		}
	}
	return time.Time{}, false
}

func (d *daemon) status() (s status, err error) {
	err = d.ask(&s, "status", "--json")
	return s, err
}

func (d *daemon) list() ([]incident, error) {
	var l struct {
		Incidents []incident `json:"incidents"`
	}
	err := d.ask(&l, "list", "--json")
	return l.Incidents, err
}

// diagnose asks for a span; where no daemon runs, what it left on the disk answers.
func (d *daemon) diagnose(from, to time.Time) (out diagnosis, err error) {
	err = d.ask(&out, "diagnose", "--json", "--since", from.UTC().Format(time.RFC3339Nano), "--until", to.UTC().Format(time.RFC3339Nano))
	return out, err
}

// ask runs a verb of the binary, as a user would, and reads what it prints.
func (d *daemon) ask(v any, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerMost)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.bin, append(args, "--config", d.config)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("freezeframe %s: %w: %s", args[0], errors.Join(ctx.Err(), err), tail(errs.String()+out.String()))
	}
	if err := json.Unmarshal(out.Bytes(), v); err != nil {
		return fmt.Errorf("read what freezeframe %s printed: %w: %s", args[0], err, tail(out.String()))
	}
	return nil
}

// tail is the end of a text, on one line.
func tail(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = "…" + strings.ToValidUTF8(text[len(text)-300:], "")
	}
	return text
}

// gauges asks for the metrics, by name and labels as they are printed.
func (d *daemon) gauges() (map[string]float64, error) {
	c := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.metrics)
		}},
	}
	answer, err := c.Get("http://freezeframe/metrics")
	if err != nil {
		return nil, fmt.Errorf("ask for the metrics: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	return parseMetrics(string(text))
}

// parseMetrics reads Prometheus' text format: what stands before the last space
// of a line names the value behind it.
func parseMetrics(text string) (map[string]float64, error) {
	m := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("a metric without a value: %q", line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("the metric %s: %w", line[:i], err)
		}
		m[line[:i]] = v
	}
	return m, nil
}

// usage is what a process has, and has used.
type usage struct {
	rssMiB  float64
	files   int
	threads int
	cpu     time.Duration
}

// usageOf reads it from /proc.
func usageOf(pid int) (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	if u, err = parseStat(string(stat)); err != nil {
		return u, err
	}
	fds, err := os.ReadDir(dir + "/fd")
	u.files = len(fds)
	return u, err
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)); its times are in ticks of
// 1/100 s.
func parseStat(stat string) (u usage, err error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const state, utime, stime, threads, rss = 3, 14, 15, 20, 24 // as the manual counts them
	var n [rss + 1]int64
	for _, i := range []int{utime, stime, threads, rss} {
		if i-state >= len(f) {
			return u, fmt.Errorf("a stat of %d fields: %q", len(f), stat)
		}
		if n[i], err = strconv.ParseInt(f[i-state], 10, 64); err != nil {
			return u, fmt.Errorf("field %d of a stat: %w", i, err)
		}
	}
	return usage{
		rssMiB: float64(n[rss]) * float64(os.Getpagesize()) / (1 << 20), threads: int(n[threads]),
		cpu: time.Duration(n[utime]+n[stime]) * 10 * time.Millisecond,
	}, nil
}

var errGone = errors.New("no use to wait")

// until waits until what is true; the error of the last try says what is not.
func until(most time.Duration, what func() error) error {
	end := time.Now().Add(most)
	for {
		err := what()
		if err == nil || errors.Is(err, errGone) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", most, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.0") }
