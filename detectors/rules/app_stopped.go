package rules

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func appStopped() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.stopped",
		Title: "a process that was stopped",
		Means: "The process was stopped by a signal (SIGSTOP, or Ctrl-Z at its terminal) or by a debugger, and did nothing until it was let go on.",
		Proof: "Its threads were in state T, or t with a tracer. The sender of the signal is seen by BPF only; a tracer is named in any case.",
		Remedy: []string{
			"Now: `kill -CONT PID`; for a debugger: detach it (`quit` in gdb, end strace).",
			"So that it does not come back: look for scripts that pause services (backup hooks, `docker pause`, gcore, strace -p); `auditctl -a always,exit -S kill -F a1=19` records who does.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, freezeframe.EventStopped, "procs.tracer_pid", "procs.comm", "signals.signal", "signals.from_pid"},
		Subsumes: bringsAbout("fs.fuse_unresponsive", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			out := ownStops(w)
			for _, b := range split(roots(w, inClass(freezeframe.Stopped)), func(m *moment) int { return m.who.PID }) {
				claim := worth(w, b.spans())
				if claim == nil {
					continue
				}
				ps := processesIn(w, around(b.hull()))
				f := freezeframe.Finding{Culprit: ps.blame(b.moments[0].who), Explains: claim, Confidence: proven, Chain: story(b.moments)}
				name := named(f.Culprit.Comm, b.key)
				f.Summary = fmt.Sprintf("%s was stopped for %s.", name, length(claim.Length()))
				f.Evidence = []freezeframe.Evidence{evidence("tasks", "state", "%s was in state T", name)}
				if p := ps.byPID[b.key]; p != nil && p.tracer != 0 {
					f.Culprit = ps.blame(freezeframe.Party{PID: p.tracer})
					f.Summary = fmt.Sprintf("%s was held by %s, which traces it, for %s.", name, named(f.Culprit.Comm, p.tracer), length(claim.Length()))
					f.Evidence = append(f.Evidence, evidence("procs", "tracer_pid", "%s is traced by %s", name, named(f.Culprit.Comm, p.tracer)))
				} else {
					blameStopper(w, &f, name, b.key, b.hull().Start)
					f.Remedy = []string{fmt.Sprintf("`kill -CONT %d`", b.key)}
				}
				out = append(out, f)
			}
			return out
		},
	}
}

// ownStops are the times in which freezeframe itself was stopped: they explain
// what only its own work was late for.
func ownStops(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	var out []freezeframe.Finding
	for _, e := range w.Events(freezeframe.EventStopped, freezeframe.Whole) {
		own := symptoms(w, func(sy *freezeframe.Symptom) bool { return sy.Own })
		others := symptoms(w, func(sy *freezeframe.Symptom) bool { return !sy.Own })
		// What waited because of the stop goes on for a moment after it.
		claim := worth(w, own.Minus(others).Within(freezeframe.Span{Start: e.At.Add(-stateSlack), End: e.End.Add(catchUp)}))
		if claim == nil {
			continue
		}
		ps := processesIn(w, around(freezeframe.Span{Start: e.At, End: e.End}))
		name := named(orElse(ps.name(e.PID), "freezeframe"), e.PID)
		f := freezeframe.Finding{Culprit: ps.blame(freezeframe.Party{PID: e.PID, Comm: "freezeframe"}), Explains: claim, Confidence: proven}
		f.Summary = fmt.Sprintf("freezeframe itself, %s, was stopped for %s; nothing else was seen to be late.", name, length(e.End.Sub(e.At)))
		f.Evidence = []freezeframe.Evidence{evidence(freezeframe.EventStopped, "", "it got SIGCONT, and all its threads had run nothing for %s", length(e.End.Sub(e.At)))}
		if len(others) > 0 || len(stall.Symptoms) == 0 {
			f.Summary = fmt.Sprintf("freezeframe itself, %s, was stopped for %s.", name, length(e.End.Sub(e.At)))
		}
		blameStopper(w, &f, "freezeframe", e.PID, e.At)
		out = append(out, f)
	}
	return out
}

// catchUp is how long after a stop of our own our own work may still be late
// because of it: everything that was due runs at once.
const catchUp = 2 * time.Second

// blameStopper names who sent the signal that stopped a process.
func blameStopper(w freezeframe.Window, f *freezeframe.Finding, name string, pid int, since freezeframe.Instant) {
	d := stopper(w, pid, since)
	switch {
	case d == nil:
		f.Evidence = append(f.Evidence, evidence("", "", "who sent the signal was not seen (it needs BPF, and that the recording reaches back so far)"))
	case d.fromKernel:
		// A terminal's ^Z is sent by whoever works off its input.
		f.Evidence = append(f.Evidence, evidence("signals", "signal", "%s came from the kernel itself, as a terminal's does", kernel.Signal(d.signal)))
	case d.from.PID == pid:
		f.Summary = fmt.Sprintf("%s stopped itself.", name)
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "%s sent %s to itself", name, kernel.Signal(d.signal)))
	default:
		f.Culprit = processesIn(w, around(w.Stall().Span)).blame(d.from)
		f.Summary = fmt.Sprintf("%s stopped %s.", d.sender(), name)
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "%s sent %s to %s", d.sender(), kernel.Signal(d.signal), name))
	}
}
