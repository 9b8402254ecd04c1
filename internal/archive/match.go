package archive

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"freezeframe/internal/schedules"
)

// A job is named with a series when their times fit: most stalls begin soon
// after it ran, and most of its runs are followed by a stall. That it is so by
// chance must be unlikely; and whatever fits, it is a coincidence in time, so
// the report says "when it runs", not "because".
const (
	lead      = 5 * time.Minute // from a run to the stall it may be in
	ownLead   = time.Hour       // where the culprit runs in the unit that the job starts
	slack     = 2 * time.Second // how much before its run a stall may begin
	fitShare  = 0.8             // of the stalls follow a run
	runsShare = 0.6             // of the runs are followed by a stall
	fitChance = 0.01            // over all jobs
	maxNamed  = 3               // jobs that run at the same time and cannot be told apart
	sameTime  = time.Minute
	// A timer that ran before a stall says something only where it runs seldom.
	seldom = time.Hour
)

type fit struct {
	name  string
	own   bool // the culprit runs in it
	delay time.Duration
}

// matchJobs returns the name of the job at whose times the stalls come, of
// several that run at the same time all, or "". hits are the moments to be
// explained, moments all of the series, unit that of the culprit.
func matchJobs(jobs []schedules.Job, hits, moments []time.Time, unit string) string {
	hits = hits[max(0, len(hits)-maxMoments):]
	if len(hits) < minHits {
		return ""
	}
	var fits []fit
	for i := range jobs {
		j := &jobs[i]
		own := unit != "" && j.Starts == unit
		within := lead
		if own {
			within = ownLead
		}
		if delay, ok := fitJob(j, hits, moments, within, len(jobs)); ok {
			fits = append(fits, fit{j.Name, own, delay})
		}
	}
	return named(fits)
}

// named is the name of the best, and of those as good as it.
func named(fits []fit) string {
	slices.SortStableFunc(fits, func(a, b fit) int {
		if a.own != b.own {
			return map[bool]int{true: -1, false: 1}[a.own]
		}
		return cmp.Or(cmp.Compare(a.delay, b.delay), strings.Compare(a.name, b.name))
	})
	var names []string
	for _, f := range fits {
		if f.own == fits[0].own && f.delay-fits[0].delay <= sameTime && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	if len(names) > maxNamed {
		return ""
	}
	return strings.Join(names, " or ")
}

func fitJob(j *schedules.Job, hits, moments []time.Time, within time.Duration, jobs int) (delay time.Duration, ok bool) {
	within += j.Delay
	from := hits[0].Add(-within)
	last := hits[len(hits)-1]
	// One that runs far more often than there are stalls does not tell when.
	most := int(float64(len(moments))/runsShare) + 2
	var runs []time.Time
	for at := from.Add(-time.Second); len(j.Times) > 0; {
		at = j.Next(at)
		if at.IsZero() || at.After(last.Add(slack)) {
			break
		}
		if runs = append(runs, at); len(runs) > most {
			return 0, false
		}
	}
	if len(runs) == 0 {
		return 0, false
	}
	var delays []time.Duration
	for _, h := range hits {
		if d, ok := after(runs, h); ok && d <= within {
			delays = append(delays, d)
		}
	}
	if float64(len(delays)) < fitShare*float64(len(hits)) {
		return 0, false
	}
	followed, covered := 0, time.Duration(0)
	for i, r := range runs {
		end := r.Add(within)
		if i+1 < len(runs) && runs[i+1].Before(end) {
			end = runs[i+1]
		}
		begin := r.Add(-slack)
		k, _ := slices.BinarySearchFunc(moments, begin, time.Time.Compare)
		if k < len(moments) && !moments[k].After(end) {
			followed++
		}
		// Of the time from the first stall to the last.
		if begin.Before(hits[0]) {
			begin = hits[0]
		}
		if end.After(last) {
			end = last
		}
		covered += max(0, end.Sub(begin))
	}
	if float64(followed) < runsShare*float64(len(runs)) {
		return 0, false
	}
	// A job with a long random delay covers all of it, and so fits anything.
	share := float64(covered) / float64(max(1, last.Sub(hits[0])))
	if math.Log(float64(jobs))+logTail(len(delays), len(hits), share) > math.Log(fitChance) {
		return 0, false
	}
	slices.Sort(delays)
	return delays[len(delays)/2], true
}

// after returns how long after the latest run a moment is.
func after(runs []time.Time, at time.Time) (time.Duration, bool) {
	i, _ := slices.BinarySearchFunc(runs, at.Add(slack), func(r, t time.Time) int {
		if r.After(t) {
			return 1
		}
		return -1
	})
	if i == 0 {
		return 0, false
	}
	return max(0, at.Sub(runs[i-1])), true
}

// ranBefore returns the timers that ran just before a stall began and run
// seldom: seen, not reckoned, which also tells of those with a random delay
// and of those that follow no calendar.
func ranBefore(jobs []schedules.Job, start time.Time) (names []string) {
	for i := range jobs {
		j := &jobs[i]
		since := start.Sub(j.Last)
		if j.Kind == schedules.Timer && !j.Last.IsZero() && j.Interval >= seldom && since >= -slack && since <= lead && len(names) < 8 {
			names = append(names, j.Name)
		}
	}
	return names
}

// matchRan returns the timer that was seen to run before most stalls of a
// series, or "". ran has the timers of each stall.
func matchRan(ran [][]string) string {
	ran = ran[max(0, len(ran)-maxMoments):]
	if len(ran) < minHits {
		return ""
	}
	count := make(map[string]int)
	for _, names := range ran {
		for _, n := range names {
			count[n]++
		}
	}
	var fits []fit
	for name, n := range count {
		if float64(n) >= fitShare*float64(len(ran)) && math.Log(float64(len(count)))+logTail(n, len(ran), float64(lead)/float64(seldom)) <= math.Log(fitChance) {
			fits = append(fits, fit{name: name})
		}
	}
	return named(fits)
}
