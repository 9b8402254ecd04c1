package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"freezeframe"
	"freezeframe/collectors"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
)

// readings prints what one reading of each collector costs.
func readings(o options) (bool, error) {
	fmt.Println("\nreadings, one after the other in a loop (warm; a daemon's are about twice as dear)")
	count, err := newSyscallCounter()
	if err != nil {
		fmt.Printf("system calls: only reads are counted (%v)\n", err)
	}
	defer count.close()

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "source\tlane\tevery\tstalled\trows\tallocs\t%s\tµs\tcalls/s\tcalls/s stalled\t\n", count.unit())
	total, totalStalled, allocs := 0.0, 0.0, 0.0
	ring := recorder.NewRing(16 << 20)
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Focus: &freezeframe.Focus{}}
	if o.stalled {
		host.Focus.Suspect(math.MaxInt64)
	}
	for _, c := range collectors.All(nil) {
		s := c.Source()
		host.Texts = ring.Texts().Lane(s.Lane)
		if err := c.Open(host); err != nil {
			if !errors.Is(err, freezeframe.ErrNotHere) {
				return false, err
			}
			fmt.Fprintf(w, "%s\t%s\tnot here\t\t\t\t\t\t\t\t\n", s.Name, s.Lane)
			continue
		}
		r, err := reading(c, count)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.Name, err)
		}
		if err := c.Close(); err != nil {
			return false, err
		}
		stalled := s.Stalled
		if stalled == 0 {
			stalled = s.Every
		}
		perSecond, perSecondStalled := r.calls/s.Every.Seconds(), r.calls/stalled.Seconds()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%.0f\t%.0f\t%.1f\t%.0f\t%.0f\t\n", s.Name, s.Lane, s.Every, stalled, r.rows, r.allocs, r.calls, float64(r.cpu.Nanoseconds())/1000, perSecond, perSecondStalled)
		total += perSecond
		totalStalled += perSecondStalled
		allocs += r.allocs
	}
	fmt.Fprintf(w, "all\t\t\t\t\t%.0f\t\t\t%.0f\t%.0f\t\n", allocs, total, totalStalled)
	if err := w.Flush(); err != nil {
		return false, err
	}
	per := Tick.Seconds()
	fmt.Printf("%s a tick of %s: %.0f; while stalled %.0f. Allocations a reading: %.0f (budget 0)\n", count.unit(), Tick, total*per, totalStalled*per, allocs)
	return allocs == 0, nil
}

// Tick is the sampler's.
const Tick = recorder.Tick

type cost struct {
	rows          int
	allocs, calls float64
	cpu           time.Duration
}

// reading measures a collector that is open, on the thread of count. The first readings, in which
// tables and buffers find their size, do not count.
func reading(c freezeframe.Collector, count *syscallCounter) (r cost, err error) {
	var t freezeframe.Table
	now, period := kernel.Now(), c.Source().Every
	read := func() {
		t.Reset()
		// Some readings do more when it is time to: let it pass.
		now = now.Add(period)
		t.Due, t.At = now, now
		if e := c.Collect(&t); e != nil {
			err = e
		}
	}
	for range 10 {
		read()
	}
	const times = 50
	r.allocs = testing.AllocsPerRun(times, read)
	before, begin := count.read(), kernel.ThreadCPU()
	for range times {
		read()
	}
	r.cpu = (kernel.ThreadCPU() - begin) / times
	// Asking for the count and the time takes calls too; few beside so many.
	r.calls = math.Round(float64(count.read()-before) / times)
	r.rows = len(t.Keys)
	return r, err
}

// filesOf returns the files that the collectors keep open, with how often each
// is read.
func filesOf(cs []freezeframe.Collector, stalled bool) (files map[string]time.Duration, err error) {
	files = map[string]time.Duration{}
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: recorder.NewRing(1 << 20).Texts().Lane(freezeframe.Fast), Focus: &freezeframe.Focus{}}
	for _, c := range cs {
		before := openFiles()
		if err := c.Open(host); err != nil {
			if errors.Is(err, freezeframe.ErrNotHere) {
				continue
			}
			return nil, err
		}
		period := c.Source().Every
		if s := c.Source().Stalled; stalled && s > 0 {
			period = s
		}
		for path, n := range openFiles() {
			if n > before[path] && strings.HasPrefix(path, "/") {
				files[path] = period
			}
		}
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// openFiles returns the paths behind this process's descriptors.
func openFiles() map[string]int {
	files := map[string]int{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[path]++
		}
	}
	return files
}

// fastLane returns the collectors of the fast lane.
func fastLane() (fast []freezeframe.Collector) {
	for _, c := range collectors.All(nil) {
		if c.Source().Lane == freezeframe.Fast {
			fast = append(fast, c)
		}
	}
	return fast
}
