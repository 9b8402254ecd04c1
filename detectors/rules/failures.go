package rules

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"freezeframe"
)

// A refused is a system call of one process that failed with one error over a
// span (the source failures).
type refused struct {
	pid, uid          int
	comm, call, errno string
	count             growth
	freezeframe.Span  // of the failures that were counted
}

// starting are the system calls that start a process or thread, or make one
// another program's.
var starting = []string{"clone", "clone3", "fork", "vfork", "execve", "execveat"}

// mapping are those that need another memory map, or divide one. brk is not
// among them: it says by no error that it failed.
var mapping = []string{"mmap", "munmap", "mremap", "mprotect"}

// refusedIn returns what failed with an error over a span, most often first; no
// calls are any.
func refusedIn(w freezeframe.Window, s freezeframe.Span, errno string, calls ...string) []refused {
	series := w.Between("failures", s)
	at := map[freezeframe.Key]int{}
	var all []refused
	columns := []string{"pid", "uid", "comm", "syscall", "errno", "failures", "first_ns", "last_ns"}
	series.Each(columns, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		call := w.Text(v[3])
		if w.Text(v[4]) != errno || len(calls) > 0 && !slices.Contains(calls, call) {
			return
		}
		first, last := freezeframe.Instant(v[6]), freezeframe.Instant(v[7])
		if last < s.Start || first >= s.End {
			return
		}
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, refused{pid: int(v[0]), uid: int(v[1]), comm: w.Text(v[2]), call: call, errno: errno, Span: freezeframe.Span{Start: first}})
			if first >= s.Start {
				all[i].count.add(first, 0) // all of it happened in the span
			}
		}
		all[i].count.add(t, v[5])
		all[i].End = max(all[i].End, last+1)
	})
	all = slices.DeleteFunc(all, func(r refused) bool { return r.count.sum == 0 })
	slices.SortStableFunc(all, func(a, b refused) int {
		return cmp.Or(cmp.Compare(b.count.sum, a.count.sum), cmp.Compare(a.pid, b.pid), cmp.Compare(a.call, b.call))
	})
	return all
}

// counting tells whether failures were counted over a span at all.
func counting(w freezeframe.Window, s freezeframe.Span) bool {
	series := w.Between("failures", s)
	return len(series.Tables) > 0
}

func (r *refused) String() string { return named(r.comm, r.pid) }

// toldRefused is of how many it is told who was refused.
const toldRefused = 3

// refusals is the evidence of who was refused what, and how often.
func refusals(list []refused) []freezeframe.Evidence {
	var out []freezeframe.Evidence
	for i := range list[:min(len(list), toldRefused)] {
		r := &list[i]
		times := fmt.Sprintf("%d times", r.count.sum)
		if r.count.sum == 1 {
			times = "once"
		}
		out = append(out, evidence("failures", "failures", "%s of %s failed %s with %s", r.call, r, times, r.errno))
	}
	if n := len(list) - toldRefused; n > 0 {
		out = append(out, evidence("failures", "failures", "so it did in %d other places", n))
	}
	return out
}

// tries is how long after a refusal the next try may come, and how long after
// the first one the counting may begin.
const tries = time.Second

// lateOf returns the lateness of the work of those who were refused, or whose
// children were: whole stretches of it that go together with the refusals.
func lateOf(w freezeframe.Window, ps *processes, list []refused) freezeframe.Spans {
	var all []freezeframe.Span
	for i := range list {
		r := &list[i]
		pids := []int{r.pid}
		if p := ps.byPID[r.pid]; p != nil && p.ppid > kernelThreads {
			pids = append(pids, p.ppid)
		}
		while := freezeframe.Span{Start: r.Start.Add(-tries), End: r.End.Add(tries)}
		for _, late := range symptoms(w, func(sy *freezeframe.Symptom) bool {
			return suffers(sy, pids...) && (sy.Err == "" || refusal(sy, r.errno))
		}) {
			if late.Start < while.End && late.End > while.Start {
				all = append(all, late)
			}
		}
	}
	return freezeframe.Union(all...)
}

// retrying returns when threads of a process slept or waited for nothing in
// particular, as those do that try again until they may.
func retrying(w freezeframe.Window, pid int) freezeframe.Spans {
	return roots(w, func(m *moment) bool {
		return m.account.Victim.PID == pid && m.wait.Holder == nil &&
			inClass(freezeframe.Sleeping, freezeframe.Idle, freezeframe.UserLock, freezeframe.Unseen)(m)
	}).spans()
}
