package freezeframe

import "context"

// Cause is an id of the public list of causes, such as "fs.frozen".
type Cause string

const (
	// CauseUnknown: something stalled and no rule explains it.
	CauseUnknown Cause = "unknown"
	// CauseHealthy: nothing stalled.
	CauseHealthy Cause = "healthy"
)

// Rule knows one cause: how to recognise it, and what to tell about it. Judge
// is pure: it reads the window and nothing else, and never changes it.
type Rule struct {
	Cause Cause
	Title string // "a frozen filesystem", as it stands in a verdict
	Means string // what happened, for someone who has never met it
	Proof string // what proves it, and what it is told from
	// Remedy says what to do: now, and so that it does not come back.
	Remedy []string
	// Reads lists what Judge reads, as source.column or event kind; a test
	// holds it against the sources.
	Reads []string
	// Subsumes lists causes that this one brings about: where both claim the
	// same time, this one has it and the other stays a symptom.
	Subsumes []Cause
	Judge    func(Window) []Finding
}

// Finding is one cause with one culprit in one window.
type Finding struct {
	Cause   Cause
	Culprit Culprit
	// Summary is one sentence with the figures that matter.
	Summary string
	// Explains is the part of the stall for which it is to blame.
	Explains Spans
	// Confidence, 0 to 1: how sure it is that this is what happened, whatever
	// share it explains. Below 0.3 a finding is not reported.
	Confidence float64
	Evidence   []Evidence
	Remedy     []string // particular to this finding; before the rule's own
	Chain      []string // victim first, root last; empty: none known
	// SymptomOf is set by the judge on a finding that a deeper one brought
	// about; rules leave it empty.
	SymptomOf Cause
}

// The kinds of Culprit.
const (
	CulpritProcess    = "process"
	CulpritCgroup     = "cgroup"
	CulpritDevice     = "device"
	CulpritMount      = "mount"
	CulpritAddress    = "address"
	CulpritInterface  = "interface"
	CulpritTable      = "table" // a kernel table: conntrack, ports
	CulpritHypervisor = "hypervisor"
	CulpritHost       = "host" // nobody on this machine can be blamed
)

// Culprit is who is to blame. Fields that do not apply stay empty; the JSON
// names are a public contract. Process facts (exe, cmdline, unit, container,
// user) are filled in from the recording when only PID is set.
type Culprit struct {
	Kind      string `json:"kind"`
	PID       int    `json:"pid,omitempty"`
	Comm      string `json:"comm,omitempty"`
	Exe       string `json:"exe,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
	Unit      string `json:"unit,omitempty"`
	Cgroup    string `json:"cgroup,omitempty"`
	Container string `json:"container,omitempty"`
	User      string `json:"user,omitempty"`
	Device    string `json:"device,omitempty"`
	Mount     string `json:"mount,omitempty"`
	Address   string `json:"address,omitempty"`
	Interface string `json:"interface,omitempty"`
	// Count is how many processes like this one share the blame, itself
	// included (8 workers of one command), 0 for one.
	Count int `json:"count,omitempty"`
}

// Evidence is one measured fact behind a finding.
type Evidence struct {
	Text   string `json:"text"`             // the sentence, figures and units in it
	Source string `json:"source,omitempty"` // source or event kind it was read from
	Column string `json:"column,omitempty"`
	Before string `json:"before,omitempty"` // the same figure before the stall
	During string `json:"during,omitempty"`
}

// Verdict is a judged window.
type Verdict struct {
	// Findings, the verdict first. Each explains only what no finding before
	// it does, so that the shares and Unexplained add up to the stall.
	Findings []Finding
	// Symptoms are findings that a deeper cause brought about.
	Symptoms    []Finding
	Unexplained Spans
}

// Sink delivers a report somewhere.
type Sink interface {
	Name() string
	Deliver(context.Context, *Report) error
}
