package recorder

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"freezeframe"
)

// TestReadersAndWritersAtOnce wraps every lane many times while readers pin:
// whatever a reader gets is whole, in order and the newest there is. The race
// detector watches it.
func TestReadersAndWritersAtOnce(t *testing.T) {
	r := testRing(MinBytes)
	var writers, readers sync.WaitGroup
	var stop atomic.Bool
	var newest [freezeframe.Lanes]atomic.Int64
	for lane := range freezeframe.Lanes {
		src := testSource(lane.String(), "task", lane, freezeframe.Counter, freezeframe.Text, freezeframe.Gauge)
		w := mustWriter(t, r, src)
		texts := r.Texts().Lane(lane)
		writers.Add(1)
		go func() {
			defer writers.Done()
			var table freezeframe.Table
			for n := 1; !stop.Load(); n++ {
				table.Reset()
				table.At = freezeframe.Instant(n)
				table.Due = table.At - 1
				for i := range 20 {
					row := table.Row(freezeframe.Key(n/100+i), 3)
					row[0] = uint64(n) * 0x9e3779b97f4a7c15
					row[1] = texts.Intern(fmt.Appendf(nil, "%s row %d of %d", lane, i, n/10))
					row[2] = uint64(n)
				}
				w.Append(&table)
				newest[lane].Store(int64(n))
			}
		}()
	}
	wrapped := func() bool {
		for lane := range freezeframe.Lanes {
			if s := &r.lanes[lane]; s.cur.number.Load() < 2*uint64(len(s.chunks)) {
				return false
			}
		}
		return true
	}
	patience := time.Now().Add(time.Minute) // the writers may not get a CPU at once
	for range 2 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for n := 0; n < 8 || !wrapped() && time.Now().Before(patience); n++ {
				var least [freezeframe.Lanes]int64
				for lane := range least {
					least[lane] = newest[lane].Load()
				}
				rec := pinAll(t, r)
				for lane := range freezeframe.Lanes {
					checkLane(t, rec, lane, least[lane])
				}
			}
		}()
	}
	readers.Wait()
	stop.Store(true)
	writers.Wait()
	if !wrapped() {
		t.Error("a lane never wrapped: this tests less than it should")
	}
}

func checkLane(t *testing.T, rec *Recording, lane freezeframe.Lane, least int64) {
	s := rec.Series(lane.String(), freezeframe.Span{Start: 0, End: 1 << 62})
	if len(s.Tables) == 0 {
		if least > 0 {
			t.Errorf("nothing of the %s lane", lane)
		}
		return
	}
	for i := range s.Tables {
		n := uint64(s.Tables[i].At)
		if i > 0 && n <= uint64(s.Tables[i-1].At) {
			t.Errorf("%s: reading %d follows %d", lane, n, s.Tables[i-1].At)
		}
		if len(s.Tables[i].Keys) != 20 {
			t.Errorf("%s: a table of %d rows", lane, len(s.Tables[i].Keys))
			return
		}
		for k := range 20 {
			v := s.Tables[i].Values(k, 3)
			if v[0] != n*0x9e3779b97f4a7c15 || v[2] != n || s.Tables[i].Keys[k] != freezeframe.Key(int(n)/100+k) {
				t.Errorf("%s: row %d of reading %d is %x", lane, k, n, v)
				return
			}
			if want := fmt.Sprintf("%s row %d of %d", lane, k, n/10); rec.Text(v[1]) != want {
				t.Errorf("%s: text %q, want %q", lane, rec.Text(v[1]), want)
				return
			}
		}
	}
	if last := int64(s.Tables[len(s.Tables)-1].At); last < least {
		t.Errorf("%s: the newest reading is %d, though %d was there before", lane, last, least)
	}
	if len(rec.notes) > 0 {
		t.Error(rec.notes)
	}
}

// A lane that hangs keeps everything that it had finished readable.
func TestStuckWriterIsReadable(t *testing.T) {
	r := testRing(MinBytes)
	w := mustWriter(t, r, testSource("s", "", freezeframe.Slow, freezeframe.Gauge))
	var table freezeframe.Table
	table.Row(1, 1)[0] = 42
	w.Append(&table)
	// The next reading never comes; half of it is in the chunk already.
	s := &r.lanes[freezeframe.Slow]
	for i := s.pos; i < s.pos+100; i++ {
		s.cur.buf[i] = 0xff
	}
	if got := pinAll(t, r).tables(0); len(got) != 1 || got[0].Values(0, 1)[0] != 42 {
		t.Errorf("got %+v", got)
	}
}

