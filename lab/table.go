package lab

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Row writes one run as a line of the table, and under it what was said where
// that was not simply right.
func (r *Result) Row(w io.Writer) {
	name := r.Fault
	if r.Miss {
		name += " (near miss)"
	}
	if r.Bystander {
		name += " +bystanders"
	}
	fmt.Fprintf(w, "%-56s %5.1fs ", name, r.Took.Seconds())
	switch {
	case r.Invalid != "":
		fmt.Fprintf(w, "INVALID %s\n", strings.ReplaceAll(r.Invalid, "\n", "\n    "))
		return
	case r.Miss:
		fmt.Fprintf(w, "users did not wait")
	default:
		fmt.Fprintf(w, "users waited %s", r.View)
	}
	switch {
	case r.Diagnosis == "":
		fmt.Fprintln(w)
		return
	case !r.Diagnosed:
		fmt.Fprintf(w, " | FAILED: %s\n", r.DiagnoseErr)
		return
	case r.Miss && len(r.Extra) == 0:
		fmt.Fprintf(w, " | no report, right\n")
	case r.Miss:
		fmt.Fprintf(w, " | FALSE REPORT\n")
	case !r.Detected:
		fmt.Fprintf(w, " | NOT DETECTED\n")
	default:
		fmt.Fprintf(w, " | cause %s culprit %s edges %+.0f/%+.0f ms (%+.0f with the users' own queues), explained %.0f %%", rank(r), yes(r.Culprit), r.StartDiff, r.EndDiff, r.QueueDiff, r.Explained)
		if r.Reports > 1 {
			fmt.Fprintf(w, ", %d REPORTS", r.Reports)
		}
		if !r.Sum {
			fmt.Fprint(w, ", SUM IS NOT 100")
		}
		if r.Blamed {
			fmt.Fprint(w, ", BYSTANDER BLAMED")
		}
		fmt.Fprintln(w)
	}
	if !r.First || !r.Culprit {
		for _, s := range r.Got {
			fmt.Fprintf(w, "    said %s\n", s)
		}
	}
	for _, s := range r.Extra {
		fmt.Fprintf(w, "    EXTRA %s\n", s)
	}
}

func rank(r *Result) string {
	switch {
	case r.First:
		return "first"
	case r.Top3:
		return "IN TOP 3"
	}
	return "WRONG"
}

func yes(b bool) string {
	if b {
		return "right"
	}
	return "WRONG"
}

// Tick is the product's sampling tick, the resolution of its edges.
const Tick = 50.0 // ms

// Totals are the shares that the targets are about.
type Totals struct {
	Runs, Invalid                                int
	Valid, Detected, First, Top3, Culprit, Edges int // of faults
	QueueEdges                                   int // of those, with the users' own queues
	Sharp                                        int // both edges within 10 ms
	Misses, Quiet                                int // near misses, those without a report
	Extra, SumWrong, LedgerWrong, Blamed, Failed int
	// Medians over the faults, in percent: what no cause explains of a stall, and
	// what the ledger has no class for.
	Unexplained, Unseen float64
}

// Exact is the resolution of edges where BPF tells them.
const Exact = 10.0 // ms

// Total adds up results.
func Total(results []Result) (t Totals) {
	var unexplained, unseen []float64
	defer func() { t.Unexplained, t.Unseen = median(unexplained), median(unseen) }()
	for i := range results {
		r := &results[i]
		t.Runs++
		if r.Invalid != "" {
			t.Invalid++
			continue
		}
		if r.Diagnosis != "" && !r.Diagnosed {
			t.Failed++
		}
		if r.Diagnosed && !r.Sum {
			t.SumWrong++
		}
		if r.Blamed {
			t.Blamed++
		}
		if r.Miss {
			t.Misses++
			if r.Diagnosed && len(r.Extra) == 0 {
				t.Quiet++
			}
			continue
		}
		t.Valid++
		t.Extra += len(r.Extra)
		if r.Detected {
			unexplained, unseen = append(unexplained, r.Unexplained), append(unseen, r.Unseen)
		}
		for _, c := range []struct {
			is bool
			n  *int
		}{
			{r.Detected, &t.Detected}, {r.First, &t.First}, {r.Top3, &t.Top3}, {r.Culprit, &t.Culprit},
			{r.Detected && math.Abs(r.StartDiff) <= Tick && math.Abs(r.EndDiff) <= Tick, &t.Edges},
			{r.Detected && math.Abs(r.StartDiff) <= Tick && math.Abs(r.QueueDiff) <= Tick, &t.QueueEdges},
			{r.Detected && math.Abs(r.StartDiff) <= Exact && math.Abs(r.EndDiff) <= Exact, &t.Sharp},
			{r.Detected && !r.Ledger, &t.LedgerWrong},
		} {
			if c.is {
				*c.n++
			}
		}
	}
	return t
}

// Write prints the totals against the targets and tells whether all are met.
func (t Totals) Write(w io.Writer) (met bool) {
	met = true
	line := func(what string, n, of int, target float64) {
		pct := 100.0
		if of > 0 {
			pct = 100 * float64(n) / float64(of)
		}
		mark := "ok"
		if pct < target {
			mark, met = "MISSED", false
		}
		fmt.Fprintf(w, "  %-34s %3d of %3d  %5.1f %%  target %3.0f %%  %s\n", what, n, of, pct, target, mark)
	}
	none := func(what string, n int) {
		mark := "ok"
		if n > 0 {
			mark, met = "MISSED", false
		}
		fmt.Fprintf(w, "  %-34s %3d          target   0    %s\n", what, n, mark)
	}
	fmt.Fprintf(w, "%d runs, %d of them invalid (counted nowhere below)\n", t.Runs, t.Invalid)
	line("detected", t.Detected, t.Valid, 100)
	line("right cause first", t.First, t.Valid, 90)
	line("right cause in the first three", t.Top3, t.Valid, 98)
	line("right culprit", t.Culprit, t.Valid, 90)
	line("both edges within a tick (50 ms)", t.Edges, t.Valid, 90)
	fmt.Fprintf(w, "  %-34s %3d of %3d           no target: nothing on the wire shows them\n", "  with what queued in the clients", t.QueueEdges, t.Valid)
	fmt.Fprintf(w, "  %-34s %3d of %3d  %5.1f %%  the aim with BPF\n", "  within 10 ms", t.Sharp, t.Valid, 100*float64(t.Sharp)/float64(max(t.Valid, 1)))
	fmt.Fprintf(w, "  %-34s %5.1f %% of a stall by no cause, %.1f %% of its victims' time in no class\n", "unexplained, in the middle", t.Unexplained, t.Unseen)
	line("near misses without a report", t.Quiet, t.Misses, 100)
	none("reports of what nobody felt", t.Extra)
	none("shares that do not add up to 100", t.SumWrong)
	none("ledgers that do not add up (2 %)", t.LedgerWrong)
	none("innocent bystanders blamed", t.Blamed)
	none("failed diagnoses", t.Failed)
	return met
}

// median of some figures; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
