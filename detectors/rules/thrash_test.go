package rules_test

import (
	"testing"
	"time"

	"freezeframe"
)

// inGroup is a scene in a cgroup at its limit: the service does the waits, and a
// neighbour takes memory.
func inGroup(w *window, waits ...wait) {
	w.Suffers(service, "orders", waits...)
	growing(w, service, "orders", 10<<20, "5:memory:/app")
	growing(w, hog, "indexer", 60<<20, "5:memory:/app")
	growing(w, hog+1, "elsewhere", 3<<30, "5:memory:/other")
	group(w, "memory:/app", map[string]float64{"memory_max_events": 500}, v{"memory_max_bytes": 72 << 20, "memory_bytes": 72 << 20})
}

// pushes writes what a process freed in the stall, as BPF tells it.
func pushes(w *window, pid int, comm string, pages float64) {
	w.Rows("reclaim", 100*ms, freezeframe.Key(pid), func(at time.Duration) v {
		return v{"pid": pid, "comm": comm, "pages": w.Ran(at, 0, pages)}
	})
}

func TestThrashInACgroup(t *testing.T) {
	const thrash, limit = "mem.file_thrash", "mem.cgroup_max"
	back := wait{Class: freezeframe.SwapIn, Stack: faultStack}
	freeing := wait{Class: freezeframe.Reclaim, Stack: memcgStack}
	refaults := func(w *window) { vmstat(w, map[string]float64{"workingset_refault_file": 5000, "pgmajfault": 5000}) }
	reading := func(w *window) {
		inGroup(w, back, back, back, back, freeing)
		refaults(w)
	}

	f := finding(thrash, reading)
	if f == nil || f.Culprit.PID != hog || f.Confidence > 0.9 || !says(f, "cgroups", "cgroup /app reached its limit of 72 MiB") {
		t.Errorf("without BPF: %+v", f)
	}
	f = finding(thrash, func(w *window) {
		reading(w)
		pushes(w, hog, "indexer", 40000)
		pushes(w, service, "orders", 5000)
	})
	if f == nil || f.Culprit.PID != hog || f.Confidence < 0.9 || !says(f, "reclaim", "indexer (pid 900) pushed 89 %") {
		t.Errorf("with BPF: %+v", f)
	}
	f = finding(thrash, func(w *window) { // who freed most is the victim itself
		reading(w)
		pushes(w, hog, "indexer", 1000)
		pushes(w, service, "orders", 5000)
	})
	if f == nil || f.Confidence > 0.9 {
		t.Errorf("nobody pushed: %+v", f)
	}

	for what, scene := range map[string]func(*window){
		"half of the time went into freeing": func(w *window) {
			inGroup(w, back, freeing)
			refaults(w)
		},
		"nothing came back that had been there": func(w *window) {
			inGroup(w, back, back, back, back, freeing)
			vmstat(w, map[string]float64{"pgmajfault": 900})
		},
	} {
		if f := finding(thrash, scene); f != nil {
			t.Errorf("%s: %+v", what, *f)
		}
		if f := finding(limit, scene); f == nil || f.Culprit.Cgroup != "/app" || f.Explains.Length() < 1900*ms {
			t.Errorf("%s: it is the limit: %+v", what, f)
		}
	}
}

// A worker grows until it is killed: what it did not answer meanwhile belongs to
// it, as far as it grew.
func TestKilledWhileItGrew(t *testing.T) {
	scene := func(grows float64) func(*window) {
		return func(w *window) {
			w.Suffers(hog, "worker", wait{Class: freezeframe.OnCPU})
			proc(w, hog, "worker", func(at time.Duration) v {
				if at > stallFrom+s {
					return nil
				}
				return v{"rss_bytes": w.Ran(at, 0, grows), "cgroup": "5:memory:/app"}
			})
			w.Kernel(stallFrom+s, "Memory cgroup out of memory: Killed process 900 (worker) total-vm:1kB")
		}
	}
	if f := finding("mem.cgroup_oom_kill", scene(60<<20)); f == nil || f.Explains.Length() != 2*s {
		t.Errorf("grew for a second: %+v", f)
	}
	if f := finding("mem.cgroup_oom_kill", scene(1<<20)); f == nil || f.Explains.Length() != s {
		t.Errorf("hardly grew: %+v", f)
	}
}
