package schedules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// calendar is a repeating time: days by a few conditions, and on each of them
// every second whose hour, minute and second are in the sets. Systemd calendar
// expressions and cron lines are both read into one.
type calendar struct {
	loc                    *time.Location
	years                  []steps // none: any
	months                 uint64  // bit n is month n
	days                   uint64  // bit n is day n of the month
	last                   []steps // days counted from the end of the month, 1 the last; instead of days
	weekdays               uint64  // bit n is time.Weekday n
	either                 bool    // days or weekdays must fit, not both (crontab(5))
	hours, minutes, second uint64
}

// steps are the numbers from start to stop, every step-th.
type steps struct {
	start, stop, step int
	open              bool // no stop was given: to the end, where there is a step
}

func (s steps) has(v int) bool {
	return v >= s.start && v <= s.stop && (v-s.start)%s.step == 0
}

// Bounds of an expression, so that nobody's file costs much.
const (
	maxExpression = 512
	maxParts      = 64 // of one list
	horizonDays   = 366 * 6
)

const anyWeekday = 1<<7 - 1

// shorthands of systemd.time(7).
var shorthands = map[string]string{
	"minutely":  "*-*-* *:*:00",
	"hourly":    "*-*-* *:00:00",
	"daily":     "*-*-* 00:00:00",
	"weekly":    "Mon *-*-* 00:00:00",
	"monthly":   "*-*-01 00:00:00",
	"quarterly": "*-01,04,07,10-01 00:00:00",
	"yearly":    "*-01-01 00:00:00", "annually": "*-01-01 00:00:00", "anually": "*-01-01 00:00:00",
	"semiannually": "*-01,07-01 00:00:00", "semi-annually": "*-01,07-01 00:00:00", "biannually": "*-01,07-01 00:00:00", "bi-annually": "*-01,07-01 00:00:00",
}

// ParseCalendar reads a calendar expression of systemd.time(7), as OnCalendar=
// takes it; times without a zone are in loc. Fractions of a second, years of
// two digits and moments ("@0") are not understood.
func ParseCalendar(s string, loc *time.Location) (Times, error) {
	if len(s) > maxExpression {
		return nil, fmt.Errorf("the calendar expression is longer than %d bytes", maxExpression)
	}
	c, err := parseCalendar(strings.TrimSpace(s), loc)
	if err != nil {
		return nil, fmt.Errorf("the calendar expression %q is not understood: %w", s, err)
	}
	return c, nil
}

func parseCalendar(s string, loc *time.Location) (*calendar, error) {
	c := &calendar{loc: loc, months: bits(1, 12), days: bits(1, 31), weekdays: anyWeekday, hours: 1, minutes: 1, second: 1}
	if s == "" {
		return nil, errors.New("it is empty")
	}
	if i := strings.LastIndexByte(s, ' '); i >= 0 && zoneLike(s[i+1:]) {
		zone, err := time.LoadLocation(s[i+1:])
		if err != nil {
			return nil, fmt.Errorf("time zone: %w", err)
		}
		c.loc, s = zone, s[:i]
		if strings.HasSuffix(s, " ") {
			return nil, errors.New("two blanks stand before the time zone")
		}
	}
	if long, ok := shorthands[strings.ToLower(s)]; ok {
		s = long
	}
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' })
	if len(fields) == 0 {
		return nil, errors.New("it is a time zone only")
	}
	if isLetter(fields[0]) {
		var err error
		if c.weekdays, err = parseWeekdays(fields[0]); err != nil {
			return nil, err
		}
		fields = fields[1:]
	} else if len(fields) > 2 {
		return nil, errors.New("it has too many parts")
	}
	if len(fields) > 0 && strings.ContainsAny(fields[0], "-~") {
		if err := c.parseDate(fields[0]); err != nil {
			return nil, err
		}
		fields = fields[1:]
	}
	if len(fields) > 0 {
		if err := c.parseClock(fields[0]); err != nil {
			return nil, err
		}
		fields = fields[1:]
	}
	if len(fields) > 0 {
		return nil, errors.New("it has too many parts")
	}
	return c, nil
}

// zoneLike tells a time zone from a time or a day of the week.
func zoneLike(s string) bool {
	return s == "UTC" || isLetter(s) && strings.Contains(s, "/")
}

