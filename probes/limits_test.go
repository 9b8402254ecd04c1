package probes

import (
	"context"
	"testing"
	"time"

	"freezeframe"
)

// limitsWorld feeds a limits probe with readings at a made-up time.
type limitsWorld struct {
	p    *limits
	now  freezeframe.Instant
	text map[uint64]string
}

func newLimitsWorld() *limitsWorld {
	w := &limitsWorld{now: freezeframe.Instant(time.Hour), text: map[uint64]string{7: "/a/b", 8: "nginx", 9: "4026531840|10.0.0.5:5432"}}
	w.p = newLimits(newHub(Options{Texts: func(id uint64) string { return w.text[id] }}))
	return w
}

// read takes one reading a second later.
func (w *limitsWorld) read(source string, names []string, key freezeframe.Key, row map[string]uint64) []freezeframe.Lateness {
	w.now = w.now.Add(time.Second)
	rows := map[freezeframe.Key]map[string]uint64{}
	if row != nil {
		rows[key] = row
	}
	src, t := table(names, rows, w.now)
	src.Name = source
	w.p.Observe(src, t)
	var out []freezeframe.Lateness
	for len(w.p.out) > 0 {
		out = append(out, w.p.lateness(<-w.p.out))
	}
	return out
}

func TestLimits(t *testing.T) {
	type reading map[string]uint64
	for _, tc := range []struct {
		name     string
		source   string
		columns  []string
		key      freezeframe.Key
		readings []reading
		reports  []int // how many after each
		err      string
		target   string
	}{
		{"pids", "cgroups", cgroupColumns, 7, []reading{{"pids_max_events": 5}, {"pids_max_events": 5}, {"pids_max_events": 6}, {"pids_max_events": 6}},
			[]int{0, 0, 1, 0}, "EAGAIN", "pids limit of /a/b"},
		{"cgroup oom", "cgroups", cgroupColumns, 7, []reading{{"memory_oom_kills": 2}, {"memory_oom_kills": 4}, {}}, []int{0, 1, 0}, "oom_kill", "memory of /a/b"},
		{"oom", "vmstat", vmstatColumns, 0, []reading{{"oom_kill": 2}, {"oom_kill": 3}, {"oom_kill": 3}}, []int{0, 1, 0}, "oom_kill", "memory of the host"},
		{"conntrack", "limits", limitColumns, 0, []reading{{"conntrack_drop": 2}, {"conntrack_drop": 3}, {"conntrack_drop": 4}}, []int{0, 1, 1}, "conntrack table full", "conntrack"},
		{"file handles", "limits", limitColumns, 0, []reading{{"files_allocated": 9, "files_max": 10}, {"files_allocated": 10, "files_max": 10}, {"files_allocated": 10, "files_max": 10}, {"files_allocated": 9, "files_max": 10}},
			[]int{0, 1, 1, 1}, "ENFILE", "file handles"},
		{"file handles, since before we came", "limits", limitColumns, 0, []reading{{"files_allocated": 10, "files_max": 10}, {"files_allocated": 10, "files_max": 10}}, []int{0, 0}, "", ""},
		{"threads", "limits", limitColumns, 0, []reading{{"threads": 9, "threads_max": 10}, {"threads": 10, "threads_max": 10}}, []int{0, 1}, "EAGAIN", "threads"},
		{"ports", "ports", portColumns, 9, []reading{nil, {"used": 98, "range": 100}, {"used": 99, "range": 100, "pid": 5}, nil}, []int{0, 0, 1, 1}, "EADDRNOTAVAIL", "local ports to 4026531840|10.0.0.5:5432"},
		{"ports, since before we came", "ports", portColumns, 9, []reading{{"used": 100, "range": 100}, {"used": 100, "range": 100}}, []int{0, 0}, "", ""},
		{"descriptors", "procs", procColumns, freezeframe.TaskKey(44, 9), []reading{
			{"fds": 10, "fds_max": 1024, "pid": 44, "comm": 8},
			{"fds": 1024, "fds_max": 1024, "pid": 44, "comm": 8},
			{"fds": 1024, "fds_max": 1024, "pid": 44, "comm": 8},
			{"fds": 10, "fds_max": 1024, "pid": 44, "comm": 8}},
			[]int{0, 0, 1, 1}, "EMFILE", "descriptors of nginx[44]"},
		{"a filesystem", "mounts", mountColumns, 47, []reading{
			{"local": 1, "size_bytes": 16 << 20, "avail_bytes": 4 << 20, "mountpoint": 7},
			{"local": 1, "size_bytes": 16 << 20, "avail_bytes": 0, "mountpoint": 7},
			{"local": 1, "size_bytes": 16 << 20, "avail_bytes": 0, "mountpoint": 7},
			{"local": 1, "size_bytes": 16 << 20, "avail_bytes": 4 << 20, "mountpoint": 7}},
			[]int{0, 1, 1, 1}, "ENOSPC", "/a/b"},
		{"a filesystem, since before we came", "mounts", mountColumns, 47, []reading{
			{"local": 1, "size_bytes": 16 << 20, "mountpoint": 7}, {"local": 1, "size_bytes": 16 << 20, "mountpoint": 7}}, []int{0, 0}, "", ""},
		{"a read-only image", "mounts", mountColumns, 47, []reading{
			{"local": 1, "readonly": 1, "size_bytes": 16 << 20, "avail_bytes": 1 << 20}, {"local": 1, "readonly": 1, "size_bytes": 16 << 20}}, []int{0, 0}, "", ""},
		{"descriptors, not known", "procs", procColumns, freezeframe.TaskKey(44, 9), []reading{{}, {}, {}}, []int{0, 0, 0}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newLimitsWorld()
			for i, row := range tc.readings {
				got := w.read(tc.source, tc.columns, tc.key, row)
				if len(got) != tc.reports[i] {
					t.Fatalf("reading %d: %+v, want %d reports", i, got, tc.reports[i])
				}
				for _, l := range got {
					// A kill alone does not open a stall: who died decides.
					if l.Err != tc.err || l.Target != tc.target || (l.Quality < 0.5) != (tc.err == "oom_kill" || tc.err == "ENOSPC") {
						t.Errorf("reading %d: %+v", i, l)
					}
					if l.Began == 0 || l.Began >= w.now || l.Seen != w.now {
						t.Errorf("reading %d: began %v ago", i, w.now.Sub(l.Began))
					}
				}
			}
		})
	}
}

