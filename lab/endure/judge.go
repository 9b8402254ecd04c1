package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// budgetRSS is what the daemon may have resident, in MiB, unless it is said
	// otherwise.
	budgetRSS = 64.0
	// mostLate is the share of readings that may begin more than their period late.
	mostLate = 0.02
	// lostSlack is what two looks at the same recording may differ by.
	lostSlack = 100 * time.Millisecond
	// mostMissing is how much of the recording a kill may cost.
	mostMissing = 5 * time.Second
)

// figures are what was measured of one condition.
type figures struct {
	Name   string        `json:"name"`
	Length time.Duration `json:"length_ns"`

	RSSBefore float64 `json:"rss_before_mib"` // the most of the calm before
	RSSMean   float64 `json:"rss_mean_mib"`
	RSSMost   float64 `json:"rss_most_mib"`
	Budget    float64 `json:"rss_budget_mib"`
	Files     int     `json:"files_most"`
	Threads   int     `json:"threads_most"`
	CPUBefore float64 `json:"cpu_before_s_per_min"`
	CPU       float64 `json:"cpu_s_per_min"`

	Readings  float64            `json:"readings"`
	Late      float64            `json:"late_readings"`
	WorstLate float64            `json:"worst_late_s"` // 0: none was later than one before
	LateOK    bool               `json:"-"`            // the condition holds up all of the process
	Dropped   map[string]float64 `json:"dropped"`

	Asked      int           `json:"asked"`
	Unanswered []string      `json:"unanswered"`
	DeafOK     bool          `json:"-"` // it is gone at times: nobody can answer
	Slowest    time.Duration `json:"slowest_answer_ns"`

	// What was recorded before the condition: how long, and what is lost of it
	// by what the daemon says afterwards, and by its files when it has stopped.
	Before      time.Duration `json:"before_ns"`
	Lost        time.Duration `json:"lost_ns"`
	LostOnDisk  time.Duration `json:"lost_on_disk_ns"`
	Reports     int           `json:"reports_before"`
	LostReports []string      `json:"lost_reports"`
	NewReports  int           `json:"reports_made"`
	// NotRecorded is how much of the condition itself is not on the disk.
	NotRecorded time.Duration `json:"not_recorded_ns"`
	Lag         float64       `json:"lag_s"` // the most by which the disk was behind

	Harmed   []string      `json:"harmed"`    // processes beside it that are gone or stopped
	OOMKills int64         `json:"oom_kills"` // of the machine
	Meant    int64         `json:"oom_kills_meant"`
	Starts   int           `json:"starts"` // beyond the first
	Killed   int           `json:"killed"` // by us
	Stopping string        `json:"stopping"`
	Stop     time.Duration `json:"stop_ns"`
	Ended    bool          `json:"-"` // its own end was in order

	Notes []string `json:"notes"`
	Wrong []string `json:"wrong"` // what the condition itself found
}

// faults says what is not as it has to be; nothing: all is.
func (f *figures) faults() []string {
	var out []string
	fault := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if f.RSSMost > f.Budget {
		fault("%.1f MiB resident, where %.0f are the most", f.RSSMost, f.Budget)
	}
	if f.Readings == 0 {
		fault("nothing was read")
	} else if late := f.Late / f.Readings; late > mostLate && !f.LateOK {
		fault("%.1f %% of the readings were late", 100*late)
	}
	for _, what := range []string{"report", "log_line"} {
		if n := f.Dropped[what]; n > 0 {
			fault("%.0f of %s dropped", n, what)
		}
	}
	if n := len(f.Unanswered); n > 0 && !f.DeafOK {
		fault("%d of %d questions were not answered: %s", n, f.Asked, f.Unanswered[n-1])
	}
	if f.Before <= 0 {
		fault("nothing was recorded before")
	}
	if f.Lost > lostSlack {
		fault("%s of what was recorded before are lost", seconds(f.Lost))
	}
	if f.LostOnDisk > lostSlack {
		fault("%s of what was recorded before are not in the files", seconds(f.LostOnDisk))
	}
	if len(f.LostReports) > 0 {
		fault("reports of before are lost: %s", strings.Join(f.LostReports, ", "))
	}
	if len(f.Harmed) > 0 {
		fault("beside it: %s", strings.Join(f.Harmed, ", "))
	}
	if f.OOMKills != f.Meant {
		fault("%d processes were killed for memory, %d were meant to be", f.OOMKills, f.Meant)
	}
	if f.Starts != f.Killed {
		fault("it was started again %d times, and killed %d times", f.Starts, f.Killed)
	}
	if !f.Ended {
		fault("at the end: %s", f.Stopping)
	}
	return append(out, f.Wrong...)
}

