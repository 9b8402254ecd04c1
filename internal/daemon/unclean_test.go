package daemon

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// recorded is ten seconds of readings that end now, and when they end.
func recorded(t *testing.T) (*recorder.Recording, time.Time) {
	t.Helper()
	ring := recorder.NewRing(recorder.MinBytes)
	memory, err := ring.Writer(freezeframe.Source{Name: "meminfo", Every: time.Second, Columns: []freezeframe.Column{{Name: "available_bytes", Kind: freezeframe.Gauge}}})
	if err != nil {
		t.Fatal(err)
	}
	end := kernel.Now()
	for i := range 11 {
		at := end.Add(time.Duration(i-10) * time.Second)
		table := freezeframe.Table{Due: at, At: at}
		table.Row(0, 1)[0] = uint64(11-i) << 20
		memory.Append(&table)
	}
	ring.AddEvent(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: end.Add(-2 * time.Second), Text: "eth0: link up"})
	rec, err := ring.Pin(freezeframe.Span{Start: end.Add(-10 * time.Second), End: end + 1})
	if err != nil {
		t.Fatal(err)
	}
	rec.Host = freezeframe.HostReport{Name: "web1", Kernel: "6.1", CPUs: 2}
	return rec, rec.Clock.Wall(end)
}

func metaFor(last time.Time) uncleanMeta {
	return uncleanMeta{
		Meta:    reports.Meta{Version: "test", Rules: rules.All(), Host: freezeframe.HostReport{Name: "web1", Kernel: "6.2", CPUs: 2}},
		started: last.Add(84 * time.Second),
	}
}

