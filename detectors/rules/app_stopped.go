package rules

import (
	"fmt"
	"syscall"

	"freezeframe"
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
		Reads:    []string{sourceLedger, "procs.tracer_pid", "procs.comm", "signals.signal", "signals.from_pid"},
		Subsumes: bringsAbout("fs.fuse_unresponsive", "runtime.jvm_gc"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			var out []freezeframe.Finding
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

// blameStopper names who sent the signal that stopped a process.
func blameStopper(w freezeframe.Window, f *freezeframe.Finding, name string, pid int, since freezeframe.Instant) {
	d := stopper(w, pid, since)
	switch {
	case d == nil:
		f.Evidence = append(f.Evidence, evidence("", "", "who sent the signal was not seen (it needs BPF, and that the recording reaches back so far)"))
	case d.fromKernel:
		// A terminal's ^Z is sent by whoever works off its input.
		f.Evidence = append(f.Evidence, evidence("signals", "signal", "%s came from the kernel itself, as a terminal's does", signalName(d.signal)))
	case d.from.PID == pid:
		f.Summary = fmt.Sprintf("%s stopped itself.", name)
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "%s sent %s to itself", name, signalName(d.signal)))
	default:
		f.Culprit = processesIn(w, around(w.Stall().Span)).blame(d.from)
		f.Summary = fmt.Sprintf("%s stopped %s.", d.sender(), name)
		f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "%s sent %s to %s", d.sender(), signalName(d.signal), name))
	}
}

func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGSTOP:
		return "SIGSTOP"
	case syscall.SIGTSTP:
		return "SIGTSTP"
	case syscall.SIGTTIN:
		return "SIGTTIN"
	case syscall.SIGTTOU:
		return "SIGTTOU"
	}
	return fmt.Sprintf("signal %d", int(s))
}
