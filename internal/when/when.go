// Package when reads the times that people type: how long ago, a time of a day
// that is past, or a date.
package when

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Forms are examples of what Parse reads, for errors and help texts.
const Forms = `10m, "2 hours ago", 03:10, "yesterday 03:00", "monday 14:30", "2026-01-31 03:00", 2026-01-31T03:00:00Z, now`

// longest is the longest text that can be a time.
const longest = 64

// Parse reads a time as somebody typed it at the moment now, in the time zone
// of now:
//
//	10m, 1h30m, 2d, 1w, "10 min ago"   so long before now
//	03:10, 03:10:30                    the last time it was that late
//	today, yesterday, monday, mon      the day's beginning: of weekdays the last one, today included
//	yesterday 03:10, mon 03:10:30      that day at that time; of weekdays the last one on which it is past
//	2026-01-31, 2026-01-31 03:10       a date, or a time of it
//	2026-01-31T03:10:00.5Z             RFC 3339
//	@1769828400                        seconds since 1970
//	now
//
// Words may be in capitals. A time that the zone left out (daylight saving) is
// the one that the clock showed instead.
func Parse(text string, now time.Time) (time.Time, error) {
	t, err := parse(text, now)
	if err != nil {
		return time.Time{}, err
	}
	// What cannot be written as RFC 3339 cannot be asked for either.
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return time.Time{}, fmt.Errorf("%s is no time of this calendar", quoted(text))
	}
	return t, nil
}

func parse(text string, now time.Time) (time.Time, error) {
	if len(text) > longest {
		return time.Time{}, fmt.Errorf("%s is longer than any time: want %s", quoted(text), Forms)
	}
	s := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	switch s {
	case "":
		return time.Time{}, errors.New("the time is empty: want " + Forms)
	case "now":
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s)); err == nil {
		return t, nil
	}
	if seconds, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil || n < -1<<36 || n > 1<<38 {
			return time.Time{}, fmt.Errorf("%s: want the seconds since 1970 after the @", quoted(text))
		}
		return time.Unix(n, 0).In(now.Location()), nil
	}
	if d, ok, err := ago(s); ok {
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", quoted(text), err)
		}
		return now.Add(-d), nil
	}
	return ofDay(text, s, now)
}

// ofDay reads a day, a time, or both.
func ofDay(text, s string, now time.Time) (time.Time, error) {
	word, rest, both := strings.Cut(s, " ")
	if !both {
		if date, clock, ok := strings.Cut(s, "t"); ok && len(date) == len(time.DateOnly) {
			word, rest, both = date, clock, true // RFC 3339 without a zone
		}
	}
	rest = strings.TrimPrefix(rest, "at ")
	var at clock
	if both {
		var err error
		if at, err = parseClock(rest); err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", quoted(text), err)
		}
	}
	switch day, isWeekday := weekday(word); {
	case word == "today":
		return at.on(now, 0), nil
	case word == "yesterday":
		return at.on(now, -1), nil
	case word == "tomorrow":
		return time.Time{}, fmt.Errorf("%s: nothing is recorded of it yet", quoted(text))
	case isWeekday:
		back := (int(now.Weekday()) - int(day) + 7) % 7
		if t := at.on(now, -back); !t.After(now) {
			return t, nil
		}
		return at.on(now, -back-7), nil
	case !both && strings.Contains(word, ":"):
		var err error
		if at, err = parseClock(word); err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", quoted(text), err)
		}
		if t := at.on(now, 0); !t.After(now) {
			return t, nil
		}
		return at.on(now, -1), nil
	}
	date, err := time.ParseInLocation(time.DateOnly, word, now.Location())
	if err == nil {
		return at.on(date, 0), nil
	}
	if len(word) == len(time.DateOnly) && strings.Count(word, "-") == 2 {
		return time.Time{}, fmt.Errorf("%s: there is no such day: want year-month-day, such as 2026-01-31", quoted(text))
	}
	return time.Time{}, fmt.Errorf("%s is no time: want %s", quoted(text), Forms)
}

// clock is a time of day.
type clock struct{ hour, minute, second int }

