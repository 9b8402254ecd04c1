package probes

import (
	"context"
	"syscall"
	"testing"
	"time"

	"freezeframe"
)

// cpuTime is what this process and its children have used.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			tb.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// BenchmarkIdle reports what the probes cost while nothing is wrong, as
// percent of one CPU: run it with -benchtime 1x.
func BenchmarkIdle(b *testing.B) {
	run := func(b *testing.B, pick func(freezeframe.Probe) bool) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		for _, p := range All(Options{}) {
			if pick(p) {
				go p.Run(ctx, func(freezeframe.Lateness) {})
			}
		}
		time.Sleep(time.Second)
		const span = 10 * time.Second
		before := cpuTime(b)
		for range b.N {
			time.Sleep(span)
		}
		b.ReportMetric(100*float64(cpuTime(b)-before)/float64(span)/float64(b.N), "%cpu")
	}
	b.Run("none", func(b *testing.B) { run(b, func(freezeframe.Probe) bool { return false }) })
	b.Run("all", func(b *testing.B) { run(b, func(freezeframe.Probe) bool { return true }) })
	for _, one := range All(Options{}) {
		b.Run(one.Name(), func(b *testing.B) {
			run(b, func(p freezeframe.Probe) bool { return p.Name() == one.Name() })
		})
	}
}
