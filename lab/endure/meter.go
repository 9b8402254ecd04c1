package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what a run may take of the machine, which others use too.
const (
	mostMemory = 3 << 30 // bytes, since it began
	mostLoad   = 40      // processes that want a CPU, mostLoadFor samples in a row
	// The average of a minute would tell of the condition before.
	mostLoadFor = 10
)

const (
	sampleEvery = time.Second
	gaugesEvery = 5 // samples
	askEvery    = 5 * time.Second
)

// meter measures a daemon for a while, whichever process it is.
type meter struct {
	d *daemon
	// deaf is set while nobody can be answered: then nobody is asked.
	deaf atomic.Bool

	stop chan struct{}
	once sync.Once
	done sync.WaitGroup

	mu         sync.Mutex
	began      time.Time
	length     time.Duration
	pid        int
	used, last time.Duration // CPU, in all and of this process so far
	rss        float64       // MiB, the most
	rssSum     float64       // of all samples
	samples    int
	files      int // the most
	threads    int // the most
	counters   tally
	worst      float64 // seconds that a reading began late; 0: none was worse than one before
	goroutines float64
	lag        float64 // seconds, the most by which the disk was behind
	asked      int
	unanswered []string
	slowest    time.Duration
	broken     string // why the run has to end
	loaded     int    // samples in a row with too many processes
}

// tally adds up counters that begin anew with each process.
type tally struct {
	pid  int
	last map[string]float64
	sum  map[string]float64
}

// add takes what the process shows now. What the first process showed at first
// is before our time.
func (t *tally) add(pid int, now map[string]float64) {
	if t.sum == nil {
		t.sum = map[string]float64{}
		t.pid, t.last = pid, now
		return
	}
	if pid != t.pid {
		t.pid, t.last = pid, nil
	}
	for name, v := range now {
		t.sum[name] += v - t.last[name]
	}
	t.last = now
}

// measure begins to measure.
func measure(d *daemon) *meter {
	m := &meter{d: d, stop: make(chan struct{}), began: time.Now()}
	m.sample(true)
	memory := available()
	m.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
			m.sample(n%gaugesEvery == 0)
			m.guard(memory)
		}
	})
	m.done.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-tick.C:
				m.ask()
			}
		}
	})
	return m
}

// end ends it, the first time.
func (m *meter) end() {
	m.once.Do(func() {
		close(m.stop)
		m.done.Wait()
		m.sample(true)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.length = time.Since(m.began)
	})
}

// perMinute is the CPU that was used, in seconds a minute.
func (m *meter) perMinute() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used.Seconds() / m.length.Minutes()
}

// sample looks at the process, and asks for its metrics if that is wanted.
func (m *meter) sample(gauges bool) {
	pid := m.d.running().PID
	u, err := usageOf(pid)
	if err != nil {
		return // it is gone, and the next one not there yet
	}
	m.mu.Lock()
	switch {
	case m.pid == 0:
	case pid != m.pid:
		m.used += u.cpu
	default:
		m.used += u.cpu - m.last
	}
	m.pid, m.last = pid, u.cpu
	m.rssSum += u.rssMiB
	m.samples++
	m.rss, m.files, m.threads = max(m.rss, u.rssMiB), max(m.files, u.files), max(m.threads, u.threads)
	m.mu.Unlock()
	if !gauges || m.deaf.Load() {
		return
	}
	g, err := m.d.gauges()
	if err != nil {
		return // whether it answers is asked elsewhere
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counters.sum != nil { // what was worst before is not ours to tell
		const worst = "freezeframe_worst_late_seconds"
		before := m.counters.last[worst]
		if pid != m.counters.pid {
			before = 0
		}
		if g[worst] > before {
			m.worst = max(m.worst, g[worst])
		}
	}
	m.counters.add(pid, g)
	m.goroutines = max(m.goroutines, g["freezeframe_goroutines"])
	m.lag = max(m.lag, g["freezeframe_box_lag_seconds"])
}

// ask asks as a user does.
func (m *meter) ask() {
	if m.deaf.Load() {
		return
	}
	began := time.Now()
	_, err := m.d.status()
	took := time.Since(began)
	if m.deaf.Load() {
		return // it became so meanwhile
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	m.slowest = max(m.slowest, took)
	if err != nil {
		m.unanswered = append(m.unanswered, err.Error())
	}
}

// guard notices when the run takes too much of the machine.
func (m *meter) guard(memory int64) {
	why := ""
	if load := loadNow(); load > mostLoad {
		if m.loaded++; m.loaded >= mostLoadFor {
			why = fmt.Sprintf("%d processes want a CPU", load)
		}
	} else {
		m.loaded = 0
	}
	if taken := memory - available(); taken > mostMemory {
		why = fmt.Sprintf("%d MiB of memory less are available than before", taken>>20)
	}
	if why == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = why
}

// wrong says why the run has to end, "" while it has not.
func (m *meter) wrong() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken
}

// counted is how much a counter has grown, whatever its labels: the sum of all
// that begin so.
func (m *meter) counted(prefix string) (n float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, v := range m.counters.sum {
		if strings.HasPrefix(name, prefix) {
			n += v
		}
	}
	return n
}

// dropped says what was left out, by what it is.
func (m *meter) dropped() map[string]float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]float64{}
	for _, name := range slices.Sorted(maps.Keys(m.counters.sum)) {
		if what, ok := strings.CutPrefix(name, `freezeframe_dropped_total{what="`); ok && m.counters.sum[name] > 0 {
			out[strings.TrimSuffix(what, `"}`)] = m.counters.sum[name]
		}
	}
	return out
}

// available is the memory that the kernel can give, in bytes.
func available() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return field(string(text), "MemAvailable:") << 10
}

// oomKills is how many processes the kernel has killed for memory.
func oomKills() (int64, error) {
	text, err := os.ReadFile("/proc/vmstat")
	return field(string(text), "oom_kill"), err
}

// field is the number behind a word that begins a line; 0: there is none.
func field(text, word string) int64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			n, _ := strconv.ParseInt(f[1], 10, 64) // what is no number counts as none
			return n
		}
	}
	return 0
}

// loadNow is how many processes run or want to; 0: it is not known.
func loadNow() int {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	running, _, err := tasksOf(string(text))
	if err != nil {
		return 0
	}
	return running
}
