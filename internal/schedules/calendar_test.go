package schedules

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
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

// next returns the n times after from.
func next(c Times, from time.Time, n int) (out []time.Time) {
	for range n {
		from = c.Next(from)
		if from.IsZero() {
			break
		}
		out = append(out, from)
	}
	return out
}

func texts(times []time.Time, loc *time.Location) (out []string) {
	for _, t := range times {
		out = append(out, t.In(loc).Format("2006-01-02 15:04:05"))
	}
	return out
}

func TestCalendarTimes(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	from := time.Date(2026, 11, 30, 17, 5, 0, 0, berlin) // a Monday
	for in, want := range map[string]string{
		"daily":                     "2026-12-01 00:00:00, 2026-12-02 00:00:00",
		"Weekly":                    "2026-12-07 00:00:00, 2026-12-14 00:00:00",
		"*-*-* 6,18:00":             "2026-11-30 18:00:00, 2026-12-01 06:00:00",
		"*:0/15":                    "2026-11-30 17:15:00, 2026-11-30 17:30:00",
		"Mon..Fri 3:10":             "2026-12-01 03:10:00, 2026-12-02 03:10:00",
		"Sat,Sun 3:10":              "2026-12-05 03:10:00, 2026-12-06 03:10:00",
		"*-*~01":                    "2026-12-31 00:00:00, 2027-01-31 00:00:00",
		"Mon *-05~07/1":             "2027-05-31 00:00:00, 2028-05-29 00:00:00",
		"*-02-29":                   "2028-02-29 00:00:00, 2032-02-29 00:00:00",
		"10:00 UTC":                 "2026-12-01 11:00:00, 2026-12-02 11:00:00",
		"03:00:30 America/New_York": "2026-12-01 09:00:30, 2026-12-02 09:00:30",
		"2026-12-24 18:30:15":       "2026-12-24 18:30:15",
		"2020-01-01":                "",
		"*-02-30":                   "",
	} {
		c, err := ParseCalendar(in, berlin)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := strings.Join(texts(next(c, from, 2), berlin), ", "); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestCalendarNotUnderstood(t *testing.T) {
	for _, in := range []string{"", "*", "10", "24:00", "10:60", "10:00:60", "*-13-1", "*-0-1", "*-*-32", "wednes 10:00", "Mon Tue 10:00", "Fri..Mon 3:00", "23..1:00",
		"*:0/0", "Mon 10:00  UTC", " UTC", "*:50/30", "*-*~3/4", "*-*~29", "*/5:00", "10:00,", "12:00:00.5", "@0", "*-*-1~2", "*-*-* *", "10:00 Europe/Atlantis", "1:2:3:4", "Mon 1-2-3-4", "*:1,,2", "é", "10:00 ../../etc/passwd", strings.Repeat("1,", 300) + "1:00"} {
		if c, err := ParseCalendar(in, time.UTC); err == nil {
			t.Errorf("%q is read as %+v", in, c)
		}
	}
}

// Each takes systemd-analyze a quarter of a second.
const calendarsCompared = 30

// systemd itself says what is right, where its program is.
func TestCalendarAgreesWithSystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is missing (apt-get install systemd): nothing to compare with")
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	num := func(least, most int) string { return fmt.Sprintf("%02d", least+r.IntN(most-least+1)) }
	part := func(least, most int) string {
		switch r.IntN(6) {
		case 0:
			return "*"
		case 1:
			return num(least, most) + "," + num(least, most)
		case 2:
			return num(least, most/2) + ".." + num(most/2, most)
		case 3:
			return num(least, most) + "/" + num(1, most/2)
		case 4:
			return num(least, most/2) + ".." + num(most/2, most) + "/" + num(1, most/2)
		}
		return num(least, most)
	}
	compared, refused := 0, 0
	for i := range calendarsCompared {
		var parts []string
		if r.IntN(2) == 0 {
			parts = append(parts, pick("Mon", "Sat,Sun", "Mon..Fri", "Tue-Thu", "thursday", "Wed,Fri..Sun", "Sun..Tue"))
		}
		if r.IntN(2) == 0 {
			parts = append(parts, pick("*-", "*-", "", "2027-", "2027,2028-", "2026/2-")+part(1, 12)+pick("-"+part(1, 31), "-"+part(1, 31), "~"+part(1, 28)))
		}
		if r.IntN(3) > 0 || len(parts) == 0 {
			parts = append(parts, part(0, 23)+":"+part(0, 59)+pick("", ":"+part(0, 59)))
		}
		expression := strings.Join(parts, " ")
		if i == 0 {
			expression = "*-*-* 02:30" // over a change of the clock
		}
		out, err := exec.Command(analyze, "calendar", "--iterations=6", "--base-time=2026-03-27 12:00:00 UTC", expression+" Europe/Berlin").Output()
		c, mine := ParseCalendar(expression, zone(t, "Europe/Berlin"))
		var exit *exec.ExitError
		if errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("Failed to determine next elapse")) {
			continue // it gave up looking
		}
		if err != nil {
			refused++
			if mine == nil {
				t.Errorf("systemd refuses %q", expression)
			}
			continue
		}
		if mine != nil {
			t.Errorf("systemd takes %q: %v", expression, mine)
			continue
		}
		var want []string
		for line := range strings.Lines(string(out)) {
			// "Next elapse: Mon 2027-05-31 00:00:00 UTC", "Iter. #2: …"
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if f := strings.Fields(value); len(f) == 4 && (name == "Next elapse" || strings.HasPrefix(name, "Iter.") || name == "(in UTC)") && f[3] == "UTC" {
				if at := f[1] + " " + f[2]; len(want) == 0 || want[len(want)-1] != at {
					want = append(want, at)
				}
			}
		}
		got := texts(next(c, time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC), 6), time.UTC)
		// systemd looks further ahead than six years.
		if len(got) < len(want) && len(want) > 0 && want[len(got)] > "2032" {
			want = want[:len(got)]
		}
		compared++
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%q:\n  mine    %v\n  systemd %v", expression, got, want)
		}
	}
	t.Logf("%d expressions agree, both refuse %d", compared, refused)
	if compared < calendarsCompared/2 {
		t.Errorf("only %d compared and %d refused", compared, refused)
	}
}

