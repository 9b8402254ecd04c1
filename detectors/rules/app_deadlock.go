package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"freezeframe"
)

func appDeadlock() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.deadlock",
		Title: "threads or processes that wait for each other",
		Means: "Each of them held a lock that the next one wanted, in a circle. None of them will ever go on by itself.",
		Proof: "The circle of holders and waiters in /proc/locks, or of threads asleep in futex, each on a POSIX mutex whose owner, as the mutex itself says, is the next one; all of them slept from before the first mutex was looked at until after the last. Mutexes of other libraries and languages do not say who owns them, so a deadlock on those is not called one.",
		Remedy: []string{
			"Now: end one of the processes named here. Where it is threads of one process, `gdb -p PID -batch -ex 'thread apply all bt'` first: it shows where each of them took its lock.",
			"So that it does not come back: take the locks in the same order everywhere, or with a timeout (`flock -w`, pthread_mutex_timedlock).",
		},
		Reads: []string{
			sourceLedger, "locks.waiter_pid", "locks.holder_pid", "procs.comm",
			"futexes.pid", "futexes.address", "futexes.since_ns", "futexes.at_ns", "futexes.timeout", "futexes.kind", "futexes.owner_pid", "futexes.owner_tid",
		},
		Subsumes: []freezeframe.Cause{"app.lock_contention", "fs.file_lock", "kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return append(mutexCircles(w), fileLockCircle(w)...)
		},
	}
}

// fileLockCircle finds processes that wait for each other's file locks.
func fileLockCircle(w freezeframe.Window) []freezeframe.Finding {
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
}

// A mutexWait is a thread asleep at a mutex whose owner is known, as it was
// found at one moment.
type mutexWait struct {
	waiter, owner freezeframe.Party
	lock          string
	address       uint64
	since, at     freezeframe.Instant // since 0: not known
	timed         bool
}

func (x *mutexWait) String() string {
	return fmt.Sprintf("thread %d (%s) waits for the %s at %#x of thread %d (%s)", x.waiter.TID, x.waiter.Comm, x.lock, x.address, x.owner.TID, x.owner.Comm)
}

// maxCircles bounds the deadlocks of one window that are told.
const maxCircles = 4

// mutexCircles finds threads that wait for each other's mutexes. The rows of one
// reading are of threads that all slept at the same time.
func mutexCircles(w freezeframe.Window) []freezeframe.Finding {
	series := w.Between("futexes", around(w.Stall().Span))
	looks := map[freezeframe.Instant]map[int]mutexWait{}
	columns := []string{"pid", "comm", "address", "since_ns", "at_ns", "timeout", "kind", "owner_pid", "owner_tid", "owner_comm"}
	series.Each(columns, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[7] == 0 || v[8] == 0 {
			return
		}
		if looks[t] == nil {
			looks[t] = map[int]mutexWait{}
		}
		looks[t][key.TID()] = mutexWait{
			waiter: freezeframe.Party{PID: int(int32(v[0])), TID: key.TID(), Comm: w.Text(v[1])}, owner: freezeframe.Party{PID: int(int32(v[7])), TID: int(int32(v[8])), Comm: w.Text(v[9])},
			lock: orElse(w.Text(v[6]), "mutex"), address: v[2], since: freezeframe.Instant(v[3]), at: freezeframe.Instant(v[4]), timed: v[5] != 0,
		}
	})
	circles := map[string][]mutexWait{} // each as it was found last
	wants := map[int]int{}
	for _, t := range slices.Sorted(maps.Keys(looks)) {
		graph := map[int][]int{}
		for tid, x := range looks[t] {
			graph[tid] = []int{x.owner.TID}
		}
		for _, tid := range slices.Sorted(maps.Keys(graph)) {
			path := circleFrom(graph, tid)
			if path == nil {
				continue
			}
			list := make([]mutexWait, len(path))
			for i, tid := range path {
				list[i] = looks[t][tid]
			}
			circles[fmt.Sprint(path)] = list
		}
		for tid, x := range looks[t] {
			wants[tid] = x.owner.TID
		}
	}
	var out []freezeframe.Finding
	for _, list := range sorted(circles) {
		if f, ok := mutexCircle(w, list, wants); ok && len(out) < maxCircles {
			out = append(out, f)
		}
	}
	return out
}

// mutexCircle claims the time of whoever waits in a circle, or for one in it.
func mutexCircle(w freezeframe.Window, list []mutexWait, wants map[int]int) (f freezeframe.Finding, ok bool) {
	member := func(tid int) bool {
		return slices.ContainsFunc(list, func(x mutexWait) bool { return x.waiter.TID == tid })
	}
	inCircle := func(m *moment) bool {
		if m.wait.Class != freezeframe.UserLock || m.wait.Lock == "" {
			return false
		}
		tid := m.who.TID
		for range maxHands {
			if member(tid) {
				return true
			}
			tid = wants[tid]
		}
		return false
	}
	ms := append(roots(w, inCircle), passed(w, inCircle)...)
	claim := worth(w, ms.spans())
	if claim == nil {
		return f, false
	}
	ps := processesIn(w, around(core(claim)))
	first := list[0].waiter
	comm := orElse(ps.name(first.PID), first.Comm)
	f = freezeframe.Finding{Culprit: ps.blame(freezeframe.Party{PID: first.PID, Comm: comm}), Explains: claim, Confidence: proven}
	var pids []int
	var threads []string
	timed := false
	for i := range list {
		x := &list[i]
		if !slices.Contains(pids, x.waiter.PID) {
			pids = append(pids, x.waiter.PID)
		}
		timed = timed || x.timed
		threads = append(threads, fmt.Sprintf("%d (%s)", x.waiter.TID, x.waiter.Comm))
		f.Chain = append(f.Chain, fmt.Sprintf("%s, thread %d (%s), waits for the %s at %#x", named(ps.name(x.waiter.PID), x.waiter.PID), x.waiter.TID, x.waiter.Comm, x.lock, x.address))
		text := x.String()
		if x.since != 0 {
			text += fmt.Sprintf(", for %s when it was last seen", length(x.at.Sub(x.since)))
		}
		if x.timed {
			text += ", with a timeout"
		}
		for j := range ms {
			if m := &ms[j]; m.who.TID == x.waiter.TID && m.wait.Stack != "" {
				text += ", asleep in " + m.wait.Stack
				break
			}
		}
		f.Evidence = append(f.Evidence, evidence("futexes", "owner_tid", "%s", text))
	}
	f.Chain = append(f.Chain, fmt.Sprintf("which thread %d (%s) owns", first.TID, first.Comm))
	if len(pids) > 1 {
		f.Culprit.Count = len(pids)
	}
	if len(list) == 1 {
		f.Summary = fmt.Sprintf("Thread %s of %s waits for the %s at %#x, which it owns itself", threads[0], named(comm, first.PID), list[0].lock, list[0].address)
	} else {
		var locks []string
		for i := range list {
			locks = append(locks, fmt.Sprintf("%#x", list[i].address))
		}
		f.Summary = fmt.Sprintf("Threads %s of %s wait for each other's mutexes (%s)", strings.Join(threads, " and "), named(comm, first.PID), strings.Join(locks, ", "))
	}
	if timed {
		f.Summary += "; one of them gives up after a time of its own."
	} else {
		f.Summary += "; none of them will go on by itself."
	}
	return f, true
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
