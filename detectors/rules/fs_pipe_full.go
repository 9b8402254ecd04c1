package rules

import (
	"fmt"
	"slices"

	"freezeframe"
)

func fsPipeFull() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.pipe_full",
		Title: "a pipe that nobody empties",
		Means: "The work writes to a pipe (its log, its standard output), and who should read it did not. A pipe holds 64 KiB; from then on every write waits.",
		Proof: "The writers slept in pipe_write. The reader is the process that has the other end open.",
		Remedy: []string{
			"Now: wake or restart the reader (`kill -CONT PID`); find it with `lsof -n | grep pipe:[N]` or `ls -l /proc/*/fd | grep N`.",
			"So that it does not come back: log to the journal or a file and not through a pipe; set the container log driver's mode to non-blocking (`--log-opt mode=non-blocking`).",
		},
		Reads:    []string{sourceLedger, "procs.comm"},
		Subsumes: []freezeframe.Cause{"kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgePipeFull,
	}
}

var writeCalls = []string{"write", "writev", "pwrite64", "pwritev", "splice", "tee", "vmsplice", "sendfile"}

func onFullPipe(m *moment) bool {
	return m.wait.Class == freezeframe.PipeWait && !in(m.wait, "pipe_read", "anon_pipe_read", "fifo_open", "wait_for_partner") &&
		(in(m.wait, "pipe_write", "anon_pipe_write") || slices.Contains(writeCalls, m.wait.Syscall))
}

func judgePipeFull(w freezeframe.Window) []freezeframe.Finding {
	var out []freezeframe.Finding
	for _, b := range split(roots(w, onFullPipe), func(m *moment) int {
		if m.wait.Holder != nil {
			return m.wait.Holder.PID
		}
		return 0
	}) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		long := b.longest()
		f := freezeframe.Finding{Explains: claim, Confidence: counted, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
		reader := "its reader"
		if b.key > 0 {
			ps := processesIn(w, around(core(claim)))
			f.Culprit, f.Confidence = ps.blame(*long.wait.Holder), proven
			reader = named(f.Culprit.Comm, b.key)
		}
		f.Evidence = append(f.Evidence, evidence("tasks", "wchan", "%s slept in %s, writing to %s", who(long.who), orElse(long.wait.Wchan, "pipe_write"), orElse(long.wait.File, "a pipe")))
		f.Evidence = append(f.Evidence, meanwhile(long)...)
		f.Summary = fmt.Sprintf("A pipe was full because %s did not read; the work waited for it for %s.", reader, length(claim.Length()))
		out = append(out, f)
	}
	return append(out, mention(w, onFullPipe, func(m *moment) freezeframe.Culprit {
		if h := m.wait.Holder; h != nil {
			return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: h.PID, Comm: h.Comm}
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for a full pipe")...)
}
