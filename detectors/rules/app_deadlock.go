package rules

import (
	"fmt"
	"slices"
	"strings"

	"freezeframe"
)

func appDeadlock() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.deadlock",
		Title: "processes that wait for each other",
		Means: "Each of them held a lock that the next one wanted, in a circle. None of them will ever go on by itself.",
		Proof: "The circle of holders and waiters in /proc/locks, or of the parties that the victims wait for. Locks inside one program (futexes) show no holder from outside, so a deadlock among its threads is not called one.",
		Remedy: []string{
			"Now: end one of the processes named here.",
			"So that it does not come back: take the locks in the same order everywhere, or with a timeout (`flock -w`).",
		},
		Reads:    []string{sourceLedger, "locks.waiter_pid", "locks.holder_pid", "procs.comm"},
		Subsumes: []freezeframe.Cause{"fs.file_lock", "kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			locked := inClass(freezeframe.FileLock)
			ms := append(roots(w, locked), passed(w, locked)...)
			if worth(w, ms.spans()) == nil {
				return nil
			}
			// Who waits for whom, at the same time.
			series := w.Between("locks", ms.hull())
			wants := map[int][]int{}
			at := map[freezeframe.Instant]map[int][]int{}
			series.Each([]string{"waiter_pid", "holder_pid"}, func(t freezeframe.Instant, _ freezeframe.Key, v []uint64) {
				waiter, holder := int(int32(v[0])), int(int32(v[1]))
				if waiter > 0 && holder > 0 && waiter != holder {
					if at[t] == nil {
						at[t] = map[int][]int{}
					}
					at[t][waiter] = append(at[t][waiter], holder)
				}
			})
			var circle []int
			for _, graph := range at {
				for pid := range graph {
					if c := circleFrom(graph, pid); c != nil && (circle == nil || slices.Compare(c, circle) < 0) {
						circle, wants = c, graph
					}
				}
			}
			if circle == nil || len(wants) == 0 {
				return nil
			}
			claim := worth(w, ms.where(func(m *moment) bool {
				return slices.Contains(circle, m.who.PID) || m.wait.Holder != nil && slices.Contains(circle, m.wait.Holder.PID)
			}).spans())
			if claim == nil {
				return nil
			}
			ps := processesIn(w, around(ms.hull()))
			var names []string
			for _, pid := range circle {
				names = append(names, named(ps.name(pid), pid))
			}
			f := freezeframe.Finding{
				Culprit: ps.blame(freezeframe.Party{PID: circle[0]}), Explains: claim, Confidence: proven, Chain: append(names, names[0]),
				Summary:  fmt.Sprintf("%s wait for each other's file locks.", strings.Join(names, " and ")),
				Evidence: []freezeframe.Evidence{evidence("locks", "holder_pid", "in a circle: %s → %s", strings.Join(names, " → "), names[0])},
			}
			f.Culprit.Count = len(circle)
			return []freezeframe.Finding{f}
		},
	}
}

// circleFrom follows who waits for whom from a pid back to itself; the
// smallest pid comes first.
func circleFrom(graph map[int][]int, from int) []int {
	path := []int{from}
	seen := map[int]bool{from: true}
	for at := from; len(path) < 16; {
		next := 0
		for _, holder := range graph[at] {
			if holder == from {
				least := slices.Index(path, slices.Min(path))
				return append(slices.Clone(path[least:]), path[:least]...)
			}
			if !seen[holder] && next == 0 {
				next = holder
			}
		}
		if next == 0 {
			return nil
		}
		seen[next] = true
		path = append(path, next)
		at = next
	}
	return nil
}