// on is that time on the day of t, or so many days from it.
func (c clock) on(t time.Time, days int) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+days, c.hour, c.minute, c.second, 0, t.Location())
}

func parseClock(s string) (clock, error) {
	for _, layout := range []string{"15:04", time.TimeOnly} {
		// time.Parse takes fractions that no layout asked for.
		if t, err := time.Parse(layout, s); err == nil && t.Nanosecond() == 0 {
			return clock{t.Hour(), t.Minute(), t.Second()}, nil
		}
	}
	return clock{}, fmt.Errorf("%s is no time of day: want 03:10 or 03:10:30", quoted(s))
}

func weekday(word string) (time.Weekday, bool) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if name := strings.ToLower(d.String()); len(word) >= 3 && strings.HasPrefix(name, word) {
			return d, true
		}
	}
	return 0, false
}

// units are those of ago. There are no months: they are not equally long.
var units = []struct {
	length time.Duration
	names  []string
}{
	{time.Millisecond, []string{"ms"}},
	{time.Second, []string{"s", "sec", "secs", "second", "seconds"}},
	{time.Minute, []string{"m", "min", "mins", "minute", "minutes"}},
	{time.Hour, []string{"h", "hr", "hrs", "hour", "hours"}},
	{24 * time.Hour, []string{"d", "day", "days"}},
	{7 * 24 * time.Hour, []string{"w", "week", "weeks"}},
}

// ago reads numbers with units, which may have blanks between them, and "ago"
// or "-" with them. ok says that this is what the text is meant to be.
func ago(s string) (total time.Duration, ok bool, err error) {
	s = strings.TrimSuffix(s, " ago")
	s = strings.TrimPrefix(s, "-")
	if s == "" || s[0] < '0' || s[0] > '9' || strings.ContainsAny(s, ":-") {
		return 0, false, nil
	}
	for s != "" {
		digits := 0
		for digits < len(s) && (s[digits] >= '0' && s[digits] <= '9' || s[digits] == '.') {
			digits++
		}
		letters := strings.TrimLeft(s[digits:], " ")
		end := 0
		for end < len(letters) && letters[end] >= 'a' && letters[end] <= 'z' {
			end++
		}
		number, perr := strconv.ParseFloat(s[:digits], 64)
		unit := unitNamed(letters[:end])
		switch {
		case perr != nil:
			return 0, true, fmt.Errorf("want a number with a unit at %s", quoted(s))
		case letters[:end] == "":
			return 0, true, fmt.Errorf("the number %s has no unit: want s, m, h, d or w", s[:digits])
		case unit == 0:
			return 0, true, fmt.Errorf("there is no unit %s: want s, m, h, d or w", quoted(letters[:end]))
		}
		d := number * float64(unit)
		if d+float64(total) >= math.MaxInt64 {
			return 0, true, errors.New("that is longer ago than anything can be recorded")
		}
		total += time.Duration(d)
		s = strings.TrimLeft(letters[end:], " ")
	}
	return total, true, nil
}

func unitNamed(name string) time.Duration {
	for _, u := range units {
		for _, n := range u.names {
			if n == name {
				return u.length
			}
		}
	}
	return 0
}

// Span reads --since and --until: from since, which must be past, to until,
// which is now where it is "".
func Span(since, until string, now time.Time) (from, to time.Time, err error) {
	if from, err = Parse(since, now); err != nil {
		return from, to, fmt.Errorf("--since: %w", err)
	}
	to = now
	if until != "" {
		if to, err = Parse(until, now); err != nil {
			return from, to, fmt.Errorf("--until: %w", err)
		}
	}
	switch {
	case from.After(now):
		err = fmt.Errorf("--since: %s is %s, which is yet to come", quoted(since), show(from))
	case !from.Before(to) && until == "":
		err = fmt.Errorf("--since: %s leaves no time until now", quoted(since))
	case !from.Before(to):
		err = fmt.Errorf("--since %s (%s) is not before --until %s (%s)", quoted(since), show(from), quoted(until), show(to))
	}
	return from, to, err
}

func show(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

func quoted(s string) string {
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return strconv.Quote(s)
}
