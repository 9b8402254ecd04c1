package detectors

import (
	"strconv"

	"freezeframe"
	"freezeframe/recorder"
)

// Covered says what a recording holds, as Coverage does of a running watch.
// The probes that ran are not part of a recording; those that found something
// stand in its stalls.
func Covered(rec *recorder.Recording) freezeframe.Coverage {
	c := freezeframe.Coverage{Probes: []string{}, NotSeen: []freezeframe.NotSeen{}, Recorder: recorded(rec)}
	c.Sources, c.Services = seen(rec, 0)
	for _, n := range rec.Missing() {
		c.NotSeen = append(c.NotSeen, freezeframe.NotSeen(n))
	}
	return c
}

// Cost says what the recorder cost, and how late it was itself, around a stall:
// in what was kept of it. What a daemon has used since it was started weeks ago
// says little about that. Dropped is for whoever knows it.
func Cost(win freezeframe.Window) freezeframe.RecorderReport {
	r := cost(win)
	self := win.Phase("self", freezeframe.Whole)
	r.Samples, r.LateSamples = self.Delta(0, "readings"), self.Delta(0, "late_readings")
	for _, e := range win.Events(freezeframe.EventMissed, freezeframe.Whole) {
		if us, err := strconv.ParseFloat(e.Attr("late_us"), 64); err == nil {
			r.WorstLateMs = max(r.WorstLateMs, us/1000)
		}
	}
	return r
}

// recorded says what the recorder cost while it recorded, by its own readings.
func recorded(rec *recorder.Recording) freezeframe.RecorderReport {
	return cost(rec.Window(freezeframe.Stall{Span: rec.Span}))
}

func cost(win freezeframe.Window) freezeframe.RecorderReport {
	self := win.Phase("self", freezeframe.Whole)
	var r freezeframe.RecorderReport
	n := len(self.Tables)
	if n < 2 {
		return r
	}
	if wall := self.Tables[n-1].At.Sub(self.Tables[0].At).Microseconds(); wall > 0 {
		r.CPUPercent = 100 * float64(self.Delta(0, "cpu_us")) / float64(wall)
	}
	r.RSSBytes, _ = self.Last(0, "rss_bytes")
	r.Samples, _ = self.Last(0, "readings")
	r.LateSamples, _ = self.Last(0, "late_readings")
	return r
}
