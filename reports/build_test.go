package reports

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"freezeframe"
)

func TestBuild(t *testing.T) {
	w, v, m := frozen()
	r := Build(w, v, m)
	if got := r.Causes[0]; got.ID != "fs.frozen" || got.Title != "a frozen filesystem" || got.ExplainedPct != 33.4 && got.ExplainedPct != 33.3 {
		t.Errorf("the verdict is %s %q %v %%", got.ID, got.Title, got.ExplainedPct)
	}
	if got := r.Causes[0].Remedy; len(got) != 2 || got[0] != "fsfreeze --unfreeze /data" {
		t.Errorf("the finding's own remedy must stand before the rule's: %q", got)
	}
	if got := r.Causes[0].Culprit; got.Exe != "/sbin/fsfreeze" || got.User != "root" || got.Mount != "/data" || got.Cgroup != "/user.slice" {
		t.Errorf("the culprit's facts were not filled in: %+v", got)
	}
	if got := r.Causes[2]; got.SymptomOf != "cpu.contention" || got.ExplainedPct != 0 || got.Culprit.Unit != "web.service" || got.Culprit.User != "www-data" {
		t.Errorf("the symptom: %+v", got)
	}
	if len(r.Ledger) != 1 || r.Ledger[0].ClassMs["filesystem_wait"] != 3100 || r.Ledger[0].TotalMs != 3200 {
		t.Errorf("the ledger must have the one account of weight: %+v", r.Ledger)
	}
	if want := "3.10 s filesystem wait in __sb_start_write, write of /data/log, until "; !strings.HasPrefix(r.Ledger[0].Longest, want) {
		t.Errorf("longest wait %q, want it to begin with %q", r.Ledger[0].Longest, want)
	}
	if r.Stall.DurationMs != 3200 || r.Stall.Start.Format(time.RFC3339Nano) != "2026-11-25T03:01:40Z" {
		t.Errorf("the stall: %+v", r.Stall)
	}
	if len(r.NotSeen) != 1 || r.NotSeen[0].Fix != "boot with psi=1" {
		t.Errorf("not seen: %+v", r.NotSeen)
	}
	if again := Build(w, v, m); again.ID != r.ID || again.Fingerprint != r.Fingerprint {
		t.Errorf("judging the same stall again gave another id: %s and %s", r.ID, again.ID)
	}
}

func TestTimeline(t *testing.T) {
	w, v, m := frozen()
	items := Build(w, v, m).Timeline
	count := make(map[string]int)
	var all strings.Builder
	for i, it := range items {
		count[it.What]++
		all.WriteString(it.Text + "\n")
		if i > 0 && it.At.Before(items[i-1].At) {
			t.Errorf("item %d is out of order", i)
		}
	}
	if count["stall"] != 1 || count["symptom"] != 2 || count["kernel_log"] != 1 || count["missed"] != 1 || count["clock_stepped"] != 1 || count["ends"] != 0 {
		t.Errorf("items: %v", count)
	}
	if count["refused"] != maxTimeline+1 || !strings.Contains(all.String(), "140 more refused records") {
		t.Errorf("a flood must be cut and counted: %d items\n%s", count["refused"], &all)
	}
	for _, want := range []string{"set by -5.00 s", "late by 1.00 s, waiting in down_read", "0.0.0.0:8000"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the timeline does not say %q", want)
		}
	}
}

func TestUnknownSaysWhatWasSeen(t *testing.T) {
	w, _, m := frozen()
	r := Build(w, freezeframe.Verdict{Unexplained: freezeframe.Spans{w.stall.Span}}, m)
	c := r.Causes[0]
	if c.ID != freezeframe.CauseUnknown || c.ExplainedPct != 0 || c.Confidence != 0 || r.UnexplainedPct != 100 || c.Culprit.Kind != freezeframe.CulpritHost {
		t.Errorf("verdict without findings: %+v, unexplained %v", c, r.UnexplainedPct)
	}
	for _, want := range []string{"gunicorn (pid 12)", "/data", "97 % filesystem wait"} {
		if !strings.Contains(c.Summary, want) {
			t.Errorf("the summary does not say %q: %s", want, c.Summary)
		}
	}
}

// Whatever the findings claim, what is printed adds up to 100.0.
func TestSharesAddUp(t *testing.T) {
	w, _, m := frozen()
	random := rand.New(rand.NewPCG(1, 2))
	length := int64(w.stall.Length())
	for range 500 {
		var v freezeframe.Verdict
		for range random.IntN(6) {
			from := w.stall.Start + freezeframe.Instant(random.Int64N(length)-length/4)
			v.Findings = append(v.Findings, freezeframe.Finding{Cause: "cpu.contention", Explains: freezeframe.Spans{{Start: from, End: from + freezeframe.Instant(random.Int64N(length/2))}}})
		}
		r := Build(w, v, m)
		sum := tenthsOf(r.UnexplainedPct)
		for _, c := range r.Causes {
			sum += tenthsOf(c.ExplainedPct)
		}
		if sum != 1000 {
			t.Fatalf("%d findings add up to %d tenths of a percent", len(v.Findings), sum)
		}
	}
	if got := tenths([]time.Duration{0, 0}); got[0] != 0 || got[1] != 100 {
		t.Errorf("a stall without length must be unexplained: %v", got)
	}
}