func TestPinnedChunksArePassedOver(t *testing.T) {
	r := testRing(MinBytes)
	src := testSource("s", "task", freezeframe.Slow, freezeframe.Gauge)
	w := mustWriter(t, r, src)
	s := &r.lanes[freezeframe.Slow]
	var table freezeframe.Table
	write := func() {
		table.Reset()
		table.At++
		for i := range 1000 {
			table.Row(freezeframe.Key(i*i*7919+int(table.At)), 1)[0] = uint64(i) << 40
		}
		w.Append(&table)
	}
	for s.cur.number.Load() < uint64(len(s.chunks)) {
		write()
	}
	pinned := &s.chunks[0]
	pinned.pins.Add(1)
	before := slices.Clone(pinned.buf)
	for range 10 * len(s.chunks) {
		write()
	}
	if !slices.Equal(before, pinned.buf) {
		t.Error("a pinned chunk was written to")
	}
	if r.Stats().Lost != 0 {
		t.Error("a reading was lost while other chunks were free")
	}
	for i := range s.chunks[1:] {
		s.chunks[1+i].pins.Add(1)
	}
	for range 10 {
		write()
	}
	if r.Stats().Lost == 0 {
		t.Error("with every chunk pinned, nothing was lost: where was it written?")
	}
	for i := range s.chunks {
		s.chunks[i].pins.Add(-1)
	}
	write()
	rec := pinAll(t, r)
	if got := rec.tables(0); len(got) == 0 || got[len(got)-1].At != table.At || len(got[len(got)-1].Keys) != 1000 {
		t.Error("the reading after that is not there")
	}
}

func TestPinTakesWhatFramesTheSpan(t *testing.T) {
	r := testRing(MinBytes)
	w := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Counter))
	for n := range 200 {
		table := freezeframe.Table{Due: freezeframe.Instant(n) * 1e9, At: freezeframe.Instant(n) * 1e9}
		table.Row(0, 1)[0] = uint64(n)
		w.Append(&table)
	}
	rec, err := r.Pin(freezeframe.Span{Start: 100.5e9, End: 110.5e9})
	if err != nil {
		t.Fatal(err)
	}
	s := rec.Series("s", rec.Span)
	if got := s.Delta(0, "c0"); got != 11 {
		t.Errorf("the counter grew by %d over the span and what frames it, want 11", got)
	}
	if _, err := r.Pin(freezeframe.Span{Start: 5, End: 5}); err == nil {
		t.Error("an empty span was pinned")
	}
}

func TestMemoryThatIsNotLockedIsANeed(t *testing.T) {
	r := newRing(MinBytes, func(n int) ([]byte, error) {
		return make([]byte, n), fmt.Errorf("lock %d bytes: no", n)
	})
	rec := pinAll(t, r)
	if len(rec.Missing()) != 1 || !strings.Contains(rec.Missing()[0].Fix, "CAP_IPC_LOCK") {
		t.Errorf("missing: %+v", rec.Missing())
	}
	NewRing(MinBytes) // and the real memory serves
}

func TestWriterRefusesWhatItCannotKeep(t *testing.T) {
	r := testRing(MinBytes)
	wide := testSource("wide", "", freezeframe.Fast, make([]freezeframe.Kind, maxColumns+1)...)
	for _, src := range []freezeframe.Source{{}, wide, {Name: "lane", Lane: freezeframe.Lanes}} {
		if _, err := r.Writer(src); err == nil {
			t.Errorf("took the source %q", src.Name)
		}
	}
	a := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Gauge))
	b := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Gauge))
	c := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Counter))
	if a.index != b.index || a.index == c.index {
		t.Errorf("indexes %d, %d, %d: the same source has one, another columns another", a.index, b.index, c.index)
	}
}

func TestNewerColumnsOfASourceWin(t *testing.T) {
	r := testRing(MinBytes)
	old := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Gauge))
	table := freezeframe.Table{At: 1}
	table.Row(0, 1)
	old.Append(&table)
	if s := pinAll(t, r).Series("s", freezeframe.Span{End: 10}); len(s.Source.Columns) != 1 || len(s.Tables) != 1 {
		t.Fatalf("%d columns, %d tables", len(s.Source.Columns), len(s.Tables))
	}
	mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Gauge, freezeframe.Gauge))
	if s := pinAll(t, r).Series("s", freezeframe.Span{End: 10}); len(s.Tables) != 1 {
		t.Error("a source that has not been read since it came back hides its readings")
	}
}

