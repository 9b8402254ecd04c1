package detectors

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// shortStop is the shortest stop of our own that is told.
	shortStop = 100 * time.Millisecond
	// lanesSpeak is how long after a SIGCONT every lane has said how late it
	// was. A stall is over DefaultQuiet after it at the earliest.
	lanesSpeak = 250 * time.Millisecond
)

// noticeStops tells of the times in which freezeframe itself was stopped: then
// all its lanes and probes are late alike, as on a machine that was paused, and
// only the SIGCONT that ended it tells the one from the other.
func (w *Watch) noticeStops(ctx context.Context) {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	for {
		select {
		case <-ctx.Done():
			return
		case <-continued:
		}
		at := kernel.Now()
		select {
		case <-ctx.Done():
		case <-time.After(lanesSpeak):
		}
		missed := w.ring.Events(freezeframe.EventMissed, freezeframe.Span{Start: at.Add(-2 * time.Second), End: kernel.Now()})
		if s := stoppedUntil(missed, at); s.Length() >= shortStop {
			w.ring.AddEvent(freezeframe.Event{
				Kind: freezeframe.EventStopped, At: s.Start, End: s.End, PID: os.Getpid(),
				Text: fmt.Sprintf("freezeframe itself was stopped by a signal for %d ms", s.Length().Milliseconds()),
			})
		}
	}
}

// stoppedUntil returns the time in which every lane was late up to the moment
// at, empty where one was not.
func stoppedUntil(missed []freezeframe.Event, at freezeframe.Instant) freezeframe.Span {
	out := freezeframe.Span{End: math.MaxInt64}
	lanes := map[string]bool{}
	for i := range missed {
		e := &missed[i]
		lane := e.Attr("lane")
		// What a lane ran late for after it was let go on again began later.
		if e.End == 0 || lanes[lane] || e.End < at.Add(-lanesSpeak) || e.At > at {
			continue
		}
		lanes[lane] = true
		out.Start, out.End = max(out.Start, e.At), min(out.End, e.End)
	}
	if len(lanes) < int(freezeframe.Lanes) || out.End <= out.Start {
		return freezeframe.Span{}
	}
	return out
}
