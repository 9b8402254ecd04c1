package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab/victim"
)

// The tolerance of a wait's length: the larger of the two.
const (
	nearMs    = 5.0
	nearShare = 0.02
	feltMs    = 100.0 // what a report is expected for
)

// alone is the near miss of one slow request beside others.
const alone = "alone"

// event is a stall as it was made, CLOCK_MONOTONIC nanoseconds.
type event struct {
	Server, Family, Stall string
	Seed                  uint64
	Length                float64 // ms, as it was meant
	Start, End            int64
	Target                string // as a report names the server
	PIDs                  []int  // of the server
}

// diagnosis is the document, as far as it is scored: an own copy of the public
// contract, so that a change of it is noticed here.
type diagnosis struct {
	Schema  string   `json:"schema"`
	Reports []report `json:"reports"`
}

type report struct {
	ID    string `json:"id"`
	Stall struct {
		Start    time.Time `json:"start"`
		End      time.Time `json:"end"`
		Symptoms []symptom `json:"symptoms"`
	} `json:"stall"`
	Causes []struct {
		ID           string  `json:"id"`
		ExplainedPct float64 `json:"explained_pct"`
		Culprit      struct {
			Kind string `json:"kind"`
			PID  int    `json:"pid"`
			Comm string `json:"comm"`
		} `json:"culprit"`
	} `json:"causes"`

	start, end int64 // CLOCK_MONOTONIC
}

type symptom struct {
	Probe   string   `json:"probe"`
	Target  string   `json:"target"`
	WorstMs float64  `json:"worst_ms"`
	Count   int      `json:"count"`
	Victims []string `json:"victims"` // "comm (pid)"
}

// onClock returns the reports with their edges on CLOCK_MONOTONIC.
func (d *diagnosis) onClock(wallOffset int64) []report {
	for i := range d.Reports {
		r := &d.Reports[i]
		r.start, r.end = r.Stall.Start.UnixNano()-wallOffset, r.Stall.End.UnixNano()-wallOffset
	}
	return d.Reports
}

// row is a stall with what its clients measured and what was said of it.
type row struct {
	event
	// Invalid says why it counts for nothing.
	Invalid string `json:",omitempty"`

	ClientMs float64 // the longest wait of a client
	From, To int64   // between which clients waited
	Failed   int     // requests that failed in it

	Watched  bool
	Reported bool // a report overlaps the clients' waits
	Reports  int  // how many; 1 is right
	Shared   bool // one of them overlaps another stall's too
	Probe    string
	WorstMs  float64 // of the symptom of the right target with the longest wait
	DiffMs   float64 // WorstMs − ClientMs, where there is such a symptom
	Within   bool
	// SpanMs is the longest wait of a client within the reports' span: longer
	// than ClientMs where a report has more than this stall in it.
	SpanMs  float64
	InSpan  bool    // WorstMs is as long as SpanMs
	Named   bool    // a process of the server is a victim of such a symptom
	StartMs float64 // edges, report − clients
	EndMs   float64
	Said    []said // all of them
}

// said is a report in short.
type said struct {
	ID, Span, Cause, Symptoms string
	Ms                        float64
}

func (s said) String() string {
	return fmt.Sprintf("%.0f ms, %s; %s", s.Ms, s.Cause, s.Symptoms)
}

// serviceProbes are those whose symptoms tell how long a client waited.
var serviceProbes = []string{"receive", "answer", "accept"}

// score holds the reports against what the clients measured. extra are the
// reports of what no client felt; those of a near miss are in its row instead.
func score(made []event, waits []victim.Wait, reports []report, watched bool) (rows []row, extra []said) {
	for _, e := range made {
		r := row{event: e, Watched: watched}
		r.measure(waits)
		rows = append(rows, r)
	}
	claimed := make([]int, len(reports)) // by how many rows
	for i := range rows {
		for j := range reports {
			if rows[i].overlaps(&reports[j]) {
				claimed[j]++
			}
		}
	}
	for i := range rows {
		r := &rows[i]
		if r.Invalid == "" {
			r.judge(reports, claimed, waits)
		}
	}
	for j := range reports {
		if claimed[j] == 0 && !felt(waits, &reports[j]) {
			extra = append(extra, reports[j].short())
		}
	}
	return rows, extra
}