func tenthsOf(f float64) int {
	var whole, tenth int
	fmt.Sscanf(fmt.Sprintf("%.1f", f), "%d.%d", &whole, &tenth)
	return 10*whole + tenth
}

// Time that two findings claim belongs to the first.
func TestNoTimeIsExplainedTwice(t *testing.T) {
	w, v, m := frozen()
	half := freezeframe.Span{Start: w.stall.Start, End: w.stall.Start + freezeframe.Instant(w.stall.Length())/2}
	v.Findings[0].Explains = freezeframe.Spans{half}
	v.Findings[1].Explains = freezeframe.Spans{half}
	r := Build(w, v, m)
	if a, b := r.Causes[0].ExplainedPct, r.Causes[1].ExplainedPct; a != 50 || b != 0 || r.UnexplainedPct != 50 {
		t.Errorf("shares %v and %v, unexplained %v", a, b, r.UnexplainedPct)
	}
}

func TestFingerprint(t *testing.T) {
	base := freezeframe.Culprit{Kind: "process", PID: 12, Comm: "java", Exe: "/usr/bin/java", Cmdline: "java -Xmx512m -jar a.jar --port 8080"}
	with := func(change func(*freezeframe.Culprit)) freezeframe.Culprit { c := base; change(&c); return c }
	same := []freezeframe.Culprit{
		with(func(c *freezeframe.Culprit) { c.PID = 9999 }),
		with(func(c *freezeframe.Culprit) { c.Cmdline = "java -Xmx1024m -jar a.jar --port 81" }),
		with(func(c *freezeframe.Culprit) { c.Comm, c.Count = "java2", 4 }),
	}
	other := []freezeframe.Culprit{
		with(func(c *freezeframe.Culprit) { c.Cmdline = "java -jar b.jar" }),
		with(func(c *freezeframe.Culprit) { c.Unit = "a.service" }),
		with(func(c *freezeframe.Culprit) { c.Kind = "cgroup"; c.Cgroup = "/a" }),
		{Kind: "mount", Mount: "/data"}, {Kind: "mount", Mount: "/data2"}, {Kind: "device", Device: "sda"},
	}
	want := Fingerprint("a.b", base)
	for _, c := range same {
		if got := Fingerprint("a.b", c); got != want {
			t.Errorf("%+v has another fingerprint", c)
		}
	}
	seen := map[string]bool{want: true, Fingerprint("a.c", base): true}
	for _, c := range other {
		got := Fingerprint("a.b", c)
		if seen[got] {
			t.Errorf("%+v has the fingerprint of another culprit", c)
		}
		seen[got] = true
	}
	if len(seen) != 2+len(other) {
		t.Errorf("only %d fingerprints for %d things", len(seen), 2+len(other))
	}
}

func TestCgroupPath(t *testing.T) {
	for in, want := range map[string]string{
		"0::/system.slice/web.service":            "/system.slice/web.service",
		"0::/;4:memory:/a/b;1:name=systemd:/init": "/a/b",
		"4:memory:/a/b;0::/c":                     "/c",
		"3:cpu,cpuacct:/;0::/":                    "/",
		"0::/odd:name;x":                          "/odd:name",
		"":                                        "", ";;:": "", "/a/b": "",
	} {
		if got := cgroupPath(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	w, _, _ := frozen()
	for _, c := range []freezeframe.Culprit{
		{Kind: "cgroup", Cgroup: "/system.slice/web.service"},
		{Kind: "cgroup", Cgroup: "cpu:/system.slice/web.service"},
		{Kind: "process", PID: 12},
	} {
		if got := identify(w, c, nil); got.Unit != "web.service" {
			t.Errorf("%+v: unit %q", c, got.Unit)
		}
	}
}

func TestReusedPIDIsToldApart(t *testing.T) {
	w, _, _ := frozen()
	w.add("procs", w.stall.End+second, freezeframe.TaskKey(44, 99), map[string]any{"comm": "cron", "exe": "/usr/sbin/cron"})
	if p, ok := process(w, 44, Clean(hostile)); !ok || p.exe == "" {
		t.Errorf("the process is not found: %+v", p)
	}
	if p, _ := process(w, 44, "cron"); p.exe != "/usr/sbin/cron" {
		t.Errorf("the reuse of pid 44 by cron gave %q", p.exe)
	}
	if p, _ := process(w, 44, hostile); p.exe != "/sbin/fsfreeze" {
		t.Errorf("pid 44 as it was gave %q", p.exe)
	}
	// What the process became after the stall is not what it was in it.
	w.add("procs", w.stall.End+second, freezeframe.TaskKey(12, 7), map[string]any{"comm": "gunicorn", "exe": "/usr/bin/other"})
	if p, _ := process(w, 12, ""); p.exe != "/usr/bin/python3" {
		t.Errorf("pid 12 after the stall was used: %q", p.exe)
	}
	if _, ok := process(w, 45, ""); ok {
		t.Error("a pid that was never seen was found")
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		340 * time.Millisecond: "340 ms", 999600 * time.Microsecond: "1.00 s", 3210 * time.Millisecond: "3.21 s",
		125 * time.Second: "2 min 5 s", 59996 * time.Millisecond: "1 min 0 s", 2*time.Hour + time.Minute: "2 h 1 min", 12 * time.Microsecond: "12 µs",
		-3 * time.Second: "-3.00 s", math.MinInt64: "-2562047 h 47 min",
	} {
		if got := duration(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}
