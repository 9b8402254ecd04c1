package archive

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/schedules"
)

func timer(t testing.TB, name, calendar string, loc *time.Location) schedules.Job {
	t.Helper()
	c, err := schedules.ParseCalendar(calendar, loc)
	if err != nil {
		t.Fatal(err)
	}
	return schedules.Job{Kind: schedules.Timer, Name: name, Starts: strings.TrimSuffix(name, ".timer") + ".service", Delay: time.Second, Times: []schedules.Times{c}}
}

func cron(t testing.TB, name, line string, loc *time.Location) schedules.Job {
	t.Helper()
	l, err := schedules.ParseCron(line+" root x", true, loc)
	if err != nil {
		t.Fatal(err)
	}
	return schedules.Job{Kind: schedules.Cron, Name: name, Times: []schedules.Times{l.Times}}
}

// usual is what an ordinary machine runs.
func usual(t testing.TB, loc *time.Location) []schedules.Job {
	apt := timer(t, "apt-daily.timer", "*-*-* 6,18:00", loc)
	apt.Delay = 12 * time.Hour
	man := timer(t, "man-db.timer", "daily", loc)
	man.Delay = 12 * time.Hour
	return []schedules.Job{apt, man,
		timer(t, "logrotate.timer", "daily", loc), timer(t, "dpkg-db-backup.timer", "daily", loc),
		timer(t, "e2scrub_all.timer", "Sun 3:10", loc), timer(t, "fstrim.timer", "weekly", loc), timer(t, "sysstat-collect.timer", "*:0/10", loc), timer(t, "sysstat-summary.timer", "00:07", loc),
		cron(t, "/etc/cron.daily (dpkg)", "25 6 * * *", loc), cron(t, "/etc/cron.hourly (x)", "17 * * * *", loc), cron(t, "/etc/cron.d/sysstat (debian-sa1)", "5-55/10 * * * *", loc), cron(t, "crontab of alice (poll)", "* * * * *", loc),
	}
}

func TestMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	berlin := zone(t, "Europe/Berlin")
	at := func(h, m int) func(int) time.Time {
		return func(i int) time.Time { return time.Date(2026, 10, 19+i, h, m, 0, 0, berlin) }
	}
	late := func(times []time.Time, d time.Duration) (out []time.Time) {
		for _, x := range times {
			out = append(out, x.Add(d))
		}
		return out
	}
	backup := timer(t, "backup.timer", "03:10", berlin)
	for name, c := range map[string]struct {
		moments []time.Time
		more    []schedules.Job
		unit    string
		want    string
	}{
		"the timer":                  {late(every(r, 7, 30*time.Second, at(3, 10)), time.Minute), []schedules.Job{backup}, "", "backup.timer"},
		"the cron line":              {late(every(r, 7, 30*time.Second, at(6, 25)), time.Minute), []schedules.Job{backup}, "", "/etc/cron.daily (dpkg)"},
		"of another hour":            {late(every(r, 7, 30*time.Second, at(4, 40)), time.Minute), []schedules.Job{backup}, "", ""},
		"before the timer":           {late(every(r, 7, 30*time.Second, at(3, 10)), -3*time.Minute), []schedules.Job{backup}, "", ""},
		"two at one time":            {late(every(r, 7, 20*time.Second, at(3, 10)), time.Minute), []schedules.Job{backup, cron(t, "/etc/cron.d/dump (dump)", "10 3 * * *", berlin)}, "", "/etc/cron.d/dump (dump) or backup.timer"},
		"two at one time, the own":   {late(every(r, 7, 20*time.Second, at(3, 10)), time.Minute), []schedules.Job{backup, cron(t, "/etc/cron.d/dump (dump)", "10 3 * * *", berlin)}, "backup.service", "backup.timer"},
		"the own, half an hour late": {late(every(r, 7, 30*time.Second, at(3, 10)), 31*time.Minute), []schedules.Job{backup}, "backup.service", "backup.timer"},
		"another's, half an hour":    {late(every(r, 7, 30*time.Second, at(3, 10)), 31*time.Minute), []schedules.Job{backup}, "", ""},
		"four at one time":           {late(every(r, 7, 0, at(0, 0)), time.Second), []schedules.Job{cron(t, "a", "@daily", berlin), cron(t, "b", "@daily", berlin)}, "", ""},
		"too few":                    {late(every(r, 3, 0, at(3, 10)), time.Minute), []schedules.Job{backup}, "", ""},
		"one that runs each hour":    {late(every(r, 7, 30*time.Second, at(3, 17)), time.Minute), nil, "", ""},
		"each hour":                  {every(r, 20, 10*time.Second, func(i int) time.Time { return time.Date(2026, 10, 19, i, 17, 20, 0, berlin) }), nil, "", "/etc/cron.hourly (x)"},
		"weekly":                     {every(r, 5, 10*time.Second, func(i int) time.Time { return time.Date(2026, 10, 4+7*i, 3, 10, 20, 0, berlin) }), []schedules.Job{timer(t, "other.timer", "Sat 3:10", berlin)}, "", "e2scrub_all.timer"},
		"three times a day, no clock": {sorted(late(every(r, 9, 0, at(8, 0)), time.Minute), late(every(r, 9, 0, at(12, 30)), time.Minute), late(every(r, 9, 0, at(17, 5)), time.Minute)),
			[]schedules.Job{{Name: "three.timer", Times: append(slices.Clone(timer(t, "x.timer", "8:00", berlin).Times), append(timer(t, "x.timer", "12:30", berlin).Times, timer(t, "x.timer", "17:05", berlin).Times...)...)}}, "", "three.timer"},
		"among others": {sorted(late(every(r, 7, 30*time.Second, at(3, 10)), time.Minute), late(every(r, 7, 2*time.Hour, at(14, 0)), 0)), []schedules.Job{backup}, "", "backup.timer"},
	} {
		hits := c.moments
		if p := findPattern(c.moments, berlin); p != nil {
			hits = p.times
		}
		if got := matchJobs(append(usual(t, berlin), c.more...), hits, c.moments, c.unit); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Random stalls must hardly ever be said to come with a job.
func TestFalseMatches(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	jobs := usual(t, time.UTC)
	wrong := map[string]int{}
	const sets = 1000
	for range sets {
		var moments []time.Time
		days := 0.2 + r.Float64()*30
		for range 4 + r.IntN(60) {
			moments = append(moments, time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.Float64()*days*float64(day))))
		}
		moments = sorted(moments)
		if name := matchJobs(jobs, moments, moments, ""); name != "" {
			wrong[name]++
		}
	}
	total := 0
	for _, n := range wrong {
		total += n
	}
	t.Logf("%d of %d: %v", total, sets, wrong)
	if total > sets/200 {
		t.Errorf("%d of %d random series match a job: %v", total, sets, wrong)
	}
}

func TestMatchRan(t *testing.T) {
	start := now
	jobs := []schedules.Job{
		{Kind: schedules.Timer, Name: "apt-daily.timer", Last: start.Add(-time.Minute), Interval: 13 * time.Hour},
		{Kind: schedules.Timer, Name: "often.timer", Last: start.Add(-time.Minute), Interval: 10 * time.Minute},
		{Kind: schedules.Timer, Name: "long-ago.timer", Last: start.Add(-time.Hour), Interval: 13 * time.Hour},
		{Kind: schedules.Timer, Name: "after.timer", Last: start.Add(time.Minute), Interval: 13 * time.Hour},
		{Kind: schedules.Timer, Name: "never.timer", Interval: 13 * time.Hour},
	}
	ran := ranBefore(jobs, start)
	if !slices.Equal(ran, []string{"apt-daily.timer"}) {
		t.Errorf("ran before: %q", ran)
	}
	if got := matchRan([][]string{ran, ran, ran}); got != "" {
		t.Errorf("three times: %q", got)
	}
	if got := matchRan([][]string{ran, ran, ran, ran, nil, append([]string{"other.timer"}, ran...)}); got != "apt-daily.timer" {
		t.Errorf("five of six times: %q", got)
	}
	if got := matchRan([][]string{ran, ran, ran, ran, nil, nil}); got != "" {
		t.Errorf("four of six times: %q", got)
	}
}

