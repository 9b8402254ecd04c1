package archive

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// When is a series regular? A wrong pattern sends people after the wrong timer,
// so one is only told when random moments would hardly show it. The moments are
// folded by each period of periods, in local wall-clock time, so that a change
// of the clock moves nothing. Where many stand within a window of the period,
// the window's slots (a day, an hour …) are counted: hits of all slots since the
// first hit. By chance a slot is hit with the probability
//
//	p = 1 - exp(-rate · width)
//
// where rate is how many moments there are per time, overall or around the
// window, whichever is more (people work by day, and so stalls come by day).
// That at least k of D slots are hit by chance is bounded by Chernoff,
// exp(-D·KL(k/D ‖ p)); the first hit, which the window was laid at, is not
// counted, and the bound is multiplied by everything that was tried: periods,
// widths, places and beginnings. It must stay below maxChance.
//
// So the fewer moments and the wider the window, the more hits it takes: with
// nothing else in between, 4 days in a row within ± 5 min, 5 within ± 15 min, 6
// hours within ± 1 min, 8 times five minutes within ± 15 s.
const (
	maxChance = 1e-3
	// minHits is enough for no other reason than that three moments always lie
	// on some clock: whoever reads "every day" after two days laughs.
	minHits = 4
	// minShare of the slots must be hit to say "every": 5 of 7.
	minShare = 0.7
	// maxMoments bounds the work, and forgets what was long ago.
	maxMoments = 256
)

const day = 24 * time.Hour

var periods = []time.Duration{
	2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 6 * time.Minute, 10 * time.Minute, 12 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour, 12 * time.Hour, day, 7 * day,
}

// halfWidths are the tolerances that are tried, up to a fifth of the period.
var halfWidths = []time.Duration{10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute}

// pattern is when a series comes.
type pattern struct {
	period     time.Duration
	phase      time.Duration // from the beginning of the period, which is midnight, or Thursday for weeks
	spread     time.Duration // all hits are within it
	hits, of   int           // slots
	weekdays   bool          // slots of Saturdays and Sundays are not counted
	free       bool          // it follows no clock, only itself
	times      []time.Time   // of the hits
	logChance  float64
	totalWidth time.Duration
}

// civil is local wall-clock time as if it were UTC, in nanoseconds: in it a day
// always has 24 hours.
func civil(t time.Time, loc *time.Location) int64 {
	_, offset := t.In(loc).Zone()
	return t.UnixNano() + int64(offset)*int64(time.Second)
}

// findPattern returns the pattern of moments, which are in order, or nil.
func findPattern(moments []time.Time, loc *time.Location) *pattern {
	moments = moments[max(0, len(moments)-maxMoments):]
	if len(moments) < minHits {
		return nil
	}
	f := folder{moments: moments, at: make([]int64, len(moments))}
	for i, t := range moments {
		f.at[i] = civil(t, loc)
	}
	// The clock set back, or the hour that comes twice, must not disorder them.
	slices.Sort(f.at)
	var best *pattern
	for _, period := range periods {
		if p := f.fold(period); p != nil && (best == nil || p.hits > best.hits || p.hits == best.hits && p.logChance < best.logChance) {
			best = p
		}
	}
	if best == nil {
		return freePattern(moments)
	}
	f.withoutWeekends(best)
	return best
}

type folder struct {
	moments []time.Time
	at      []int64 // civil, in order
	phases  []int   // indices of at, by phase
}

func mod(a, b int64) int64 { return ((a % b) + b) % b }

func floorDiv(a, b int64) int64 { return (a - mod(a, b)) / b }

// fold returns the best pattern of one period.
func (f *folder) fold(period time.Duration) (best *pattern) {
	n, length := len(f.at), int64(period)
	if f.at[n-1]-f.at[0] < (minHits-2)*length {
		return nil
	}
	f.phases = f.phases[:0]
	for i := range f.at {
		f.phases = append(f.phases, i)
	}
	phase := func(i int) int64 { return mod(f.at[i], length) }
	slices.SortFunc(f.phases, func(a, b int) int {
		if d := phase(a) - phase(b); d != 0 {
			return int(max(-1, min(1, d)))
		}
		return a - b
	})
	// unrolled is the phase of the j-th in the order, which goes round.
	unrolled := func(j int) int64 {
		p := phase(f.phases[j%n])
		if j >= n {
			p += length
		}
		return p
	}
	for _, half := range halfWidths {
		if half > period/5 {
			break
		}
		width := 2 * int64(half)
		end, before := 0, 0
		for begin := range n {
			end = max(end, begin)
			for end < begin+n && unrolled(end)-unrolled(begin) <= width {
				end++
			}
			// A window that only loses what the one before had is none.
			if end == before || end-begin < minHits {
				continue
			}
			before = end
			if p := f.window(period, unrolled(begin), width, begin, end); p != nil && (best == nil || p.logChance < best.logChance) {
				best = p
			}
		}
	}
	return best
}

