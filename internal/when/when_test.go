package when

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // whatever the machine has
)

// berlin has daylight saving.
func berlin(t testing.TB) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestParse(t *testing.T) {
	loc := time.FixedZone("CET", 3600)
	// A Wednesday.
	now := time.Date(2026, 1, 14, 15, 30, 20, 500, loc)
	day := func(d, h, m, s int) time.Time { return time.Date(2026, 1, d, h, m, s, 0, loc) }
	for text, want := range map[string]time.Time{
		"now":                       now,
		"10m":                       now.Add(-10 * time.Minute),
		"-10m":                      now.Add(-10 * time.Minute),
		"1h30m":                     now.Add(-90 * time.Minute),
		"1.5h":                      now.Add(-90 * time.Minute),
		"0s":                        now,
		"2d":                        now.Add(-48 * time.Hour),
		"1w 1d":                     now.Add(-8 * 24 * time.Hour),
		"10 min ago":                now.Add(-10 * time.Minute),
		"2 hours ago":               now.Add(-2 * time.Hour),
		"1 day 2 hours ago":         now.Add(-26 * time.Hour),
		" 250ms ":                   now.Add(-250 * time.Millisecond),
		"today":                     day(14, 0, 0, 0),
		"TODAY":                     day(14, 0, 0, 0),
		"today 15:31":               day(14, 15, 31, 0), // a future that was asked for is one
		"yesterday":                 day(13, 0, 0, 0),
		"yesterday 03:00":           day(13, 3, 0, 0),
		"Yesterday  at 03:00:07":    day(13, 3, 0, 7),
		"03:10":                     day(14, 3, 10, 0),
		"15:30:20":                  day(14, 15, 30, 20),
		"15:31":                     day(13, 15, 31, 0),
		"wed":                       day(14, 0, 0, 0),
		"wednesday 15:00":           day(14, 15, 0, 0),
		"wednesday 16:00":           day(7, 16, 0, 0),
		"thu":                       day(8, 0, 0, 0),
		"tuesday 23:59:59":          day(13, 23, 59, 59),
		"2026-01-03":                day(3, 0, 0, 0),
		"2026-01-03 04:05":          day(3, 4, 5, 0),
		"2026-01-03T04:05:06":       day(3, 4, 5, 6),
		"2026-01-03T04:05:06Z":      time.Date(2026, 1, 3, 4, 5, 6, 0, time.UTC),
		"2026-01-03t04:05:06.25z":   time.Date(2026, 1, 3, 4, 5, 6, 250e6, time.UTC),
		"2026-01-03T04:05:06-08:00": time.Date(2026, 1, 3, 12, 5, 6, 0, time.UTC),
		"@1768000000":               time.Unix(1768000000, 0),
	} {
		got, err := Parse(text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

// A day has its own length where clocks are put forward and back, and so has a
// time that does not exist.
func TestParseAcrossDaylightSaving(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, loc) // at 02:00 it became 03:00
	got, err := Parse("yesterday 12:00", now)
	if err != nil || now.Sub(got) != 23*time.Hour {
		t.Errorf("%v is %v before noon, %v", got, now.Sub(got), err)
	}
	if got, err = Parse("1d", now); err != nil || now.Sub(got) != 24*time.Hour {
		t.Errorf("%v is %v before noon, %v", got, now.Sub(got), err)
	}
	if got, err = Parse("02:30", now); err != nil || got.Format("15:04") != "03:30" && got.Format("15:04") != "01:30" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	now := time.Date(2026, 1, 14, 15, 30, 20, 0, time.UTC)
	for text, want := range map[string]string{
		"":                      "the time is empty",
		"  ":                    "the time is empty",
		"soon":                  `"soon" is no time: want 10m`,
		"10":                    "the number 10 has no unit",
		"10 parsecs":            `there is no unit "parsecs"`,
		"10m5":                  "the number 5 has no unit",
		"1..5h":                 "want a number with a unit",
		"99999999999999999w":    "longer ago than anything",
		"400000w":               "longer ago than anything",
		"9e9h":                  `there is no unit "e"`,
		"25:00":                 `"25:00" is no time of day`,
		"yesterday 3pm":         `"3pm" is no time of day`,
		"mo":                    "is no time",
		"tomorrow":              "nothing is recorded of it yet",
		"2026-02-30":            "there is no such day",
		"2026-13-01 10:00":      "there is no such day",
		"@x":                    "seconds since 1970",
		"@99999999999999":       "seconds since 1970",
		"0000-12-31":            "no time of this calendar",
		"\x1b[2J":               `"\x1b[2J" is no time`,
		"\xff":                  `"\xff" is no time`,
		"12:30.5":               "is no time of day",
		strings.Repeat("x", 65): "longer than any time",
	} {
		if got, err := Parse(text, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestSpan(t *testing.T) {
	now := time.Date(2026, 1, 14, 15, 30, 20, 0, time.UTC)
	from, to, err := Span("1h", "", now)
	if err != nil || !to.Equal(now) || to.Sub(from) != time.Hour {
		t.Errorf("%v to %v, %v", from, to, err)
	}
	from, to, err = Span("yesterday 03:00", "yesterday 04:00", now)
	if err != nil || to.Sub(from) != time.Hour || from.Day() != 13 {
		t.Errorf("%v to %v, %v", from, to, err)
	}
	for _, c := range []struct{ since, until, want string }{
		{"x", "", `--since: "x" is no time`},
		{"1h", "x", `--until: "x" is no time`},
		{"10m", "20m", `--since "10m" (2026-01-14 15:20:20 UTC) is not before --until "20m" (2026-01-14 15:10:20 UTC)`},
		{"10m", "10m", "is not before"},
		{"today 16:00", "", "yet to come"},
		{"now", "", "leaves no time"},
	} {
		if _, _, err := Span(c.since, c.until, now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q to %q: %v; want %q", c.since, c.until, err, c.want)
		}
	}
}

// Whatever is typed: no panic, a time that can be written down and read again,
// one line of error that cannot move a cursor.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "now", "10m", "2 hours ago", "-1h30m", "today", "yesterday 03:00", "mon 14:30", "03:10:30",
		"2026-01-31", "2026-01-31 03:00", "2026-01-31T03:00:00.5+02:00", "@1768000000", "9999-12-31T23:59:59-12:00", "1e9w", "\x1b", "25:61", "0001-01-01", "106751d"} {
		f.Add(s, int64(1768400000))
	}
	loc := berlin(f)
	f.Fuzz(func(t *testing.T, text string, at int64) {
		now := time.Unix(at%(1<<36), 0).In(loc)
		got, err := Parse(text, now)
		if err != nil {
			for _, r := range err.Error() {
				if r < ' ' || r == 0x7f {
					t.Fatalf("%q: the error is no clean line: %q", text, err)
				}
			}
			return
		}
		if again, err := Parse(got.Format(time.RFC3339Nano), now); err != nil || !again.Equal(got) {
			// An offset with seconds (before 1900) cannot be written so.
			if _, offset := got.Zone(); offset%60 == 0 && got.Year() >= 1 && got.Year() <= 9999 {
				t.Fatalf("%q: %v, read again: %v, %v", text, got, again, err)
			}
		}
		if d, ok, err := ago(strings.Join(strings.Fields(strings.ToLower(text)), " ")); ok && err == nil && (d < 0 || got.After(now)) {
			t.Fatalf("%q is %v ago: %v of %v", text, d, got, now)
		}
	})
}
