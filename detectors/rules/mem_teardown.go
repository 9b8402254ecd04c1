package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

const (
	// largeTeardown is the memory from which on giving it back is felt: the
	// kernel takes down some gigabytes a second.
	largeTeardown = 128 << 20
	// teardownKernel is the share of a process's CPU time that must be the
	// kernel's for its time on a CPU to be that of giving memory back.
	teardownKernel = 0.6
)

func memTeardown() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.teardown",
		Title: "a large process that gave its memory back",
		Means: "A process with much memory ended, or unmapped a large part of it. The kernel frees it page by page; until it is done, a process that ends keeps its locks, its sockets and its parent waiting, and one that goes on does nothing else in that thread.",
		Proof: "The victims waited for something that a dying process held, while its memory was taken down (told by BPF: sched_process_exit to exit_mmap; else no memory of its own left, and still there); or the victim itself was in the kernel on a CPU while its resident memory fell by as much. Told from app.busy_loop by the kernel's share, and from mem.fork_cow by memory that falls.",
		Remedy: []string{
			"Now: wait; it ends with the last page.",
			"So that it does not come back: release locks and close sockets before exit (or hold them in a small process of their own); huge pages, which are freed 512 at a time; free memory in steps (MADV_DONTNEED on pieces) and in a thread that nobody waits for; MALLOC_TRIM_THRESHOLD_, jemalloc's background_thread.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "teardown.began", "teardown.ended", "teardown.rss_bytes", "procs.rss_bytes", "procs.swap_bytes", "procs.stime_us", "procs.state", "procs.cgroup", "cgroups.memory_max_events", "locks.holder_pid", "locks.waiter_pid"},
		Subsumes: bringsAbout("app.busy_loop", "runtime.jvm_gc"),
		Judge:    judgeTeardown,
	}
}

// A teardown is the memory of a process that is given back.
type teardown struct {
	freezeframe.Span
	pid  int
	comm string
	rss  uint64
	told bool // by BPF
}

// teardowns returns those that touch a span: as BPF tells them, else of
// processes that have no memory left and are still there.
func teardowns(w freezeframe.Window, s freezeframe.Span) []teardown {
	var out []teardown
	told := map[int]bool{}
	series := w.Between("teardown", freezeframe.Span{Start: s.Start, End: s.End.Add(time.Second)})
	series.Each([]string{"began", "ended", "pid", "comm", "rss_bytes"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		t := teardown{Span: freezeframe.Span{Start: freezeframe.Instant(v[0]), End: freezeframe.Instant(v[1])}, pid: int(v[2]), comm: w.Text(v[3]), rss: v[4], told: true}
		if v[0] != 0 && t.rss >= largeTeardown && t.And(s).Length() > 0 && !told[t.pid] {
			told[t.pid] = true
			out = append(out, t)
		}
	})
	// exit_mm takes the memory from the process before it is freed: what
	// /proc/PID/stat shows of it then is 0 (kernel/exit.c).
	type state struct {
		rss          uint64
		comm         uint64
		last, barren freezeframe.Instant // last reading with memory; first without
		until        freezeframe.Instant
	}
	all := map[freezeframe.Key]*state{}
	var keys []freezeframe.Key
	series = w.Between("procs", around(s))
	series.Each([]string{"rss_bytes", "comm", "state", "ppid"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		x := all[key]
		if x == nil {
			x = &state{}
			all[key] = x
			keys = append(keys, key)
		}
		switch {
		case v[0] > 0:
			x.rss, x.comm, x.last, x.barren = v[0], v[1], at, 0
		case x.rss >= largeTeardown && v[2] != 'Z' && int(v[3]) != kernelThreads:
			if x.barren == 0 {
				x.barren = at
			}
			x.until = at
		}
	})
	for _, k := range keys {
		if x := all[k]; x.barren != 0 && !told[k.TID()] {
			t := teardown{Span: freezeframe.Span{Start: x.last, End: x.until.Add(sweepMargin)}, pid: k.TID(), comm: w.Text(x.comm), rss: x.rss}
			if t.And(s).Length() > 0 {
				out = append(out, t)
			}
		}
	}
	return out
}

