package recorder

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
)

// thinAll does what there is to do.
func thinAll(t testing.TB, b *Box) {
	t.Helper()
	th := &thinner{box: b}
	defer th.close()
	for th.step() {
	}
	if len(th.failed) > 0 {
		t.Fatalf("could not be thinned: %v, %v", th.failed, b.Needs())
	}
	b.saveKeep()
}

func (m *machine) live(b *Box, f *follower, d time.Duration) {
	m.t.Helper()
	for end := m.now().Mono.Add(d); m.now().Mono < end; {
		m.recordEvery(f, time.Minute, 15*time.Second)
		thinAll(m.t, b)
	}
}

// within counts the moments in a span.
func within(at []freezeframe.Instant, span freezeframe.Span) (n int) {
	for _, i := range at {
		if span.Contains(i) {
			n++
		}
	}
	return n
}

func levels(b *Box) (n [4]int) {
	for _, s := range b.segments {
		n[s.level]++
	}
	return n
}

func TestOldSegmentsAreThinned(t *testing.T) {
	m := newMachine(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: boxDir(t)})
	start := m.now().Mono.Add(machineStep)
	m.live(b, f, 4*time.Minute)
	stall := freezeframe.Span{Start: m.now().Mono, End: m.now().Mono + 40e9}
	b.Keep(stall)
	for i := range 200 {
		m.ring.AddEvent(freezeframe.Event{Kind: "line", At: m.now().Mono + 100e9, Text: fmt.Sprint(i)})
	}
	m.live(b, f, 3*time.Hour)
	end := m.now().Mono

	if n := levels(b); n[levelHour] != 3 || n[levelThin] > 6 || n[levelFull] < 15 || n[levelFull] > 26 || n[levelOpen] > 1 {
		t.Errorf("segments: %v", n)
	}
	if got, want := len(files(t, b.o.Dir)), len(b.segments); got != want {
		t.Errorf("%d files, %d segments", got, want)
	}
	rec := pinOne(t, b, begin, m.wall())
	last := freezeframe.Span{Start: end.Add(-15*time.Minute) + 1, End: end + 1}
	calm := freezeframe.Span{Start: start.Add(30 * time.Minute), End: start.Add(90 * time.Minute)}
	for name, want := range map[string]int{"one": 360, "task": 120, "records": 0} {
		at := checkReadings(t, rec, name)
		if n := within(at, last); n != 15*60*4 {
			t.Errorf("%s: %d readings of the last 15 minutes", name, n)
		}
		kept := freezeframe.Span{Start: stall.Start - pinMargin, End: stall.End + pinMargin}
		if n := within(at, kept); n != 46*4 {
			t.Errorf("%s: %d readings of the span that was to be kept", name, n)
		}
		if n := within(at, calm); want > 0 && (n < want || n > want+6) {
			t.Errorf("%s: %d readings of a calm hour, want %d and one for each ten minutes at most", name, n, want)
		}
		if at[0] != start {
			t.Errorf("%s: begins at %v, not %v", name, at[0], start)
		}
	}
	// Of what is told once, every record is there: there were few.
	rows := 0
	for _, table := range rec.Series("records", calm).Tables {
		if calm.Contains(table.At) {
			rows += len(table.Keys)
		}
	}
	if rows != 3600/2 {
		t.Errorf("%d records of a calm hour, want 1800", rows)
	}
	// Of the flood of events some, and how many more there were.
	lines, told := 0, ""
	for i := range rec.Events {
		if e := &rec.Events[i]; e.Kind == "line" && e.Attr("suppressed") == "" {
			lines++
		} else if e.Kind == "line" {
			told = e.Attr("suppressed")
		}
	}
	if lines != thinEvents || told != fmt.Sprint(200-thinEvents) {
		t.Errorf("%d lines and %q more", lines, told)
	}
	// A look at an hour long ago reads one or two files.
	rec = pinOne(t, b, begin.Add(31*time.Minute), begin.Add(32*time.Minute))
	if at := checkReadings(t, rec, "one"); within(at, freezeframe.Span{Start: start.Add(31 * time.Minute), End: start.Add(32 * time.Minute)}) != 6 {
		t.Errorf("readings %v", at)
	}
	if st := b.Stats(); st.Thinned == 0 || st.Errors != 0 {
		t.Errorf("stats %+v", st)
	}
	for _, name := range files(t, b.o.Dir) {
		if _, err := ReadFile(filepath.Join(b.o.Dir, name)); err != nil && !strings.Contains(name, ".open.") {
			t.Errorf("by itself: %v", err)
		}
	}
}