func TestTexts(t *testing.T) {
	r := testRing(MinBytes)
	texts := r.Texts()
	lane := texts.Lane(freezeframe.Slow)
	if id := lane.Intern(nil); id != 0 || texts.String(0) != "" {
		t.Error("the empty text is not 0")
	}
	for _, s := range []string{"a", "1234567", "12345678", "123456789", "\xff\x00\x1b[31m", strings.Repeat("long", 1000)} {
		id := lane.Intern([]byte(s))
		if id != TextID([]byte(s)) || texts.String(id) != s {
			t.Errorf("%q came back as %q", s, texts.String(id))
		}
		if other := texts.Intern([]byte(s)); other != id {
			t.Errorf("%q has two ids", s)
		}
	}
	long := []byte(strings.Repeat("z", maxText+100))
	if got := texts.String(lane.Intern(long)); got != string(long[:maxText]) {
		t.Errorf("a long text came back with %d bytes", len(got))
	}
	if allocs := testing.AllocsPerRun(1000, func() { lane.Intern(long[:100]) }); allocs != 0 {
		t.Errorf("%v allocations to intern", allocs)
	}
}

// What is interned again and again stays through any number of turns; what is
// not goes, and the memory is never exceeded.
func TestTextsTurn(t *testing.T) {
	r := testRing(MinBytes)
	d := &r.texts.lanes[freezeframe.Slow]
	keep := d.Intern([]byte("kept"))
	touched := d.Intern([]byte("touched"))
	gone := d.Intern([]byte("gone"))
	scratch := make([]byte, maxText)
	start := d.turns.Load()
	for n := 0; d.turns.Load() < start+50; n++ {
		d.Intern(fmt.Appendf(nil, "passing by %d", n))
		d.Intern([]byte("kept"))
		d.touch(touched, scratch)
	}
	if r.texts.String(keep) != "kept" || r.texts.String(touched) != "touched" {
		t.Error("a text in use was dropped")
	}
	if r.texts.String(gone) != "" {
		t.Error("an unused text is still there: nothing turned")
	}
	n := 0
	if allocs := testing.AllocsPerRun(10000, func() { n++; d.Intern([]byte{byte(n), byte(n >> 8), 1, 2, 3, 4, 5}) }); allocs != 0 {
		t.Errorf("%v allocations over turns", allocs)
	}
}

// A text stands beside the readings that name it, whatever the dictionary
// drops.
func TestTextsOutliveTheDictionary(t *testing.T) {
	r := testRing(MinBytes)
	w := mustWriter(t, r, testSource("s", "", freezeframe.Slow, freezeframe.Text))
	d := &r.texts.lanes[freezeframe.Slow]
	var table freezeframe.Table
	id := d.Intern([]byte("the culprit"))
	table.Row(0, 1)[0] = id
	w.Append(&table)
	for n, start := 0, d.turns.Load(); d.turns.Load() < start+3; n++ {
		d.Intern(fmt.Appendf(nil, "passing by %d", n))
	}
	if r.texts.String(id) != "" {
		t.Fatal("the dictionary still has it: this tests nothing")
	}
	if got := pinAll(t, r).Text(id); got != "the culprit" {
		t.Errorf("got %q", got)
	}
}

func TestEventsAreBounded(t *testing.T) {
	r := testRing(MinBytes)
	at := freezeframe.Instant(0)
	r.AddEvent(freezeframe.Event{Kind: freezeframe.EventMissed, At: 1, Text: "rare"})
	// A flood: a hundred thousand lines within ten seconds.
	for n := range 100_000 {
		at = at.Add(100 * time.Microsecond)
		r.AddEvent(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: at, Text: fmt.Sprint("line ", n), Attrs: []freezeframe.Attr{{Name: "n", Value: fmt.Sprint(n)}}})
	}
	events := pinAll(t, r).Events
	var kept, suppressed int
	for i, e := range events {
		if i > 0 && e.At < events[i-1].At {
			t.Fatal("out of order")
		}
		if s := e.Attr("suppressed"); s != "" {
			var n int
			fmt.Sscan(s, &n)
			suppressed += n
			if !strings.Contains(e.Text, "suppressed "+s) || e.End < e.At {
				t.Fatalf("suppression: %+v", e)
			}
		} else if e.Kind == freezeframe.EventKernelLog {
			kept++
		}
	}
	if events[0].Text != "rare" && !slices.ContainsFunc(events, func(e freezeframe.Event) bool { return e.Text == "rare" }) {
		t.Error("the flood pushed out another kind's event")
	}
	if kept+suppressed != 100_000 {
		t.Errorf("%d kept and %d suppressed do not add up", kept, suppressed)
	}
	if kept < eventBurst || kept > 2*eventBurst+11*eventRate {
		t.Errorf("%d kept", kept)
	}

	// Slow but large ones run into the bound on memory, of the kind that has
	// the most.
	huge := strings.Repeat("\xffé", maxEventText)
	for range 2_000 {
		at = at.Add(100 * time.Millisecond)
		r.AddEvent(freezeframe.Event{Kind: freezeframe.EventRefused, At: at, Text: huge, Attrs: slices.Repeat([]freezeframe.Attr{{Name: huge, Value: huge}}, 40)})
	}
	if r.events.bytes > maxEventBytes || r.events.count > maxEvents {
		t.Errorf("%d events, %d bytes", r.events.count, r.events.bytes)
	}
	events = pinAll(t, r).Events
	last := events[len(events)-1]
	if len(last.Text) > maxEventText || len(last.Attrs) != maxEventAttrs || last.At != at {
		t.Errorf("a large event: %d bytes, %d attributes, at %d", len(last.Text), len(last.Attrs), last.At)
	}
	if !slices.ContainsFunc(events, func(e freezeframe.Event) bool { return e.Text == "rare" }) {
		t.Error("large events pushed out another kind's")
	}
	for n := range 1000 {
		r.AddEvent(freezeframe.Event{Kind: fmt.Sprint("kind ", n), At: at})
	}
	if len(r.events.kinds) > maxEventKinds+1 {
		t.Errorf("%d kinds", len(r.events.kinds))
	}
}