func isLetter(s string) bool {
	return s != "" && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z')
}

func bits(from, to int) (set uint64) {
	for i := from; i <= to; i++ {
		set |= 1 << i
	}
	return set
}

var weekdayNames = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func parseWeekday(s string) (int, error) {
	s = strings.ToLower(s)
	for i, name := range weekdayNames {
		if s == name || s == name[:3] {
			return (i + 6) % 7, nil // Monday first: a range may not go beyond Sunday
		}
	}
	return 0, fmt.Errorf("%q is no day of the week", s)
}

func parseWeekdays(s string) (set uint64, err error) {
	parts := strings.Split(strings.TrimSuffix(s, ","), ",")
	if len(parts) > maxParts {
		return 0, errors.New("it lists too many days of the week")
	}
	for _, part := range parts {
		from, to, ranged := strings.Cut(part, "..")
		if !ranged {
			from, to, ranged = strings.Cut(part, "-")
		}
		a, err := parseWeekday(from)
		if err != nil {
			return 0, err
		}
		b := a
		if ranged {
			if b, err = parseWeekday(to); err != nil {
				return 0, err
			}
		}
		if b < a {
			return 0, fmt.Errorf("the days %q run backwards", part)
		}
		for d := a; d <= b; d++ {
			set |= 1 << ((d + 1) % 7)
		}
	}
	return set, nil
}

func (c *calendar) parseDate(s string) error {
	head, day, fromEnd := strings.Cut(s, "~")
	if !fromEnd {
		i := strings.LastIndexByte(s, '-')
		head, day = s[:i], s[i+1:]
	}
	year, month := "*", head
	if i := strings.IndexByte(head, '-'); i >= 0 {
		year, month = head[:i], head[i+1:]
	}
	if year != "*" {
		list, err := parseList(year, 1970, 2199, false)
		if err != nil {
			return fmt.Errorf("year: %w", err)
		}
		c.years = list
	}
	list, err := parseList(month, 1, 12, false)
	if err != nil {
		return fmt.Errorf("month: %w", err)
	}
	c.months = setOf(list)
	most := 31
	if fromEnd && day != "*" {
		most = 28 // every month has so many
	}
	if list, err = parseList(day, 1, most, fromEnd); err != nil {
		return fmt.Errorf("day: %w", err)
	}
	if fromEnd && day != "*" {
		c.last = list
	} else {
		c.days = setOf(list)
	}
	return nil
}

func (c *calendar) parseClock(s string) error {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("%q is no time of the day", s)
	}
	for i, p := range parts {
		most := 59
		if i == 0 {
			most = 23
		}
		list, err := parseList(p, 0, most, false)
		if err != nil {
			return fmt.Errorf("time %q: %w", s, err)
		}
		*[]*uint64{&c.hours, &c.minutes, &c.second}[i] = setOf(list)
	}
	return nil
}

func setOf(list []steps) (set uint64) {
	for _, s := range list {
		for v := s.start; v <= s.stop; v += s.step {
			set |= 1 << v
		}
	}
	return set
}

// parseList reads "*", "3", "1,5", "8..18", "0/15", "8..18/2" and lists of them.
func parseList(s string, least, most int, fromEnd bool) ([]steps, error) {
	if s == "*" {
		return []steps{{least, most, 1, true}}, nil
	}
	parts := strings.Split(s, ",")
	if len(parts) > maxParts {
		return nil, errors.New("the list is too long")
	}
	var list []steps
	for _, part := range parts {
		p := steps{step: 1}
		span, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(span, "..")
		var err error
		if p.start, err = number(from, least, most); err != nil {
			return nil, err
		}
		p.stop = p.start
		if ranged {
			if p.stop, err = number(to, p.start, most); err != nil {
				return nil, err
			}
		} else if stepped {
			p.stop, p.open = most, true
		}
		if stepped {
			if p.step, err = number(step, 1, max(most, 1)); err != nil {
				return nil, err
			}
			// As systemd has it: a step must lead somewhere.
			if p.open && (!fromEnd && p.start+p.step > most || fromEnd && p.start-p.step < least) {
				return nil, fmt.Errorf("%q has one time only", part)
			}
		}
		list = append(list, p)
	}
	return list, nil
}

