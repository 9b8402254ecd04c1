package recorder

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
)

// aStall is one that ends so long before now.
func aStall(now freezeframe.Instant, ago, long time.Duration) freezeframe.Stall {
	span := freezeframe.Span{Start: now.Add(-ago - long), End: now.Add(-ago)}
	return freezeframe.Stall{Span: span, Symptoms: []freezeframe.Symptom{{
		Probe: "answer", Target: "127.0.0.1:80", Span: span, Late: freezeframe.Spans{span}, Worst: long, Count: 3, Quality: 0.9,
		Victims: []freezeframe.Victim{{PID: 12, TID: 13, Comm: "nginx"}},
	}}}
}

// What is noted of a stall comes back from an event as it is kept, whatever is
// in it and however much.
func TestStallsAreNoted(t *testing.T) {
	small := aStall(5e9, 0, 2e9)
	small.Symptoms[0].Target = "Ünit\xff\x00\u2028" + strings.Repeat("ß", 50)
	var l eventLog
	l.init()
	back := func(s freezeframe.Stall) freezeframe.Stall {
		t.Helper()
		l.add(StallEvent(&s, "text"))
		kept := l.snapshot(freezeframe.Span{End: math.MaxInt64})
		e := kept[len(kept)-1]
		got, err := stallOf(&e)
		if err != nil || e.At != s.Start || e.End != s.End || e.Text != "text" {
			t.Fatalf("%v: %+v", err, e)
		}
		return got
	}
	want := small
	want.Symptoms = slices.Clone(small.Symptoms)
	want.Symptoms[0].Target = strings.ToValidUTF8(small.Symptoms[0].Target, "\uFFFD")
	if got := back(small); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}

	large := aStall(100e9, 0, 90e9)
	large.Symptoms = nil
	for i := range 20 {
		sy := freezeframe.Symptom{Probe: "answer", Target: fmt.Sprint("127.0.0.1:", i), Count: i, Quality: 1}
		for j := range 200 {
			at := large.Start.Add(time.Duration(j) * 400 * time.Millisecond)
			sy.Late = append(sy.Late, freezeframe.Span{Start: at, End: at.Add(time.Duration(100+j) * time.Millisecond)})
		}
		for j := range 64 {
			sy.Victims = append(sy.Victims, freezeframe.Victim{PID: 100 + j, TID: 4000 + j, Comm: "a thread \u2028 of 15"})
		}
		large.Symptoms = append(large.Symptoms, sy)
	}
	got := back(large)
	if len(got.Symptoms) != 20 || got.Span != large.Span || len(large.Symptoms[0].Victims) != 64 || len(large.Symptoms[0].Late) != 200 {
		t.Fatalf("%d symptoms; the stall itself has %d victims", len(got.Symptoms), len(large.Symptoms[0].Victims))
	}
	for i, sy := range got.Symptoms {
		was := large.Symptoms[i]
		if n := len(sy.Late); sy.Target != was.Target || len(sy.Victims) < 4 || n < 4 ||
			sy.Late[0].Start != was.Late[0].Start || sy.Late[n-1].End != was.Late[199].End {
			t.Errorf("%+v", sy)
		}
	}
}

