package rules

import (
	"fmt"
	"slices"
	"time"

	"freezeframe"
)

// littleWritten is what a process must have written to be named for a
// journal's work: a service's own log lines are not it.
const littleWritten = 1 << 20

func fsJournalCommit() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.journal_commit",
		Title: "a filesystem's journal",
		Means: "The filesystem was writing its journal out, or the journal was full. Until it is done, every fsync and every change of a file's metadata on that filesystem waits, whoever caused it.",
		Proof: "The victims slept in the journal (jbd2_log_wait_commit, wait_transaction_locked, xlog_grant_head_wait …). The process named wrote most meanwhile. Told from io.device_saturated: the device is not full of reads or direct I/O, which no journal waits for.",
		Remedy: []string{
			"Now: stop the writer for a moment (`kill -STOP PID`, later `kill -CONT PID`).",
			"So that it does not come back: keep services that sync on a filesystem of their own; a larger journal (`tune2fs -J size=1024`), noatime, lazytime; let bulk writers sync as they go.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "procs.write_bytes", "tasks.file", "mounts.mountpoint", "mounts.dev", "diskstats.io_us", "diskstats.weighted_us", "tasks.stack", "procs.read_bytes", "journal_users.blocks", "journal_commits.began"},
		Subsumes: bringsAbout("io.device_saturated", "runtime.jvm_gc"),
		Judge:    judgeJournal,
	}
}

func judgeJournal(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool {
		return inClass(freezeframe.FilesystemWait, freezeframe.DeviceWait)(m) && in(m.wait, inJournal...) && !isFrozen(m)
	})
	if worth(w, ms.spans()) == nil {
		return nil
	}
	mounted := mounts(w, around(ms.hull()))
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if mt := mountOfMoment(w, mounted, m); mt != nil {
			return mt.point
		}
		return ""
	}) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		s := core(claim)
		all := disks(w, s)
		if d := deviceOf(w, all, mounted, b.longest()); d != nil && pastJournal(w, s, b.moments, d) {
			continue // the device is what the journal waits for
		}
		f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
		where := "a filesystem"
		if b.key != "" {
			where = b.key
			f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: b.key}
		}
		ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End.Add(time.Second)})
		if p, own := writerOf(ps, b.moments, writersAt(w, s, b.key)); p != nil {
			f.Culprit = p.culprit()
			f.Culprit.Mount = b.key
			f.Evidence = append(f.Evidence, evidence("procs", "write_bytes", "%s wrote %s", p, size(p.written.sum)))
			if !own {
				f.Confidence = 0.9
			}
		}
		if mt := mountOf(mounted, b.key); mt != nil {
			if pid, comm, share := changer(w, s, mt.dev, b.pids()); pid != 0 {
				f.Evidence = append(f.Evidence, evidence("journal_users", "blocks", "%s made %s of the changes of metadata", named(comm, pid), pct(share)))
				if f.Culprit.PID == 0 {
					f.Culprit, f.Confidence = ps.blame(freezeframe.Party{PID: pid, Comm: comm}), 0.9
					f.Culprit.Mount = b.key
				}
			}
			f.Evidence = append(f.Evidence, commits(w, claim, mt.dev)...)
		}
		long := b.longest()
		f.Evidence = append(f.Evidence, evidence("tasks", "stack", "waited in %s", quote(orElse(long.wait.Stack, long.wait.Wchan))))
		f.Summary = fmt.Sprintf("The journal of %s was being written out; the work waited for it for %s.", where, length(claim.Length()))
		out = append(out, f)
	}
	return out
}

// changer is who, the victims left out, made most of the changes of a
// filesystem's metadata, as BPF tells them; pid 0: nobody in particular.
func changer(w freezeframe.Window, s freezeframe.Span, dev uint64, victims []int) (pid int, comm string, share float64) {
	type state struct {
		g    growth
		pid  int
		comm string
	}
	all := map[freezeframe.Key]*state{}
	series := w.Between("journal_users", around(s))
	series.Each([]string{"dev", "pid", "comm", "blocks"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[0] != dev {
			return
		}
		x := all[key]
		if x == nil {
			x = &state{pid: int(v[1])}
			all[key] = x
		}
		setText(w, &x.comm, v[2])
		x.g.add(at, v[3])
	})
	var sum, most uint64
	for _, x := range all {
		sum += x.g.sum
		if x.g.sum > most && !slices.Contains(victims, x.pid) && !hasPrefix(x.comm, "kworker/", "jbd2/") {
			most, pid, comm = x.g.sum, x.pid, x.comm
		}
	}
	if share = ratio(float64(most), float64(sum)); share < 0.5 {
		return 0, "", 0
	}
	return pid, comm, share
}

// commits tells the longest commit that a claim lies in, by its phases.
func commits(w freezeframe.Window, claim freezeframe.Spans, dev uint64) []freezeframe.Evidence {
	var most time.Duration
	var out []freezeframe.Evidence
	hull := freezeframe.Span{Start: claim[0].Start, End: claim[len(claim)-1].End.Add(time.Second)}
	series := w.Between("journal_commits", hull)
	series.Each([]string{"dev", "began", "ended", "locking_ns", "flushing_ns", "logging_ns", "transaction", "logged_blocks"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		span := freezeframe.Span{Start: freezeframe.Instant(v[1]), End: freezeframe.Instant(v[2])}
		if v[0] != dev || claim.Within(span).Length() == 0 || span.Length() <= most {
			return
		}
		most = span.Length()
		out = []freezeframe.Evidence{evidence("journal_commits", "began", "commit %d took %s: %s until its handles had ended, %s for data that had to go first, %s for its own %d blocks",
			v[6], length(most), length(time.Duration(v[3])), length(time.Duration(v[4])), length(time.Duration(v[5])), v[7])}
	})
	return out
}

// writersAt returns the processes with threads at work on files of a mount, by
// how often.
func writersAt(w freezeframe.Window, s freezeframe.Span, point string) map[int]int {
	there := map[int]int{}
	if point == "" {
		return there
	}
	series := w.Between("tasks", s)
	mounted := mounts(w, around(s))
	series.Each([]string{"pid", "file"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if v[1] == 0 {
			return
		}
		if m := mountOf(mounted, w.Text(v[1])); m != nil && m.point == point {
			there[int(v[0])]++
		}
	})
	return there
}

// writerOf returns who wrote most, preferring those seen there; own tells that
// nobody but the victims wrote, or they far more than anybody else.
func writerOf(ps *processes, ms moments, there map[int]int) (p *process, own bool) {
	victims := map[int]bool{}
	for _, pid := range ms.pids() {
		victims[pid] = true
	}
	list := ps.ranked(func(p *process) uint64 {
		if p.kernel() || p.written.sum < littleWritten {
			return 0
		}
		return p.written.sum
	})
	least := uint64(0)
	for _, p := range list {
		if victims[p.pid] {
			least = p.written.sum / largerLoad
			break
		}
	}
	for _, only := range []bool{true, false} {
		for _, p := range list {
			if p.written.sum >= least && !victims[p.pid] && (!only || there[p.pid] > 0) {
				return p, false
			}
		}
	}
	if len(list) > 0 && victims[list[0].pid] {
		return list[0], true
	}
	return nil, false
}
