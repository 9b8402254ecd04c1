package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

func appLockContention() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.lock_contention",
		Title: "threads that wait for a lock of their own program",
		Means: "One thread of the program held a lock (a mutex, a monitor, a latch) while it computed or slept, and the threads that serve requests stood at it.",
		Proof: "Threads that serve connections slept in a futex on a POSIX mutex which itself says who owns it, and that thread computed or slept meanwhile. Or, of other locks, until the same thread woke them, which had been on a CPU or asleep of its own will all the while: whoever wakes a waiter is who let go of the lock (that needs BPF). Threads that wait for work look alike, but never touch a connection. Least sure, where nothing else fits: threads that had requests (BPF) slept in a futex, whoever let them go.",
		Remedy: []string{
			"Now: see what the holder does: `gdb -p PID -batch -ex 'thread apply all bt'`, `py-spy dump --pid PID`, `jstack PID`.",
			"So that it does not come back: no work, no sleep and no call to others under a lock; copy what is needed and let go; a lock of its own for each part of the data.",
		},
		Reads:    []string{sourceLedger, "waits.file", "waits.pid", "tasks.file", "futexes.owner_tid", "procs.comm", "requests.kind", "requests.tid", "requests.began_at", "requests.done_at"},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeLockOfProgram,
	}
}

// holdsOn is which part of the wait the holder of a lock must have computed or
// slept of its own will. One that hands out work waits for work itself.
const holdsOn = 0.6

// A standing is a thread's wait for a lock of its program that one thread held.
type standing struct {
	moment
	holder freezeframe.Party
	ran    time.Duration // of the wait, in which the holder was on a CPU or wanted one
	slept  time.Duration // or slept of its own will
}

func judgeLockOfProgram(w freezeframe.Window) []freezeframe.Finding {
	ledger := w.Ledger()
	var all []standing
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		// A thread at a lock counts little beside its holder that computes, but
		// it is the one with the request.
		for j := range a.Waits {
			own := &a.Waits[j]
			if own.Class != freezeframe.UserLock || own.Holder == nil {
				continue
			}
			for _, m := range deepest(nil, a, own) {
				if s, ok := standsAt(m); ok {
					all = append(all, s)
				}
			}
		}
	}
	if len(all) == 0 {
		return atLockWithRequests(w)
	}
	serving, asked := servers(w), withRequests(w)
	// Where none of a victim's threads waits on connections, as in an event loop,
	// one at a lock with an owner has something to do.
	anyServes := map[int]bool{}
	for i := range ledger.Accounts {
		if v := &ledger.Accounts[i].Victim; serving[v.TID] {
			anyServes[v.PID] = true
		}
	}
	all = slices.DeleteFunc(all, func(s standing) bool {
		v := &s.account.Victim
		return !serving[v.TID] && !asked[v.TID] && (s.wait.Lock == "" || anyServes[v.PID] || s.account.Weight <= 0)
	})
	byHolder := map[int][]standing{}
	for _, s := range all {
		byHolder[s.holder.TID] = append(byHolder[s.holder.TID], s)
	}
	var out []freezeframe.Finding
	for tid, list := range byHolder {
		var ms moments
		var ran, slept time.Duration
		waiters := map[int]bool{}
		for _, s := range list {
			ms = append(ms, s.moment)
			ran += s.ran
			slept += s.slept
			waiters[s.account.Victim.TID] = true
		}
		claim := worth(w, ms.spans())
		if claim == nil || ms.longest().Length() < leastHeld {
			continue
		}
		holder := list[0].holder
		ps := processesIn(w, around(core(claim)))
		f := freezeframe.Finding{Culprit: ps.blame(holder), Explains: claim, Confidence: 0.85, Chain: story(ms)}
		if len(waiters) > 1 {
			f.Confidence = proven
		}
		if !slices.ContainsFunc(list, func(s standing) bool { return serving[s.account.Victim.TID] || s.wait.Lock != "" }) {
			// An event loop, for one: whoever woke it may have handed it what it waited
			// for.
			f.Confidence = suspected
		}
		did := "computed"
		if slept > ran {
			did = "slept"
		}
		f.Culprit.Comm = orElse(ps.name(holder.PID), holder.Comm)
		f.Summary = fmt.Sprintf("Thread %d (%s) of %s held a lock and %s; threads that serve requests waited for it for %s.", tid, holder.Comm, named(f.Culprit.Comm, holder.PID), did, length(claim.Length()))
		how := evidence("waits", "other_tid", "%d threads slept in a futex until thread %d woke them", len(waiters), tid)
		if lock := ms.longest().wait.Lock; lock != "" {
			f.Confidence = proven
			how = evidence("futexes", "owner_tid", "%d threads slept in a futex, on the %s, which thread %d owned", len(waiters), lock, tid)
		}
		f.Evidence = []freezeframe.Evidence{
			how,
			evidence("waits", "kind", "of that, it was on a CPU for %s and slept of its own will for %s", pct(ratio(ran.Seconds(), (ms.sum()).Seconds())), pct(ratio(slept.Seconds(), ms.sum().Seconds()))),
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b freezeframe.Finding) int {
		return cmp.Or(cmp.Compare(b.Explains.Length(), a.Explains.Length()), strings.Compare(a.Summary, b.Summary))
	})
	return append(out, atLockWithRequests(w)...)
}

// leastHeld is the longest single wait below which a lock merely changes hands
// often.
const leastHeld = 40 * time.Millisecond

// sum is the time of all moments, of those that overlap twice.
func (ms moments) sum() (d time.Duration) {
	for i := range ms {
		d += ms[i].Length()
	}
	return d
}

// standsAt tells whether a moment comes down to a lock whose holder held on to
// it by itself.
func standsAt(m moment) (standing, bool) {
	h := m.wait.Holder
	if m.wait.Class != freezeframe.UserLock || h == nil || h.TID == 0 || h.TID == m.who.TID {
		return standing{}, false
	}
	s := standing{moment: m, holder: *h}
	links := m.links()
	i := slices.IndexFunc(links, func(l freezeframe.Link) bool { return l.Party.TID == h.TID })
	if i < 0 {
		return standing{}, false
	}
	for j := range links[i].Waits {
		x := &links[i].Waits[j]
		part := x.And(m.Span).Length()
		switch x.Class {
		case freezeframe.OnCPU, freezeframe.Runnable, freezeframe.Throttled:
			s.ran += part
		case freezeframe.Sleeping:
			s.slept += part
		case freezeframe.Idle, freezeframe.UserLock, freezeframe.ChildWait, freezeframe.PipeWait:
			// Whoever owns a lock and waits for something that gives no reason
			// holds on to it as one that sleeps.
			if (m.wait.Lock != "" || x.TimedOut) && !telling(x) {
				s.slept += part
			}
		}
	}
	return s, float64(s.ran+s.slept) >= holdsOn*float64(m.Length())
}

// servers returns the threads that were seen to wait on a connection at some
// time: they have its requests.
func servers(w freezeframe.Window) map[int]bool {
	out := map[int]bool{}
	seen := func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[0] != 0 && !out[key.TID()] && strings.HasPrefix(w.Text(v[0]), "socket:[") {
			out[key.TID()] = true
		}
	}
	for _, source := range []string{"waits", "tasks"} {
		series := w.Between(source, w.Span())
		series.Each([]string{"file"}, seen)
	}
	return out
}
