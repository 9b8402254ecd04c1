// Package schedules knows what this machine runs by the clock: systemd timers
// and cron entries. What it does not understand it leaves out.
package schedules

import (
	"time"
)

// Kinds of jobs.
const (
	Timer = "timer" // a systemd timer unit
	Cron  = "cron"  // a line of a crontab
)

// Job is one thing that runs at times that are known beforehand.
type Job struct {
	Kind string
	Name string // "apt-daily.timer", "/etc/cron.d/atop (atop.daily)", "crontab of alice (backup.sh)"
	// Starts is the systemd unit that the job starts, or runs in; "" where it
	// is not known.
	Starts string
	// Delay is how much later than its time it may start.
	Delay time.Duration
	// Last is when it ran last, where somebody knows.
	Last time.Time
	// Interval is from its last run to its next, where both are known.
	Interval time.Duration
	// Times are its times; none for a timer that counts from something else.
	Times []Times
}

// Times is a repeating time of the calendar.
type Times interface {
	// Next returns the first time after t, or the zero time where there is none
	// within the next six years.
	Next(t time.Time) time.Time
}

// Next returns the first time after t at which the job is to run, or the zero
// time.
func (j *Job) Next(t time.Time) (next time.Time) {
	for _, times := range j.Times {
		if n := times.Next(t); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return next
}
