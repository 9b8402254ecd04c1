package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// rtLoad is the share of a CPU from which on a real-time thread starves the
// others there. The kernel leaves them 5 % (sched_rt_runtime_us).
const rtLoad = 0.4

func cpuRTStarvation() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.rt_starvation",
		Title: "a real-time thread that keeps the CPU",
		Means: "A thread with a real-time policy (FIFO, RR or deadline) ran without a pause. Ordinary threads on its CPU get no turn until it sleeps, or only the 5 % that the kernel keeps back for them.",
		Proof: "A thread with policy 1, 2 or 6 used most of a CPU while the victims were runnable there and did not run.",
		Remedy: []string{
			"Now: take its priority away, `chrt --other -p 0 TID` for the thread named here (`chrt -a --other -p 0 PID` for all of the process).",
			"So that it does not come back: look for what keeps the thread from sleeping; keep kernel.sched_rt_runtime_us at its 950000; limit who may ask for real time (LimitRTPRIO=0 in the unit, rtprio in limits.conf), and give such a thread a CPU of its own (CPUAffinity=).",
		},
		Reads:    []string{sourceLedger, "tasks.policy", "tasks.run_ns", "tasks.cpu", "procs.comm", "waits.kind", "waits.comm", "waits.other_prio", "waits.prio", "waits.cpu", "waits.began_ns", "waits.ended_ns"},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot", "cpu.fork_storm", "virt.paused", "runtime.jvm_gc", "io.device_hung", "io.device_slow", "fs.journal_commit"),
		Judge:    judgeRTStarvation,
	}
}

func judgeRTStarvation(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable, freezeframe.MachineGone))
	served := behindWorkers(w)
	claim := worth(w, append(ms, served...).spans())
	if claim == nil {
		return nil
	}
	// A thread that keeps everybody from running keeps us from reading it, too:
	// over a longer time it has two readings all the same.
	s := core(claim)
	all := withEarlier(threadsIn(w, s), threadsIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End.Add(sweepMargin)}), s)
	var hogs []*thread
	held := map[freezeframe.Key]bool{}
	for _, t := range all {
		if !t.realtime() || t.load() < rtLoad || hasPrefix(t.comm, "irq/", "migration/", "idle_inject/") {
			continue
		}
		hogs = append(hogs, t)
		for c, ns := range t.byCPU {
			if float64(ns) >= 0.2*float64(t.run.sum) {
				held[c] = true
			}
		}
	}
	if len(hogs) == 0 {
		return starvedBriefly(w, ms)
	}
	slices.SortStableFunc(hogs, func(a, b *thread) int { return cmp.Compare(b.load(), a.load()) })
	// A victim that waited on another CPU waited for something else.
	on := map[int]map[freezeframe.Key]bool{}
	for _, t := range all {
		on[t.tid] = map[freezeframe.Key]bool{}
		for c := range t.byCPU {
			on[t.tid][c] = true
		}
	}
	known := true
	ms = ms.where(func(m *moment) bool {
		cs := on[m.who.TID]
		if len(cs) == 0 {
			known = false
			return true
		}
		for c := range cs {
			if held[c] {
				return true
			}
		}
		return false
	})
	ms = append(ms, served...)
	if claim = worth(w, ms.spans()); claim == nil {
		return nil
	}
	hog := hogs[0]
	ps := processesIn(w, around(core(claim)))
	f := freezeframe.Finding{
		Culprit:    ps.blame(freezeframe.Party{PID: hog.pid, Comm: orElse(ps.name(hog.pid), hog.comm)}),
		Summary:    fmt.Sprintf("%s ran at real-time priority on %s of a CPU; ordinary threads there waited for %s.", named(hog.comm, hog.pid), pct(hog.load()), length(claim.Length())),
		Explains:   claim,
		Confidence: proven,
		Chain:      story(ms),
	}
	if !known {
		f.Confidence = seen
	}
	for _, t := range hogs[:min(3, len(hogs))] {
		f.Evidence = append(f.Evidence, evidence("tasks", "policy", "thread %d (%s) of pid %d: policy %s, %s of a CPU", t.tid, t.comm, t.pid, policyName(t.policy), pct(t.load())))
	}
	f.Remedy = []string{fmt.Sprintf("`chrt --other -p 0 %d`", hog.tid)}
	return []freezeframe.Finding{f}
}

