package reports

import "time"

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
