package detectors

import (
	"freezeframe"
	"freezeframe/recorder"
)

// Covered says what a recording holds, as Coverage does of a running watch.
// The probes that ran are not part of a recording; those that found something
// stand in its stalls.
func Covered(rec *recorder.Recording) freezeframe.Coverage {
	c := freezeframe.Coverage{Probes: []string{}, NotSeen: []freezeframe.NotSeen{}}
	c.Sources, c.Services = seen(rec)
	for _, n := range rec.Missing() {
		c.NotSeen = append(c.NotSeen, freezeframe.NotSeen(n))
	}
	return c
}