// starvedBriefly judges by the kernel's own record of who ran without a break
// (BPF): in a stall that is over before threads were read twice.
func starvedBriefly(w freezeframe.Window, ms moments) []freezeframe.Finding {
	type run struct {
		freezeframe.Span
		cpu uint64
		pid int
	}
	var runs, queued []run // real-time threads on a CPU; victims in line for one
	names := map[int]string{}
	victims := map[int]bool{}
	for i := range ms {
		victims[ms[i].who.TID] = true
	}
	series := w.Between("waits", around(w.Stall().Span))
	series.Each([]string{"kind", "pid", "comm", "began_ns", "ended_ns", "prio", "cpu"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		r := run{Span: freezeframe.Span{Start: freezeframe.Instant(v[3]), End: freezeframe.Instant(v[4])}, cpu: v[6], pid: int(v[1])}
		switch {
		case v[0] == bpf.Ran && v[5] < maxRTPriority && !hasPrefix(w.Text(v[2]), "irq/", "migration/", "idle_inject/"):
			names[r.pid] = w.Text(v[2])
			runs = append(runs, r)
		case v[0] == bpf.Queued && victims[key.TID()]:
			queued = append(queued, r)
		}
	})
	// What each of them kept of the times in which a victim stood in line for its
	// CPU.
	var inLine freezeframe.Spans
	kept := map[int][]freezeframe.Span{}
	for _, q := range queued {
		var all []freezeframe.Span
		for _, r := range runs {
			if both := r.And(q.Span); r.cpu == q.cpu && both.Length() > 0 {
				all = append(all, both)
				kept[r.pid] = append(kept[r.pid], both)
			}
		}
		if float64(freezeframe.Union(all...).Length()) >= rtLoad*float64(q.Length()) {
			inLine = append(inLine, q.Span)
		}
	}
	claim := worth(w, ms.spans().And(freezeframe.Union(inLine...)))
	if claim == nil {
		return nil
	}
	hog, most := 0, time.Duration(0)
	for _, pid := range slices.Sorted(maps.Keys(kept)) {
		if d := freezeframe.Union(kept[pid]...).And(claim).Length(); d > most {
			hog, most = pid, d
		}
	}
	if hog == 0 {
		return nil
	}
	ps := processesIn(w, around(core(claim)))
	name := orElse(ps.name(hog), names[hog])
	return []freezeframe.Finding{{
		Culprit:    ps.blame(freezeframe.Party{PID: hog, Comm: name}),
		Summary:    fmt.Sprintf("%s ran at real-time priority for %s without a break; ordinary threads stood in line for that CPU for %s.", named(name, hog), length(most), length(claim.Length())),
		Explains:   claim,
		Confidence: proven,
		Chain:      story(ms),
		Evidence:   []freezeframe.Evidence{evidence("waits", "prio", "real-time threads of %s kept the CPU that the victims stood in line for, for %s", named(name, hog), length(most))},
		Remedy:     []string{fmt.Sprintf("`chrt --all-tasks --other -p 0 %d`", hog)},
	}}
}

// heldBack is which part of a wait for a disk the kernel's own worker must have
// stood in line behind a real-time thread for that to be what it was for.
const heldBack = 0.8

// behindWorkers returns the waits for a filesystem or a disk during which a
// worker of the kernel stood in line behind a real-time thread: it is such that
// carry out the requests of loop and encrypted devices, and complete those of
// others.
func behindWorkers(w freezeframe.Window) moments {
	var inLine freezeframe.Spans
	series := w.Between("waits", around(w.Stall().Span))
	series.Each([]string{"kind", "began_ns", "ended_ns", "other_prio", "comm"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if v[0] == bpf.Queued && v[3] != 0 && v[3] < maxRTPriority && hasPrefix(w.Text(v[4]), "kworker/", "ksoftirqd/", "loop") {
			inLine = append(inLine, freezeframe.Span{Start: freezeframe.Instant(v[1]), End: freezeframe.Instant(v[2])})
		}
	})
	if inLine == nil {
		return nil
	}
	inLine = freezeframe.Union(inLine...)
	return roots(w, inClass(freezeframe.FilesystemWait, freezeframe.DeviceWait)).where(func(m *moment) bool {
		return float64(inLine.Within(m.Span).Length()) >= heldBack*float64(m.Length())
	})
}

const (
	// maxRTPriority is the kernel's MAX_RT_PRIO: priorities below are real-time.
	maxRTPriority = 100
)

// withEarlier adds what longer says of the real-time threads that were read
// less than twice in the span, as far as it tells of that span.
func withEarlier(threads, longer []*thread, s freezeframe.Span) []*thread {
	for _, t := range longer {
		i := slices.IndexFunc(threads, func(have *thread) bool { return have.tid == t.tid && have.pid == t.pid })
		switch {
		case !t.realtime() || t.run.last <= s.Start:
		case i < 0:
			threads = append(threads, t)
		case threads[i].seen < 2:
			threads[i] = t
		}
	}
	return threads
}

func policyName(p uint64) string {
	switch p {
	case schedFIFO:
		return "SCHED_FIFO"
	case schedRR:
		return "SCHED_RR"
	case schedDeadline:
		return "SCHED_DEADLINE"
	}
	return fmt.Sprint(p)
}
