package freezeframe

import (
	"context"
	"time"
)

// Lateness is what a probe reports of one piece of work that was not done in
// time: from the moment it should have begun, so that a probe that could not
// even start charges its own wait. It is reported while the work is still in
// flight (Done 0) and again when it is done.
type Lateness struct {
	Probe  string  // heartbeat, heartbeat_rt, fsync, service …
	Target string  // what it was done to: a mount, a listener, ""
	Began  Instant // when the work was due
	Done   Instant // when it was done; 0 while it is in flight
	Seen   Instant // when this was noticed

	// Usual is what this probe and target normally take: the baseline over
	// which an incident opens. 0: not known yet.
	Usual time.Duration
	// Floor is the lateness below which this probe never opens an incident.
	Floor time.Duration
	// Edge is the lateness from which on it belongs to a stall that something
	// else opened. 0: half of what opens one.
	Edge time.Duration
	// Quality is how certain it is that somebody waited, 0 to 1: an answer
	// that never came before may be long polling.
	Quality float64

	// OneWay says that nobody waits for an answer to this work, as far as is known:
	// when the stall began and ended others tell better.
	OneWay bool

	Err     string   // set when the work failed rather than waited: ENOSPC
	Victims []Victim // who should have done the work
}

// Felt is the quality from which on it is taken for certain that somebody waited.
// Less opens no stall: it is told with one that something else opened.
const Felt = 0.5

// Late returns how long the work has taken so far.
func (l *Lateness) Late() time.Duration {
	if l.Done != 0 {
		return l.Done.Sub(l.Began)
	}
	return l.Seen.Sub(l.Began)
}

// Victim is a thread that the stall kept from its work. TID 0 means any thread
// of the process, PID 0 the machine as a whole.
type Victim struct {
	PID, TID int
	Comm     string
}

// Probe does or watches one kind of work and reports what is late. Run returns
// when ctx ends, even if the work it watches never does, or at once with an
// error that says why the probe cannot be had here.
type Probe interface {
	Name() string
	Run(ctx context.Context, late func(Lateness)) error
}

// Symptom is one probe's view of a stall.
type Symptom struct {
	Probe   string
	Target  string
	Span    Span          // from its first late work to its last
	Late    Spans         // when work was late, within Span
	Own     bool          // the late work was ours: no user or service waited for it
	Worst   time.Duration // the longest single wait in the span
	Count   int           // how many waits it is made of
	Quality float64
	Err     string
	Victims []Victim
}

// Doubtful tells whether it is not certain that anybody waited.
func (s *Symptom) Doubtful() bool { return s.Quality < Felt }

// Stall is a span in which work did not get done, with every symptom that
// overlaps it: one freeze, one stall.
type Stall struct {
	Span
	Ongoing  bool // it had not ended when the window was taken
	Symptoms []Symptom
}

// Late returns the time in which something was late: what a verdict has to
// explain. Between two waits of one stall there may be moments in which all
// went well. Where a service or process was late, our own probes' waits do not
// add to it, so that the stall is what people felt.
func (s *Stall) Late() Spans {
	var felt, own []Span
	for i := range s.Symptoms {
		if sy := &s.Symptoms[i]; sy.Own {
			own = append(own, sy.Late...)
		} else {
			felt = append(felt, sy.Late...)
		}
	}
	if len(felt) == 0 {
		felt = own
	}
	set := Union(felt...).Within(s.Span)
	if set.Length() == 0 {
		return Union(s.Span)
	}
	return set
}
