package rules

import (
	"fmt"
	"slices"
	"time"

	"freezeframe"
)

const (
	// fullShare and fullBytes: what counts as nothing left; root keeps a
	// reserve that others cannot use.
	fullShare = 0.02
	fullBytes = 8 << 20
)

func fsFull() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.full",
		Title: "a full filesystem",
		Means: "There was no room left on the filesystem, so writing to it failed.",
		Proof: "A write was refused with ENOSPC on a filesystem that has inodes left, and statfs shows next to no room.",
		Remedy: []string{
			"Now: `df -h MOUNTPOINT`; `du -xh MOUNTPOINT | sort -h | tail`; files that are deleted but still open: `lsof +L1`; `journalctl --vacuum-size=200M`.",
			"So that it does not come back: a filesystem of its own for logs and uploads; logrotate by size; an alarm at 85 %.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "tasks.file", "mounts.mountpoint", "mounts.avail_bytes", "mounts.size_bytes", "mounts.files_free", "procs.write_bytes"},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeRefused(w, []string{"ENOSPC"}, func(mt *mount) (string, bool) {
				if mt.files > 0 && mt.filesFree == 0 {
					return "", false
				}
				full := mt.avail <= fullBytes || float64(mt.avail) <= fullShare*float64(mt.size)
				return fmt.Sprintf("%s of %s available", size(mt.avail), size(mt.size)), full
			}, "was full")
		},
	}
}

// retry is how long after a refusal the same would be refused again, as far as
// anybody knows: our own probe tries once a second.
const retry = 1200 * time.Millisecond

// usesMount tells whether one of the processes was seen at a file of a mount.
func usesMount(w freezeframe.Window, mounted []mount, point string, pids []int) bool {
	series := w.Between("tasks", w.Stall().Span)
	found := false
	series.Each([]string{"pid", "file"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if !found && v[1] != 0 && slices.Contains(pids, int(v[0])) {
			m := mountOf(mounted, w.Text(v[1]))
			found = m != nil && m.point == point
		}
	})
	return found
}

// judgeRefused finds the mounts on which work was refused with one of errs and
// that are in the state that state tells.
func judgeRefused(w freezeframe.Window, errs []string, state func(*mount) (string, bool), was string) []freezeframe.Finding {
	stall := w.Stall()
	mounted := mounts(w, around(stall.Span))
	at := func(sy *freezeframe.Symptom) *mount {
		// The target is a mount point or a path; a service's own ENOSPC has none.
		if len(sy.Target) > 0 && sy.Target[0] == '/' {
			return mountOf(mounted, sy.Target)
		}
		return nil
	}
	var out []freezeframe.Finding
	done := map[string]bool{}
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if !refusal(sy, errs...) {
			continue
		}
		mt := at(sy)
		if mt == nil || done[mt.point] {
			continue
		}
		done[mt.point] = true
		figures, ok := state(mt)
		if !ok {
			continue
		}
		refused := symptoms(w, func(sy *freezeframe.Symptom) bool {
			other := at(sy)
			return refusal(sy, errs...) && other != nil && other.point == mt.point
		})
		claim, sure := refused, proven
		// Between two of our tries it was no better: services that try again
		// until there is room sleep meanwhile, or wait for nothing in particular.
		whole := freezeframe.Union(refused...)
		if n := len(whole); n > 0 {
			held := freezeframe.Span{Start: whole[0].Start.Add(-retry), End: whole[n-1].End.Add(retry)}
			ms := roots(w, func(m *moment) bool {
				return inClass(freezeframe.Sleeping, freezeframe.Idle, freezeframe.UserLock, freezeframe.Unseen)(m) && m.wait.Holder == nil
			})
			if waited := ms.spans().Within(held); waited.Length() > refused.Length() {
				claim, sure = freezeframe.Union(append(refused, waited...)...), counted
				if usesMount(w, mounted, mt.point, ms.pids()) {
					sure = seen
				}
			}
		}
		if claim = worth(w, claim); claim == nil {
			continue
		}
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: mt.point, Device: mt.source}, Explains: claim, Confidence: sure,
			Summary: fmt.Sprintf("%s %s; writing to it was refused with %s.", mt.point, was, sy.Err),
			Evidence: []freezeframe.Evidence{
				evidence(freezeframe.EventRefused, "", "%s on %s failed with %s", sy.Probe, sy.Target, sy.Err),
				evidence("mounts", "avail_bytes", "%s", figures),
			},
		}
		ps := processesIn(w, freezeframe.Span{Start: stall.Start.Add(-growTime), End: stall.End.Add(time.Second)})
		if p, _ := writerOf(ps, nil, writersAt(w, around(stall.Span), mt.point)); p != nil {
			f.Culprit.PID, f.Culprit.Comm = p.pid, p.comm
			f.Evidence = append(f.Evidence, evidence("procs", "write_bytes", "%s wrote %s meanwhile", p, size(p.written.sum)))
		}
		out = append(out, f)
	}
	return out
}
