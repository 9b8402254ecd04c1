package collectors

import (
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	roundCalm = time.Second            // between two rounds while nobody asks for more
	roundSoon = 250 * time.Millisecond // and at least
)

// rounds is the clock of a goroutine that looks again and again at what changes
// slowly and may hang: on every whole second, and when somebody wants one
// sooner on every quarter. It sleeps by the kernel and not by a timer of the Go
// runtime, which would wake up two or three threads for each.
type rounds struct {
	word   atomic.Uint32 // kernel.Wake
	seen   uint32        // of word, by the goroutine
	wanted atomic.Bool   // one sooner
	over   atomic.Bool
	done   chan struct{}
}

// start runs round again and again until stop.
func (r *rounds) start(round func()) {
	r.over.Store(false)
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		for r.wait() {
			round()
		}
	}()
}

// stop ends them and waits for the last one.
func (r *rounds) stop() {
	r.over.Store(true)
	kernel.Wake(&r.word)
	<-r.done
}

// soon wants the next round soon. It neither blocks nor allocates.
func (r *rounds) soon() {
	if !r.wanted.Load() && !r.wanted.Swap(true) {
		kernel.Wake(&r.word)
	}
}

// wait sleeps until the next round, and tells whether there is one.
func (r *rounds) wait() bool {
	begun := kernel.Now()
	for !r.over.Load() {
		at := nextRound(begun, r.wanted.Load())
		if kernel.Now() >= at {
			r.wanted.Store(false)
			return true
		}
		kernel.WaitUntil(&r.word, r.seen, at)
		r.seen = r.word.Load()
	}
	return false
}

// nextRound is when the next round begins after the moment after.
func nextRound(after freezeframe.Instant, soon bool) freezeframe.Instant {
	every := freezeframe.Instant(roundCalm)
	if soon {
		every = freezeframe.Instant(roundSoon)
	}
	return (after/every + 1) * every
}
