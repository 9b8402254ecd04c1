package archive

import (
	"context"
	"sync"
	"time"

	"freezeframe/internal/schedules"
)

// jobs asks what the machine runs by the clock. One that hangs is left to
// hang, and no second one is begun until it is back.
type jobs struct {
	mu    sync.Mutex
	list  []schedules.Job
	err   error
	asked time.Time     // when the list was asked for
	back  chan struct{} // closed when the one who asks is back; nil: nobody asks
}

// get returns the jobs as of at most age ago where they can be had within
// jobsWait, or else those that were had last; and when they were asked for.
func (j *jobs) get(ctx context.Context, find func(context.Context) ([]schedules.Job, error), age time.Duration) ([]schedules.Job, time.Time) {
	j.mu.Lock()
	if !j.asked.IsZero() && time.Since(j.asked) < age {
		defer j.mu.Unlock()
		return j.list, j.asked
	}
	if j.back == nil {
		back := make(chan struct{})
		j.back = back
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), jobsWait)
			defer cancel()
			asked := time.Now()
			list, err := find(ctx)
			j.mu.Lock()
			defer j.mu.Unlock()
			if err == nil || len(list) > 0 {
				j.list = list
			}
			j.err, j.asked, j.back = err, asked, nil
			close(back)
		}()
	}
	back := j.back
	j.mu.Unlock()
	late := time.NewTimer(jobsWait)
	defer late.Stop()
	select {
	case <-back:
	case <-ctx.Done():
	case <-late.C:
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.list, j.asked
}

func (j *jobs) lastError() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}
