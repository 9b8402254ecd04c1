package schedules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Line is one entry of a crontab(5).
type Line struct {
	Times   Times
	User    string // "" in the crontab of a user
	Command string
}

var cronShorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// errNoEntry says that a line of a crontab starts nothing: it is blank, a
// comment or a variable.
var errNoEntry = errors.New("it is no entry")

const maxCronLine = 4096

// ParseCron reads one line of a crontab(5); system says whether a user stands
// before the command, as in /etc/crontab and /etc/cron.d. Times are in loc.
// @reboot and the random times of some crons ("~") are not understood.
func ParseCron(line string, system bool, loc *time.Location) (Line, error) {
	if len(line) > maxCronLine {
		return Line{}, fmt.Errorf("the line is longer than %d bytes", maxCronLine)
	}
	rest := strings.TrimLeft(line, " \t")
	if rest == "" || rest[0] == '#' {
		return Line{}, errNoEntry
	}
	rest = strings.TrimPrefix(rest, "-") // "do not log this one"
	var fields [5]string
	if rest != "" && rest[0] == '@' {
		var name string
		name, rest = word(rest)
		long, ok := cronShorthands[strings.ToLower(name)]
		if !ok {
			return Line{}, fmt.Errorf("%q is not understood", name)
		}
		copy(fields[:], strings.Fields(long))
	} else {
		if c := rest[:min(len(rest), 1)]; c != "*" && (c < "0" || c > "9") {
			return Line{}, errNoEntry // a variable
		}
		for i := range fields {
			fields[i], rest = word(rest)
		}
	}
	var l Line
	if system {
		l.User, rest = word(rest)
	}
	l.Command = strings.TrimRight(rest, " \t\r")
	if l.Command == "" || system && l.User == "" {
		return Line{}, errors.New("it has no command")
	}
	c := &calendar{loc: loc, second: 1}
	var err error
	for i, f := range []struct {
		set         *uint64
		least, most int
		names       []string
	}{
		{&c.minutes, 0, 59, nil}, {&c.hours, 0, 23, nil}, {&c.days, 1, 31, nil},
		{&c.months, 1, 12, monthNames}, {&c.weekdays, 0, 7, dayNames},
	} {
		if *f.set, err = parseCronField(fields[i], f.least, f.most, f.names); err != nil {
			return Line{}, err
		}
	}
	if c.weekdays&(1<<7) != 0 {
		c.weekdays |= 1
	}
	c.weekdays &= anyWeekday
	// crontab(5): where both days are restricted, one of them is enough.
	c.either = !strings.HasPrefix(fields[2], "*") && !strings.HasPrefix(fields[4], "*")
	l.Times = c
	return l, nil
}

// word cuts the first word off s.
func word(s string) (first, rest string) {
	s = strings.TrimLeft(s, " \t")
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

var (
	monthNames = []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	dayNames   = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
)

func parseCronField(s string, least, most int, names []string) (set uint64, err error) {
	parts := strings.Split(s, ",")
	if len(parts) > maxParts {
		return 0, errors.New("the list is too long")
	}
	for _, part := range parts {
		span, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(span, "-")
		p := steps{step: 1}
		switch {
		case span == "*":
			p.start, p.stop = least, most
		default:
			if p.start, err = cronNumber(from, least, most, names); err != nil {
				return 0, err
			}
			p.stop = p.start
			if ranged {
				if p.stop, err = cronNumber(to, p.start, most, names); err != nil {
					return 0, err
				}
			} else if stepped {
				return 0, fmt.Errorf("%q has a step and no range", part)
			}
		}
		if stepped {
			if p.step, err = number(step, 1, 1000); err != nil {
				return 0, err
			}
		}
		set |= setOf([]steps{p})
	}
	return set, nil
}

func cronNumber(s string, least, most int, names []string) (int, error) {
	for i, name := range names {
		if name != "" && strings.EqualFold(s, name) {
			if i < least {
				return 0, fmt.Errorf("%q comes before what it follows", s)
			}
			return i, nil
		}
	}
	return number(s, least, most)
}

// cronVariable returns the name and value of a line that sets one.
func cronVariable(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" || strings.ContainsAny(name, " \t#*") {
		return "", "", false
	}
	if unquoted, err := strconv.Unquote(value); err == nil {
		value = unquoted
	} else {
		value = strings.Trim(value, `'"`)
	}
	return name, value, true
}

// What stands before the program in a cron command.
var (
	shellWords   = map[string]bool{"test": true, "[": true, "cd": true, "command": true, "if": true, "export": true, "set": true, ".": true, "sleep": true, "then": true, "true": true}
	wrapperWords = map[string]bool{"nice": true, "ionice": true, "env": true, "timeout": true, "sudo": true, "exec": true, "sh": true, "bash": true, "/bin/sh": true, "/bin/bash": true, "chronic": true, "nohup": true}
)

// program returns the name of what a cron command starts, without arguments:
// they can hold secrets.
func program(command string) string {
	last := ""
	for _, segment := range strings.FieldsFunc(command, func(r rune) bool { return r == '&' || r == '|' || r == ';' || r == '%' }) {
		words := strings.Fields(strings.TrimLeft(segment, " \t{("))
		for len(words) > 0 && strings.Contains(words[0], "=") {
			words = words[1:]
		}
		if len(words) == 0 || shellWords[words[0]] {
			continue
		}
		name := words[0]
		if wrapperWords[name] {
			for _, w := range words[1:] {
				if strings.HasPrefix(w, "/") {
					name = w
					break
				}
			}
		}
		last = name[strings.LastIndexByte(name, '/')+1:]
		if last != "" {
			break
		}
	}
	return strings.Trim(last, `"'`)
}
