package rules

import (
	"fmt"

	"freezeframe"
)

func fsFileLock() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.file_lock",
		Title: "a lock on a file",
		Means: "Another process held a lock on a file (flock or fcntl) that the work needed, and did not give it back.",
		Proof: "The victims slept in flock or fcntl, and /proc/locks names who holds the lock they wait for. What the holder itself waited for decides where that is known.",
		Remedy: []string{
			"Now: `lslocks` shows holder and file; see what the holder does (`cat /proc/PID/stack`), end it if it is stuck.",
			"So that it does not come back: `flock -n` or `-w SECONDS` in scripts; no network or disk work while a lock is held; one lock file per job.",
		},
		Reads:    []string{sourceLedger, "locks.holder_pid", "locks.waiter_pid", "locks.kind", "locks.path", "procs.comm"},
		Subsumes: []freezeframe.Cause{"kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeFileLock,
	}
}

func judgeFileLock(w freezeframe.Window) []freezeframe.Finding {
	locked := inClass(freezeframe.FileLock)
	var out []freezeframe.Finding
	for _, b := range split(roots(w, locked), func(m *moment) int { return lockHolder(w, m).PID }) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		long := b.longest()
		ps := processesIn(w, around(core(claim)))
		f := freezeframe.Finding{Explains: claim, Confidence: counted, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
		file := orElse(long.wait.File, "a file")
		by := "a process that is not known"
		if b.key > 0 {
			f.Culprit = ps.blame(lockHolder(w, long))
			f.Confidence = proven
			by = named(f.Culprit.Comm, b.key)
			f.Evidence = append(f.Evidence, evidence("locks", "holder_pid", "%s held the lock on %s that %s waited for", by, file, who(long.who)))
			f.Evidence = append(f.Evidence, meanwhile(long)...)
		}
		f.Summary = fmt.Sprintf("A lock on %s was held by %s; the work waited for it for %s.", file, by, length(claim.Length()))
		out = append(out, f)
	}
	return append(out, mention(w, locked, func(m *moment) freezeframe.Culprit {
		if h := lockHolder(w, m); h.PID > 0 {
			return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: h.PID, Comm: h.Comm}
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for a file lock")...)
}

// lockHolder is who holds the lock that a moment waits for: as the ledger
// says, else by /proc/locks.
func lockHolder(w freezeframe.Window, m *moment) freezeframe.Party {
	if h := m.wait.Holder; h != nil {
		return *h
	}
	var holder freezeframe.Party
	series := w.Between("locks", m.Span)
	series.Each([]string{"waiter_pid", "holder_pid"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		// Locks of open files (OFD) have no process: -1.
		if pid := int(int32(v[1])); pid > 0 && (int(v[0]) == m.who.PID || int(v[0]) == m.who.TID) && v[0] != 0 {
			holder.PID = pid
		}
	})
	return holder
}

// meanwhile says what the last link of the chain did, where it gave no reason
// of its own.
func meanwhile(m *moment) []freezeframe.Evidence {
	links := m.links()
	if m.depth >= len(links) {
		return nil
	}
	link := &links[m.depth]
	var most *freezeframe.Wait
	for i := range link.Waits {
		if x := &link.Waits[i]; most == nil || x.Length() > most.Length() {
			most = x
		}
	}
	if most == nil {
		return nil
	}
	return []freezeframe.Evidence{evidence("tasks", "state", "%s meanwhile %s", who(link.Party), doing(most))}
}
