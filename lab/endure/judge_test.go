package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// well is a condition of which nothing is wrong.
func well() figures {
	return figures{
		Length: time.Minute, RSSMost: 40, Budget: budgetRSS, Readings: 1000, Late: 3, Asked: 12, Before: 30 * time.Second,
		Reports: 1, Ended: true, OOMKills: 2, Meant: 2, Starts: 3, Killed: 3,
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*figures)
		want string // "": none
	}{
		{"all is well", func(*figures) {}, ""},
		{"memory at its budget", func(f *figures) { f.RSSMost = budgetRSS }, ""},
		{"memory above it", func(f *figures) { f.RSSMost = budgetRSS + 0.1 }, "64.1 MiB resident"},
		{"nothing read", func(f *figures) { f.Readings = 0 }, "nothing was read"},
		{"many late", func(f *figures) { f.Late = 21 }, "2.1 % of the readings were late"},
		{"many late of a process that was held up", func(f *figures) { f.Late, f.LateOK = 500, true }, ""},
		{"a report dropped", func(f *figures) { f.Dropped = map[string]float64{"report": 1} }, "1 of report dropped"},
		{"a gap in the recording meanwhile", func(f *figures) { f.Dropped = map[string]float64{"black_box_gap": 3} }, ""},
		{"unanswered", func(f *figures) { f.Unanswered = []string{"a", "b"} }, "2 of 12 questions were not answered: b"},
		{"unanswered while it was gone", func(f *figures) { f.Unanswered, f.DeafOK = []string{"a"}, true }, ""},
		{"nothing before", func(f *figures) { f.Before = 0 }, "nothing was recorded before"},
		{"two looks that differ a little", func(f *figures) { f.Lost, f.LostOnDisk = lostSlack, lostSlack }, ""},
		{"lost", func(f *figures) { f.Lost = time.Second }, "1.0 s of what was recorded before are lost"},
		{"lost from the files", func(f *figures) { f.LostOnDisk = time.Second }, "1.0 s of what was recorded before are not in the files"},
		{"a report lost", func(f *figures) { f.LostReports = []string{"x"} }, "reports of before are lost: x"},
		{"somebody else gone", func(f *figures) { f.Harmed = []string{"chatd"} }, "beside it: chatd"},
		{"one more killed for memory", func(f *figures) { f.OOMKills = 3 }, "3 processes were killed for memory, 2 were meant"},
		{"a start that nobody caused", func(f *figures) { f.Starts = 4 }, "started again 4 times, and killed 3 times"},
		{"an end that took too long", func(f *figures) { f.Ended, f.Stopping = false, "not within 25s" }, "at the end: not within 25s"},
		{"wrong by the condition's own measure", func(f *figures) { f.Wrong = []string{"nobody was hostile"} }, "nobody was hostile"},
	} {
		f := well()
		c.do(&f)
		got := f.faults()
		switch {
		case c.want == "" && len(got) > 0, c.want != "" && len(got) != 1:
			t.Errorf("%s: %q", c.name, got)
		case c.want != "" && !strings.Contains(got[0], c.want):
			t.Errorf("%s: %q, want %q", c.name, got[0], c.want)
		}
		var b strings.Builder
		if passed := f.write(&b); passed != (c.want == "") {
			t.Errorf("%s: passed is %t\n%s", c.name, passed, b.String())
		}
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("%s: not told:\n%s", c.name, b.String())
		}
	}
}

func at(s float64) time.Time { return time.UnixMilli(int64(1e12 + 1000*s)) }

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		gaps []gap
		want float64
	}{
		{nil, 0},
		{[]gap{{Start: at(-5), End: at(-1)}, {Start: at(11), End: at(20)}}, 0},
		{[]gap{{Start: at(-5), End: at(1)}, {Start: at(9), End: at(20)}}, 2},
		{[]gap{{Start: at(2), End: at(4)}, {Start: at(3), End: at(5)}, {Start: at(3), End: at(3.5)}}, 3},
		{[]gap{{Start: at(7), End: at(8)}, {Start: at(1), End: at(2)}}, 2},
		{[]gap{{Start: at(-9), End: at(99)}}, 10},
	} {
		if got := missing(c.gaps, at(0), at(10)); got.Seconds() != c.want {
			t.Errorf("%v: %v, want %v s", c.gaps, got, c.want)
		}
	}
}