// text is the report as people read it, and it is what a program can read.
func text(t *testing.T, r freezeframe.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := reports.JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	if _, _, err := reports.Read(&b); err != nil {
		t.Errorf("the report cannot be read back: %v", err)
	}
	b.Reset()
	if err := reports.Text(&b, r, reports.TextOptions{Width: 400}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	text = strings.Join(strings.Fields(text), " ") // it is wrapped
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

func TestTheMachineStoppedHere(t *testing.T) {
	rec, last := recorded(t)
	r, i := uncleanEnd(&recorder.Unclean{BootID: "x", Last: last, Recording: rec, Missing: 2 * time.Second}, metaFor(last))
	if c := r.Causes[0]; c.ID != freezeframe.CauseUnknown || c.ExplainedPct != 0 || r.UnexplainedPct != 100 || r.Stall.Ongoing {
		t.Errorf("without proof: %+v, %v %% unexplained", c, r.UnexplainedPct)
	}
	if d := r.Stall.End.Sub(last); d < -time.Millisecond || d > time.Millisecond {
		t.Errorf("it ends %v from the last reading", d)
	}
	if r.Host.Kernel != "6.1" {
		t.Errorf("the kernel is that of the start after it: %s", r.Host.Kernel)
	}
	wants(t, text(t, r), "The machine stopped here, without being shut down.", "started again 84 s later", "ran for 2.0 s more", "a power cut", "memory available at the end: 1 MB", "eth0: link up")
	if i.Recording != rec || i.Window == nil {
		t.Error("the recording is not given on")
	}
	// It is a series of its own, not that of any stall without a cause.
	stall := reports.Build(rec.Window(freezeframe.Stall{Span: rec.Span}), freezeframe.Verdict{}, reports.Meta{})
	killed, _ := uncleanEnd(&recorder.Unclean{SameBoot: true, Last: last, Recording: rec}, metaFor(last))
	if r.Fingerprint == stall.Fingerprint || r.Fingerprint == killed.Fingerprint {
		t.Error("the fingerprint is that of something else")
	}
	wants(t, text(t, killed), "Freezeframe was killed here; the machine ran on.", "Who or what ended it is not known")
}

// The stall that was open is judged, and nothing says that it is why.
func TestAStallWasOpen(t *testing.T) {
	rec, last := recorded(t)
	end := rec.Clock.Instant(last)
	span := freezeframe.Span{Start: end.Add(-3 * time.Second), End: end}
	rec.Stalls = []freezeframe.Stall{{Span: span, Ongoing: true, Symptoms: []freezeframe.Symptom{{
		Probe: "answer", Target: "0.0.0.0:80", Span: span, Late: freezeframe.Union(span), Worst: 3 * time.Second, Count: 1, Quality: 1,
		Victims: []freezeframe.Victim{{PID: 12, TID: 12, Comm: "orders"}},
	}}}}
	r, _ := uncleanEnd(&recorder.Unclean{Last: last, Recording: rec}, metaFor(last))
	if len(r.Stall.Symptoms) != 2 || r.Stall.DurationMs < 2999 || r.Stall.DurationMs > 3001 {
		t.Errorf("the stall: %+v", r.Stall)
	}
	wants(t, text(t, r), "Your service orders (pid 12) on 0.0.0.0:80 did not answer for 3.00 s; then the machine stopped here, without being shut down.",
		"Whether the stall that was open then is the reason is not known")
	if n := len(rec.Stalls[0].Symptoms); n != 1 {
		t.Errorf("the recording's stall has %d symptoms now", n)
	}
}

// What the stall was at the last flush is not when the run ended.
func TestTheEndIsThatOfTheRecording(t *testing.T) {
	for name, c := range map[string]struct {
		ongoing bool
		stall   time.Duration // the end of the stall, before the last reading
		text    string
	}{
		"it went on":  {ongoing: true, text: "Whether the stall that was open then is the reason is not known"},
		"it was over": {stall: 6 * time.Second, text: "The stall had been over for 6.0 s."},
	} {
		rec, last := recorded(t)
		end := rec.Clock.Instant(last)
		span := freezeframe.Span{Start: end.Add(-8 * time.Second), End: end.Add(-6 * time.Second)}
		rec.Stalls = []freezeframe.Stall{{Span: span, Ongoing: c.ongoing, Symptoms: []freezeframe.Symptom{{
			Probe: "answer", Target: "0.0.0.0:80", Span: span, Late: freezeframe.Union(span), Worst: 2 * time.Second, Count: 1, Quality: 1,
		}}}}
		r, _ := uncleanEnd(&recorder.Unclean{Last: last, Recording: rec}, metaFor(last))
		near := func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond }
		if !near(r.Stall.End, last.Add(-c.stall)) {
			t.Errorf("%s: the stall ends %v before the last reading", name, last.Sub(r.Stall.End))
		}
		for _, s := range r.Stall.Symptoms {
			if s.Probe == reports.ProbeUnclean && (!near(s.End, last) || !near(s.Start, last.Add(-time.Second))) {
				t.Errorf("%s: the end is from %v to %v before the last reading", name, last.Sub(s.Start), last.Sub(s.End))
			}
		}
		wants(t, text(t, r), c.text)
	}
}

// The kernel's own last words decide.
func TestLastWordsDecide(t *testing.T) {
	rec, last := recorded(t)
	m := metaFor(last)
	at := float64(rec.Clock.Instant(last)) / 1e9
	m.words = []lastWords{{reason: "Panic#1", files: []string{"/sys/fs/pstore/dmesg-efi-1"}, lines: []logLine{
		{at: freezeframe.Instant((at - 2) * 1e9), text: "eth0: link up"}, // is in the recording already
		{at: freezeframe.Instant((at + 1) * 1e9), text: "BUG: kernel NULL pointer dereference, address: 0"},
		{at: freezeframe.Instant((at + 1) * 1e9), text: "CPU: 1 PID: 812 Comm: mount\x1b[31m Not tainted 6.1"},
		{at: freezeframe.Instant((at + 1) * 1e9), text: "Kernel panic - not syncing: Fatal exception"},
	}}}
	r, _ := uncleanEnd(&recorder.Unclean{Last: last, Recording: rec}, m)
	c := r.Causes[0]
	if c.ID != "kernel.oops" || c.ExplainedPct != 100 || c.Confidence < 0.9 || c.Culprit.PID != 812 || c.Title == string(c.ID) {
		t.Errorf("the verdict: %+v", c)
	}
	got := text(t, r)
	wants(t, got, "The machine stopped here, without being shut down.", "a crash inside the kernel", "BUG: kernel NULL pointer dereference", "/sys/fs/pstore/dmesg-efi-1")
	if n := strings.Count(got, "eth0: link up"); n != 1 {
		t.Errorf("a line that was recorded is told %d times", n)
	}
	if strings.Contains(got, "\x1b") {
		t.Error("an escape sequence of the log reaches the terminal")
	}
	// An oops in pstore that was survived decides nothing, but is told.
	m.words[0].reason = "Oops#1"
	m.words[0].lines = m.words[0].lines[:3]
	rec, last = recorded(t)
	if r, _ = uncleanEnd(&recorder.Unclean{Last: last, Recording: rec}, m); r.Causes[0].ID != freezeframe.CauseUnknown {
		t.Errorf("an oops decides: %+v", r.Causes[0])
	}
	wants(t, text(t, r), "BUG: kernel NULL pointer dereference")
	// Of a run in this boot the kernel has no last words.
	if r, _ = uncleanEnd(&recorder.Unclean{SameBoot: true, Last: last, Recording: rec}, m); r.Causes[0].ID != freezeframe.CauseUnknown {
		t.Errorf("the machine runs on, and yet: %+v", r.Causes[0])
	}
}

func TestNothingReachedTheDisk(t *testing.T) {
	now := time.Now()
	for name, u := range map[string]*recorder.Unclean{"no recording": {Last: now.Add(-time.Minute)}, "nothing at all": {}} {
		m := metaFor(now)
		r, i := uncleanEnd(u, m)
		got := text(t, r)
		wants(t, got, "The machine stopped here, without being shut down.")
		if u.Last.IsZero() {
			wants(t, got, "Nothing of its last run had reached the disk")
		}
		if r.Stall.Start.After(m.started) || r.Stall.Start.Before(now.Add(-2*time.Minute)) {
			t.Errorf("%s: at %v", name, r.Stall.Start)
		}
		dir := t.TempDir()
		if names, err := pages(dir, r, &i); err != nil || len(names) == 0 {
			t.Errorf("%s: its files: %v %v", name, names, err)
		}
	}
}
