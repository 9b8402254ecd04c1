package rules

import (
	"fmt"

	"freezeframe"
)

// nearLimit is the part of a machine-wide limit from which on it counts as
// reached: it is read once a second, and who is refused goes below it at once.
const nearLimit = 0.97

func limitSystemFDs() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.system_fds",
		Title: "a machine out of file handles",
		Means: "All processes together had as many files and sockets open as the machine allows (fs.file-max). Whoever opens one more gets ENFILE, in every program at once; only root may go on.",
		Proof: "The count of allocated handles (/proc/sys/fs/file-nr) stood at its limit while work failed with ENFILE; the kernel's line \"VFS: file-max limit … reached\". Told from limit.process_fds, where one process is at its own limit.",
		Remedy: []string{
			"Now: `sysctl -w fs.file-max=2000000`; the largest holder is named here.",
			"So that it does not come back: LimitNOFILE= for what leaks; look for descriptors that are never closed (`ls -l /proc/PID/fd`).",
		},
		Reads:    []string{sourceSymptoms, "limits.files_allocated", "limits.files_max", "procs.fds", "procs.comm", "procs.ppid", "failures.failures", "failures.errno", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeSystemLimit(w, systemLimit{
				used: "files_allocated", most: []string{"files_max"}, errno: "ENFILE", target: "file handles", line: "file-max limit",
				what: "file handles", holds: func(p *process) uint64 { return p.fds }, held: "descriptors", column: "fds",
			})
		},
	}
}

// A systemLimit is one that all processes of the machine share.
type systemLimit struct {
	used   string   // column of limits
	most   []string // columns of limits: the smallest counts
	errno  string
	calls  []string // that fail with it at this limit; nil: all
	target string   // of the limits probe's symptom
	line   string   // of the kernel's log
	what   string
	holds  func(*process) uint64 // how much of it a process has
	held   string
	column string // of procs
}

// judgeSystemLimit claims the refusals at a limit that was reached, and blames
// who holds most of what it limits.
func judgeSystemLimit(w freezeframe.Window, l systemLimit) []freezeframe.Finding {
	stall := w.Stall()
	series := w.Between("limits", around(stall.Span))
	used, limit := series.Max(0, l.used), uint64(0)
	for _, column := range l.most {
		if v := series.Max(0, column); v > 0 && (limit == 0 || v < limit) {
			limit = v
		}
	}
	line := logged(w, stall.Length(), l.line)
	full := limit > 0 && float64(used) >= nearLimit*float64(limit)
	if !full && (line == nil || l.line == "") {
		return nil
	}
	s := around(stall.Span)
	ps, list := processesIn(w, s), refusedIn(w, s, l.errno, l.calls...)
	claim := worth(w, freezeframe.Union(append(symptoms(w, func(sy *freezeframe.Symptom) bool {
		return refusal(sy, l.errno) && (sy.Probe != "limits" || sy.Target == l.target)
	}), lateOf(w, ps, list)...)...))
	if claim == nil {
		return nil
	}
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: 0.9,
		Summary:  fmt.Sprintf("%d of %d %s were in use; more were refused.", used, limit, l.what),
		Evidence: append([]freezeframe.Evidence{evidence("limits", l.used, "%d of %d in use", used, limit)}, refusals(list)...),
	}
	if line != nil && l.line != "" {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
	}
	if all := ps.ranked(l.holds); len(all) > 0 && float64(l.holds(all[0])) >= mainHolder*float64(used) {
		f.Culprit = all[0].culprit()
		f.Evidence = append(f.Evidence, evidence("procs", l.column, "%s has %d %s", all[0], l.holds(all[0]), l.held))
	}
	return []freezeframe.Finding{f}
}

// mainHolder is the part of a machine-wide limit from which on one process is
// to blame for it.
const mainHolder = 0.2