func number(s string, least, most int) (int, error) {
	if len(s) == 0 || len(s) > 4 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is no number", s)
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	if n < least || n > most {
		return 0, fmt.Errorf("%d is not from %d to %d", n, least, most)
	}
	return n, nil
}

// fits tells whether it is on this day.
func (c *calendar) fits(year int, month time.Month, day int, weekday time.Weekday) bool {
	if c.months&(1<<month) == 0 {
		return false
	}
	if len(c.years) > 0 && !anyHas(c.years, year) {
		return false
	}
	ofMonth := c.days&(1<<day) != 0
	if len(c.last) > 0 {
		ofMonth = false
		length := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
		for _, s := range c.last {
			fromEnd := length + 1 - day
			if s.open { // the start-th from the end, and from there on every step-th
				ofMonth = ofMonth || fromEnd <= s.start && (s.start-fromEnd)%s.step == 0
			} else {
				ofMonth = ofMonth || s.has(fromEnd)
			}
		}
	}
	ofWeek := c.weekdays&(1<<weekday) != 0
	if c.either {
		return ofMonth || ofWeek
	}
	return ofMonth && ofWeek
}

func anyHas(list []steps, v int) bool {
	for _, s := range list {
		if s.has(v) {
			return true
		}
	}
	return false
}

// Next returns the first time after t. A time of the day that a change of the
// clock leaves out is left out.
func (c *calendar) Next(t time.Time) time.Time {
	t = t.In(c.loc)
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	// Days are counted in UTC, which has one of each.
	at := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	for range horizonDays {
		y, m, d := at.Date()
		if c.fits(y, m, d, at.Weekday()) {
			for h := hour; h < 24; h++ {
				if c.hours&(1<<h) == 0 {
					minute, second = 0, 0
					continue
				}
				for mi := minute; mi < 60; mi++ {
					if c.minutes&(1<<mi) == 0 {
						second = 0
						continue
					}
					for s := second; s < 60; s++ {
						if c.second&(1<<s) == 0 {
							continue
						}
						next := time.Date(y, m, d, h, mi, s, 0, c.loc)
						if hh, mm, _ := next.Clock(); next.After(t) && hh == h && mm == mi {
							return next
						}
					}
					second = 0
				}
				minute, second = 0, 0
			}
		}
		hour, minute, second = 0, 0, 0
		at = at.AddDate(0, 0, 1)
	}
	return time.Time{}
}

// ParseSpan reads a time span of systemd.time(7): "90", "12h", "1h 30min".
// A number alone is seconds.
func ParseSpan(s string) (time.Duration, error) {
	var total time.Duration
	rest := strings.TrimSpace(s)
	if rest == "" || len(rest) > maxExpression {
		return 0, fmt.Errorf("%q is no time span", s)
	}
	for rest != "" {
		n := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if n < 0 {
			n = len(rest)
		}
		if n == 0 || n > 9 {
			return 0, fmt.Errorf("%q is no time span", s)
		}
		value, err := strconv.ParseInt(rest[:n], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no time span: %w", s, err)
		}
		rest = strings.TrimLeft(rest[n:], " ")
		n = strings.IndexAny(rest, " 0123456789")
		if n < 0 {
			n = len(rest)
		}
		unit, ok := spanUnits[rest[:n]]
		if !ok {
			return 0, fmt.Errorf("%q is no time span: unit %q is not known", s, rest[:n])
		}
		rest = strings.TrimLeft(rest[n:], " ")
		part := time.Duration(value) * unit
		if part/unit != time.Duration(value) || total+part < total {
			return 0, fmt.Errorf("%q is too long", s)
		}
		total += part
	}
	return total, nil
}

var spanUnits = map[string]time.Duration{
	"usec": time.Microsecond, "us": time.Microsecond, "µs": time.Microsecond,
	"msec": time.Millisecond, "ms": time.Millisecond,
	"": time.Second, "seconds": time.Second, "second": time.Second, "sec": time.Second, "s": time.Second,
	"minutes": time.Minute, "minute": time.Minute, "min": time.Minute, "m": time.Minute,
	"hours": time.Hour, "hour": time.Hour, "hr": time.Hour, "h": time.Hour,
	"days": 24 * time.Hour, "day": 24 * time.Hour, "d": 24 * time.Hour,
	"weeks": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "w": 7 * 24 * time.Hour,
}
