package archive

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// jitter is up to d to either side.
func jitter(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration((r.Float64()*2 - 1) * float64(d))
}

// every makes n moments, the i-th at(i), each off by up to around.
func every(r *rand.Rand, n int, around time.Duration, at func(i int) time.Time) (out []time.Time) {
	for i := range n {
		out = append(out, at(i).Add(jitter(r, around)))
	}
	return out
}

func sorted(lists ...[]time.Time) []time.Time {
	all := slices.Concat(lists...)
	slices.SortFunc(all, time.Time.Compare)
	return all
}

func said(moments []time.Time, loc *time.Location) string {
	if p := findPattern(moments, loc); p != nil {
		return p.String()
	}
	return ""
}

func TestPatterns(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	berlin, kathmandu := zone(t, "Europe/Berlin"), zone(t, "Asia/Kathmandu")
	daily := func(loc *time.Location, h, m int) func(int) time.Time {
		return func(i int) time.Time { return time.Date(2026, 10, 19+i, h, m, 0, 0, loc) } // over 25 October
	}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, berlin)
	random := func(n int, days float64) (out []time.Time) {
		for range n {
			out = append(out, time.Date(2026, 10, 19, 0, 0, 0, 0, berlin).Add(time.Duration(r.Float64()*days*float64(day))))
		}
		return out
	}
	without := func(times []time.Time, i ...int) (out []time.Time) {
		for j, t := range times {
			if !slices.Contains(i, j) {
				out = append(out, t)
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		moments []time.Time
		loc     *time.Location
		want    string // the beginning
		end     string
	}{
		"daily":                 {every(r, 7, 100*time.Second, daily(berlin, 3, 10)), berlin, "every day at 03:10 ± 2 min", "(7 of 7 days)"},
		"daily, one missed":     {without(every(r, 7, 100*time.Second, daily(berlin, 3, 10)), 3), berlin, "every day at 03:1", "(6 of 7 days)"},
		"daily over midnight":   {every(r, 9, 2*time.Minute, daily(berlin, 0, 0)), berlin, "every day at ", "(9 of 9 days)"},
		"daily among others":    {sorted(every(r, 14, time.Minute, daily(berlin, 3, 10)), random(25, 14)), berlin, "every day at 03:10 ± ", "(14 of 14 days)"},
		"daily since a while":   {sorted(every(r, 20, time.Minute, daily(berlin, 3, 10))[12:], random(6, 12)), berlin, "every day at 03:1", "(8 of 8 days)"},
		"daily in Nepal":        {every(r, 6, time.Minute, daily(kathmandu, 12, 30)), kathmandu, "every day at 12:30 ± ", "(6 of 6 days)"},
		"daily with bursts":     {sorted(every(r, 8, time.Minute, daily(berlin, 3, 10)), every(r, 8, time.Minute, daily(berlin, 3, 14))), berlin, "every day at 03:1", "(8 of 8 days)"},
		"working days":          {without(every(r, 15, time.Minute, daily(berlin, 9, 0)), 5, 6, 12, 13), berlin, "Monday to Friday at 09:00 ± ", "(11 of 11 days)"},
		"weekly":                {every(r, 5, time.Minute, func(i int) time.Time { return time.Date(2026, 10, 4+7*i, 3, 30, 0, 0, berlin) }), berlin, "every Sunday at 03:30 ± ", "(5 of 5 weeks)"},
		"weekly, Thursday 0:00": {every(r, 5, 0, func(i int) time.Time { return time.Date(2026, 10, 1+7*i, 0, 0, 0, 0, berlin) }), berlin, "every Thursday at 00:00 ± 1 min", "(5 of 5 weeks)"},
		"hourly":                {every(r, 12, 20*time.Second, func(i int) time.Time { return at.Add(time.Duration(i)*time.Hour + 17*time.Minute) }), berlin, "every hour at :17 ± 1 min", "(12 of 12 hours)"},
		"every 6 h":             {every(r, 12, 20*time.Second, func(i int) time.Time { return at.Add(time.Duration(i)*6*time.Hour + 17*time.Minute) }), berlin, "every day at 00:17, 06:17, 12:17, 18:17 ± 1 min", "(12 of 12 times)"},
		"every 2 h":             {every(r, 12, 20*time.Second, func(i int) time.Time { return at.Add(time.Duration(i)*2*time.Hour + 17*time.Minute) }), berlin, "every 2 h at :17, from 00:17 ± 1 min", "(12 of 12 times)"},
		"every 15 min":          {every(r, 20, 10*time.Second, func(i int) time.Time { return at.Add(time.Duration(i) * 15 * time.Minute) }), berlin, "every 15 min ± ", "(20 of 20 times)"},
		"every 5 min":           {every(r, 30, 8*time.Second, func(i int) time.Time { return at.Add(time.Duration(i) * 5 * time.Minute) }), berlin, "every 5 min ± 10 s", "(30 of 30 times)"},
		"every 5 min, loose":    {every(r, 60, 40*time.Second, func(i int) time.Time { return at.Add(time.Duration(i) * 5 * time.Minute) }), berlin, "every 5 min ± ", "(60 of 60 times)"},
		"every 17 min":          {every(r, 12, 20*time.Second, func(i int) time.Time { return at.Add(time.Duration(i) * 17 * time.Minute) }), berlin, "every 17 min ± ", "(11 of 11 times)"},
		"every 30 days":         {every(r, 8, 5*time.Hour, func(i int) time.Time { return at.Add(time.Duration(i) * 30 * day) }), berlin, "every 30 d ± ", "(7 of 7 times)"},
		// Two moments always are some time apart, three are soon at the same time.
		"nothing":   {nil, berlin, "", ""},
		"one":       {every(r, 1, 0, daily(berlin, 3, 10)), berlin, "", ""},
		"three":     {every(r, 3, time.Second, daily(berlin, 3, 10)), berlin, "", ""},
		"four":      {every(r, 4, time.Minute, daily(berlin, 3, 10)), berlin, "every day at 03:10", "(4 of 4 days)"},
		"four wide": {every(r, 4, 14*time.Minute, daily(berlin, 3, 10)), berlin, "", ""},
		"half":      {without(every(r, 14, time.Minute, daily(berlin, 3, 10)), 1, 4, 5, 8, 9, 10, 12), berlin, "", ""},
		"all day":   {every(r, 10, 10*time.Hour, daily(berlin, 12, 0)), berlin, "", ""},
	} {
		got := said(c.moments, c.loc)
		if !strings.HasPrefix(got, c.want) || !strings.HasSuffix(got, c.end) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q … %q", name, got, c.want, c.end)
		}
	}
}

