package detectors

import (
	"fmt"
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
		c.Sources, c.Services = seen(rec)
	}
	for _, n := range w.missing() {
		c.NotSeen = append(c.NotSeen, freezeframe.NotSeen(n))
	}
	return c
}

// seen lists the sources that were read and the services that were watched.
func seen(rec *recorder.Recording) (sources, services []string) {
	sources, services = []string{}, []string{}
	for _, s := range rec.Sources {
		sources = append(sources, s.Name)
	}
	slices.Sort(sources)
	win := rec.Window(freezeframe.Stall{Span: rec.Span})
	listeners := win.Phase("listeners", freezeframe.Whole)
	listeners.Each([]string{"address", "comm", "pid"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		name := win.Text(v[0])
		if v[2] != 0 {
			name = fmt.Sprintf("%s %s (pid %d)", name, win.Text(v[1]), v[2])
		}
		if !slices.Contains(services, name) && len(services) < maxServices {
			services = append(services, name)
		}
	})
	slices.Sort(services)
	return sources, services
}

// Recorder says what the recorder cost since the watch began, and how late it
// was itself.
func (w *Watch) Recorder() freezeframe.RecorderReport {
	now, used := kernel.Now(), kernel.ProcessUsage()
	stats := w.sampler.Stats()
	r := freezeframe.RecorderReport{
		RSSBytes: used.RSSBytes, Samples: stats.Readings, LateSamples: stats.LateReadings,
		WorstLateMs: float64(stats.WorstLate) / float64(time.Millisecond),
	}
	if wall := now.Sub(w.started); wall > 0 {
		r.CPUPercent = 100 * float64(used.CPU-w.usage.CPU) / float64(wall)
	}
	return r
}