// measure finds what the clients waited for in a stall.
func (r *row) measure(waits []victim.Wait) {
	if r.Stall == alone {
		r.ClientMs, r.From, r.To = ms(r.End-r.Start), r.Start, r.End
		return
	}
	for _, w := range waits {
		if w.Done < r.Start || w.Sent > r.End {
			continue
		}
		long := ms(w.Done - w.Sent)
		if w.Err != "" {
			r.Failed++
		}
		r.ClientMs = max(r.ClientMs, long)
		if long < feltMs/2 {
			continue
		}
		if r.From == 0 {
			r.From = w.Sent
		}
		r.From, r.To = min(r.From, w.Sent), max(r.To, w.Done)
	}
	switch {
	case r.Failed > 0:
		r.Invalid = fmt.Sprintf("%d requests failed", r.Failed)
	case r.ClientMs < feltMs:
		r.Invalid = fmt.Sprintf("no client waited: %.1f ms", r.ClientMs)
	}
}

func (r *row) overlaps(rep *report) bool {
	return r.To > 0 && rep.start < r.To && rep.end > r.From
}

func (r *row) judge(reports []report, claimed []int, waits []victim.Wait) {
	start, end := int64(math.MaxInt64), int64(0)
	for j := range reports {
		rep := &reports[j]
		if !r.overlaps(rep) {
			continue
		}
		r.Reported = true
		r.Reports++
		r.Shared = r.Shared || claimed[j] > 1
		r.Said = append(r.Said, rep.short())
		start, end = min(start, rep.start), max(end, rep.end)
		for _, s := range rep.Stall.Symptoms {
			if s.Target != r.Target || !slices.Contains(serviceProbes, s.Probe) {
				continue
			}
			if r.Probe == "" || s.WorstMs > r.WorstMs {
				r.Probe, r.WorstMs = s.Probe, s.WorstMs
			}
			r.Named = r.Named || slices.ContainsFunc(s.Victims, func(v string) bool { return slices.Contains(r.PIDs, pidOf(v)) })
		}
	}
	if r.Reported {
		r.StartMs, r.EndMs = ms(start-r.From), ms(end-r.To)
	}
	if r.Probe != "" {
		r.DiffMs = r.WorstMs - r.ClientMs
		r.Within = within(r.WorstMs, r.ClientMs)
		r.SpanMs = r.ClientMs
		for _, w := range waits {
			if w.Sent < end && w.Done > start {
				r.SpanMs = max(r.SpanMs, ms(w.Done-w.Sent))
			}
		}
		r.InSpan = within(r.WorstMs, r.SpanMs)
	}
}

// within tells whether a reported wait is as long as the one that was measured.
func within(reported, measured float64) bool {
	return math.Abs(reported-measured) <= max(nearMs, nearShare*measured)
}

// pidOf returns the process of "comm (pid)"; a comm may have parentheses too.
func pidOf(victim string) int {
	text, closed := strings.CutSuffix(victim, ")")
	i := strings.LastIndexByte(text, '(')
	if !closed || i < 0 {
		return 0
	}
	pid, _ := strconv.Atoi(text[i+1:])
	return pid
}

// felt tells whether a client waited for long while the report says so.
func felt(waits []victim.Wait, rep *report) bool {
	return slices.ContainsFunc(waits, func(w victim.Wait) bool {
		return (ms(w.Done-w.Sent) >= feltMs || w.Err != "") && rep.start < w.Done && rep.end > w.Sent
	})
}