func FuzzParseCalendar(f *testing.F) {
	for _, s := range []string{"daily", "Mon..Fri *-*-* 03:10:00 Europe/Berlin", "*-*~07/1", "0/15,3..9/2:*:59", "2026/3-1,2-31 1:2", "Sun *~1"} {
		f.Add(s)
	}
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCalendar(s, time.UTC)
		if err != nil {
			return
		}
		at := from
		for range 3 {
			n := c.Next(at)
			if n.IsZero() {
				return
			}
			if !n.After(at) {
				t.Fatalf("%q: %v does not come after %v", s, n, at)
			}
			cal := c.(*calendar)
			in := n.In(cal.loc)
			if !cal.fits(in.Year(), in.Month(), in.Day(), in.Weekday()) || cal.hours&(1<<in.Hour()) == 0 || cal.minutes&(1<<in.Minute()) == 0 || cal.second&(1<<in.Second()) == 0 {
				t.Fatalf("%q does not fit its own time %v", s, n)
			}
			at = n
		}
	})
}

func TestSpans(t *testing.T) {
	for in, want := range map[string]time.Duration{"90": 90 * time.Second, "12h": 12 * time.Hour, "1h 30min": 90 * time.Minute, "1h30min": 90 * time.Minute, "2 hours": 2 * time.Hour, "0": 0, "5us": 5 * time.Microsecond, "1w 1d": 8 * 24 * time.Hour} {
		if got, err := ParseSpan(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "h", "1 parsec", "-1h", "infinity", "999999999w", "1.5h", "99999999999"} {
		if got, err := ParseSpan(in); err == nil {
			t.Errorf("%q is read as %v", in, got)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	f.Add("1h 30min")
	f.Add("µs5µs")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseSpan(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}
