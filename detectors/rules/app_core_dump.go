package rules

import (
	"fmt"

	"freezeframe"
)

func appCoreDump() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.core_dump",
		Title: "a process that writes its core dump",
		Means: "The process crashed, and its memory is being written to disk. Until that is done it still holds its port, its locks and its place, and does nothing.",
		Proof: "/proc/PID/status says CoreDumping, or its threads sleep in coredump_wait or do_coredump.",
		Remedy: []string{
			"Now: wait, or end it with `kill -KILL PID` if the dump is not needed.",
			"So that it does not come back: fix the crash (`coredumpctl info`); bound the dump (ProcessSizeMax= in coredump.conf, LimitCORE=, /proc/PID/coredump_filter).",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "procs.coredumping", "procs.rss_bytes"},
		Subsumes: bringsAbout("runtime.jvm_gc", "io.device_saturated", "app.busy_loop", "app.restarted", "app.crash_loop"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			stall := w.Stall()
			ps := processesIn(w, around(stall.Span))
			ms := roots(w, func(m *moment) bool {
				p := ps.byPID[m.who.PID]
				return p != nil && p.dumping || in(m.wait, "do_coredump", "coredump_wait", "vfs_coredump", "elf_core_dump")
			})
			var out []freezeframe.Finding
			for _, b := range split(ms, func(m *moment) int { return m.who.PID }) {
				claim := worth(w, b.spans())
				if claim == nil {
					continue
				}
				f := freezeframe.Finding{
					Culprit: ps.blame(b.moments[0].who), Explains: claim, Confidence: seen, Chain: story(b.moments),
					Evidence: []freezeframe.Evidence{evidence("procs", "coredumping", "it was writing its core dump")},
				}
				if p := ps.byPID[b.key]; p != nil && p.dumping {
					f.Confidence = proven
					f.Evidence = append(f.Evidence, evidence("procs", "rss_bytes", "it has %s resident", size(p.rssMost)))
				}
				f.Summary = fmt.Sprintf("%s crashed and wrote its core dump for %s.", named(f.Culprit.Comm, b.key), length(claim.Length()))
				out = append(out, f)
			}
			return out
		},
	}
}