// What was told to be kept is kept over a restart; a run that is over is
// thinned as a whole, but for its last minutes.
func TestThinningOfARunThatIsOver(t *testing.T) {
	m := newMachine(t)
	dir := boxDir(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir})
	m.live(b, f, 5*time.Minute)
	stall := freezeframe.Span{Start: m.now().Mono - 100e9, End: m.now().Mono - 80e9}
	b.Keep(stall)
	m.live(b, f, 13*time.Minute)
	end := m.now().Mono
	crash(b)
	m.restart()
	m.step(time.Minute)
	b, f, unclean := m.box(BoxOptions{Dir: dir})
	if unclean == nil {
		t.Fatal("a clean end")
	}
	thinAll(t, b)
	if n := levels(b); n != [4]int{levelHour: 1} {
		t.Errorf("segments: %v", n)
	}
	rec := pinOne(t, b, begin, m.wall())
	at := checkReadings(t, rec, "task")
	if n := within(at, stall); n != 80 {
		t.Errorf("%d readings of the stall", n)
	}
	if n := within(at, freezeframe.Span{Start: end.Add(-lastMinutes + time.Second), End: end + 1}); n < 179*4 {
		t.Errorf("%d readings of the last minutes", n)
	}
	if len(at) > 1200 {
		t.Errorf("%d readings: not thinned", len(at))
	}
	m.flush(f)
}

// The machine may stop after the thinned segment is there and before the
// others are gone, or while it is being written.
func TestThinningMayStopAnywhere(t *testing.T) {
	m := newMachine(t)
	dir := boxDir(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir, Full: time.Minute})
	m.record(f, 14*time.Minute)
	f.seal()
	before := map[string][]byte{}
	for _, name := range files(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = data
	}
	thinAll(t, b)
	after := files(t, dir)
	if len(after) > len(before)-8 {
		t.Fatalf("%d files of %d", len(after), len(before))
	}
	thinned := checkReadings(t, pinOne(t, b, begin, m.wall()), "one")
	crash(b)
	for name, data := range before {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	half := filepath.Join(dir, ".x.thin.frz.123.tmp")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _, _ = m.box(BoxOptions{Dir: dir})
	if got := files(t, dir); !slices.Equal(got, after) {
		t.Errorf("after the start: %q, want %q", got, after)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Error("half a file stayed")
	}
	if got := checkReadings(t, pinOne(t, b, begin, m.wall()), "one"); !slices.Equal(got, thinned) {
		t.Errorf("%d readings, want %d", len(got), len(thinned))
	}
}

// Damage in what is thinned costs no more than damage in what is read.
func TestThinningOfDamagedSegments(t *testing.T) {
	m := newMachine(t)
	dir := boxDir(t)
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: dir, Full: time.Minute})
	start := m.now().Mono
	m.record(f, 14*time.Minute)
	f.seal()
	names := files(t, dir)
	for i, damage := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:0] },
		func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		func(b []byte) []byte { return []byte("something else") },
	} {
		path := filepath.Join(dir, names[2*i+2])
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	thinAll(t, b)
	recs, err := b.Pin(begin, m.wall())
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d recordings: %v", len(recs), err)
	}
	at := checkReadings(t, recs[0], "one")
	if n := within(at, freezeframe.Span{Start: start, End: start.Add(9 * time.Minute)}); n < 30 || n > 54 {
		t.Errorf("%d readings", n)
	}
	if n := within(at, freezeframe.Span{Start: start.Add(12 * time.Minute), End: start.Add(14 * time.Minute)}); n != 480 {
		t.Errorf("%d readings of the newest", n)
	}
}

