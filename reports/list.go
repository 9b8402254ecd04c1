package reports

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// ListSchema is the schema of the document of `list --json`.
const ListSchema = "freezeframe.list/v1"

// Listing is some of the incidents that are kept, the newest first.
type Listing struct {
	Schema    string     `json:"schema"`
	Incidents []Incident `json:"incidents"`
	// More is how many further ones match and were left out by the limit.
	More int `json:"more"`
	// Notes say what could not be listed: a damaged index, a lost report.
	Notes []string `json:"notes"`
}

// Incident is one report as a line of a list.
type Incident struct {
	ID          string    `json:"id"`
	Fingerprint string    `json:"fingerprint"`
	Start       time.Time `json:"start"`
	End         time.Time `json:"end"`
	DurationMs  float64   `json:"duration_ms"`
	Ongoing     bool      `json:"ongoing"`
	Cause       string    `json:"cause"`
	// ExplainedPct is how much of the stall the cause explains.
	ExplainedPct float64 `json:"explained_pct"`
	Culprit      string  `json:"culprit"` // as Who names it; "" when nobody is to blame
	Summary      string  `json:"summary"` // one sentence
	// Count is how many incidents its series has so far, itself included.
	Count int `json:"count"`
	// Pattern says when the series comes back, where that is known: "every
	// day at 03:10 ± 2 min".
	Pattern string `json:"pattern,omitempty"`
}

// Normalize makes the document whole and its strings clean.
func (l *Listing) Normalize() {
	l.Schema = ListSchema
	cleanAll(l)
}

// ListText writes incidents as a table, two lines each: the second says who is
// to blame and when it comes back.
func ListText(w io.Writer, l Listing, o TextOptions) error {
	l.Normalize()
	p := newPrinter(o)
	for _, n := range l.Notes {
		p.para("", sentence(upper(n)))
	}
	if len(l.Incidents) == 0 {
		p.line("No incident is kept that fits.")
	} else {
		p.incidents(l.Incidents)
	}
	if l.More > 0 {
		p.line(fmt.Sprintf("and %d more", l.More))
	}
	_, err := w.Write(p.b.Bytes())
	return err
}

// HowLong says how long an incident lasted.
func HowLong(it *Incident) string {
	long := duration(fromMs(it.DurationMs))
	if it.Ongoing {
		long += ", not over"
	}
	return long
}

func (p *printer) incidents(list []Incident) {
	cause := len("CAUSE")
	for i := range list {
		cause = max(cause, utf8.RuneCountInString(list[i].Cause))
	}
	p.line(p.paint(dim, fmt.Sprintf("%-19s  %-14s  %-*s  %-9s  %s", "WHEN", "HOW LONG", cause, "CAUSE", "HOW OFTEN", "ID")))
	for i := range list {
		it := &list[i]
		long := HowLong(it)
		often := "once"
		if it.Count > 1 {
			often = fmt.Sprintf("%d times", it.Count)
		}
		when := strings.TrimSuffix(p.clock(it.Start, time.DateTime), p.clock(it.Start, ""))
		p.line(fmt.Sprintf("%s  %-14s  %s  %-9s  %s", when, long, p.paint(bold, fmt.Sprintf("%-*s", cause, it.Cause)), often, it.ID))
		text := cmp.Or(it.Culprit, it.Summary, "nobody on this machine is to blame")
		if it.Pattern != "" {
			text += "; " + it.Pattern
		}
		p.para("  ", text)
	}
}
