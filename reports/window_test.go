package reports

import (
	"hash/fnv"
	"time"

	"freezeframe"
)

const second = freezeframe.Instant(time.Second)

// window is a recording made by hand.
type window struct {
	stall  freezeframe.Stall
	series map[string]freezeframe.Series
	events []freezeframe.Event
	needs  []freezeframe.Need
	ledger freezeframe.Ledger
	texts  map[uint64]string
}

func (w *window) intern(s string) uint64 {
	if s == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(s))
	w.texts[h.Sum64()] = s
	return h.Sum64()
}

// add appends one row to a source, as a reading of its own when the last one
// is of another moment.
func (w *window) add(source string, at freezeframe.Instant, key freezeframe.Key, row map[string]any) {
	s := w.series[source]
	t := len(s.Tables) - 1
	if t < 0 || s.Tables[t].At != at {
		s.Tables = append(s.Tables, freezeframe.Table{Due: at, At: at})
		t++
	}
	values := make([]uint64, len(s.Source.Columns))
	for name, v := range row {
		c := s.Source.Column(name)
		switch v := v.(type) {
		case string:
			values[c] = w.intern(v)
		case int:
			values[c] = uint64(v)
		}
	}
	s.Tables[t].Keys = append(s.Tables[t].Keys, key)
	s.Tables[t].Vals = append(s.Tables[t].Vals, values...)
	w.series[source] = s
}

