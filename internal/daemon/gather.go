package daemon

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/kernel"
)

// cost is what the process used lately: what it has used since it was started
// weeks ago says little.
type cost struct {
	mu          sync.Mutex
	older, mine used
}

type used struct {
	at  time.Time
	cpu time.Duration
}

// costSpan is how long ago the figure begins, at least.
const costSpan = time.Minute

// mark notes what has been used so far.
func (c *cost) mark() {
	now := used{time.Now(), kernel.ProcessCPU()}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mine.at.IsZero():
		c.older, c.mine = now, now
	case now.at.Sub(c.mine.at) >= costSpan:
		c.older, c.mine = c.mine, now
	}
}

// reset begins anew.
func (c *cost) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.older, c.mine = used{}, used{}
}

// report is what the recorder costs now.
func (c *cost) report(w *detectors.Watch) freezeframe.RecorderReport {
	r := w.Recorder()
	c.mu.Lock()
	defer c.mu.Unlock()
	if wall := time.Since(c.older.at); !c.older.at.IsZero() && wall > time.Second {
		r.CPUPercent = 100 * float64(kernel.ProcessCPU()-c.older.cpu) / float64(wall)
	}
	return r
}

// droppedRecords is how many records were left out since the start.
func (d *daemon) droppedRecords(w *detectors.Watch) uint64 {
	n := w.Dropped() + d.store.lost.Load()
	if box := d.store.box.Load(); box != nil {
		n += box.Stats().GapCount
	}
	return n
}

// gather reads every metric. It touches no disk.
func (d *daemon) gather() []family {
	var out []family
	add := func(f ...family) { out = append(out, f...) }
	info := family{name: "freezeframe_info", help: "What runs: always 1.", kind: gauge}
	info.with("version", d.o.Version, 1)
	usage := kernel.ProcessUsage()
	add(info,
		one(gauge, "freezeframe_start_time_seconds", float64(d.started.UnixMilli())/1000, "When the daemon was started, since 1970."),
		one(counter, "freezeframe_cpu_seconds_total", usage.CPU.Seconds(), "CPU time that the daemon has used."),
		one(gauge, "freezeframe_resident_memory_bytes", float64(usage.RSSBytes), "Memory of the daemon that is resident."),
		one(gauge, "freezeframe_goroutines", float64(runtime.NumGoroutine()), "Goroutines of the daemon."),
		one(gauge, "freezeframe_open_files", float64(openFiles()), "Descriptors that the daemon has open."),
	)
	dropped := family{name: "freezeframe_dropped_total", help: "Records that were left out, by what they are: too many came at once, or the disk did not take them.", kind: counter}
	if w := d.watch.Load(); w != nil {
		add(samplingMetrics(w)...)
		dropped.with("what", "reading_or_probe_report", float64(w.Dropped()))
		s := w.Unreported()
		add(one(gauge, "freezeframe_stalled", yes(s != nil && s.Ongoing), "1 while a stall is going on."),
			one(gauge, "freezeframe_not_seen", float64(len(w.Missing())), "What cannot be seen on this machine, or was not got: `freezeframe status` lists it."))
	}
	dropped.with("what", "report", float64(d.store.lost.Load()))
	dropped.with("what", "log_line", float64(d.o.LogLost()))
	if box := d.store.box.Load(); box != nil {
		dropped.with("what", "black_box_gap", float64(box.Stats().GapCount))
	}
	add(dropped)
	add(d.stallMetrics()...)
	add(d.diskMetrics()...)
	add(
		one(counter, "freezeframe_watchdog_pings_total", float64(d.counts.pings.Load()), "Times that the sampling path was found going round, and the service manager's watchdog told."),
		one(counter, "freezeframe_watchdog_withheld_total", float64(d.counts.withheld.Load()), "Times that it was not."),
		one(counter, "freezeframe_reloads_total", float64(d.counts.reloads.Load()), "Times that the configuration was read again."),
		one(counter, "freezeframe_reload_failures_total", float64(d.counts.refused.Load()), "Times that the configuration before it stayed."),
		one(counter, "freezeframe_watch_restarts_total", float64(d.counts.restarts.Load()), "Times that the watch was started anew inside the daemon, for a new configuration."),
		one(gauge, "freezeframe_control_connections", float64(d.clients.Open.Load()), "Clients at the control socket now."),
		one(counter, "freezeframe_control_requests_total", float64(d.clients.Answered.Load()), "Requests that the control socket has answered."),
	)
	turned := family{name: "freezeframe_control_turned_away_total", help: "Clients of the control socket that got no answer, by why.", kind: counter}
	turned.with("why", "refused", float64(d.clients.Refused.Load()))
	turned.with("why", "busy", float64(d.clients.Busy.Load()))
	turned.with("why", "broken", float64(d.clients.Broken.Load()))
	add(turned)
	return out
}

