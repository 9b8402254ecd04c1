package daemon

import (
	"context"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
	"freezeframe/internal/lookback"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// reachesNow is how old the end of a span may be that reaches into what is
// watched now.
const reachesNow = time.Minute

// lookBack answers for a span of the past.
func (d *daemon) lookBack(ctx context.Context, q lookback.Question, now time.Time) (freezeframe.Diagnosis, error) {
	a, err := d.kept()
	box := d.store.box.Load()
	if err != nil && box == nil {
		return freezeframe.Diagnosis{}, err
	}
	o := lookback.Options{
		Archive: a, Box: box, Missing: d.store.needs(), Rules: d.rules, Version: d.o.Version, Host: d.host, User: d.user,
	}
	if now.Sub(q.Until) < reachesNow {
		c := d.coverage()
		o.Now = &c
		if w := d.watch.Load(); w != nil {
			o.Began = w.Started()
		}
	}
	if r := d.openReport(); r != nil {
		o.Have = append(o.Have, r)
	}
	d.mu.Lock()
	if d.last != nil {
		o.Have = append(o.Have, d.last) // it may be on its way to the disk
	}
	d.mu.Unlock()
	var out freezeframe.Diagnosis
	d.aside(func() { out, err = lookback.At(ctx, o, q) })
	return out, err
}

// noteStall has the recording hold what was noticed live: should its report not
// come to the disk, it can be judged from there.
func (d *daemon) noteStall(ring *recorder.Ring, stall freezeframe.Stall, r *freezeframe.Report) {
	ring.AddEvent(recorder.StallEvent(&stall, "a stall: "+reports.Line(r)))
}

// noteEvery is how often the recording is told what is watched: the black box is
// looked at an hour around a span.
const noteEvery = 30 * time.Minute

// noteWatching has the recording hold what is watched.
func (d *daemon) noteWatching() {
	w := d.watch.Load()
	if w == nil || time.Since(d.noted.at) < noteEvery && d.noted.of == w {
		return
	}
	d.noted.at, d.noted.of = time.Now(), w
	w.Ring().AddEvent(recorder.WatchingEvent(kernel.Now(), w.Coverage().Probes, w.Missing()))
}
