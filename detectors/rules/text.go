package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"freezeframe"
)

// How sure a finding may be, by what it rests on.
const (
	proven    = 0.95 // counters and stacks agree
	seen      = 0.8  // stacks or states alone, but they are unmistakable
	counted   = 0.55 // counters alone
	inferred  = 0.4  // nothing else fits
	mentioned = 0.35 // it happened, but something deeper decided
	suspected = 0.31 // all that is left to say: whatever else fits is better
)

func who(p freezeframe.Party) string {
	switch {
	case p.PID != 0:
		return named(p.Comm, p.PID)
	case p.Address != "":
		return p.Address
	case p.Comm != "":
		return p.Comm
	}
	return "the machine"
}

func named(comm string, pid int) string {
	if comm == "" {
		comm = "process"
	}
	return fmt.Sprintf("%s (pid %d)", comm, pid)
}

// span writes a duration with the digits that matter.
func length(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}

func pct(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

func size(bytes uint64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	case bytes >= 1<<10:
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// evidence is a measured fact; source and column say where it was read.
func evidence(source, column, format string, args ...any) freezeframe.Evidence {
	return freezeframe.Evidence{Source: source, Column: column, Text: fmt.Sprintf(format, args...)}
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// logLine is a line that the kernel itself wrote.
type logLine struct {
	At   freezeframe.Instant
	Text string
}

// kernelLog returns the kernel's own lines from `before` ahead of the stall to
// a little after it, oldest first. Lines that a process wrote into /dev/kmsg
// carry a facility of their own and do not count: anybody who may write there
// could blame whom he likes.
func kernelLog(w freezeframe.Window, before time.Duration) []logLine {
	stall := w.Stall()
	span := freezeframe.Span{Start: stall.Start.Add(-before), End: stall.End.Add(logAfter)}
	var out []logLine
	for _, e := range w.Events(freezeframe.EventKernelLog, freezeframe.Whole) {
		f := e.Attr("facility")
		if (f == "" || f == "0" || f == "kern") && span.Contains(e.At) {
			out = append(out, logLine{e.At, e.Text})
		}
	}
	return out
}

// logAfter: the kernel's log line may come a little after the stall it tells of.
const logAfter = 3 * time.Second

// quote shortens a log line for use as evidence.
func quote(text string) string {
	const most = 160
	text = strings.TrimSpace(text)
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// after returns what follows the first occurrence of mark.
func after(text, mark string) (string, bool) {
	_, rest, ok := strings.Cut(text, mark)
	return rest, ok
}

// leadingInt reads the decimal digits at the start of s; 0 without any.
func leadingInt(s string) int {
	s = strings.TrimLeft(s, " ")
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, err := strconv.Atoi(s[:i])
	if err != nil {
		return 0
	}
	return n
}

// word returns s up to the first of the given characters.
func word(s, stop string) string {
	if i := strings.IndexAny(s, stop); i >= 0 {
		return s[:i]
	}
	return s
}

// cpusWorth writes an amount of CPU time: "1.7 of 2 CPUs".
func cpusWorth(used float64, of int) string {
	if of == 1 {
		return pct(used) + " of the CPU"
	}
	return fmt.Sprintf("%.1f of %d CPUs", used, of)
}

func nanoseconds(ns float64) time.Duration { return time.Duration(ns) }

func count(x float64) string { return fmt.Sprintf("%.0f", x) }
