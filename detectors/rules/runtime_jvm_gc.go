package rules

import (
	"fmt"
	"slices"

	"freezeframe"
)

func runtimeJVMGC() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "runtime.jvm_gc",
		Title: "a Java garbage collection that stops everything",
		Means: "The Java virtual machine stopped all threads of the program to collect garbage. Until it was done, no request was worked on.",
		Proof: "The JVM's own counters (hsperfdata) show a safepoint with a collection in it for just that time, while its threads stood still. Concurrent collectors' work does not count: only time in which threads are stopped.",
		Remedy: []string{
			"Now: `jcmd PID GC.heap_info` and `jcmd PID GC.class_histogram | head -30` say what fills the heap.",
			"So that it does not come back: a heap that fits the live data two to three times over (-Xmx), a collector with short pauses (-XX:+UseZGC, or G1 with -XX:MaxGCPauseMillis), no System.gc() (-XX:+DisableExplicitGC); keep -Xlog:gc*,safepoint.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "jvm.in_gc", "jvm.in_safepoint", "jvm.safepoint_us", "jvm.safepoint_sync_us", "jvm.gc_count", "jvm.gc_us", "jvm.gc_entry_at", "jvm.gc_exit_at", "jvm.stop_the_world", "jvm.cause", "jvm.collector", "jvm.heap_used_bytes", "jvm.heap_max_bytes", "procs.comm"},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.deadlock", "app.lock_contention", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeJVMGC,
	}
}

// A pause is a stretch in which a JVM had its threads stopped for collections.
type pauses struct {
	pid              int
	spans            freezeframe.Spans
	collections      uint64
	cause, collector string
	used, max        uint64
}

// stopped reads when a JVM stood still: while a safepoint is seen in progress,
// and back over the time its counters grew by; with a collection, whose entry
// and exit are exact.
func stopped(w freezeframe.Window, s freezeframe.Span) []pauses {
	series := w.Between("jvm", s)
	type state struct {
		pauses
		seen            bool
		at, entry       freezeframe.Instant
		safepoint, runs uint64
		gc              bool
		spans           []freezeframe.Span
	}
	byKey := map[freezeframe.Key]*state{}
	var all []*state
	columns := []string{"in_gc", "in_safepoint", "safepoint_us", "safepoint_sync_us", "gc_count", "gc_us", "gc_entry_at", "gc_exit_at", "stop_the_world", "cause", "collector", "heap_used_bytes", "heap_max_bytes"}
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		j := byKey[key]
		if j == nil {
			j = &state{pauses: pauses{pid: key.TID()}}
			byKey[key] = j
			all = append(all, j)
		}
		setText(w, &j.collector, v[10])
		if text := w.Text(v[9]); text != "" && text != "No GC" {
			j.cause = text
		}
		j.used, j.max = max(j.used, v[11]), v[12]
		safepoint := v[2] + v[3]
		inGC := v[0] != 0 && v[8] != 0
		entry, exit := freezeframe.Instant(v[6]), freezeframe.Instant(v[7])
		if j.seen {
			if v[4] > j.runs {
				j.collections += v[4] - j.runs
			}
			if entry != j.entry || v[4] > j.runs || inGC {
				j.gc = true
			}
			switch stood := freezeframe.Instant(min(safepoint-min(j.safepoint, safepoint), 3600e6)) * 1000; {
			case v[1] != 0 && inGC:
				// In a collection right now.
				from := j.at
				if entry > 0 && entry < at {
					from = entry
				}
				j.spans = append(j.spans, freezeframe.Span{Start: from, End: at})
			case v[8] != 0 && entry > 0 && exit > entry && exit > j.at && exit <= at.Add(1e6):
				j.spans = append(j.spans, freezeframe.Span{Start: entry, End: exit})
			case stood > 0 && (v[4] > j.runs || inGC):
				// The counters are written at a safepoint's end, which was
				// between the two readings.
				j.spans = append(j.spans, freezeframe.Span{Start: at - stood, End: at})
			}
		}
		j.seen, j.at, j.entry, j.safepoint, j.runs = true, at, entry, safepoint, v[4]
	})
	var out []pauses
	for _, j := range all {
		if j.gc && len(j.spans) > 0 {
			j.pauses.spans = freezeframe.Union(j.spans...)
			out = append(out, j.pauses)
		}
	}
	return out
}

func judgeJVMGC(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	var out []freezeframe.Finding
	for _, j := range stopped(w, freezeframe.Span{Start: stall.Start.Add(-1e9), End: stall.End.Add(1e9)}) {
		ms := roots(w, func(m *moment) bool {
			return m.who.PID == j.pid && inClass(freezeframe.UserLock, freezeframe.OnCPU, freezeframe.Idle, freezeframe.Sleeping, freezeframe.Unseen)(m)
		})
		// Who waits for a JVM on this host waits for its collection.
		held := roots(w, func(m *moment) bool {
			return m.wait.Class == freezeframe.PeerWait && m.wait.Holder != nil && m.wait.Holder.PID == j.pid
		})
		claim := freezeframe.Union(append(ms.spans(), held.spans()...)...)
		service := symptoms(w, func(sy *freezeframe.Symptom) bool { return suffers(sy, j.pid) })
		// Where the service's threads say that they waited for something else,
		// the pause is not why.
		other := roots(w, func(m *moment) bool {
			return m.who.PID == j.pid && !inClass(freezeframe.UserLock, freezeframe.OnCPU, freezeframe.Idle, freezeframe.Sleeping, freezeframe.Unseen)(m)
		})
		claim = worth(w, freezeframe.Union(append(claim, service.Minus(other.spans().Minus(ms.spans()))...)...).And(j.spans))
		if claim == nil {
			continue
		}
		ps := processesIn(w, around(stall.Span))
		f := freezeframe.Finding{
			Culprit: ps.blame(freezeframe.Party{PID: j.pid}), Explains: claim, Confidence: proven, Chain: story(append(slices.Clone(ms), held...)),
			Evidence: []freezeframe.Evidence{evidence("jvm", "safepoint_us", "its threads stood still for %s in the stall, in %d collections (%s)", length(j.spans.Within(stall.Span).Length()), j.collections, orElse(j.collector, "collector not known"))},
		}
		if j.cause != "" {
			f.Evidence = append(f.Evidence, evidence("jvm", "cause", "the JVM's reason: %s", quote(j.cause)))
		}
		if j.max > 0 {
			f.Evidence = append(f.Evidence, evidence("jvm", "heap_used_bytes", "heap: up to %s of %s in use", size(j.used), size(j.max)))
		}
		f.Summary = fmt.Sprintf("%s stood still for %s to collect garbage.", named(f.Culprit.Comm, j.pid), length(claim.Length()))
		out = append(out, f)
	}
	return out
}
