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
	// justThen is how long before a SIGCONT a lane may have stopped being late
	// for it to be because of that.
	justThen = 250 * time.Millisecond
)

// lanesSpeak is how long after a SIGCONT, and after that, every lane may have
// said how late it was. A stall is over DefaultQuiet after it at the earliest.
var lanesSpeak = [...]time.Duration{250 * time.Millisecond, 350 * time.Millisecond, time.Second, 3 * time.Second}

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
		// On a machine that is busy some lanes come to speak late.
		for _, pause := range lanesSpeak {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			missed := w.ring.Events(freezeframe.EventMissed, freezeframe.Span{Start: at.Add(-2 * time.Second), End: kernel.Now()})
			s := stoppedUntil(missed, at)
			if s.Length() < shortStop {
				continue
			}
			w.ring.AddEvent(freezeframe.Event{
				Kind: freezeframe.EventStopped, At: s.Start, End: s.End, PID: os.Getpid(),
				Text: fmt.Sprintf("freezeframe itself was stopped by a signal for %d ms", s.Length().Milliseconds()),
			})
			break
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
		if e.End == 0 || lanes[lane] || e.End < at.Add(-justThen) || e.At > at {
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
