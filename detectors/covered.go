package detectors

import (
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

// recorded says what the recorder cost while it recorded, by its own readings.
func recorded(rec *recorder.Recording) freezeframe.RecorderReport {
	win := rec.Window(freezeframe.Stall{Span: rec.Span})
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