func samplingMetrics(w *detectors.Watch) []family {
	st := w.Sampling()
	behind := family{name: "freezeframe_lane_behind_seconds", help: "By how much a lane of the sampler is behind its schedule now.", kind: gauge}
	for _, p := range w.Pulse() {
		behind.with("lane", p.Lane.String(), max(p.Late, 0).Seconds())
	}
	cpu := family{name: "freezeframe_lane_cpu_seconds_total", help: "CPU time of the thread of a lane.", kind: counter}
	held := family{name: "freezeframe_ring_held_seconds", help: "How far back the memory of a lane reaches.", kind: gauge}
	ring := w.Ring().Stats()
	for i, used := range st.LaneCPU {
		name := freezeframe.Lane(i).String()
		cpu.with("lane", name, used.Seconds())
		held.with("lane", name, ring.Held[i].Length().Seconds())
	}
	return []family{
		one(counter, "freezeframe_readings_total", float64(st.Readings), "Readings of sources, since the watch was started."),
		one(counter, "freezeframe_late_readings_total", float64(st.LateReadings), "Readings that began more than their period late, or were left out for it."),
		one(gauge, "freezeframe_worst_late_seconds", st.WorstLate.Seconds(), "The latest that a reading has begun, since the watch was started."),
		behind, cpu, held,
		one(gauge, "freezeframe_ring_bytes", float64(ring.Bytes), "Memory set aside for readings."),
	}
}

func (d *daemon) stallMetrics() []family {
	stalls := family{name: "freezeframe_stalls_total", help: "Stalls since the daemon was started, by the cause found.", kind: counter}
	d.counts.mu.Lock()
	defer d.counts.mu.Unlock()
	var causes []string
	for c := range d.counts.byCause {
		causes = append(causes, string(c))
	}
	slices.Sort(causes)
	for _, c := range causes {
		stalls.with("cause", c, float64(d.counts.byCause[freezeframe.Cause(c)]))
	}
	if len(causes) == 0 {
		stalls.with("cause", string(freezeframe.CauseUnknown), 0)
	}
	return []family{
		stalls,
		one(counter, "freezeframe_stalled_seconds_total", d.counts.stalled.Seconds(), "Time that those stalls lasted together."),
		one(counter, "freezeframe_unclean_ends_total", float64(d.counts.unclean.Load()), "1 when the run before this one ended without saying so."),
	}
}

func (d *daemon) diskMetrics() []family {
	out := []family{
		one(counter, "freezeframe_reports_written_total", float64(d.store.added.Load()), "Reports that are on disk."),
		one(counter, "freezeframe_report_errors_total", float64(d.store.bad.Load()), "Reports that could not be written."),
	}
	up := family{name: "freezeframe_storage_up", help: "1 while what is kept on disk can be: the black box, the reports.", kind: gauge}
	up.with("what", "black_box", yes(d.store.boxFault.Load() == nil && d.store.box.Load() != nil))
	up.with("what", "reports", yes(d.store.archiveFault.Load() == nil && d.store.archive.Load() != nil))
	out = append(out, up)
	if a := d.store.archive.Load(); a != nil {
		st := a.Stats()
		out = append(out,
			one(gauge, "freezeframe_archive_reports", float64(st.Reports), "Reports in the archive."),
			one(gauge, "freezeframe_archive_bytes", float64(st.Bytes), "Bytes of the archive."))
	}
	if box := d.store.box.Load(); box != nil {
		st := box.Stats()
		out = append(out,
			one(gauge, "freezeframe_box_bytes", float64(st.Bytes), "Bytes of the black box."),
			one(gauge, "freezeframe_box_segments", float64(st.Segments), "Files of the black box."),
			one(gauge, "freezeframe_box_lag_seconds", st.Lag.Seconds(), "Since what was recorded last reached the disk."),
			one(counter, "freezeframe_box_written_bytes_total", float64(st.Written+st.Thinned), "Bytes that the black box has written."),
			one(counter, "freezeframe_box_errors_total", float64(st.Errors), "Writes of the black box that failed."))
		if !st.Oldest.IsZero() {
			out = append(out, one(gauge, "freezeframe_box_oldest_seconds", float64(st.Oldest.UnixMilli())/1000, "When the first reading on disk was made, since 1970."))
		}
	}
	return out
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// openFiles counts our own descriptors.
func openFiles() int {
	f, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1) // what could be listed counts
	return max(len(names)-1, 0)
}