// A week is found by the names of its files: only what overlaps is read.
func TestPinWithinAWeek(t *testing.T) {
	b, m, begin := week(t)
	if n := levels(b); n[levelHour] < 150 || len(b.segments) > 240 {
		t.Errorf("segments: %v", n)
	}
	for day := range 7 {
		from := begin.Add(time.Duration(24*day)*time.Hour + 90*time.Minute)
		b.loads = 0
		rec := pinOne(t, b, from, from.Add(10*time.Minute))
		at := checkReadings(t, rec, "one")
		span := freezeframe.Span{Start: rec.Clock.Instant(from), End: rec.Clock.Instant(from.Add(10 * time.Minute))}
		if n := within(at, span); n < 59 || n > 63 || b.loads > 2 {
			t.Errorf("day %d: %d readings, %d files read", day, n, b.loads)
		}
	}
	// The whole week fits too.
	rec := pinOne(t, b, begin, m.wall())
	if n := len(checkReadings(t, rec, "one")); n < 7*24*60*6 {
		t.Errorf("%d readings of the week", n)
	}
}

// week makes a box that holds one.
func week(t testing.TB) (*Box, *machine, time.Time) {
	m := newMachine(t)
	m.every, m.rows = 10*time.Second, 10
	begin := m.wall()
	b, f, _ := m.box(BoxOptions{Dir: boxDir(t)})
	for range 7 * 24 {
		m.recordEvery(f, time.Hour, 5*time.Minute)
		thinAll(t, b)
	}
	return b, m, begin
}

// Thinning works chunk by chunk: ten times as many readings take no more
// memory.
func TestThinningTakesBoundedMemory(t *testing.T) {
	peak := func(minutes int) uint64 {
		m := newMachine(t)
		b, f, _ := m.box(BoxOptions{Dir: boxDir(t), Full: time.Second})
		m.rows = 300
		m.recordEvery(f, time.Duration(minutes)*time.Minute, 15*time.Second)
		f.seal()
		m.step(2 * time.Second)
		m.ring = nil
		b.run++ // it is over
		th := &thinner{box: b}
		defer th.close()
		most := uint64(0)
		b.clock = func() freezeframe.Clock { return m.now() }
		debug.FreeOSMemory()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		th.look = func() {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
		for th.step() {
		}
		if b.Stats().Thinned == 0 {
			t.Fatal("nothing was thinned")
		}
		return most - min(before.HeapAlloc, most)
	}
	short, long := peak(2), peak(11)
	if long > short+short/2 || long > 8<<20 {
		t.Errorf("thinning 2 minutes took %d bytes, 11 minutes %d", short, long)
	}
	t.Logf("%d and %d bytes", short, long)
}

func BenchmarkBoxFlush(b *testing.B) {
	m := newMachine(b)
	m.rows = 300
	_, f, _ := m.box(BoxOptions{Dir: boxDir(b)})
	m.record(f, 30*time.Second)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		m.step(3 * time.Second)
		b.StartTimer()
		m.flush(f)
	}
}

// BenchmarkThinMinute is what thinning a minute at the full rate takes.
func BenchmarkThinMinute(b *testing.B) {
	const minutes = 10
	for b.Loop() {
		b.StopTimer()
		m := newMachine(b)
		m.rows = 300
		box, f, _ := m.box(BoxOptions{Dir: boxDir(b)})
		m.recordEvery(f, minutes*time.Minute, 15*time.Second)
		f.seal()
		box.run++
		b.StartTimer()
		thinAll(b, box)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/minutes, "us/minute")
}

func BenchmarkPinOfAWeek(b *testing.B) {
	box, _, begin := week(b)
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		from := begin.Add(time.Duration(i%160) * time.Hour)
		if _, err := box.Pin(from, from.Add(10*time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
}
