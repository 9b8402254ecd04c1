package recorder

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	upkeepEvery = 10 * time.Second
	// retryThin is when what could not be thinned is tried again.
	retryThin = time.Hour
)

// upkeep thins, joins and removes segments, and stores what is to be kept,
// until ctx ends. It does one thing at a time, and little at once.
func (b *Box) upkeep(ctx context.Context) {
	// It decodes and compresses hours of recording, and nobody waits for it: not
	// at our priority. The thread ends with the goroutine.
	runtime.LockOSThread()
	if err := kernel.SetOther(); err != nil {
		b.tell(freezeframe.Need{What: "thin the recording on disk at ordinary priority", Lost: "up to a CPU while it is thinned", Err: err.Error()})
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	t := &thinner{box: b, done: ctx.Done()}
	retry := b.now().Add(retryThin)
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-pause.C:
		}
		b.saveKeep()
		b.bound(b.clock())
		if now := b.now(); now > retry {
			t.failed, retry = nil, now.Add(retryThin)
		}
		for t.step() {
			b.saveKeep()
			b.bound(b.clock())
		}
		t.close()
		pause.Reset(upkeepEvery)
	}
}

// saveKeep stores the spans that are not to be thinned, if they have changed.
func (b *Box) saveKeep() {
	b.mu.Lock()
	due := b.keepDue
	keep := make(map[uint64]freezeframe.Spans)
	for run, spans := range b.keep {
		if run == b.run || slices.ContainsFunc(b.segments, func(s segment) bool { return s.run == run }) {
			keep[run] = slices.Clone(spans)
		}
	}
	b.keepDue = false
	b.mu.Unlock()
	if !due {
		return
	}
	if err := saveJSON(filepath.Join(b.o.Dir, keepName), keep); err != nil {
		b.mu.Lock()
		b.keepDue = true // tried again the next time
		b.mu.Unlock()
	}
}

// bound removes the oldest segments while there are too many bytes, and one
// that is too old: no more at a time, as the wall clock may be wrong.
func (b *Box) bound(now freezeframe.Clock) {
	for b.Stats().Bytes > b.o.Bytes {
		old, ok := b.oldest(func(*segment, int64) bool { return true })
		if !ok || !b.remove(old) {
			return
		}
	}
	// A wall clock that has been put forward since we began makes nothing old.
	wall := min(now.WallNanos/1e6, int64(b.run)+now.Mono.Sub(b.began).Milliseconds())
	old, ok := b.oldest(func(s *segment, _ int64) bool { return s.end < wall-b.o.Age.Milliseconds() })
	if ok {
		b.remove(old)
	}
}