// heldUp returns the moments in which victims waited for a process, directly or
// through others. Whether it had a CPU meanwhile is beside the point: it was not
// done.
func heldUp(w freezeframe.Window, pid int) moments {
	ledger := w.Ledger()
	var out moments
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 || a.Victim.PID == pid {
			continue
		}
		behind := freezeframe.Spans(nil) // when the chain leads to it
		for j := range a.Chain {
			if a.Chain[j].Party.PID == pid && j > 0 {
				var spans []freezeframe.Span
				for k := range a.Chain[j-1].Waits {
					if h := a.Chain[j-1].Waits[k].Holder; h != nil && h.PID == pid {
						spans = append(spans, a.Chain[j-1].Waits[k].Span)
					}
				}
				behind = freezeframe.Union(spans...)
			}
		}
		for j := range a.Waits {
			own := &a.Waits[j]
			m := moment{Span: own.Span, account: a, own: own, wait: own, who: victim(a)}
			switch {
			case own.Holder != nil && own.Holder.PID == pid, own.Class == freezeframe.FileLock && own.Holder == nil && lockHolder(w, &m).PID == pid:
				out = append(out, m)
			case own.Holder != nil:
				for _, s := range behind.Within(own.Span) {
					m.Span = s
					out = append(out, m)
				}
			}
		}
	}
	return out
}

func judgeTeardown(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	var out []freezeframe.Finding
	for _, t := range teardowns(w, stall.Span) {
		held := heldUp(w, t.pid)
		claim := worth(w, held.spans().Within(t.Span))
		if claim == nil {
			continue
		}
		f := freezeframe.Finding{
			Culprit:  freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: t.pid, Comm: t.comm},
			Explains: claim, Confidence: seen, Chain: story(held),
			Summary:  fmt.Sprintf("%s ended with %s of memory, and held what the work waited for until that was given back, for %s.", named(t.comm, t.pid), size(t.rss), length(claim.Length())),
			Evidence: []freezeframe.Evidence{evidence("procs", "rss_bytes", "%s had no memory of its own left of %s, and was still there", named(t.comm, t.pid), size(t.rss))},
		}
		if t.told {
			f.Confidence = proven
			f.Evidence = []freezeframe.Evidence{evidence("teardown", "rss_bytes", "giving back %s of %s took %s", size(t.rss), named(t.comm, t.pid), length(t.Length()))}
		}
		out = append(out, f)
	}
	return append(out, unmappings(w)...)
}

// unmappings finds processes that go on, and were on a CPU in the kernel while
// their memory fell.
func unmappings(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	var out []freezeframe.Finding
	ms := roots(w, func(m *moment) bool { return m.wait.Class == freezeframe.OnCPU || onMmapLock(m) })
	for _, b := range split(ms, func(m *moment) int { return m.who.PID }) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		fell, from, to := fell(w, b.key, around(stall.Span))
		if fell < largeTeardown {
			continue
		}
		p := processesIn(w, around(core(claim))).byPID[b.key]
		if p == nil || float64(p.system.sum) < teardownKernel*float64(p.cpu.sum) || float64(p.system.sum)*1e3 < forkKernel*float64(claim.Length()) {
			continue
		}
		if cgroupsIn(w, around(stall.Span)).of(p, "memory", atLimit) != nil {
			continue // it was taken from it
		}
		// The reading before it fell and the one after it bound when it was.
		if claim = worth(w, claim.Within(freezeframe.Span{Start: from, End: to})); claim == nil {
			continue
		}
		out = append(out, freezeframe.Finding{
			Culprit: p.culprit(), Explains: claim, Confidence: seen, Chain: story(b.moments),
			Summary: fmt.Sprintf("%s gave %s of memory back and did nothing else for %s.", p, size(fell), length(claim.Length())),
			Evidence: []freezeframe.Evidence{
				evidence("procs", "rss_bytes", "its resident memory fell by %s", size(fell)),
				evidence("procs", "stime_us", "%s of its CPU time was the kernel's", pct(ratio(float64(p.system.sum), float64(p.cpu.sum)))),
			},
		})
	}
	return out
}

// fell returns by how much a process's memory fell from one reading to the next
// lower ones, and between which readings.
func fell(w freezeframe.Window, pid int, s freezeframe.Span) (bytes uint64, from, to freezeframe.Instant) {
	series := w.Between("procs", s)
	var top, last uint64
	var topAt freezeframe.Instant
	series.Each([]string{"rss_bytes", "swap_bytes"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if key.TID() != pid || v[0] == 0 {
			return
		}
		now := v[0] + v[1] // what was swapped out was not given back
		if now >= last {
			top, topAt = now, at
		} else if top-now > bytes {
			bytes, from, to = top-now, topAt, at
		}
		last = now
	})
	return bytes, from, to
}