// window judges the slots of one window: phases from origin to origin+width.
func (f *folder) window(period time.Duration, origin, width int64, begin, end int) *pattern {
	n, length := len(f.at), int64(period)
	slot := func(i int) int64 { return floorDiv(f.at[i]-origin, length) }
	members := make([]int, 0, end-begin)
	for j := begin; j < end; j++ {
		members = append(members, f.phases[j%n])
	}
	slices.Sort(members)
	members = slices.CompactFunc(members, func(a, b int) bool { return slot(a) == slot(b) }) // the first of each slot
	last := slot(n - 1)
	// A beginning is a hit from which on most slots are hit.
	enough := func(j int) bool {
		return float64(len(members)-j) >= minShare*float64(last-slot(members[j])+1)
	}
	some := false
	for j := 0; j <= len(members)-minHits && !some; j++ {
		some = enough(j)
	}
	if !some {
		return nil
	}
	tries := math.Log(float64(len(periods)*len(halfWidths))) + 2*math.Log(float64(n))
	best := -1
	chance, of := math.Log(maxChance), int64(0)
	around := surroundings{f: f, origin: origin, width: width, length: length, next: n - 1}
	around.nearBy, around.further = max(length/16, 3*width/2), max(length/8, 2*width)
	for j := len(members) - minHits; j >= 0; j-- {
		if !enough(j) {
			continue
		}
		d := last - slot(members[j]) + 1
		p := around.since(slot(members[j]), d)
		if c := tries + logTail(len(members)-j-1, int(d-1), p); c < chance {
			best, chance, of = j, c, d
		}
	}
	if best < 0 {
		return nil
	}
	members = members[best:]
	var from []int64
	for _, i := range members {
		from = append(from, mod(f.at[i]-origin, length))
	}
	slices.Sort(from)
	middle := from[len(from)/2]
	p := &pattern{period: period, phase: time.Duration(mod(origin+middle, length)), hits: len(members), of: int(of), logChance: chance, totalWidth: time.Duration(width)}
	p.spread = time.Duration(max(middle-from[0], from[len(from)-1]-middle))
	for _, i := range members {
		p.times = append(p.times, f.moments[i])
	}
	return p
}

// surroundings counts moments, overall and on both sides of a window, back from
// the newest.
type surroundings struct {
	f                     *folder
	origin, width, length int64
	nearBy, further       int64 // from the middle of the window
	next                  int   // that is not yet counted
	total, near, wide     int
}

// since returns the probability that a slot of the window is hit by moments
// that come at random, as many as there are in the d slots from first on.
func (s *surroundings) since(first, d int64) float64 {
	begin := first*s.length + s.origin
	for ; s.next >= 0 && s.f.at[s.next] >= begin; s.next-- {
		s.total++
		from := mod(s.f.at[s.next]-s.origin, s.length)
		if from <= s.width {
			continue
		}
		distance := min(from-s.width/2, s.length-from+s.width/2)
		if distance <= s.nearBy {
			s.near++
		}
		if distance <= s.further {
			s.wide++
		}
	}
	slots := float64(d)
	rate := float64(s.total) / (slots * float64(s.length))
	rate = max(rate, float64(s.near)/(slots*float64(2*s.nearBy-s.width)))
	rate = max(rate, float64(s.wide)/(slots*float64(2*s.further-s.width)))
	return 1 - math.Exp(-rate*float64(s.width))
}

// logTail bounds the logarithm of the probability that at least k of n happen
// where each has the probability p (Chernoff).
func logTail(k, n int, p float64) float64 {
	share := float64(k) / float64(n)
	if n == 0 || share <= p || p <= 0 || p >= 1 {
		return 0
	}
	kl := share * math.Log(share/p)
	if share < 1 {
		kl += (1 - share) * math.Log((1-share)/(1-p))
	}
	return -float64(n) * kl
}