func (w *window) Clock() freezeframe.Clock {
	return freezeframe.Clock{Mono: 0, WallNanos: time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC).UnixNano()}
}
func (w *window) Stall() freezeframe.Stall { return w.stall }
func (w *window) Span() freezeframe.Span {
	return freezeframe.Span{Start: w.stall.Start - 30*second, End: w.stall.End + 10*second}
}
func (w *window) Phase(source string, p freezeframe.Phase) freezeframe.Series {
	return w.series[source] // the tests ask for the whole window only
}
func (w *window) Between(source string, s freezeframe.Span) freezeframe.Series {
	return w.series[source]
}
func (w *window) Events(kind string, p freezeframe.Phase) []freezeframe.Event {
	var out []freezeframe.Event
	for _, e := range w.events {
		if kind == "" || e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}
func (w *window) Text(id uint64) string       { return w.texts[id] }
func (w *window) Missing() []freezeframe.Need { return w.needs }
func (w *window) Ledger() freezeframe.Ledger  { return w.ledger }

func columns(kind freezeframe.Kind, names ...string) []freezeframe.Column {
	var out []freezeframe.Column
	for _, n := range names {
		out = append(out, freezeframe.Column{Name: n, Kind: kind})
	}
	return out
}

// hostile is a name that tries everything.
const hostile = "evil\x1b[31m\xff\u202egnp\u2028</script><script>alert(1)</script>\x00&\u0085"

// frozen is a window in which a filesystem was frozen for 3.2 s under a
// service, by a process with a hostile command line.
func frozen() (*window, freezeframe.Verdict, Meta) {
	w := &window{series: make(map[string]freezeframe.Series), texts: make(map[uint64]string)}
	start := 100 * second
	end := start + second*32/10
	service := freezeframe.Victim{PID: 12, TID: 12, Comm: "gunicorn"}
	w.stall = freezeframe.Stall{
		Span: freezeframe.Span{Start: start, End: end},
		Symptoms: []freezeframe.Symptom{
			{Probe: "fsync", Target: "/data", Span: freezeframe.Span{Start: start, End: end}, Worst: 3190 * time.Millisecond, Count: 1},
			{Probe: "answer", Target: "0.0.0.0:8000", Span: freezeframe.Span{Start: start, End: end}, Worst: 3200 * time.Millisecond, Count: 3, Quality: 1, Victims: []freezeframe.Victim{service}},
		},
	}
	w.series["procs"] = freezeframe.Series{Source: freezeframe.Source{Name: "procs", Key: "task", Columns: append(append(
		columns(freezeframe.Text, "comm", "exe", "cmdline", "cgroup"),
		columns(freezeframe.Gauge, "ppid", "uid", "state", "threads", "rss_bytes")...),
		columns(freezeframe.Counter, "utime_us", "stime_us", "read_bytes", "write_bytes")...)}}
	for i := range freezeframe.Instant(5) {
		at := start + (i-1)*second
		w.add("procs", at, freezeframe.TaskKey(12, 7), map[string]any{"comm": "gunicorn", "exe": "/usr/bin/python3", "cmdline": "gunicorn app:app --workers 3", "cgroup": "0::/system.slice/web.service", "uid": 33, "state": int('D'), "rss_bytes": 50 << 20})
		w.add("procs", at, freezeframe.TaskKey(44, 9), map[string]any{"comm": hostile, "exe": "/sbin/fsfreeze", "cmdline": hostile, "cgroup": "1:cpu:/user.slice;0::/", "utime_us": int(i) * 1000})
	}
	w.series["stat"] = freezeframe.Series{Source: freezeframe.Source{Name: "stat", Key: "cpu", Columns: columns(freezeframe.Counter, "user_us", "idle_us")}}
	for i := range freezeframe.Instant(3000) {
		peak := 0
		if i == 1234 {
			peak = 1 << 30
		}
		w.add("stat", start-30*second+i*second/20, freezeframe.AllCPUs, map[string]any{"user_us": int(i)*100 + peak, "idle_us": int(i) * 1000})
	}
	w.events = []freezeframe.Event{
		{Kind: freezeframe.EventKernelLog, At: start + second, Text: "INFO: task " + hostile + " blocked"},
		{Kind: freezeframe.EventMissed, At: start, End: start + second, Attrs: []freezeframe.Attr{{Name: "source", Value: "mounts"}, {Name: "late_us", Value: "1000000"}, {Name: "wchan", Value: "down_read"}}},
		{Kind: freezeframe.EventEnds, At: start, Attrs: []freezeframe.Attr{{Name: "file", Value: "pipe:[7]"}}},
		{Kind: freezeframe.EventClockStepped, At: start + 2*second, Attrs: []freezeframe.Attr{{Name: "step_ns", Value: "-5000000000"}}},
	}
	for i := range freezeframe.Instant(200) {
		w.events = append(w.events, freezeframe.Event{Kind: freezeframe.EventRefused, At: start - 20*second + i*second/10, Attrs: []freezeframe.Attr{{Name: "probe", Value: "fsync"}, {Name: "errno", Value: "ENOSPC"}}})
	}
	w.needs = []freezeframe.Need{{What: "read /proc/pressure/io", Lost: "the share of time in which tasks waited for IO", Fix: "boot with psi=1", Err: "no such file or directory"}}
	w.ledger.Accounts = []freezeframe.Account{
		{Symptom: 1, Victim: service, Span: w.stall.Span, Weight: 1, Waits: []freezeframe.Wait{
			{Span: freezeframe.Span{Start: start, End: start + second/10}, Class: freezeframe.OnCPU},
			{Span: freezeframe.Span{Start: start + second/10, End: end}, Class: freezeframe.FilesystemWait, Wchan: "__sb_start_write", Syscall: "write", File: "/data/log", Holder: &freezeframe.Party{PID: 44, TID: 44, Comm: hostile, Why: "froze it"}},
		}},
		{Symptom: 1, Victim: freezeframe.Victim{PID: 13, TID: 14, Comm: "idle"}, Span: w.stall.Span, Weight: 0, Waits: []freezeframe.Wait{{Span: w.stall.Span, Class: freezeframe.Idle}}},
	}
	third := freezeframe.Instant(w.stall.Length()) / 3
	v := freezeframe.Verdict{
		Findings: []freezeframe.Finding{
			{Cause: "fs.frozen", Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/data", PID: 44}, Summary: "/data was frozen for 3.1 s while 3 threads wrote to it", Explains: freezeframe.Spans{{Start: start, End: start + third}}, Confidence: 0.97, Chain: []string{"gunicorn (12) writes /data/log", "/data is frozen"}, Evidence: []freezeframe.Evidence{{Text: "3 threads slept in __sb_start_write", Source: "tasks", Column: "stack", Before: "0", During: "3"}}, Remedy: []string{"fsfreeze --unfreeze /data"}},
			{Cause: "cpu.contention", Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: 44}, Summary: "more threads than CPUs", Explains: freezeframe.Spans{{Start: start + third, End: start + 2*third}}, Confidence: 0.5},
		},
		Symptoms: []freezeframe.Finding{{Cause: "net.accept_queue_overflow", Summary: "the listen queue was full", Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: 12}, Confidence: 0.9}},
	}
	m := Meta{
		Version: "test", Host: freezeframe.HostReport{Name: "web1", Kernel: "6.1", OS: "debian 12", CPUs: 2, MemoryBytes: 4 << 30, Boot: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)},
		Recorder: freezeframe.RecorderReport{CPUPercent: 1.2, RSSBytes: 30 << 20, Samples: 5000, LateSamples: 2, WorstLateMs: 1000},
		Rules: []freezeframe.Rule{
			{Cause: "fs.frozen", Title: "a frozen filesystem", Remedy: []string{"find what froze it"}, Subsumes: []freezeframe.Cause{"fs.journal_commit"}},
			{Cause: "cpu.contention", Title: "too few CPUs", Subsumes: []freezeframe.Cause{"net.accept_queue_overflow"}},
			{Cause: "net.accept_queue_overflow", Title: "a full listen queue"},
		},
		User: func(uid uint32) string { return map[uint32]string{33: "www-data"}[uid] },
	}
	return w, v, m
}
