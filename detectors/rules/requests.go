package rules

import (
	"fmt"

	"freezeframe"
	"freezeframe/bpf"
)

type threadsOfRequests struct{}

// withRequests returns the threads that had read a request in the stall and had
// not answered it for a while: such a thread has something to do, wherever it
// sleeps. Without BPF, and where a service's requests pass from thread to thread,
// there is none.
func withRequests(w freezeframe.Window) map[int]bool {
	return freezeframe.Once(w, threadsOfRequests{}, func() map[int]bool {
		s := w.Stall().Span
		out := map[int]bool{}
		series := w.Between("requests", around(s))
		series.Each([]string{"kind", "tid", "began_at", "done_at"}, func(at freezeframe.Instant, _ freezeframe.Key, v []uint64) {
			r := freezeframe.Span{Start: freezeframe.Instant(v[2]), End: freezeframe.Instant(v[3])}
			if r.End == 0 {
				r.End = at
			}
			if tid := int(int32(v[1])); v[0] == bpf.WaitAnswer && tid > 0 && r.Start != 0 && r.And(s).Length() >= leastHeld {
				out[tid] = true
			}
		})
		return out
	})
}

// heldBySelf claims the longer waits of the threads that had requests, of those
// for which keep is true: what kept them is inside their own program, and nothing
// says more. It is what is left to say when no rule knows better. The moment is the
// longest of them; ok is false when they are not worth telling.
func heldBySelf(w freezeframe.Window, keep func(*freezeframe.Wait) bool) (f freezeframe.Finding, longest *moment, ok bool) {
	threads := withRequests(w)
	stall, ledger := w.Stall(), w.Ledger()
	var ms moments
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if ours(&stall, a) || !threads[a.Victim.TID] {
			continue
		}
		for j := range a.Waits {
			if x := &a.Waits[j]; x.Length() >= leastHeld && keep(x) {
				ms = append(ms, moment{Span: x.Span, account: a, own: x, wait: x, who: victim(a)})
			}
		}
	}
	claim := worth(w, ms.spans())
	if claim == nil {
		return f, nil, false
	}
	ps := processesIn(w, around(core(claim)))
	longest = ms.longest()
	f = freezeframe.Finding{Culprit: ps.blame(longest.who), Explains: claim, Confidence: suspected, Chain: story(ms)}
	f.Culprit.Comm = orElse(ps.name(longest.who.PID), f.Culprit.Comm) // the program's, not the thread's
	return f, longest, true
}

// asleepWithRequests claims what no other rule explains: threads that had
// requests and slept until a timer of their own woke them.
func asleepWithRequests(w freezeframe.Window) []freezeframe.Finding {
	f, m, ok := heldBySelf(w, func(x *freezeframe.Wait) bool {
		return x.Class == freezeframe.Sleeping || x.Class == freezeframe.UserLock && x.TimedOut
	})
	if !ok {
		return nil
	}
	f.Summary = fmt.Sprintf("%s slept of its own will, with requests that it had read and not answered, for %s: no lock, disk or peer was seen to keep it.", named(f.Culprit.Comm, m.who.PID), length(f.Explains.Length()))
	f.Evidence = []freezeframe.Evidence{evidence("requests", "tid", "thread %d (%s) had a request, and slept in %s until its own timer for %s", m.who.TID, m.who.Comm, orElse(m.wait.Syscall, "the kernel"), length(m.Length()))}
	return []freezeframe.Finding{f}
}

// atLockWithRequests claims what no other rule explains: threads that had requests
// and stood at a lock of their program, whoever held that.
func atLockWithRequests(w freezeframe.Window) []freezeframe.Finding {
	f, m, ok := heldBySelf(w, func(x *freezeframe.Wait) bool { return x.Class == freezeframe.UserLock && !x.TimedOut })
	if !ok {
		return nil
	}
	if p := processesIn(w, w.Stall().Span).byPID[m.who.PID]; p != nil && p.cpu.rate() >= wholeCPU*1e6 {
		return nil // one of them computes meanwhile: see busyServices
	}
	f.Summary = fmt.Sprintf("Threads of %s that had requests stood at a lock of their own program for %s; what held it was not seen.", named(f.Culprit.Comm, m.who.PID), length(f.Explains.Length()))
	f.Evidence = []freezeframe.Evidence{evidence("requests", "tid", "thread %d (%s) had a request, and slept in a futex for %s", m.who.TID, m.who.Comm, length(m.Length()))}
	if h := m.wait.Holder; h != nil && h.TID != 0 {
		f.Evidence = append(f.Evidence, evidence("waits", "other_tid", "thread %d (%s) woke it", h.TID, h.Comm))
	}
	return []freezeframe.Finding{f}
}
