package reports

import (
	"fmt"
	"io"

	"freezeframe"
)

// CheckSchema is the schema of the document of `check --json`.
const CheckSchema = "freezeframe.check/v1"

// The states of a CheckItem.
const (
	CheckOK      = "ok"
	CheckPartly  = "partly"  // it works, without some of its parts
	CheckMissing = "missing" // this machine does not have it
	CheckFailed  = "failed"  // it is there and could not be used
)

// Check says what one kernel and one set of privileges allow.
type Check struct {
	Schema  string                 `json:"schema"`
	Version string                 `json:"version"`
	Host    freezeframe.HostReport `json:"host"`
	Root    bool                   `json:"root"` // run by user 0
	Items   []CheckItem            `json:"items"`
}

// CheckItem is one family of BPF programs, one source or one probe that was
// tried.
type CheckItem struct {
	Kind  string                `json:"kind"` // program, source or probe
	Name  string                `json:"name"`
	State string                `json:"state"`
	From  string                `json:"from,omitempty"` // kernel files it is read from
	Rows  int                   `json:"rows,omitempty"` // of the last reading
	Cost  *CheckCost            `json:"cost,omitempty"` // of a family of programs
	Err   string                `json:"error,omitempty"`
	Needs []freezeframe.NotSeen `json:"needs"` // the parts that could not be had
}

// CheckCost is what a family of BPF programs costs now.
type CheckCost struct {
	RunsPerSecond float64 `json:"runs_per_second"`
	RunNS         float64 `json:"run_ns"`  // one run, on average
	CPUPct        float64 `json:"cpu_pct"` // of one CPU
}

// Normalize makes the document whole and its strings clean.
func (c *Check) Normalize() {
	c.Schema = CheckSchema
	cleanAll(c)
}

// CheckText writes a check as a table.
func CheckText(w io.Writer, c Check, o TextOptions) error {
	c.Normalize()
	p := newPrinter(o)
	who := "as user 0 (root)"
	if !c.Root {
		who = "without root: stacks, system calls and files of other users' processes are hidden"
	}
	p.head(bold, fmt.Sprintf("freezeframe %s on %s", c.Version, hostLine(&c.Host)))
	p.para("", "Tried "+who+".")
	count := make(map[string]int)
	kind := ""
	for i := range c.Items {
		it := &c.Items[i]
		if it.Kind != kind {
			kind = it.Kind
			p.section(upper(kind) + "s")
		}
		count[it.State]++
		style := map[string]string{CheckOK: green, CheckMissing: dim, CheckPartly: bold, CheckFailed: red}[it.State]
		line := it.From
		if it.Err != "" {
			line = it.Err
		} else if c := it.Cost; c != nil {
			line = fmt.Sprintf("%s; now %.3f %% of a CPU: %.0f runs a second of %.0f ns", line, c.CPUPct, c.RunsPerSecond, c.RunNS)
		}
		prefix := fmt.Sprintf("  %-8s %-14s ", it.State, it.Name)
		for j, l := range wrap(line, p.width-len(prefix)) {
			if j == 0 {
				p.line("  " + p.paint(style, fmt.Sprintf("%-8s", it.State)) + fmt.Sprintf(" %-14s ", it.Name) + l)
			} else {
				p.line(fmt.Sprintf("%*s", len(prefix), "") + l)
			}
		}
		for k := range it.Needs {
			p.para("           not seen: ", notSeenLine(&it.Needs[k]))
		}
	}
	p.line("")
	p.line(fmt.Sprintf("%d ok, %d partly, %d missing, %d failed", count[CheckOK], count[CheckPartly], count[CheckMissing], count[CheckFailed]))
	_, err := w.Write(p.b.Bytes())
	return err
}

// ExplainText writes what a rule says of its cause.
func ExplainText(w io.Writer, r freezeframe.Rule, o TextOptions) error {
	p := newPrinter(o)
	p.head(bold, fmt.Sprintf("%s: %s", r.Cause, r.Title))
	p.line("")
	p.para("", r.Means)
	p.section("What proves it")
	p.para("  ", r.Proof)
	if len(r.Remedy) > 0 {
		p.section("What to do")
		for i, text := range r.Remedy {
			p.para(fmt.Sprintf("  %d. ", i+1), text)
		}
	}
	if len(r.Subsumes) > 0 {
		p.section("What it can bring about")
		for _, c := range r.Subsumes {
			p.para("  • ", string(c))
		}
	}
	_, err := w.Write(p.b.Bytes())
	return err
}