func TestLostOf(t *testing.T) {
	before := []incident{{"a", at(1), at(2), "fs.frozen"}, {"b", at(3), at(4), "unknown"}}
	for _, c := range []struct {
		after []incident
		want  []string
	}{
		{before, nil},
		{append([]incident{{"c", at(5), at(6), "x"}}, before...), nil},
		{before[1:], []string{"a"}},
		{nil, []string{"a", "b"}},
		{[]incident{before[0], {"b", at(3), at(4), "app.stopped"}}, []string{"b"}},
		{[]incident{before[0], {"b", at(3), at(9), "unknown"}}, []string{"b"}},
	} {
		if got := lostOf(before, c.after); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %v, want %v", c.after, got, c.want)
		}
	}
}

func TestLostBy(t *testing.T) {
	kills := []kill{{at: at(10)}, {at: at(20)}, {at: at(30)}}
	for _, c := range []struct {
		ends       []float64
		lost       []float64
		unreported int
	}{
		{[]float64{8, 19.5, 30.2}, []float64{2, 0.5, 0}, 0}, // by another clock, a little late
		{[]float64{30, 8, 19}, []float64{2, 1, 0}, 0},
		{[]float64{8, 29}, []float64{2, 1}, 1},
		{[]float64{1, 8, 12, 19, 29}, []float64{2, 1, 1}, 0},
		{nil, nil, 3},
	} {
		var ends []time.Time
		for _, s := range c.ends {
			ends = append(ends, at(s))
		}
		lost, unreported := lostBy(kills, ends)
		var got []float64
		for _, d := range lost {
			got = append(got, d.Seconds())
		}
		if !reflect.DeepEqual(got, c.lost) || len(unreported) != c.unreported {
			t.Errorf("%v: %v and %d not reported, want %v and %d", c.ends, got, len(unreported), c.lost, c.unreported)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct{ a, aEnd, b, bEnd, want float64 }{
		{0, 10, 2, 4, 2}, {2, 4, 0, 10, 2}, {0, 5, 3, 9, 2}, {3, 9, 0, 5, 2}, {0, 1, 2, 3, 0}, {2, 3, 0, 1, 0},
	} {
		if got := overlap(at(c.a), at(c.aEnd), at(c.b), at(c.bEnd)); got.Seconds() != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// grown is a soak of so many samples whose figures are what of returns.
func grown(n int, of func(part float64) sample) []sample {
	var out []sample
	for i := range n {
		s := of(float64(i) / float64(n))
		s.At = time.Hour * time.Duration(i) / time.Duration(n)
		out = append(out, s)
	}
	return out
}

func TestTrends(t *testing.T) {
	steady := sample{RSS: 40, Files: 300, Threads: 20, Goroutines: 50}
	for _, c := range []struct {
		name    string
		samples []sample
		grows   []string
	}{
		{"steady", grown(360, func(float64) sample { return steady }), nil},
		{"fills up in the first quarter", grown(360, func(part float64) sample {
			s := steady
			s.RSS = 40 * min(1, 0.2+4*part)
			return s
		}), nil},
		{"a load that takes turns", grown(360, func(part float64) sample {
			s := steady
			if int(part*24)%2 == 1 {
				s.Files, s.Goroutines = 1300, 200
			}
			return s
		}), nil},
		{"memory grows", grown(360, func(part float64) sample {
			s := steady
			s.RSS = 30 + 10*part
			return s
		}), []string{"resident MiB"}},
		{"descriptors are left open", grown(360, func(part float64) sample {
			s := steady
			s.Files = 300 + 100*part
			return s
		}), []string{"descriptors"}},
		{"a thread and a goroutine for each that hangs", grown(360, func(part float64) sample {
			s := steady
			s.Threads, s.Goroutines = 20+20*part, 50+50*part
			return s
		}), []string{"threads", "goroutines"}},
		{"few, and three more", grown(360, func(part float64) sample {
			return sample{RSS: 40, Files: 10 + 2*float64(int(2*part)), Threads: 10, Goroutines: 10}
		}), nil},
		{"no samples", nil, []string{"resident MiB", "descriptors", "threads", "goroutines"}},
		{"it ended early", grown(360, func(float64) sample { return steady })[:200], []string{"resident MiB", "descriptors", "threads", "goroutines"}},
	} {
		var grows []string
		all := trends(c.samples, time.Hour)
		for _, tr := range all {
			if !tr.Flat {
				grows = append(grows, tr.Name)
			}
		}
		if !reflect.DeepEqual(grows, c.grows) {
			t.Errorf("%s: grows %v, want %v: %+v", c.name, grows, c.grows, all)
		}
		var b strings.Builder
		if flat := writeTrends(&b, all, budgetRSS); flat != (len(c.grows) == 0) {
			t.Errorf("%s: flat is %t\n%s", c.name, flat, b.String())
		}
	}
	var b strings.Builder
	if writeTrends(&b, trends(grown(360, func(float64) sample { return sample{RSS: budgetRSS + 1, Files: 1, Threads: 1, Goroutines: 1} }), time.Hour), budgetRSS) {
		t.Error("memory above its budget is fine as long as it does not grow")
	}
}

func TestSlotsAreTheSameInEachQuarter(t *testing.T) {
	loads := soakLoads()
	for _, length := range []time.Duration{shortestSoak, 20 * time.Minute, time.Hour, 24 * time.Hour} {
		var total time.Duration
		var quarters [4]string
		all := slots(length, loads)
		for i, s := range all {
			if s.length < 2*time.Second {
				t.Fatalf("%v: a slot of %v", length, s.length)
			}
			total += s.length
			name := "calm"
			if s.load != nil {
				name = s.load.name
			}
			quarters[4*i/len(all)] += fmt.Sprint(name, " ")
		}
		if d := length - total; d < 0 || d > time.Second {
			t.Errorf("%v: the slots take %v", length, total)
		}
		for _, q := range quarters {
			if q != quarters[0] || !strings.Contains(q, "calm") || !strings.Contains(q, loads[len(loads)-1].name) {
				t.Errorf("%v: %q", length, quarters)
			}
		}
	}
}

func TestTallyAcrossProcesses(t *testing.T) {
	var c tally
	for _, step := range []struct {
		pid int
		n   float64
	}{{7, 100}, {7, 150}, {7, 160}, {9, 5}, {9, 8}, {11, 1}} {
		c.add(step.pid, map[string]float64{"x": step.n})
	}
	if got := c.sum["x"]; got != 60+8+1 {
		t.Errorf("x grew by %v", got)
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics("# HELP a What.\n# TYPE a counter\na 12\n\nb{what=\"log line\",x=\"y\"} 1.5e+06\n")
	want := map[string]float64{"a": 12, `b{what="log line",x="y"}`: 1.5e6}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a\n", "a b\n", "a{x=\"1\"} \n"} {
		if m, err := parseMetrics(bad); err == nil {
			t.Errorf("%q gave %v", bad, m)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 7 7 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 23 0 99 123456 2560 18446744073709551615 1 1"
	for _, comm := range []string{"(freezeframe)", "(a) b (c)", "()"} {
		u, err := parseStat("7 " + comm + rest)
		if err != nil || u.cpu != 2*time.Second || u.threads != 23 || u.rssMiB != 10 {
			t.Errorf("%s: %+v, %v", comm, u, err)
		}
	}
	for _, bad := range []string{"", "7 (x) S 1 2", "7 (x)" + strings.Replace(rest, " 23 ", " x ", 1)} {
		if u, err := parseStat(bad); err == nil {
			t.Errorf("%q gave %+v", bad, u)
		}
	}
}

func TestTasksOf(t *testing.T) {
	if running, all, err := tasksOf("0.50 0.40 0.30 3/186 4711\n"); running != 3 || all != 186 || err != nil {
		t.Errorf("%d of %d, %v", running, all, err)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 186 5", "1 2 3 1/x 5"} {
		if _, n, err := tasksOf(bad); err == nil {
			t.Errorf("%q gave %d", bad, n)
		}
	}
}

func TestField(t *testing.T) {
	const text = "MemTotal: 10 kB\nMemAvailable:   7 kB\noom_kill_disable 0\noom_kill 3\nodd\n"
	for word, want := range map[string]int64{"MemAvailable:": 7, "oom_kill": 3, "odd": 0, "missing": 0} {
		if got := field(text, word); got != want {
			t.Errorf("%s: %d", word, got)
		}
	}
}