// elsewhere counts the waits that were felt outside of the stalls that were
// made: what else goes on on the machine.
func elsewhere(rows []row, waits []victim.Wait) (n int) {
	for _, w := range waits {
		if ms(w.Done-w.Sent) >= feltMs && !slices.ContainsFunc(rows, func(r row) bool { return w.Sent < r.End && w.Done > r.Start }) {
			n++
		}
	}
	return n
}

func (rep *report) short() said {
	s := said{ID: rep.ID, Ms: ms(rep.end - rep.start), Cause: "no cause",
		Span: rep.Stall.Start.Format("15:04:05.000") + "–" + rep.Stall.End.Format("15:04:05.000")}
	if len(rep.Causes) > 0 {
		c := rep.Causes[0]
		s.Cause = fmt.Sprintf("%s %.0f%%", c.ID, c.ExplainedPct)
		if c.Culprit.Kind != "" {
			s.Cause += " " + c.Culprit.Kind
		}
		if c.Culprit.PID != 0 {
			s.Cause += fmt.Sprintf(" %s (%d)", c.Culprit.Comm, c.Culprit.PID)
		}
	}
	var list []string
	for _, sy := range rep.Stall.Symptoms {
		text := fmt.Sprintf("%s %s %.1f ms", sy.Probe, sy.Target, sy.WorstMs)
		if len(sy.Victims) > 0 {
			text += " of " + sy.Victims[0]
		}
		list = append(list, text)
	}
	s.Symptoms = strings.Join(list, ", ")
	return s
}

func ms(ns int64) float64 { return float64(ns) / 1e6 }

// write writes the row as a line of the table.
func (r *row) write(w io.Writer) {
	header()
	fmt.Fprintf(w, "%-30s %4.0f ms ", r.Server+"/"+r.Family+"/"+r.Stall, r.Length)
	if r.Invalid != "" {
		fmt.Fprintf(w, "INVALID %s\n", r.Invalid)
		return
	}
	fmt.Fprintf(w, "%10.3f", r.ClientMs)
	switch {
	case !r.Watched:
		fmt.Fprintln(w)
		return
	case r.Stall == alone && !r.Reported:
		fmt.Fprintf(w, " | no report\n")
		return
	case r.Stall == alone:
		for _, s := range r.Said {
			fmt.Fprintf(w, " | reported: %s\n", s)
		}
		return
	case !r.Reported:
		fmt.Fprintf(w, " | NOT REPORTED\n")
		return
	case r.Probe == "":
		fmt.Fprintf(w, " | no symptom of %s; %s\n", r.Target, r.Said[0])
		return
	}
	diff, named := fmt.Sprintf("%+.1f", r.DiffMs), "yes"
	if !r.Within {
		diff += "!"
	}
	if !r.Named {
		named = "NO"
	}
	fmt.Fprintf(w, " | %-8s %10.3f %9s %-5s %s", r.Probe, r.WorstMs, diff, named, r.Said[0].Cause)
	if r.Reports > 1 {
		fmt.Fprintf(w, ", %d REPORTS", r.Reports)
	}
	if r.Shared {
		fmt.Fprint(w, ", SHARED WITH ANOTHER STALL")
	}
	fmt.Fprintln(w)
}

// results is what -out gets.
type results struct {
	Seed   uint64
	Totals totals
	Rows   []row
	Extra  []said
}

// tally counts stalls.
type tally struct{ Valid, Reported, Symptom, Within, InSpan, Named int }

func (t *tally) add(r *row) {
	t.Valid++
	for _, c := range []struct {
		is bool
		n  *int
	}{{r.Reported, &t.Reported}, {r.Probe != "", &t.Symptom}, {r.Within, &t.Within}, {r.InSpan, &t.InSpan}, {r.Named, &t.Named}} {
		if c.is {
			*c.n++
		}
	}
}