func TestSurvey(t *testing.T) {
	m := newMachine(t)
	dir := boxDir(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.ring.AddEvent(WatchingEvent(m.now().Mono, []string{"fsync", "heartbeat"}, []freezeframe.Need{{What: "a right", Lost: "much", Err: "EPERM"}}))
	m.live(b, f, 20*time.Minute)
	told := aStall(m.now().Mono, 10*time.Second, 2*time.Second)
	m.ring.AddEvent(StallEvent(&told, "it stalled"))
	m.live(b, f, 3*time.Hour)
	if n := levels(b); n[levelHour] == 0 {
		t.Fatalf("segments %v", n)
	}
	// Another run after a while. What stalled when it was killed is told by nobody
	// else; the disk did not keep up once.
	open := aStall(m.now().Mono, 0, time.Second)
	open.Ongoing = true
	f.open = func() *freezeframe.Stall { return &open }
	m.record(f, 3*time.Second)
	killed := m.wall()
	crash(b)
	m.restart()
	m.step(10 * time.Minute)
	m.restart()
	again := m.wall()
	b, f, _ = m.box(BoxOptions{Dir: dir})
	m.ring.AddEvent(freezeframe.Event{Kind: EventBoxGap, At: m.now().Mono, End: m.now().Mono.Add(time.Second), Text: "1 s of the fast lane"})
	m.live(b, f, 5*time.Minute)
	m.record(f, 3*time.Second) // into a segment that stays open

	check := func(b *Box) {
		t.Helper()
		s, err := b.Survey(begin, m.wall())
		if err != nil || len(s.Passages) != 2 || len(s.Stalls) != 2 {
			t.Fatalf("%v, %d passages, %d stalls: %+v", err, len(s.Passages), len(s.Stalls), s)
		}
		first, second := &s.Passages[0], &s.Passages[1]
		if first.Start.Sub(begin) > 10*time.Second || first.End.Sub(killed).Abs() > time.Second || second.Start.Sub(again) > time.Second || m.wall().Sub(second.End) > time.Second {
			t.Errorf("passages %+v, killed %v, again %v", s.Passages, killed, again)
		}
		if !slices.Equal(first.Probes, []string{"fsync", "heartbeat"}) || !slices.Contains(first.Sources, "task") || len(second.Probes) != 0 {
			t.Errorf("passages %+v", s.Passages)
		}
		if len(first.Gaps) != 0 || len(second.Gaps) != 1 || second.Gaps[0].End.Sub(second.Gaps[0].Start) != time.Second {
			t.Errorf("gaps %+v, %+v", first.Gaps, second.Gaps)
		}
		if !slices.Contains(s.Needs, freezeframe.Need{What: "a right", Lost: "much", Err: "EPERM"}) {
			t.Errorf("needs %+v", s.Needs)
		}
		if x := &s.Stalls[0]; !x.Told || !reflect.DeepEqual(x.Stall, told) {
			t.Errorf("a stall that was told: %+v", x)
		}
		if x := &s.Stalls[1]; x.Told || !x.Ongoing || x.Span != open.Span {
			t.Errorf("a stall that was open: %+v", x)
		}
		// The readings around it are there, with it as the stall.
		rec, err := b.PinStall(&s.Stalls[1], 30*time.Second, 10*time.Second)
		if err != nil || len(rec.Stalls) != 1 || rec.Stalls[0].Span != open.Span || rec.Span.And(open.Span) != open.Span {
			t.Fatalf("%v: %+v", err, rec)
		}
		if n := within(checkReadings(t, rec, "one"), freezeframe.Span{Start: open.Start.Add(-30 * time.Second), End: open.Start}); n < 119 {
			t.Errorf("%d readings of the 30 s before", n)
		}
		// Of a span beside them nothing is told, but what was watched is.
		s, err = b.Survey(begin.Add(30*time.Minute), begin.Add(31*time.Minute))
		if err != nil || len(s.Stalls) != 0 || len(s.Passages) != 1 || len(s.Passages[0].Probes) != 2 {
			t.Errorf("%v: %+v", err, s)
		}
		if s, err := b.Survey(begin.Add(-2*time.Hour), begin.Add(-time.Hour)); err != nil || len(s.Stalls)+len(s.Passages)+len(s.Needs) != 0 {
			t.Errorf("%v: %+v", err, s)
		}
	}
	check(b)
	view, err := ViewBox(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	check(view)
	if !slices.Equal(before, files(t, dir)) || !slices.ContainsFunc(before, func(n string) bool { return strings.Contains(n, ".open.") }) {
		t.Errorf("looking changed the files, or none was open: %q", before)
	}
	if err := view.Close(); err != nil {
		t.Error(err)
	}
	crash(b)
	if _, err := view.Survey(begin, begin); err == nil {
		t.Error("an empty span")
	}
	if _, err := ViewBox(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// A survey goes from section to section: the readings, nearly all of a file,
// are not read, and damage is told.
func TestSurveyOfDamagedSegments(t *testing.T) {
	m := newMachine(t)
	dir := boxDir(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.recordEvery(f, 3*time.Minute, 15*time.Second)
	stall := aStall(m.now().Mono, 0, time.Second)
	m.ring.AddEvent(StallEvent(&stall, "it stalled"))
	m.recordEvery(f, 2*time.Minute, 15*time.Second)
	f.seal()
	crash(b)
	view, err := ViewBox(dir)
	if err != nil {
		t.Fatal(err)
	}
	view.loads = 0
	if s, err := view.Survey(begin, m.wall()); err != nil || len(s.Stalls) != 1 || len(s.Needs) != 0 || view.loads != 0 {
		t.Fatalf("%v, %d files read whole: %+v", err, view.loads, s)
	}
	for _, name := range files(t, dir) {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(data)
		for i := fileHeader; i < len(bad); i += 200 {
			bad[i] ^= 0xff
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := view.Survey(begin, m.wall())
		if err != nil || !slices.ContainsFunc(s.Needs, func(n freezeframe.Need) bool { return strings.Contains(n.What, name) && n.Err != "" }) {
			t.Errorf("%s: %v: %+v", name, err, s.Needs)
		}
		if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil { // cut off
			t.Fatal(err)
		}
		if s, err := view.Survey(begin, m.wall()); err != nil || len(s.Passages) == 0 {
			t.Errorf("%s cut off: %v: %+v", name, err, s)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := view.Survey(begin, m.wall()); err != nil || len(s.Stalls) != 1 || len(s.Needs) != 0 {
		t.Fatalf("as it was: %v: %+v", err, s)
	}
}

// Whatever an event says, reading it ends well.
func FuzzStallEvent(f *testing.F) {
	s := aStall(5e9, 0, 2e9)
	e := StallEvent(&s, "x")
	f.Add(e.Attrs[0].Value, "", `{"What":"w","Err":"e"}`)
	f.Add(`{"Start":1,"End":2,"Symptoms":[{"Late":[{"Start":3,"End":1}]}]}`, "}", "[]")
	f.Fuzz(func(t *testing.T, a, b, need string) {
		e := freezeframe.Event{Attrs: []freezeframe.Attr{{Name: stallAttr, Value: a}, {Name: stallAttr, Value: b}, {Name: needAttr, Value: need}}}
		for _, n := range needsOf(&e) {
			if n.What == "" {
				t.Error("a need of nothing")
			}
		}
		s, err := stallOf(&e)
		if err != nil {
			return
		}
		if s.Length() == 0 {
			t.Fatalf("an empty stall: %+v", s)
		}
		again := StallEvent(&s, "")
		if len(again.Attrs) > maxEventAttrs {
			t.Fatalf("%d attributes", len(again.Attrs))
		}
		if back, err := stallOf(&again); err != nil || back.Span != s.Span {
			t.Errorf("%v: %+v is %+v", err, s, back)
		}
	})
}

func BenchmarkSurveyOfAWeek(b *testing.B) {
	box, m, begin := week(b)
	b.ResetTimer()
	for b.Loop() {
		if s, err := box.Survey(begin, m.wall()); err != nil || len(s.Passages) != 1 {
			b.Fatal(err, len(s.Passages))
		}
	}
}
