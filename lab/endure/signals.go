package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// reportedMost is how long the report of what is over may take.
const reportedMost = 40 * time.Second

// kill is an end that we made.
type kill struct {
	at time.Time
	up time.Duration // until the next one answered and recorded
}

var killed = condition{
	name: "killed", about: "the daemon is killed every 10 s and started again, while strangers crowd its socket",
	deaf: true, late: true,
	make: func(t *trial) (step, end func()) {
		strangers := t.hostile(t.rates.connections/5, t.User())
		next := time.Now().Add(t.rates.killEvery / 2)
		return func() {
				if time.Now().Before(next) {
					return
				}
				t.m.sample(true)
				at := time.Now()
				t.Check(t.d.kill())
				t.f.Killed++
				began := time.Now()
				t.Check(t.d.start(t.Scene))
				t.kills = append(t.kills, kill{at, time.Since(began)})
				next = time.Now().Add(t.rates.killEvery)
			}, func() {
				t.disperse(strangers)
				if t.f.Killed == 0 {
					t.wrong("it was never killed: make it last longer (-for)")
				}
			}
	},
	after: func(t *trial) {
		var ends []time.Time
		err := until(reportedMost, func() error {
			d, err := t.d.diagnose(t.from, time.Now())
			if err != nil {
				return err
			}
			ends = ends[:0]
			for i := range d.Reports {
				if at, ok := d.Reports[i].uncleanEnd(); ok {
					ends = append(ends, at)
				}
			}
			if len(ends) < len(t.kills) {
				err = fmt.Errorf("%d ends are reported of %d", len(ends), len(t.kills))
			}
			return err
		})
		if err != nil {
			t.wrong("%v", err)
		}
		var up []time.Duration
		for _, k := range t.kills {
			up = append(up, k.up)
		}
		lost, unreported := lostBy(t.kills, ends)
		for _, at := range unreported {
			t.wrong("the end at %s is not reported", clock(at))
		}
		for _, d := range lost {
			if d > mostMissing {
				t.wrong("%s of the recording are missing before a kill", seconds(d))
			}
		}
		if len(lost) > 0 {
			t.note("killed %d times, %d reported; missing before a kill: at most %s; recording again after at most %s", len(t.kills), len(lost), seconds(slices.Max(lost)), seconds(slices.Max(up)))
		}
	},
}

// lostBy is how much recording is missing before each kill, by when the reports
// say that a run ended: the last such moment before it, and after the kill before.
// A kill of which there is no report is in unreported.
func lostBy(kills []kill, ends []time.Time) (lost []time.Duration, unreported []time.Time) {
	before := time.Time{}
	for _, k := range kills {
		var last time.Time
		for _, at := range ends {
			if at.After(before) && !at.After(k.at.Add(time.Second)) && at.After(last) {
				last = at
			}
		}
		if last.IsZero() {
			unreported = append(unreported, k.at)
		} else {
			lost = append(lost, max(k.at.Sub(last), 0))
		}
		before = k.at.Add(time.Second)
	}
	return lost, unreported
}

var stopped = condition{
	name: "stopped", about: "the daemon is stopped (SIGSTOP) for a minute, while strangers crowd its socket: a stall of its own",
	deaf: true, late: true, most: time.Minute,
	make: func(t *trial) (step, end func()) {
		strangers := t.hostile(t.rates.connections, t.User())
		t.m.deaf.Store(true)
		p := t.d.running()
		t.Check(p.Signal(syscall.SIGSTOP))
		return nil, func() {
			t.Check(p.Signal(syscall.SIGCONT))
			t.m.deaf.Store(false)
			t.disperse(strangers)
		}
	},
	after: func(t *trial) {
		err := until(reportedMost, func() error {
			list, err := t.d.list()
			if err != nil {
				return err
			}
			covered := time.Duration(0)
			for _, i := range list {
				if i.Cause == "app.stopped" {
					covered = max(covered, overlap(i.Start, i.End, t.begun, t.ended))
				}
			}
			if covered < t.f.Length*9/10 {
				return errors.Join(err, fmt.Errorf("of %s in which it was stopped %s are in a report with the cause app.stopped", seconds(t.f.Length), seconds(covered)))
			}
			t.note("a report says of %s that it was stopped", seconds(covered))
			return nil
		})
		if err != nil {
			t.wrong("%v", err)
		}
	},
}

// overlap is how much two spans have in common.
func overlap(a, aEnd, b, bEnd time.Time) time.Duration {
	if b.After(a) {
		a = b
	}
	if bEnd.Before(aEnd) {
		aEnd = bEnd
	}
	return max(aEnd.Sub(a), 0)
}