// The whole way: reports, some of them gone, the report that comes next, and
// what it says.
func TestRecurrence(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	midnight := now.In(berlin)
	at := func(i int) time.Time {
		return time.Date(midnight.Year(), midnight.Month(), midnight.Day()-10+i, 3, 10, 20+7*i%50, 0, berlin)
	}
	jobs := append(usual(t, berlin), timer(t, "backup.timer", "03:10", berlin))
	asked := 0
	o := Options{Dir: t.TempDir(), Location: berlin, Bytes: 9000, Jobs: func(context.Context) ([]schedules.Job, error) { asked++; return jobs, errors.New("half of them") }}
	a := open(t, o)
	var r freezeframe.Report
	for i := range 9 {
		if i == 4 {
			continue
		}
		r = report(at(i), 1)
		a.Recur(t.Context(), &r)
		add(t, a, r)
		add(t, a, report(at(i).Add(3*time.Hour+time.Duration(i*i)*time.Minute), 2))
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if s := a.Stats(); s.Reports > 12 || s.Jobs == nil {
		t.Errorf("%+v", s)
	}
	check := func(rec freezeframe.Recurrence) {
		t.Helper()
		if rec.Count != 8 || !rec.First.Equal(at(0)) || !rec.Last.Equal(at(8)) || rec.Pattern != "every day at 03:10 ± 1 min (8 of 9 days)" && rec.Pattern != "every day at 03:11 ± 1 min (8 of 9 days)" || rec.Unit != "backup.timer" || rec.SpacingS < 86000 || rec.SpacingS > 90100 || !rec.Regular {
			t.Errorf("%+v", rec)
		}
	}
	check(*r.Recurrence)
	for range 2 {
		got, err := a.Report(r.ID)
		if err != nil {
			t.Fatal(err)
		}
		check(*got.Recurrence)
		for _, s := range a.Series() {
			if s.Fingerprint == r.Fingerprint {
				check(s.Recurrence)
			}
		}
		a = again(t, a)
	}
	// Asked once more of a report that is kept: counted once.
	again := r
	a.Recur(t.Context(), &again)
	check(*again.Recurrence)
	stranger := report(at(9), 77)
	a.Recur(t.Context(), &stranger)
	if rec := stranger.Recurrence; rec == nil || rec.Count != 1 || rec.Pattern != "" || rec.SpacingS != 0 {
		t.Errorf("%+v", rec)
	}
}

// Whoever asks for the machine's jobs waits no longer than it said, and one
// that hangs is not joined by others.
func TestJobsThatHang(t *testing.T) {
	hang := make(chan struct{})
	asked := make(chan struct{}, 100)
	a := open(t, Options{Dir: t.TempDir(), Jobs: func(context.Context) ([]schedules.Job, error) {
		asked <- struct{}{}
		<-hang
		return []schedules.Job{{Name: "x"}}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 5 {
		r := report(now.Add(time.Duration(i)*time.Second), 1)
		if a.Recur(ctx, &r); r.Recurrence == nil {
			t.Fatal("no recurrence")
		}
	}
	<-asked
	if len(asked) != 0 {
		t.Errorf("asked %d times more", len(asked))
	}
	close(hang)
	if list, _ := a.jobs.get(t.Context(), a.o.Jobs, time.Hour); len(list) != 1 {
		t.Errorf("%v", list)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), 10, "03:10")
	f.Fuzz(func(t *testing.T, seed uint64, n int, calendar string) {
		c, err := schedules.ParseCalendar(calendar, time.UTC)
		if err != nil || n < 0 || n > 200 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		var moments []time.Time
		for range n {
			moments = append(moments, now.Add(time.Duration(r.Int64N(int64(90*day)))))
		}
		moments = sorted(moments)
		matchJobs([]schedules.Job{{Name: fmt.Sprint(seed), Times: []schedules.Times{c}}}, moments, moments, "")
	})
}
