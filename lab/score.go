package lab

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"freezeframe/lab/victim"
)

// Result is one run and its score.
type Result struct {
	Fault     string
	Miss      bool
	Bystander bool
	Seed      uint64
	Length    time.Duration
	Took      time.Duration

	Err         string        // the fault could not be made
	DiagnoseErr string        // freezeframe itself failed
	Diagnosis   string        // file of its document
	Waits       []victim.Wait `json:"-"`
	Asked       []victim.Wait `json:"-"` // requests of the lab itself, which made the fault
	WatchFrom   int64
	WatchTo     int64
	WallOffset  int64 // wall clock − CLOCK_MONOTONIC

	Truth Truth
	View  View // the users' view of the fault
	Score
}

// Score is what a run is worth.
type Score struct {
	// Invalid says why the run counts for nothing: the fault was not made, the
	// users did not wait, or they waited before it or in a near miss.
	Invalid string

	Diagnosed bool // there is a document to score
	Detected  bool // a report overlaps what the users saw
	Made      int  // reports in all
	Reports   int  // of them, overlapping the users' view; 1 is right
	First     bool // the right cause leads
	Top3      bool
	Culprit   bool     // the right one is named by the report's first cause
	Sum       bool     // explained and unexplained are 100 in every report
	Blamed    bool     // an innocent bystander leads a report
	StartDiff float64  // ms, report − users: by how much it lies outside of Calm to Start
	EndDiff   float64  // ms, report − when the last late request that was sent was served
	QueueDiff float64  // ms, report − when the users' own queues were empty too
	Extra     []string // reports of what no user saw
	ReportID  string
	Got       []string // causes in order, with culprits: what was said
	Explained float64  // of the first cause

	// Of the report of the fault: whether each victim's classes add up to its
	// time (within 2 %), what no cause explains, and how much of the victims'
	// time the ledger has no class for, in percent.
	Ledger      bool
	Unexplained float64
	Unseen      float64
}

// The document, as far as it is scored: an own copy of the public contract, so
// that a change of it is noticed here.
type diagnosis struct {
	Schema   string `json:"schema"`
	Observed struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	} `json:"observed"`
	Reports []report `json:"reports"`
}

type report struct {
	Schema string `json:"schema"`
	ID     string `json:"id"`
	Stall  struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	} `json:"stall"`
	Causes []struct {
		ID           string  `json:"id"`
		ExplainedPct float64 `json:"explained_pct"`
		Culprit      culprit `json:"culprit"`
		SymptomOf    string  `json:"symptom_of"`
	} `json:"causes"`
	UnexplainedPct *float64 `json:"unexplained_pct"`
	Ledger         []struct {
		TotalMs float64            `json:"total_ms"`
		ClassMs map[string]float64 `json:"class_ms"`
	} `json:"ledger"`
}

type culprit struct {
	Kind      string `json:"kind"`
	PID       int    `json:"pid"`
	Comm      string `json:"comm"`
	Unit      string `json:"unit"`
	Cgroup    string `json:"cgroup"`
	Device    string `json:"device"`
	Mount     string `json:"mount"`
	Address   string `json:"address"`
	Interface string `json:"interface"`
	Count     int    `json:"count"`
}

func (c culprit) String() string {
	s := c.Kind
	for _, f := range []struct{ name, value string }{
		{"", c.Comm}, {"unit ", c.Unit}, {"cgroup ", c.Cgroup}, {"device ", c.Device}, {"mount ", c.Mount}, {"", c.Address}, {"", c.Interface},
	} {
		if f.value != "" {
			s += " " + f.name + f.value
		}
	}
	if c.PID != 0 {
		s += fmt.Sprintf(" (%d)", c.PID)
	}
	return s
}

// score fills in the run's View and Score.
func score(r *Result, f Fault, t Truth) {
	r.Truth = t
	views := Views(r.Waits)
	seen := false
	r.View, seen = during(views, t)
	if seen {
		// Whoever sent the request that made the fault waited as well; that alone
		// is no stall of the users.
		for _, w := range r.Asked {
			if w.Done-w.Sent >= int64(Late) && w.Sent < r.View.End && w.Done > r.View.Start {
				r.View.Start = min(r.View.Start, w.Sent)
				r.View.End, r.View.Served = max(r.View.End, w.Done), max(r.View.Served, w.Done)
			}
		}
	}
	switch {
	case r.Err != "":
		r.Invalid = "not made: " + r.Err
	case r.Miss && seen:
		r.Invalid = "the users waited in a near miss: " + r.View.String()
	case !r.Miss && !seen && r.View.Count > 0:
		r.Invalid = fmt.Sprintf("the users waited from %d ms before the fault: %v", (t.Start-r.View.Start)/1e6, r.View)
	case !r.Miss && !seen:
		r.Invalid = "the users did not wait"
	case !r.Miss && r.View.Length() < Stalled:
		r.Invalid = "the users hardly waited: " + r.View.String()
	}
	if r.Diagnosis == "" {
		return
	}
	text, err := os.ReadFile(r.Diagnosis)
	var d diagnosis
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err == nil && d.Schema != "freezeframe.diagnosis/v1" {
		err = fmt.Errorf("schema is %q", d.Schema)
	}
	if err != nil && r.DiagnoseErr == "" {
		r.DiagnoseErr = err.Error()
	}
	if err != nil {
		return
	}
	r.Diagnosed = true
	r.judge(d, f, views)
}

