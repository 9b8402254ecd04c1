package recorder

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"freezeframe"
)

// recorded fills a ring with readings of three sources of one lane, one of them
// seldom read, over a minute.
func recorded(t *testing.T) (rec *Recording, span freezeframe.Span) {
	t.Helper()
	r := testRing(8 << 20)
	often := mustWriter(t, r, testSource("often", "task", freezeframe.Tasks, freezeframe.Counter, freezeframe.Gauge))
	seldom := mustWriter(t, r, testSource("seldom", "task", freezeframe.Tasks, freezeframe.Gauge))
	once := mustWriter(t, r, testSource("once", "", freezeframe.Tasks, freezeframe.Gauge))
	rnd := rand.New(rand.NewPCG(1, 2))
	start := freezeframe.Instant(1000 * time.Second)
	span = freezeframe.Span{Start: start, End: start.Add(time.Minute)}
	var table freezeframe.Table
	for at := start; at < span.End; at = at.Add(Tick) {
		table.Reset()
		table.Due, table.At = at, at+freezeframe.Instant(rnd.IntN(5e6))
		for key := range freezeframe.Key(40) {
			if rnd.IntN(20) > 0 {
				row := table.Row(key+1, 2)
				row[0] = uint64(at) / 1e9 * uint64(key)
				row[1] = uint64(rnd.IntN(1 + int(key)/10))
			}
		}
		often.Append(&table)
		if at.Sub(start)%(17*time.Second) == 0 {
			table.Reset()
			table.Row(7, 1)[0] = uint64(at)
			seldom.Append(&table)
		}
		if at == start {
			table.Reset()
			table.Row(0, 1)[0] = 5
			once.Append(&table)
		}
	}
	rec = pinAll(t, r)
	if len(rec.blocks) < 4 {
		t.Fatalf("all in %d chunks: this tests nothing", len(rec.blocks))
	}
	return rec, span
}

// Whatever is asked for, and whatever was before, the answer is what all the
// tables have of it.
func TestSpansOfASeries(t *testing.T) {
	whole, span := recorded(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	random := func() freezeframe.Instant {
		return span.Start.Add(time.Duration(rnd.Int64N(int64(64*time.Second)))) - freezeframe.Instant(2*time.Second)
	}
	sources := []string{"often", "seldom", "once"}
	for i := range 200 {
		part := &Recording{Span: whole.Span, Sources: whole.Sources, blocks: whole.blocks}
		for range 4 {
			s := freezeframe.Span{Start: random()}
			s.End = s.Start.Add(time.Duration(rnd.Int64N(int64(12*time.Second))) - time.Second)
			switch rnd.IntN(8) {
			case 0:
				s = span
			case 1: // from a reading to a reading
				all := whole.tables(0)
				s = freezeframe.Span{Start: all[rnd.IntN(len(all))].At, End: all[rnd.IntN(len(all))].At}
			}
			name := sources[rnd.IntN(len(sources))]
			whole.tables(whole.source(name, everything)) // all of it is what is looked at
			want, got := whole.Series(name, s), part.Series(name, s)
			if got.Span != want.Span || len(got.Tables) != len(want.Tables) {
				t.Fatalf("%d: %s over %v to %v: %d tables, want %d", i, name, s.Start.Sub(span.Start), s.End.Sub(span.Start), len(got.Tables), len(want.Tables))
			}
			var tables []freezeframe.Table
			for i := range want.Tables {
				tables = append(tables, clone(&want.Tables[i]))
			}
			sameTables(t, got.Tables, tables)
		}
	}
}

// What is asked of a window is near its stall: the rest of the recording must
// not take memory then.
func TestOnlyWhatIsAskedForIsDecoded(t *testing.T) {
	rec, span := recorded(t)
	middle := span.Start.Add(30 * time.Second)
	rec.Series("often", freezeframe.Span{Start: middle, End: middle.Add(time.Second)})
	part := rec.held
	rec.Series("often", span)
	if all := rec.held; part == 0 || part > all/4 {
		t.Errorf("a second takes %d bytes, the minute that it is of %d", part, all)
	}
}

// Rows that are as they were are kept once, however the others come and go.
func TestRowsAreShared(t *testing.T) {
	const rows, width, readings = 1000, 30, 100
	rnd := rand.New(rand.NewPCG(5, 6))
	s := sharing{width: width}
	var table freezeframe.Table
	var want []freezeframe.Table
	changed := map[freezeframe.Key]uint64{}
	for i := range readings {
		table.Reset()
		table.At = freezeframe.Instant(i)
		for key := range freezeframe.Key(rows) {
			if (int(key)+i)%rows == 0 {
				continue // each is missing once
			}
			if rnd.IntN(100) == 0 {
				changed[key]++
			}
			row := table.Row(key, width)
			row[0], row[width-1] = uint64(key), changed[key]
		}
		want = append(want, clone(&table))
		s.add(&table)
	}
	sameTables(t, s.out, want)
	for i := range s.out {
		if s.out[i].Vals != nil || i > 0 && slices.Equal(s.out[i].Keys, s.out[i-1].Keys) {
			t.Fatalf("reading %d is not what this is to test", i)
		}
	}
	if flat := rows * readings * (width + 1); s.words > flat/4 {
		t.Errorf("%d words for what is %d one behind the other", s.words, flat)
	}
}
