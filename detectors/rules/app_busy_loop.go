package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// loopShare of the time on a CPU, at least, is a thread that computes
	// without a pause; loopShort of it, when it was only ever kept from it by
	// others who wanted the CPU as well, but for loopElse of the time.
	loopShare = 0.8
	loopShort = 0.65
	loopElse  = 0.1
	// loopUser of its process's CPU time in user space, or it is the kernel
	// that is busy for it.
	loopUser = 0.7
	// loopMixed is from when on it may be its own doing all the same: it makes one
	// system call after the other.
	loopMixed = 0.2
)

func appBusyLoop() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.busy_loop",
		Title: "a thread that computes and does not come back",
		Means: "The one thread that should have answered was computing all the time: a slow regular expression, a huge reply, an endless loop. It wanted nothing from the machine but a CPU, and had one nearly all the time.",
		Proof: "The victim's only working thread was on a CPU for at least four fifths of the time, in user space (about two thirds, when it waited for nothing but a CPU). Where it was in the kernel for much of that, it is named only if no cause there fits.",
		Remedy: []string{
			"Now: see where it is: `py-spy dump -p PID`, `jstack PID`, `perf top -p PID`, `gdb -p PID -batch -ex bt`.",
			"So that it does not come back: a time limit on the request; heavy work in a pool of its own; regular expressions that do not backtrack (RE2).",
		},
		Reads:    []string{sourceLedger, "procs.utime_us", "procs.stime_us", "procs.comm"},
		Subsumes: []freezeframe.Cause{"dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeBusyLoop,
	}
}

// A spin is a thread that was on a CPU nearly all of an account's time.
type spin struct {
	who     freezeframe.Party
	spans   freezeframe.Spans
	ms      moments
	symptom int
}

func judgeBusyLoop(w freezeframe.Window) []freezeframe.Finding {
	ledger := w.Ledger()
	stall := w.Stall()
	var spins []spin
	computing := map[[2]int]int{} // threads of a process that compute, by symptom and pid
	add := func(a *freezeframe.Account, who freezeframe.Party, waits []freezeframe.Wait, within freezeframe.Span, depth int) {
		on := split(momentsOf(a, who, waits, depth), func(m *moment) freezeframe.Class { return m.wait.Class })
		var busy, ready, all float64
		var ms moments
		for _, b := range on {
			d := float64(b.spans().Within(within).Length())
			all += d
			switch b.key {
			case freezeframe.OnCPU:
				busy, ms = d, b.moments
			case freezeframe.Runnable:
				ready = d
			}
		}
		if all > 0 && (busy >= loopShare*all || busy >= loopShort*all && busy+ready >= (1-loopElse)*all) {
			computing[[2]int{a.Symptom, who.PID}]++
			spins = append(spins, spin{who, ms.spans(), ms, a.Symptom})
		}
	}
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 || ours(&stall, a) {
			continue
		}
		add(a, victim(a), a.Waits, a.Span, 0)
		if n := len(a.Chain); n > 0 && len(a.Chain[n-1].Waits) > 0 {
			// Who the others wait for computes.
			last := &a.Chain[n-1]
			add(a, last.Party, last.Waits, a.Span, n)
		}
	}
	var out []freezeframe.Finding
	done := map[int]bool{}
	for _, sp := range spins {
		if done[sp.who.PID] || computing[[2]int{sp.symptom, sp.who.PID}] != 1 {
			continue // several at work at once are a load, not a loop
		}
		done[sp.who.PID] = true
		claim := worth(w, sp.spans)
		if claim == nil {
			continue
		}
		ps := processesIn(w, around(core(claim)))
		p := ps.byPID[sp.who.PID]
		f := freezeframe.Finding{Culprit: ps.blame(sp.who), Explains: claim, Confidence: seen, Chain: story(sp.ms)}
		name := named(f.Culprit.Comm, sp.who.PID)
		if p != nil && p.cpu.sum > 0 {
			user := p.user()
			f.Confidence = 0.9
			f.Evidence = append(f.Evidence, evidence("procs", "utime_us", "%s of its CPU time was in user space", pct(user)))
			if user < loopMixed {
				continue
			}
			if user < loopUser {
				f.Confidence = suspected // it may be the kernel that is busy for it
			}
		}
		f.Evidence = append(f.Evidence, evidence("tasks", "run_ns", "thread %d of %s was on a CPU for %s without waiting for anything", sp.who.TID, name, length(claim.Length())))
		f.Summary = fmt.Sprintf("%s computed for %s and answered nobody.", name, length(claim.Length()))
		out = append(out, f)
	}
	if len(out) > 0 {
		return out
	}
	return busyServices(w)
}

// wholeCPU is how much of a CPU a service must have used for it to be busy.
const wholeCPU = 0.8

// busyServices claims what no other rule explains: services that used a CPU or
// more, not only inside the kernel, while their requests waited, by several
// threads at a time (or by turns, where one lock lets one of them compute).
func busyServices(w freezeframe.Window) []freezeframe.Finding {
	stall, ledger := w.Stall(), w.Ledger()
	ps := processesIn(w, stall.Span)
	var out []freezeframe.Finding
	done := map[int]bool{}
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 || ours(&stall, a) || done[a.Victim.PID] {
			continue
		}
		done[a.Victim.PID] = true
		p := ps.byPID[a.Victim.PID]
		if p == nil || p.cpu.rate() < wholeCPU*1e6 || p.user() < loopMixed {
			continue
		}
		claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool { return suffers(sy, p.pid) }))
		if claim == nil {
			continue
		}
		out = append(out, freezeframe.Finding{
			Culprit: ps.blame(freezeframe.Party{PID: p.pid, Comm: p.comm}), Explains: claim, Confidence: suspected,
			Summary:  fmt.Sprintf("%s computed on %.1f CPUs itself while its requests waited, for %s.", p, p.cpu.rate()/1e6, length(claim.Length())),
			Evidence: []freezeframe.Evidence{evidence("procs", "utime_us", "it used %s of a CPU, %s of that in user space", pct(p.cpu.rate()/1e6), pct(p.user()))},
		})
	}
	return out
}

// momentsOf makes moments of the waits of one step of a chain.
func momentsOf(a *freezeframe.Account, who freezeframe.Party, waits []freezeframe.Wait, depth int) moments {
	var out moments
	for i := range waits {
		if waits[i].Length() > 0 {
			out = append(out, moment{Span: waits[i].Span, account: a, own: &waits[i], wait: &waits[i], who: who, depth: depth})
		}
	}
	return out
}