func (r *Result) judge(d diagnosis, f Fault, views []View) {
	mono := func(t time.Time) int64 { return t.UnixNano() - r.WallOffset }
	overlap := func(rep *report, v View) int64 {
		return min(mono(rep.Stall.End), v.End) - max(mono(rep.Stall.Start), v.Start)
	}
	// What users felt after freezeframe had stopped looking, it could not see.
	if !d.Observed.End.IsZero() {
		r.View.End, r.View.Served = min(r.View.End, mono(d.Observed.End)), min(r.View.Served, mono(d.Observed.End))
	}
	if at := d.Observed.Start; !at.IsZero() && mono(at) > r.Truth.Start {
		r.Invalid = fmt.Sprintf("freezeframe began to watch %d ms after the fault began", (mono(at)-r.Truth.Start)/1e6)
	}
	r.Sum, r.Made = true, len(d.Reports)
	var best *report
	for i := range d.Reports {
		rep := &d.Reports[i]
		if rep.UnexplainedPct == nil {
			r.Sum = false
		} else {
			sum := *rep.UnexplainedPct
			for _, c := range rep.Causes {
				sum += c.ExplainedPct
			}
			if math.Abs(sum-100) > 0.1 {
				r.Sum = false
			}
		}
		if len(rep.Causes) > 0 && slices.Contains(r.Truth.Innocent, rep.Causes[0].Culprit.PID) {
			r.Blamed = true
		}
		if !r.Miss && r.View.Count > 0 && overlap(rep, r.View) > 0 {
			r.Reports++
			if best == nil || overlap(rep, r.View) > overlap(best, r.View) {
				best = rep
			}
			continue
		}
		// What users saw outside the fault is noise of the machine, and a
		// report of it is right; in a near miss they saw nothing.
		felt := false
		for _, v := range views {
			felt = felt || overlap(rep, v) > -int64(Late)
		}
		// So is what the fault still does to others after its users are served,
		// or before they notice.
		during := mono(rep.Stall.Start) < r.Truth.End && mono(rep.Stall.End) > r.Truth.Start
		if !felt && (r.Miss || !during) {
			r.Extra = append(r.Extra, rep.said()...)
		}
	}
	if best == nil {
		return
	}
	r.Detected = true
	start := mono(best.Stall.Start)
	r.StartDiff = float64(start-min(max(start, r.View.Calm), r.View.Start)) / 1e6
	r.EndDiff = float64(mono(best.Stall.End)-r.View.Served) / 1e6
	r.QueueDiff = float64(mono(best.Stall.End)-r.View.End) / 1e6
	r.Got, r.ReportID = best.said(), best.ID
	r.Ledger, r.Unseen = best.ledger()
	if best.UnexplainedPct != nil {
		r.Unexplained = *best.UnexplainedPct
	}
	if len(best.Causes) == 0 {
		return
	}
	right := func(id string) bool { return id == f.Cause || slices.Contains(f.AlsoOK, id) }
	r.First = right(best.Causes[0].ID)
	for _, c := range best.Causes[:min(3, len(best.Causes))] {
		r.Top3 = r.Top3 || right(c.ID)
	}
	r.Explained = best.Causes[0].ExplainedPct
	r.Culprit = r.Truth.Guilty.has(best.Causes[0].Culprit)
}

// ledger tells whether the classes of every victim add up to its time, and the
// share in percent of all of it that has no class.
func (rep *report) ledger() (whole bool, unseenPct float64) {
	whole = true // where work was refused nobody's time is missing
	var unseen, all float64
	for _, a := range rep.Ledger {
		sum := 0.0
		for _, ms := range a.ClassMs {
			sum += ms
		}
		whole = whole && math.Abs(sum-a.TotalMs) <= 0.02*a.TotalMs
		unseen += a.ClassMs["unseen"]
		all += a.TotalMs
	}
	if all > 0 {
		unseenPct = 100 * unseen / all
	}
	return whole, unseenPct
}

func (rep *report) said() []string {
	var said []string
	for _, c := range rep.Causes {
		s := fmt.Sprintf("%s %.0f%% %s", c.ID, c.ExplainedPct, c.Culprit)
		if c.SymptomOf != "" {
			s += " (symptom of " + c.SymptomOf + ")"
		}
		said = append(said, s)
	}
	if len(said) == 0 {
		said = append(said, "no cause")
	}
	return said
}

// has tells whether blaming c is right. What counts is what the culprit's kind
// says it is; facts beside it do not make a wrong one right.
func (g Guilty) has(c culprit) bool {
	if len(g.Units) > 0 && (c.Kind == "process" || c.Kind == "cgroup") && !slices.Contains(g.Units, c.Unit) {
		return false
	}
	switch c.Kind {
	case "process":
		return slices.Contains(g.PIDs, c.PID) || c.Count > 1 && slices.Contains(g.Swarms, c.Comm)
	case "cgroup":
		return slices.ContainsFunc(g.Cgroups, func(want string) bool {
			return c.Cgroup != "" && (c.Cgroup == want || strings.HasSuffix(c.Cgroup, ":"+want))
		})
	case "mount":
		return slices.Contains(g.Mounts, c.Mount)
	case "device":
		return slices.ContainsFunc(g.Devices, func(want string) bool { return path.Base(c.Device) == want })
	case "address":
		host, _, err := net.SplitHostPort(c.Address)
		return slices.ContainsFunc(g.Addresses, func(want string) bool {
			return c.Address == want || err == nil && host == want
		})
	case "interface":
		return slices.Contains(g.Interfaces, c.Interface)
	case "table":
		return g.Tables
	case "hypervisor":
		return g.Hypervisor
	case "host":
		return g.Host
	}
	return false
}
