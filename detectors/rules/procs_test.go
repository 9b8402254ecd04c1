package rules

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
)

// On a machine of very many processes one that slept has no row until it runs:
// what it moved long ago is not of the stall, and it did not begin in it.
func TestOneThatWakesUpIsNotNew(t *testing.T) {
	const pid, moved = 500, 10 << 30
	for name, x := range map[string]struct {
		started freezeframe.Instant // 0: a recording that does not say
		born    bool
	}{
		"began long before":        {windowtest.Boot.Add(-time.Hour), false},
		"began in it":              {windowtest.At(5 * time.Second), true},
		"when it began is unknown": {0, true},
	} {
		w := windowtest.New(12*time.Second, 4*time.Second, 8*time.Second)
		for at := time.Duration(0); at < 12*time.Second; at += time.Second {
			w.Row("procs", at, windowtest.Task(1), windowtest.V{"pid": 1, "comm": "init", "started_ns": windowtest.Boot.Add(-24 * time.Hour)})
			if at >= 5*time.Second {
				w.Row("procs", at, windowtest.Task(pid), windowtest.V{"pid": pid, "comm": "nightly", "write_bytes": moved, "syscw": 9, "rss_bytes": 1 << 20, "started_ns": x.started})
			}
		}
		p := processesIn(w, windowtest.Span(2*time.Second, 10*time.Second)).byPID[pid]
		written, grown := uint64(0), uint64(0)
		if x.born {
			written, grown = moved, 1<<20
		}
		if p.born != x.born || p.written.sum != written || p.grown() != grown {
			t.Errorf("%s: new %v, wrote %d, grew by %d", name, p.born, p.written.sum, p.grown())
		}
	}
}