// totals are the shares that count.
type totals struct {
	tally
	Invalid int
	Extra   int
	// Split and Shared are stalls with more than one report, and those that
	// share one with another stall.
	Split, Shared int
	// MedianMs and WorstMs are of |DiffMs|, where there is one.
	MedianMs, WorstMs float64
	Alone, AloneSaid  int // near misses, and those that were reported
	By                map[string]tally
	order             []string
}

// total adds up rows: in all, by family, by server and by stall.
func total(rows []row, extra []said) totals {
	t := totals{Extra: len(extra), By: map[string]tally{}}
	var diffs []float64
	for i := range rows {
		r := &rows[i]
		switch {
		case r.Invalid != "":
			t.Invalid++
			continue
		case r.Stall == alone:
			t.Alone++
			if r.Reported {
				t.AloneSaid++
			}
			continue
		}
		t.add(r)
		for _, key := range []string{r.Family, r.Server, r.Stall} {
			by, seen := t.By[key]
			if !seen {
				t.order = append(t.order, key)
			}
			by.add(r)
			t.By[key] = by
		}
		if r.Reports > 1 {
			t.Split++
		}
		if r.Shared {
			t.Shared++
		}
		if r.Probe != "" {
			diffs = append(diffs, math.Abs(r.DiffMs))
		}
	}
	if len(diffs) > 0 {
		slices.Sort(diffs)
		t.MedianMs, t.WorstMs = diffs[len(diffs)/2], diffs[len(diffs)-1]
	}
	return t
}

// write prints the totals and tells whether all is as it should be.
func (t *totals) write(w io.Writer, watched bool) (met bool) {
	fmt.Fprintf(w, "%d stalls, %d more were invalid (counted nowhere below)\n", t.Valid, t.Invalid)
	if !watched {
		return t.Invalid == 0
	}
	fmt.Fprintf(w, "%-14s %7s %9s %8s %7s %6s\n", "", "stalls", "reported", "symptom", "within", "named")
	line := func(name string, c tally) {
		fmt.Fprintf(w, "%-14s %7d %9d %8d %7d %6d\n", name, c.Valid, c.Reported, c.Symptom, c.Within, c.Named)
	}
	slices.SortStableFunc(t.order, func(a, b string) int { return rank(a) - rank(b) })
	for _, key := range t.order {
		line(key, t.By[key])
	}
	line("all", t.tally)
	met = t.Valid > 0 && t.Invalid == 0
	for _, c := range []struct {
		what  string
		n, of int
	}{
		{"a report overlaps", t.Reported, t.Valid},
		{"with a symptom of the server", t.Symptom, t.Valid},
		{fmt.Sprintf("worst_ms within max(%.0f ms, %.0f %%)", nearMs, 100*nearShare), t.Within, t.Valid},
		{"the serving process is named", t.Named, t.Valid},
		{"one report a stall", t.Valid - t.Split - t.Shared, t.Valid},
		{"reports of what no client felt", t.Extra, 0},
	} {
		mark := "ok"
		if c.n != c.of {
			mark, met = "MISSED", false
		}
		fmt.Fprintf(w, "  %-36s %3d, should be %3d  %s\n", c.what, c.n, c.of, mark)
	}
	fmt.Fprintf(w, "  %-36s %3d of %3d: the longest wait in the report's span, of whichever stall\n", "worst_ms right for its report", t.InSpan, t.Symptom)
	fmt.Fprintf(w, "  %-36s median %.1f, largest %.1f\n", "|worst_ms − client's|, ms", t.MedianMs, t.WorstMs)
	fmt.Fprintf(w, "  %-36s %3d of %3d reported (for information)\n", "one slow request among others", t.AloneSaid, t.Alone)
	return met
}

// rank orders the lines of the summary: families, servers, stalls.
func rank(key string) int {
	for i, f := range families {
		if f == key {
			return i
		}
	}
	for i := range shapes {
		if shapes[i].name == key {
			return 10 + i
		}
	}
	return 100 + slices.IndexFunc(stalls, func(s stall) bool { return s.name == key })
}