// withoutWeekends sees that a daily pattern leaves out Saturdays and Sundays,
// and at least two weekends of them.
func (f *folder) withoutWeekends(p *pattern) {
	if p.period != day {
		return
	}
	weekday := func(slot int64) time.Weekday { return time.Weekday(mod(slot+4, 7)) } // 1970-01-01 was a Thursday
	origin := int64(p.phase) - int64(p.totalWidth)
	hit := make(map[int64]bool)
	last := floorDiv(f.at[len(f.at)-1]-origin, int64(day))
	for _, t := range f.at {
		s := floorDiv(t-origin, int64(day))
		if mod(t-origin, int64(day)) <= 2*int64(p.totalWidth) {
			hit[s] = true
		}
	}
	free, of, hits := 0, 0, 0
	for s := last - int64(p.of) + 1; s <= last; s++ {
		// The slot is named by the day on which the middle of its window lies.
		d := weekday(floorDiv(s*int64(day)+int64(p.phase), int64(day)))
		switch {
		case d != time.Saturday && d != time.Sunday:
			of++
			if hit[s] {
				hits++
			}
		case hit[s]:
			return
		default:
			free++
		}
	}
	if free >= 4 && hits >= p.hits {
		p.weekdays, p.of = true, of
	}
}

// The spacings of a series are regular when most are within a tenth of their
// median. Random moments have 7 % of their spacings there; 10 % is reckoned
// with, because the median was taken from them.
const (
	minSpacings    = 5
	spacingsShare  = 0.8
	spacingsChance = 0.1
)

// spacing returns the median from one moment to the next, and how many are
// within a tenth of it.
func spacing(moments []time.Time) (median time.Duration, near, of int) {
	var gaps []time.Duration
	for i := 1; i < len(moments); i++ {
		gaps = append(gaps, moments[i].Sub(moments[i-1]))
	}
	if len(gaps) == 0 {
		return 0, 0, 0
	}
	slices.Sort(gaps)
	median = gaps[len(gaps)/2]
	for _, g := range gaps {
		if (g - median).Abs() <= median/10 {
			near++
		}
	}
	return median, near, len(gaps)
}

func regular(near, of int) bool {
	return of >= minSpacings && float64(near) >= spacingsShare*float64(of) && logTail(near, of, spacingsChance)+math.Log(10) < math.Log(maxChance)
}

// freePattern is one that comes after a while again and again, at no time of
// the clock: the latest moments decide.
func freePattern(moments []time.Time) *pattern {
	for _, n := range []int{min(len(moments), 64), 24, 12, minSpacings + 1} {
		if len(moments) < n {
			continue
		}
		latest := moments[len(moments)-n:]
		median, near, of := spacing(latest)
		if median < 5*time.Second || !regular(near, of) {
			continue
		}
		p := &pattern{period: median, hits: near, of: of, free: true, times: latest}
		for i := 1; i < len(latest); i++ {
			if d := (latest[i].Sub(latest[i-1]) - median).Abs(); d <= median/10 {
				p.spread = max(p.spread, d)
			}
		}
		return p
	}
	return nil
}

// String says the pattern as people do.
func (p *pattern) String() string {
	clock := func(d time.Duration) string {
		d = d.Round(time.Minute) % day
		return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute)
	}
	minutes := func(d time.Duration) string {
		return fmt.Sprintf(":%02d", d.Round(time.Minute)%time.Hour/time.Minute)
	}
	// What is said rounded must still hold the hits.
	step := time.Minute
	if p.period < time.Hour {
		step = 10 * time.Second
	}
	spread := p.spread
	if !p.free && p.period >= time.Hour {
		spread += (p.phase - p.phase.Round(time.Minute)).Abs()
	}
	within := " ± " + rough(max(1, (spread+step-1)/step)*step)
	slots := "times"
	var text string
	switch {
	case p.free:
		text = "every " + rough(p.period)
	case p.period == 7*day:
		d := (p.phase + 30*time.Second) / day % 7
		text, slots = fmt.Sprintf("every %s at %s", (time.Thursday+time.Weekday(d))%7, clock(p.phase%day)), "weeks"
	case p.weekdays:
		text, slots = "Monday to Friday at "+clock(p.phase), "days"
	case p.period == day:
		text, slots = "every day at "+clock(p.phase), "days"
	case p.period >= 6*time.Hour:
		var at []string
		for t := p.phase; t < day; t += p.period {
			at = append(at, clock(t))
		}
		text = "every day at " + strings.Join(at, ", ")
	case p.period > time.Hour:
		text = fmt.Sprintf("every %s at %s, from %s", rough(p.period), minutes(p.phase), clock(p.phase))
	case p.period == time.Hour:
		text, slots = "every hour at "+minutes(p.phase), "hours"
	default:
		text = "every " + rough(p.period)
	}
	return fmt.Sprintf("%s%s (%d of %d %s)", text, within, p.hits, p.of, slots)
}

// rough says a time in its largest fitting unit.
func rough(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= 2*u.unit || d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d %s", d.Round(u.unit)/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%d s", max(1, d.Round(time.Second)/time.Second))
}
