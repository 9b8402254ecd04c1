package freezeframe

import "time"

// The schemas of the two documents; fields are added, never renamed.
const (
	ReportSchema    = "freezeframe.report/v1"
	DiagnosisSchema = "freezeframe.diagnosis/v1"
)

// Diagnosis is what one watch saw: the document of `diagnose --json`.
type Diagnosis struct {
	Schema   string   `json:"schema"`
	Observed Observed `json:"observed"`
	Coverage Coverage `json:"coverage"`
	Reports  []Report `json:"reports"`
}

// Observed is the time watched.
type Observed struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Coverage says what was watched, so that "healthy" means something, and what
// could not be seen.
type Coverage struct {
	Probes   []string       `json:"probes"`   // those that ran
	Sources  []string       `json:"sources"`  // those that were read
	Services []string       `json:"services"` // listeners seen
	NotSeen  []NotSeen      `json:"not_seen"`
	Recorder RecorderReport `json:"recorder"`
	// Gaps are the times of the span that were not recorded, in order; of what
	// is told as it is watched there are none.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Gap is a time of which the recording holds nothing, or not all.
type Gap struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Why   string    `json:"why"`
	Part  bool      `json:"part,omitempty"` // something is recorded of it
}

// NotSeen is a Need in a report.
type NotSeen struct {
	What string `json:"what"`
	Lost string `json:"lost"`
	Fix  string `json:"fix,omitempty"`
	Err  string `json:"error,omitempty"`
}

// RecorderReport is what the recorder cost and how late it was itself.
type RecorderReport struct {
	CPUPercent  float64 `json:"cpu_pct"` // of one core
	RSSBytes    uint64  `json:"rss_bytes"`
	Samples     uint64  `json:"samples"`
	LateSamples uint64  `json:"late_samples"`
	WorstLateMs float64 `json:"worst_late_ms"`
	// Dropped is how many records were left out since the recorder started:
	// readings, and reports of probes, that came too many at once.
	Dropped uint64 `json:"dropped_records"`
}

// Report is one stall with its verdict.
type Report struct {
	Schema      string `json:"schema"`
	ID          string `json:"id"`
	Fingerprint string `json:"fingerprint"` // same cause and culprit, same fingerprint
	Version     string `json:"version"`     // of freezeframe

	Host   HostReport    `json:"host"`
	Stall  StallReport   `json:"stall"`
	Causes []CauseReport `json:"causes"`
	// UnexplainedPct and the causes' explained_pct add up to 100.
	UnexplainedPct float64         `json:"unexplained_pct"`
	Ledger         []AccountReport `json:"ledger"`
	NotSeen        []NotSeen       `json:"not_seen"`
	Recorder       RecorderReport  `json:"recorder"`
	Timeline       []TimelineItem  `json:"timeline"`

	// Recurrence is nil where nobody keeps reports, so that nobody knows.
	Recurrence *Recurrence `json:"recurrence,omitempty"`
}

// Recurrence is what is known of the series that a report belongs to: all
// stalls with its fingerprint, this one included.
type Recurrence struct {
	Count    int       `json:"count"`
	First    time.Time `json:"first"`     // start of the first stall
	Last     time.Time `json:"last"`      // start of the newest
	SpacingS float64   `json:"spacing_s"` // median from one start to the next; 0 where there is one only
	Regular  bool      `json:"regular"`   // most spacings are within a tenth of it
	// Pattern says when it comes, in the machine's local time: "every day at
	// 03:10 ± 2 min (6 of 7 days)"; "" where there is no telling.
	Pattern string `json:"pattern,omitempty"`
	// Unit is the timer or cron entry that runs at these moments: a
	// coincidence in time, not yet a culprit.
	Unit string `json:"unit,omitempty"`
}

// HostReport is the machine.
type HostReport struct {
	Name           string    `json:"name"`
	Kernel         string    `json:"kernel"`
	OS             string    `json:"os"`
	Virtualization string    `json:"virtualization,omitempty"`
	CPUs           int       `json:"cpus"`
	MemoryBytes    uint64    `json:"memory_bytes"`
	Boot           time.Time `json:"boot"`
}

// StallReport is the stall as people felt it.
type StallReport struct {
	Start      time.Time       `json:"start"`
	End        time.Time       `json:"end"`
	DurationMs float64         `json:"duration_ms"`
	Ongoing    bool            `json:"ongoing"`
	Symptoms   []SymptomReport `json:"symptoms"`
}

// SymptomReport is one probe's view.
type SymptomReport struct {
	Probe   string    `json:"probe"`
	Target  string    `json:"target"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	WorstMs float64   `json:"worst_ms"`
	Count   int       `json:"count"`
	Error   string    `json:"error,omitempty"`
	Victims []string  `json:"victims,omitempty"` // "comm (pid)"
	// Doubtful: that somebody waited for it is not certain; it came with what is.
	Doubtful bool `json:"doubtful,omitempty"`
}

// CauseReport is one ranked cause.
type CauseReport struct {
	ID           Cause      `json:"id"`
	Title        string     `json:"title"`
	Summary      string     `json:"summary"`
	Confidence   float64    `json:"confidence"`
	ExplainedPct float64    `json:"explained_pct"`
	Culprit      Culprit    `json:"culprit"`
	Chain        []string   `json:"chain"`
	Evidence     []Evidence `json:"evidence"`
	Remedy       []string   `json:"remedy"`
	// SymptomOf is the cause that brought this one about, where it is not a
	// cause of its own; such an entry explains 0.
	SymptomOf Cause `json:"symptom_of,omitempty"`
}

// AccountReport is where one victim's time went.
type AccountReport struct {
	Victim  string             `json:"victim"` // "comm (pid/tid)"
	Symptom string             `json:"symptom"`
	TotalMs float64            `json:"total_ms"`
	ClassMs map[string]float64 `json:"class_ms"` // by Class; they add up to TotalMs
	Longest string             `json:"longest,omitempty"`
}

// TimelineItem is one thing that happened, in order.
type TimelineItem struct {
	At   time.Time  `json:"at"`
	End  *time.Time `json:"end,omitempty"`
	What string     `json:"what"` // stall, symptom, kernel_log, missed …
	Text string     `json:"text"`
}