func TestLimitsDoNotAllocate(t *testing.T) {
	w := newLimitsWorld()
	rows := map[freezeframe.Key]map[string]uint64{}
	for i := range freezeframe.Key(maxLimitRows + 100) {
		rows[i+1] = map[string]uint64{"pids_max_events": 1}
	}
	src, tab := table(cgroupColumns, rows, w.now)
	src.Name = "cgroups"
	procs, ptab := table(procColumns, map[freezeframe.Key]map[string]uint64{1: {"fds": 5, "fds_max": 5, "pid": 1}}, w.now)
	procs.Name = "procs"
	w.p.Observe(src, tab)
	w.p.Observe(procs, ptab)
	if n := testing.AllocsPerRun(50, func() {
		tab.At, ptab.At = tab.At.Add(time.Second), ptab.At.Add(time.Second)
		for i := range tab.Vals {
			tab.Vals[i]++
		}
		w.p.Observe(src, tab)
		w.p.Observe(procs, ptab)
		for len(w.p.out) > 0 {
			<-w.p.out
		}
	}); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

func TestLimitsRunPassesOn(t *testing.T) {
	w := newLimitsWorld()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var c collected
	go w.p.Run(ctx, c.add)
	for i := range uint64(2) {
		src, tab := table(vmstatColumns, map[freezeframe.Key]map[string]uint64{0: {"oom_kill": i}}, w.now.Add(time.Duration(i)*time.Second))
		src.Name = "vmstat"
		w.p.Observe(src, tab)
	}
	c.until(t, "oom kill", func(l freezeframe.Lateness) bool { return l.Err == "oom_kill" })
}
