package detectors

import (
	"fmt"
	"os"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
)

// maxServices is how many services a coverage lists by name.
const maxServices = 200

// Coverage says what is watched, and what cannot be.
func (w *Watch) Coverage() freezeframe.Coverage {
	c := freezeframe.Coverage{
		Probes: []string{}, Sources: []string{}, Services: []string{}, NotSeen: []freezeframe.NotSeen{},
		Recorder: w.Recorder(),
	}
	w.mu.Lock()
	for name := range w.running {
		c.Probes = append(c.Probes, name)
	}
	w.mu.Unlock()
	slices.Sort(c.Probes)
	if rec, err := w.Pin(2 * time.Second); err == nil {
		c.Sources, c.Services = seen(rec, os.Getpid())
	}
	for _, n := range w.missing() {
		c.NotSeen = append(c.NotSeen, freezeframe.NotSeen(n))
	}
	return c
}

// seen lists the sources that were read and the services that were watched,
// but for those of the process own and its like.
func seen(rec *recorder.Recording, own int) (sources, services []string) {
	sources = []string{}
	for _, s := range rec.Sources {
		sources = append(sources, s.Name)
	}
	slices.Sort(sources)
	return sources, listening(rec.Window(freezeframe.Stall{Span: rec.Span}), own)
}

// listening names the services of a window but for those of the process own and
// of others called like it, which are not watched.
func listening(win freezeframe.Window, own int) []string {
	services := []string{}
	listeners := win.Phase("listeners", freezeframe.Whole)
	type service struct {
		name string
		pid  uint64
		comm uint64
	}
	called := uint64(0)                    // text: what own is called
	found := map[freezeframe.Key]service{} // by socket: its process may turn up later than it does
	listeners.Each([]string{"address", "comm", "pid"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		switch {
		case v[2] != 0:
			found[key] = service{fmt.Sprintf("%s %s (pid %d)", win.Text(v[0]), win.Text(v[1]), v[2]), v[2], v[1]}
			if v[2] == uint64(own) {
				called = v[1]
			}
		case found[key].name == "":
			found[key] = service{name: win.Text(v[0])}
		}
	})
	for _, s := range found {
		if s.pid != uint64(own) && (s.comm == 0 || s.comm != called) && !slices.Contains(services, s.name) {
			services = append(services, s.name)
		}
	}
	slices.Sort(services)
	return services[:min(len(services), maxServices)]
}

// Recorder says what the recorder cost since the watch began, and how late it
// was itself.
func (w *Watch) Recorder() freezeframe.RecorderReport {
	now, used := kernel.Now(), kernel.ProcessUsage()
	stats := w.sampler.Stats()
	r := freezeframe.RecorderReport{
		RSSBytes: used.RSSBytes, Samples: stats.Readings, LateSamples: stats.LateReadings,
		WorstLateMs: float64(stats.WorstLate) / float64(time.Millisecond), Dropped: w.Dropped(),
	}
	if wall := now.Sub(w.began); wall > 0 {
		r.CPUPercent = 100 * float64(used.CPU-w.usage.CPU) / float64(wall)
	}
	return r
}