// write prints them, a condition in a few lines.
func (f *figures) write(w io.Writer) (passed bool) {
	faults := f.faults()
	word := "passed"
	if len(faults) > 0 {
		word = "FAILED"
	}
	fmt.Fprintf(w, "%-15s %s  %s of it\n", f.Name, word, seconds(f.Length))
	fmt.Fprintf(w, "    resident %.1f MiB before, %.1f on average, at most %.1f of %.0f; CPU %.2f s a minute before, %.2f meanwhile; %d descriptors, %d threads at most\n",
		f.RSSBefore, f.RSSMean, f.RSSMost, f.Budget, f.CPUBefore, f.CPU, f.Files, f.Threads)
	worst := "none later than before"
	if f.WorstLate > 0 {
		worst = fmt.Sprintf("the worst %.0f ms", 1000*f.WorstLate)
	}
	fmt.Fprintf(w, "    %.0f readings, %.0f late (%.2f %%, %s); dropped: %s; asked %d times, %d not answered, the slowest answer %d ms\n",
		f.Readings, f.Late, 100*f.Late/max(f.Readings, 1), worst, plain(f.Dropped), f.Asked, len(f.Unanswered), f.Slowest.Milliseconds())
	fmt.Fprintf(w, "    of before: %s recorded, %s lost (%s by the files), %d of %d reports; meanwhile: %s not on the disk, at most %.1f s behind, %d reports; it took %s to end\n",
		seconds(f.Before), seconds(f.Lost), seconds(f.LostOnDisk), f.Reports-len(f.LostReports), f.Reports, seconds(f.NotRecorded), f.Lag, f.NewReports, seconds(f.Stop))
	for _, n := range f.Notes {
		fmt.Fprintf(w, "    %s\n", n)
	}
	for _, n := range faults {
		fmt.Fprintf(w, "    !! %s\n", n)
	}
	return len(faults) == 0
}

func plain(dropped map[string]float64) string {
	if len(dropped) == 0 {
		return "nothing"
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(dropped)) {
		parts = append(parts, fmt.Sprintf("%.0f %s", dropped[what], what))
	}
	return strings.Join(parts, ", ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// missing is how much of a span the gaps cover, overlaps once.
func missing(gaps []gap, from, to time.Time) (n time.Duration) {
	gaps = slices.Clone(gaps)
	slices.SortFunc(gaps, func(a, b gap) int { return a.Start.Compare(b.Start) })
	at := from
	for _, g := range gaps {
		if g.Start.After(at) {
			at = g.Start
		}
		end := g.End
		if end.After(to) {
			end = to
		}
		if end.After(at) {
			n += end.Sub(at)
			at = end
		}
	}
	return n
}

// lostOf returns which of the reports that were there are not there any more, or
// say something else.
func lostOf(before, after []incident) (lost []string) {
	for _, b := range before {
		if !slices.ContainsFunc(after, func(a incident) bool {
			return a.ID == b.ID && a.Start.Equal(b.Start) && a.End.Equal(b.End) && a.Cause == b.Cause
		}) {
			lost = append(lost, b.ID)
		}
	}
	return lost
}

// a sample of the soak.
type sample struct {
	At         time.Duration `json:"at_ns"`
	Load       string        `json:"load"`
	RSS        float64       `json:"rss_mib"`
	Files      float64       `json:"files"`
	Threads    float64       `json:"threads"`
	Goroutines float64       `json:"goroutines"`
	CPU        time.Duration `json:"cpu_ns"` // since the daemon was started
}

// trend is how one figure of the soak went: the mean of the second quarter, in
// which everything is full that fills up, and that of the last.
type trend struct {
	Name   string  `json:"name"`
	Second float64 `json:"second_quarter"`
	Last   float64 `json:"last_quarter"`
	Most   float64 `json:"most"`
	Ratio  float64 `json:"ratio"`
	Flat   bool    `json:"flat"`
}

// mostGrowth is the ratio of the last quarter to the second up to which a figure
// is flat. A few descriptors, threads or goroutines more are somebody who asked.
const (
	mostGrowth = 1.10
	fewMore    = 3
)

// trends compares the quarters of a soak of that length. Without samples in both
// nothing is flat.
func trends(samples []sample, length time.Duration) []trend {
	var out []trend
	for _, c := range []struct {
		name  string
		slack float64
		of    func(*sample) float64
	}{
		{"resident MiB", 0, func(s *sample) float64 { return s.RSS }},
		{"descriptors", fewMore, func(s *sample) float64 { return s.Files }},
		{"threads", fewMore, func(s *sample) float64 { return s.Threads }},
		{"goroutines", fewMore, func(s *sample) float64 { return s.Goroutines }},
	} {
		t := trend{Name: c.name}
		var sums [4]float64
		var counts [4]int
		for i := range samples {
			s := &samples[i]
			quarter := min(int(4*s.At/length), 3)
			v := c.of(s)
			sums[quarter] += v
			counts[quarter]++
			t.Most = max(t.Most, v)
		}
		if counts[1] > 0 && counts[3] > 0 {
			t.Second, t.Last = sums[1]/float64(counts[1]), sums[3]/float64(counts[3])
			t.Ratio = t.Last / max(t.Second, 1)
			t.Flat = t.Ratio <= mostGrowth || t.Last-t.Second <= c.slack
		}
		out = append(out, t)
	}
	return out
}

// writeTrends prints them and says whether all is flat and within the budget.
func writeTrends(w io.Writer, all []trend, budget float64) (flat bool) {
	flat = true
	fmt.Fprintf(w, "%-14s %14s %12s %8s %8s\n", "", "second quarter", "last quarter", "ratio", "most")
	for _, t := range all {
		word := "flat"
		if !t.Flat {
			word, flat = "GROWS", false
		}
		fmt.Fprintf(w, "%-14s %14.1f %12.1f %8.3f %8.1f  %s\n", t.Name, t.Second, t.Last, t.Ratio, t.Most, word)
	}
	if len(all) == 0 || all[0].Most > budget {
		fmt.Fprintf(w, "resident memory is above its budget of %.0f MiB\n", budget)
		flat = false
	}
	return flat
}