// The same moments are told in the time of the machine: in UTC the job at
// 03:10 in Berlin moves by an hour when summer ends.
func TestPatternNeedsTheMachinesTime(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	berlin := zone(t, "Europe/Berlin")
	moments := every(r, 12, time.Minute, func(i int) time.Time { return time.Date(2026, 10, 19+i, 3, 10, 0, 0, berlin).UTC() })
	if got := said(moments, berlin); !strings.HasSuffix(got, "(12 of 12 days)") {
		t.Errorf("in Berlin: %q", got)
	}
	if got := said(moments, time.UTC); strings.HasSuffix(got, "(12 of 12 days)") {
		t.Errorf("in UTC: %q", got)
	}
	// The hour that is left out costs the day it is left out on, at most.
	spring := every(r, 12, time.Minute, func(i int) time.Time { return time.Date(2026, 3, 23+i, 2, 30, 0, 0, berlin) })
	if got := said(spring, berlin); !strings.HasPrefix(got, "every day at 02:30") {
		t.Errorf("over the hour that is left out: %q", got)
	}
	// Half an hour of daylight saving (Lord Howe).
	howe := zone(t, "Australia/Lord_Howe")
	half := every(r, 12, time.Minute, func(i int) time.Time { return time.Date(2026, 4, 1+i, 3, 10, 0, 0, howe) })
	if got := said(half, howe); !strings.HasSuffix(got, "(12 of 12 days)") {
		t.Errorf("on Lord Howe: %q", got)
	}
}

