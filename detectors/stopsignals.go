package detectors

import (
	"slices"
	"syscall"

	"freezeframe"
)

// readStops takes from the signals that were seen when processes were stopped
// and let go on. SIGSTOP cannot be caught: from the moment it is delivered the
// process runs nothing, though a reading may find its threads where they were.
// The other signals that stop may be caught, and are left to the readings.
func (b *book) readStops(s freezeframe.Series) {
	since := map[int]freezeframe.Instant{}
	s.Each([]string{"at_ns", "kind", "signal", "result", "pid"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if b.w.Text(v[1]) != "signal" {
			return
		}
		at, pid := freezeframe.Instant(v[0]), int(v[4])
		switch sig := syscall.Signal(v[2]); {
		case sig == syscall.SIGSTOP && v[3] == 0 && since[pid] == 0:
			since[pid] = at
		case (sig == syscall.SIGCONT || sig == syscall.SIGKILL) && since[pid] != 0:
			b.stops[pid] = append(b.stops[pid], freezeframe.Span{Start: since[pid], End: at})
			delete(since, pid)
		}
	})
	for pid, at := range since {
		b.stops[pid] = append(b.stops[pid], freezeframe.Span{Start: at, End: b.span.End})
	}
}

// stopped gives the time in which the process of a thread was stopped that
// class. A wait in the kernel that no signal ends comes first: the thread stops
// when it is over.
func (b *book) stopped(th *thread, waits []freezeframe.Wait) []freezeframe.Wait {
	stops := freezeframe.Union(b.stops[th.pid]...)
	if len(stops) == 0 {
		return waits
	}
	var out []freezeframe.Wait
	for _, x := range waits {
		parts := stops.Within(x.Span)
		if len(parts) == 0 || x.Class == freezeframe.Stopped || !slices.Contains(interrupted[:], x.Class) {
			out = append(out, x)
			continue
		}
		at := x.Start
		for _, p := range parts {
			if p.Start > at {
				before := x
				before.Span = freezeframe.Span{Start: at, End: p.Start}
				before.Woken = nil
				out = append(out, before)
			}
			out = append(out, freezeframe.Wait{Span: p, Class: freezeframe.Stopped})
			at = p.End
		}
		if at < x.End {
			x.Start = at
			out = append(out, x)
		}
	}
	return out
}

// interrupted are the classes of time that a stop puts an end to.
var interrupted = [...]freezeframe.Class{
	freezeframe.OnCPU, freezeframe.Runnable, freezeframe.Throttled, freezeframe.Unseen, freezeframe.Idle, freezeframe.Sleeping,
	freezeframe.UserLock, freezeframe.PeerWait, freezeframe.PipeWait, freezeframe.ChildWait, freezeframe.FileLock,
}
