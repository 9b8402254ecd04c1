package freezeframe

import "time"

// Instant is a moment on CLOCK_MONOTONIC, in nanoseconds: the clock that the
// collectors, the probes and the ring share. It does not move while the
// machine sleeps and never jumps; a Clock turns it into wall time.
type Instant int64

// Add returns the moment d after i.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns how long i is after j; negative when it is before.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Span is the time from Start to End; End is not part of it. A span whose End
// is not after its Start is empty.
type Span struct{ Start, End Instant }

// Length returns how long the span lasts, 0 when it is empty.
func (s Span) Length() time.Duration {
	if s.End <= s.Start {
		return 0
	}
	return s.End.Sub(s.Start)
}

// Contains tells whether at lies in the span.
func (s Span) Contains(at Instant) bool { return at >= s.Start && at < s.End }

// And returns what two spans share; empty when they share nothing.
func (s Span) And(o Span) Span {
	if o.Start > s.Start {
		s.Start = o.Start
	}
	if o.End < s.End {
		s.End = o.End
	}
	if s.End < s.Start {
		s.End = s.Start
	}
	return s
}

// Clock ties CLOCK_MONOTONIC to the wall clock: at the moment Mono the wall
// showed WallNanos nanoseconds since 1970 UTC. Reports use the pair taken when
// the window was pinned, so one report never mixes two wall clocks.
type Clock struct {
	Mono      Instant
	WallNanos int64
}

// Wall returns the wall time of i, in UTC.
func (c Clock) Wall(i Instant) time.Time {
	return time.Unix(0, c.WallNanos+int64(i-c.Mono)).UTC()
}

// Instant returns the moment at which the wall clock showed t.
func (c Clock) Instant(t time.Time) Instant {
	return c.Mono + Instant(t.UnixNano()-c.WallNanos)
}