// While little happens a chunk is turned by its age, so that a damaged one costs
// seconds and not minutes, and still every lane holds minutes.
func TestQuietLanesTurnByAge(t *testing.T) {
	for _, size := range []int{MinBytes, DefaultBytes} {
		r := testRing(size)
		for lane := range freezeframe.Lanes {
			w := mustWriter(t, r, testSource(lane.String(), "", lane, freezeframe.Gauge))
			for n := range 1000 {
				table := freezeframe.Table{At: freezeframe.Instant(n) * 1e9, Due: freezeframe.Instant(n) * 1e9}
				table.Row(0, 1)
				w.Append(&table)
			}
			for _, c := range r.lanes[lane].read(freezeframe.Span{End: 1 << 62}) {
				if c.span.Length() > r.lanes[lane].age {
					t.Errorf("a chunk of the %s lane spans %s", lane, c.span.Length())
				}
			}
			if held := r.Stats().Held[lane].Length(); held < 2*time.Minute {
				t.Errorf("the %s lane of a ring of %d bytes holds %s", lane, size, held)
			}
		}
	}
}

// Of processes, one snapshot a second is decoded beside a stall, and every one
// in it; those that are, are what they were.
func TestSparseBesideAStall(t *testing.T) {
	r := NewRing(MinBytes)
	src := freezeframe.Source{Name: "procs", Key: "task", Every: time.Second, Stalled: Tick, Columns: []freezeframe.Column{{Name: "a"}, {Name: "b"}}}
	w, err := r.Writer(src)
	if err != nil {
		t.Fatal(err)
	}
	start := freezeframe.Instant(time.Hour)
	for i := range 800 { // 40 s
		tab := freezeframe.Table{Due: start.Add(time.Duration(i) * Tick)}
		tab.At = tab.Due
		for p := range 60 {
			if (i/100+p)%7 == 0 {
				continue // comes and goes
			}
			row := tab.Row(freezeframe.TaskKey(p+1, 5), 2)
			row[0], row[1] = uint64(i*p), uint64(p)
		}
		w.Append(&tab)
	}
	span := freezeframe.Span{Start: start, End: start.Add(time.Minute)}
	whole, err := r.Pin(span)
	if err != nil {
		t.Fatal(err)
	}
	part, err := r.Pin(span)
	if err != nil {
		t.Fatal(err)
	}
	stall := freezeframe.Stall{Span: freezeframe.Span{Start: start.Add(20 * time.Second), End: start.Add(23 * time.Second)}}
	part.Stalls = []freezeframe.Stall{stall}
	all := whole.Series("procs", span).Tables
	kept := part.Series("procs", span).Tables
	if len(all) != 800 {
		t.Fatalf("%d readings without a stall, want 800", len(all))
	}
	near, next := 0, 0
	for i := range kept {
		k := &kept[i]
		for all[next].At < k.At {
			next++
		}
		if have := &all[next]; have.At != k.At || !slices.Equal(have.Keys, k.Keys) || !slices.Equal(clone(have).Vals, clone(k).Vals) {
			t.Fatalf("reading %d differs", i)
		}
		if k.At >= stall.Start.Add(-around) && k.At <= stall.End.Add(around) {
			near++
		} else if i > 0 && k.At.Sub(kept[i-1].At) < time.Second-Tick {
			t.Errorf("two readings %s apart, far from the stall", k.At.Sub(kept[i-1].At))
		}
	}
	if want := int((3*time.Second+2*around)/Tick) + 1; near < want-1 || near > want {
		t.Errorf("%d readings about the stall, want %d", near, want)
	}
	if len(kept) < near+30 {
		t.Errorf("%d readings beside it, want one a second", len(kept)-near)
	}
}
