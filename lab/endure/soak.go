package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"freezeframe/lab"
)

const (
	// shortestSoak has its quarters long enough for every load.
	shortestSoak = 4 * time.Minute
	soakEvery    = 10 * time.Second // between two samples
	soakDiskMiB  = 1024
	// soakCycle is how long it takes, about, until every load has come once: the
	// quarters that are compared have the same ones.
	soakCycle = 15 * time.Minute
)

// soakLoads are the conditions that take turns, with calm between them.
func soakLoads() []condition {
	return []condition{forks, dataFrozen, processes, hostileClients, kernelLog, memory}
}

// slot is a part of a soak.
type slot struct {
	load   *condition // nil: calm
	length time.Duration
}

// slots divides a soak: every quarter has all loads as often as the others.
func slots(length time.Duration, loads []condition) []slot {
	quarter := length / 4
	cycles := max(1, int((quarter+soakCycle/2)/soakCycle))
	each := quarter / time.Duration(cycles*2*len(loads))
	var out []slot
	for range 4 * cycles {
		for i := range loads {
			out = append(out, slot{nil, each}, slot{&loads[i], each})
		}
	}
	return out
}

// soak lets a daemon run for long under a load that changes, and says whether it
// grows.
func soak(l *lab.Lab, o options, w io.Writer) (ok bool, err error) {
	var loads []condition
	for _, c := range soakLoads() {
		if why := c.cannot(options{rates: low}); why != nil {
			fmt.Fprintf(w, "without %s: %v\n", c.name, why)
			continue
		}
		loads = append(loads, c)
	}
	var result struct {
		Length  time.Duration `json:"length_ns"`
		Trends  []trend       `json:"trends"`
		Wrong   []string      `json:"wrong"`
		Samples []sample      `json:"samples"`
	}
	err = l.Free(1, func(s *lab.Scene) {
		t := &trial{Scene: s, rates: low, f: &figures{Name: "soak", Budget: o.resident}}
		defer t.keepLog(o.out, "soak")
		t.prepare(o.bin, &calm, soakDiskMiB)
		t.m = measure(t.d)
		defer t.m.end()
		killed, err := oomKills()
		t.Check(err)
		t.begun = time.Now()
		due, minute := t.begun, t.begun
		for _, slot := range slots(o.soak, loads) {
			name := "calm"
			var step func()
			end := func() {}
			began := time.Now()
			t.length = slot.length
			if slot.load != nil {
				name = slot.load.name
				step, end = slot.load.make(t)
			}
			t.last(slot.length-time.Since(began), func() {
				if step != nil {
					step()
				}
				now := time.Now()
				if now.Before(due) {
					return
				}
				due = due.Add(soakEvery)
				sa, err := t.sampled(name)
				if err != nil {
					t.wrong("%s into it: %v", time.Since(t.begun).Round(time.Second), err)
					return
				}
				result.Samples = append(result.Samples, sa)
				if !now.Before(minute) {
					minute = minute.Add(time.Minute)
					fmt.Fprintf(w, "%8s  %-12s %6.1f MiB %5.0f descriptors %4.0f threads %4.0f goroutines %8.1f s CPU\n",
						sa.At.Round(time.Second), name, sa.RSS, sa.Files, sa.Threads, sa.Goroutines, sa.CPU.Seconds())
				}
			})
			end()
		}
		result.Length = time.Since(t.begun)
		t.m.end()
		t.figures()
		after, err := oomKills()
		t.Check(err)
		t.f.OOMKills = after - killed
		t.harmed()
		t.stop()
		t.f.Before, t.f.Length = result.Length, result.Length // nothing is asked of before
		result.Trends = trends(result.Samples, o.soak)
		result.Wrong = t.f.faults()
		fmt.Fprintf(w, "soak of %s: CPU %.2f s a minute; %.0f readings, %.0f late; dropped: %s; asked %d times, %d not answered, the slowest answer %d ms\n",
			result.Length.Round(time.Second), t.f.CPU, t.f.Readings, t.f.Late, plain(t.f.Dropped), t.f.Asked, len(t.f.Unanswered), t.f.Slowest.Milliseconds())
	})
	if err != nil {
		return false, err
	}
	flat := writeTrends(w, result.Trends, o.resident)
	if len(result.Wrong) > 0 {
		fmt.Fprintf(w, "!! %s\n", strings.Join(result.Wrong, "\n!! "))
	}
	return flat && len(result.Wrong) == 0, save(o.out, result)
}

// sampled looks at the daemon once.
func (t *trial) sampled(load string) (s sample, err error) {
	u, err := usageOf(t.d.running().PID)
	if err != nil {
		return s, err
	}
	g, err := t.d.gauges()
	if err != nil {
		return s, err
	}
	return sample{
		At: time.Since(t.begun), Load: load, RSS: u.rssMiB, Files: g["freezeframe_open_files"],
		Threads: float64(u.threads), Goroutines: g["freezeframe_goroutines"], CPU: u.cpu,
	}, nil
}