// Random moments of every kind that comes to mind must not show a pattern more
// often than one in 300 series.
func TestFalsePatterns(t *testing.T) {
	loc := zone(t, "Europe/Berlin")
	start := time.Date(2026, 9, 1, 0, 0, 0, 0, loc)
	kinds := map[string]func(r *rand.Rand, n int, days float64) []time.Time{
		"uniform": func(r *rand.Rand, n int, days float64) (out []time.Time) {
			for range n {
				out = append(out, start.Add(time.Duration(r.Float64()*days*float64(day))))
			}
			return out
		},
		"by day": func(r *rand.Rand, n int, days float64) (out []time.Time) {
			for len(out) < n {
				at := start.Add(time.Duration(r.Float64() * days * float64(day)))
				if h := float64(at.Hour()) + float64(at.Minute())/60; r.Float64() < math.Exp(-(h-14)*(h-14)/18) {
					out = append(out, at)
				}
			}
			return out
		},
		"in office hours": func(r *rand.Rand, n int, days float64) (out []time.Time) {
			for len(out) < n {
				at := start.Add(time.Duration(r.Float64() * max(days, 2) * float64(day)))
				if at.Hour() >= 9 && at.Hour() < 17 && at.Weekday() != time.Saturday && at.Weekday() != time.Sunday {
					out = append(out, at)
				}
			}
			return out
		},
		"bursts": func(r *rand.Rand, n int, days float64) (out []time.Time) {
			for len(out) < n {
				at := start.Add(time.Duration(r.Float64() * days * float64(day)))
				for range 1 + r.IntN(8) {
					out = append(out, at)
					at = at.Add(time.Duration(r.ExpFloat64() * float64(3*time.Minute)))
				}
			}
			return out
		},
		"waiting": func(r *rand.Rand, n int, days float64) (out []time.Time) {
			at := start // one after the other, never close
			for range n {
				at = at.Add(5*time.Minute + time.Duration(r.ExpFloat64()*max(days/float64(n)*float64(day), float64(15*time.Minute))))
				out = append(out, at)
			}
			return out
		},
	}
	const sets = 300
	for name, make := range kinds {
		r := rand.New(rand.NewPCG(7, 11))
		wrong := map[string]int{}
		count := 0
		for range sets {
			n := 4 + int(math.Exp(r.Float64()*math.Log(100)))
			days := math.Exp(r.Float64()*math.Log(600)) / 10 // 0.1 to 60
			if p := findPattern(sorted(make(r, n, days)), loc); p != nil {
				count++
				wrong[p.String()]++
			}
		}
		t.Logf("%s: %d of %d", name, count, sets)
		if count > sets/300 {
			t.Errorf("%s: %d of %d random series show a pattern: %v", name, count, sets, wrong)
		}
	}
}

// However many moments: the work is bounded, and what is told is of the latest.
func TestPatternOfManyMoments(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	start := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	var all []time.Time
	for i := range 50_000 {
		all = append(all, start.Add(time.Duration(i)*time.Minute+jitter(r, 30*time.Second)))
	}
	all = append(all, every(r, 300, time.Second, func(i int) time.Time { return all[49_999].Add(time.Duration(i+1) * time.Hour) })...)
	if got := said(sorted(all), time.UTC); !strings.HasPrefix(got, "every hour") || !strings.HasSuffix(got, "(256 of 256 hours)") {
		t.Errorf("%q", got)
	}
	same := slices.Repeat([]time.Time{start}, 300)
	if got := said(same, time.UTC); got != "" {
		t.Errorf("one moment again and again: %q", got)
	}
}

func FuzzPattern(f *testing.F) {
	f.Add(uint64(1), 10, int64(day), int64(time.Minute))
	f.Add(uint64(2), 200, int64(time.Millisecond), int64(0))
	f.Add(uint64(3), 5, int64(40*365*day), int64(day))
	f.Fuzz(func(t *testing.T, seed uint64, n int, step, around int64) {
		if n < 0 || n > 300 || step < 0 || around < 0 || step > int64(100*365*day)/int64(max(n, 1)) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		var moments []time.Time
		for i := range n {
			moments = append(moments, time.Unix(1_600_000_000, 0).Add(time.Duration(step*int64(i))/2+jitter(r, time.Duration(around)/4)))
		}
		moments = sorted(moments)
		p := findPattern(moments, zone(t, "Europe/Berlin"))
		if p == nil {
			return
		}
		if p.hits < minHits || p.hits > p.of || p.spread < 0 || !p.free && (p.spread > p.period || p.phase < 0 || p.phase >= p.period) {
			t.Errorf("%+v", p)
		}
		_ = p.String()
	})
}
