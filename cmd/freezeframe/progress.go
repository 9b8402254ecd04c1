package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/reports"
)

// progress is the bar on standard error; nothing where that is no terminal.
type progress struct {
	container *mpb.Progress
	bar       *mpb.Bar
	line      atomic.Pointer[string]
	stopped   chan struct{}
	ended     chan struct{}
	count     atomic.Int32
}

func (a *app) newProgress(length time.Duration) *progress {
	p := &progress{}
	f, ok := terminal(a.stderr)
	if !ok {
		return p
	}
	p.say("starting")
	p.stopped, p.ended = make(chan struct{}), make(chan struct{})
	p.container = mpb.New(mpb.WithOutput(f), mpb.WithWidth(30), mpb.WithRefreshRate(250*time.Millisecond))
	p.bar = p.container.AddBar(int64(length),
		mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			left := time.Duration(s.Total - s.Current).Round(time.Second)
			return fmt.Sprintf("%s left, %s", left, *p.line.Load())
		})),
	)
	return p
}

func (p *progress) say(line string) { p.line.Store(&line) }

// watching moves the bar on until stop, and says what is watched as soon as
// the first readings are there.
func (p *progress) watching(w *detectors.Watch) {
	if p.bar == nil {
		return
	}
	go func() {
		defer close(p.ended)
		start := time.Now()
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		counted := false
		for {
			select {
			case <-p.stopped:
				return
			case <-tick.C:
			}
			p.bar.SetCurrent(min(int64(time.Since(start)), int64(1)<<62))
			if !counted && time.Since(start) > 1500*time.Millisecond {
				counted = true
				c := w.Coverage()
				if p.count.Load() == 0 {
					p.say(fmt.Sprintf("watching %d services with %d probes … nothing stalled yet", len(c.Services), len(c.Probes)))
				}
			}
		}
	}()
}

func (p *progress) stalled(s freezeframe.Stall) {
	p.count.Add(1)
	what := ""
	if len(s.Symptoms) > 0 {
		what = ": " + s.Symptoms[0].Probe + " " + reports.Clean(s.Symptoms[0].Target)
	}
	p.say("stalled now" + what)
}

func (p *progress) judged(i detectors.Incident) {
	cause := freezeframe.CauseUnknown
	if len(i.Verdict.Findings) > 0 {
		cause = i.Verdict.Findings[0].Cause
	}
	stalls := "1 stall"
	if n := p.count.Load(); n > 1 {
		stalls = fmt.Sprintf("%d stalls", n)
	}
	p.say(fmt.Sprintf("%s so far, the last: %s", stalls, cause))
}

// stop takes the bar away, so that the document begins on an empty line.
func (p *progress) stop() {
	if p.bar == nil {
		return
	}
	select {
	case <-p.stopped:
		return
	default:
	}
	close(p.stopped)
	p.bar.Abort(true)
	p.container.Wait()
}
