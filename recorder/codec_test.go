package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"

	"github.com/google/go-cmp/cmp"
)

// testRing is a ring on the Go heap, which the race detector watches.
func testRing(bytes int) *Ring {
	return newRing(bytes, func(n int) ([]byte, error) { return make([]byte, n), nil })
}

func testSource(name, key string, lane freezeframe.Lane, kinds ...freezeframe.Kind) freezeframe.Source {
	src := freezeframe.Source{Name: name, Key: key, Every: time.Second, Lane: lane}
	for i, k := range kinds {
		src.Columns = append(src.Columns, freezeframe.Column{Name: fmt.Sprint("c", i), Kind: k})
	}
	return src
}

func mustWriter(t testing.TB, r *Ring, src freezeframe.Source) *Writer {
	t.Helper()
	w, err := r.Writer(src)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// clone copies a table, with empty slices in place of nil ones and its rows one
// behind the other.
func clone(t *freezeframe.Table) freezeframe.Table {
	c := *t
	c.Keys = append([]freezeframe.Key{}, t.Keys...)
	c.Vals = append([]uint64{}, t.Vals...)
	for _, row := range t.Rows {
		c.Vals = append(c.Vals, row...)
	}
	c.Rows = nil
	return c
}

func pinAll(t testing.TB, r *Ring) *Recording {
	t.Helper()
	rec, err := r.Pin(freezeframe.Span{Start: 0, End: 1 << 62})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func sameTables(t *testing.T, got []freezeframe.Table, want []freezeframe.Table) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d tables, want %d", len(got), len(want))
	}
	for i := range got {
		g := clone(&got[i])
		if slices.Equal(g.Keys, want[i].Keys) && slices.Equal(g.Vals, want[i].Vals) && g.Due == want[i].Due && g.At == want[i].At && g.Took == want[i].Took {
			continue // cmp is slow
		}
		if diff := cmp.Diff(want[i], g); diff != "" {
			t.Fatalf("table %d (-want +got):\n%s", i, diff)
		}
	}
}

// walk changes a table at random as a source's readings do: most rows stay,
// some change, some go, some come, now and then the order turns.
type walk struct {
	r     *rand.Rand
	src   freezeframe.Source
	texts freezeframe.Texts
	names map[uint64]string
	next  uint64
	t     freezeframe.Table
}

func (k *walk) text() uint64 {
	return k.intern(fmt.Sprintf("text %d %s", k.r.IntN(50), strings.Repeat("x", k.r.IntN(40))))
}

func (k *walk) intern(s string) uint64 {
	id := k.texts.Intern([]byte(s))
	if k.names == nil {
		k.names = make(map[uint64]string)
	}
	k.names[id] = s
	return id
}

func (k *walk) value(c int) uint64 {
	switch {
	case k.src.Columns[c].Kind == freezeframe.Text:
		return k.text()
	case k.r.IntN(10) == 0:
		return k.r.Uint64()
	}
	return k.r.Uint64N(1000)
}

func (k *walk) key() freezeframe.Key {
	k.next++
	if k.src.Key == "text" {
		return freezeframe.Key(k.intern(fmt.Sprint("key ", k.next)))
	}
	if k.r.IntN(20) == 0 {
		return freezeframe.Key(k.r.Uint64())
	}
	return freezeframe.Key(k.next * 3)
}

func (k *walk) step() *freezeframe.Table {
	width := len(k.src.Columns)
	old := k.t
	k.t = freezeframe.Table{Due: old.Due + 50e6, Took: time.Duration(k.r.IntN(1e6))}
	k.t.At = k.t.Due + freezeframe.Instant(k.r.IntN(1e7))
	add := func() {
		row := k.t.Row(k.key(), width)
		for c := range row {
			row[c] = k.value(c)
		}
	}
	for i, key := range old.Keys {
		switch n := k.r.IntN(20); {
		case n == 0:
			continue
		case n == 1:
			add()
		}
		row := k.t.Row(key, width)
		copy(row, old.Values(i, width))
		if k.r.IntN(4) == 0 && width > 0 {
			for range 1 + k.r.IntN(3) {
				c := k.r.IntN(width)
				row[c] = k.value(c)
			}
		}
	}
	for range k.r.IntN(4) {
		add()
	}
	if n := len(k.t.Keys); n > 1 && k.r.IntN(10) == 0 {
		a, b := k.r.IntN(n), k.r.IntN(n)
		k.t.Keys[a], k.t.Keys[b] = k.t.Keys[b], k.t.Keys[a]
		for c := range width {
			k.t.Vals[a*width+c], k.t.Vals[b*width+c] = k.t.Vals[b*width+c], k.t.Vals[a*width+c]
		}
	}
	return &k.t
}

func TestTablesComeBackAsTheyWere(t *testing.T) {
	const C, G, T = freezeframe.Counter, freezeframe.Gauge, freezeframe.Text
	wide := make([]freezeframe.Kind, 200)
	for i := range wide {
		wide[i] = freezeframe.Kind(i % 3)
	}
	for _, src := range []freezeframe.Source{
		testSource("none", "", freezeframe.Fast),
		testSource("one", "", freezeframe.Fast, G),
		testSource("task", "task", freezeframe.Tasks, G, G, T, T, C, C, C),
		testSource("text", "text", freezeframe.Slow, C, T, G),
		testSource("sixty", "cpu", freezeframe.Fast, wide[:60]...),
		testSource("sixtyone", "cpu", freezeframe.Fast, wide[:61]...),
		testSource("wide", "text", freezeframe.Tasks, wide...),
	} {
		t.Run(src.Name, func(t *testing.T) {
			r := testRing(64 << 20)
			w := mustWriter(t, r, src)
			// A second source in the same chunks must not disturb the first.
			other := src
			other.Name = "other"
			w2 := mustWriter(t, r, other)
			k := &walk{r: rand.New(rand.NewPCG(1, 2)), src: src, texts: r.Texts()}
			var want []freezeframe.Table
			for range 120 {
				table := k.step()
				want = append(want, clone(table))
				w.Append(table)
				w2.Append(table)
			}
			rec := pinAll(t, r)
			sameTables(t, rec.tables(0), want)
			sameTables(t, rec.tables(1), want)
			if len(rec.notes) > 0 {
				t.Fatal(rec.notes)
			}
			for _, table := range want {
				for i := range table.Keys {
					for c, v := range table.Values(i, len(src.Columns)) {
						if src.Columns[c].Kind == T && rec.Text(v) != k.names[v] {
							t.Fatalf("text %x is %q, want %q", v, rec.Text(v), k.names[v])
						}
					}
					if src.Key == "text" && !strings.HasPrefix(rec.Text(uint64(table.Keys[i])), "key ") {
						t.Fatalf("the key %x has the text %q", table.Keys[i], rec.Text(uint64(table.Keys[i])))
					}
				}
			}
		})
	}
}

func TestTableLargerThanAChunk(t *testing.T) {
	r := testRing(MinBytes) // chunks of 32 KiB
	src := testSource("big", "task", freezeframe.Tasks, freezeframe.Counter, freezeframe.Text, freezeframe.Gauge)
	w := mustWriter(t, r, src)
	var want []freezeframe.Table
	rnd := rand.New(rand.NewPCG(3, 4))
	for n := range 5 {
		table := freezeframe.Table{Due: freezeframe.Instant(n) * 1e9, At: freezeframe.Instant(n)*1e9 + 5}
		for i := range 5000 {
			row := table.Row(freezeframe.TaskKey(i, 77), 3)
			row[0] = rnd.Uint64()
			row[1] = r.Texts().Intern(fmt.Appendf(nil, "process %d", i%500))
			row[2] = uint64(n)
		}
		want = append(want, clone(&table))
		w.Append(&table)
	}
	rec := pinAll(t, r)
	if len(rec.blocks) < 5 {
		t.Fatalf("all in %d chunks: this tests nothing", len(rec.blocks))
	}
	sameTables(t, rec.tables(0), want)
	// Without its second chunk the first table is no table, and the others stay.
	rec = pinAll(t, r)
	rec.blocks = append(rec.blocks[:1:1], rec.blocks[2:]...)
	got := rec.tables(0)
	if len(got) == 0 || len(got) >= len(want) {
		t.Fatalf("%d tables of %d without one chunk", len(got), len(want))
	}
	sameTables(t, got, want[len(want)-len(got):])
}

func TestRowWhoseTextsFillAChunk(t *testing.T) {
	r := testRing(MinBytes)
	kinds := make([]freezeframe.Kind, 12)
	for i := range kinds {
		kinds[i] = freezeframe.Text
	}
	w := mustWriter(t, r, testSource("texts", "", freezeframe.Fast, kinds...))
	var table freezeframe.Table
	row := table.Row(0, len(kinds))
	for i := range row {
		row[i] = r.Texts().Intern([]byte(strings.Repeat(string(rune('a'+i)), maxText)))
	}
	for range 3 {
		table.At++
		w.Append(&table)
	}
	if got := pinAll(t, r).tables(0); len(got) != 3 || got[2].Values(0, len(kinds))[11] != row[11] {
		t.Fatalf("got %d tables", len(got))
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	r := testRing(8 << 20)
	src := testSource("task", "task", freezeframe.Tasks, freezeframe.Gauge, freezeframe.Text, freezeframe.Counter, freezeframe.Counter)
	w := mustWriter(t, r, src)
	texts := r.Texts().Lane(freezeframe.Tasks)
	name := []byte("process 000000")
	var table freezeframe.Table
	n := 0
	reading := func() {
		n++
		table.Reset()
		table.Due += 50e6
		table.At = table.Due
		for i := range 300 {
			if i%7 == n%7 {
				continue // rows come and go, so that the keys are indexed
			}
			row := table.Row(freezeframe.TaskKey(i, 9), 4)
			name = fmt7(name, i+n/50)
			row[0] = 3
			row[1] = texts.Intern(name)
			row[2] = uint64(n * i)
			row[3] = uint64(i)
		}
		w.Append(&table)
	}
	for range 100 {
		reading()
	}
	before := r.lanes[freezeframe.Tasks].cur.number.Load()
	if allocs := testing.AllocsPerRun(2000, reading); allocs != 0 {
		t.Errorf("%v allocations a reading", allocs)
	}
	if r.lanes[freezeframe.Tasks].cur.number.Load() < before+2 {
		t.Error("no chunk was turned meanwhile: this tests less than it should")
	}
}

// fmt7 writes a number behind "process " without allocating.
func fmt7(b []byte, n int) []byte {
	for i := len(b) - 1; i >= len("process "); i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

func TestDecodingIsBounded(t *testing.T) {
	// One row, then tables that repeat it under another key, doubling: a few
	// kilobytes that would decode to gigabytes if rows could be repeated.
	src := testSource("s", "", freezeframe.Fast, freezeframe.Gauge)
	var chunk []byte
	record := func(body ...byte) {
		chunk = binary.AppendUvarint(chunk, uint64(len(body)))
		chunk = append(chunk, body...)
	}
	record(recordTable, 0, partFirst|partLast|partFull, 0, 0, 0, opNew, 2)
	record(recordTable, 0, partFirst|partLast, 0, 0, 0, 1<<opBits|opSame, zigzagMinus1<<opBits|opMove, 1<<opBits|opSame)
	d := newDecoder(0, &src, 1<<20)
	if err := d.chunk(chunk, 0, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("a table that repeats rows: %v", err)
	}

	chunk = nil
	record(recordTable, 0, partFirst|partLast|partFull, 0, 0, 0, opNew, 2, opNew, 2, opNew, 2)
	for range 100 {
		record(recordTable, 0, partFirst|partLast, 0, 0, 0, 1<<opBits|opSame, 1<<opBits|opChange, 2, 1<<opBits|opSame)
	}
	d = newDecoder(0, &src, 60)
	if err := d.chunk(chunk, 0, false); !errors.Is(err, errTooLarge) {
		t.Errorf("more values than allowed: %v", err)
	}
	if len(d.out) == 0 || len(d.out) > 10 {
		t.Errorf("%d tables within the bound", len(d.out))
	}
}

const zigzagMinus1 = 1

// fuzzSources is what FuzzChunk decodes arbitrary bytes as.
func fuzzSources() []freezeframe.Source {
	const C, G, T = freezeframe.Counter, freezeframe.Gauge, freezeframe.Text
	wide := make([]freezeframe.Kind, 70)
	return []freezeframe.Source{
		testSource("a", "", freezeframe.Fast, C, G),
		testSource("b", "text", freezeframe.Fast, T, C),
		testSource("c", "task", freezeframe.Fast, wide...),
	}
}

func FuzzChunk(f *testing.F) {
	r := testRing(MinBytes)
	for _, src := range fuzzSources() {
		w := mustWriter(f, r, src)
		k := &walk{r: rand.New(rand.NewPCG(5, 6)), src: src, texts: r.Texts()}
		for range 5 {
			w.Append(k.step())
		}
	}
	f.Add(pinAll(f, r).blocks[0].plain)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, chunk []byte) {
		for i, src := range fuzzSources() {
			d := newDecoder(i, &src, 1<<20)
			for range 2 {
				if err := d.chunk(chunk, 0, true); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, errTooLarge) {
					t.Fatalf("unexpected error: %v", err)
				}
			}
			for _, table := range d.out {
				if len(table.Vals) != len(table.Keys)*len(src.Columns) {
					t.Fatalf("%d values for %d rows", len(table.Vals), len(table.Keys))
				}
			}
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 3, 0, 0, 9, 255, 8, 7})
	f.Add(uint64(0), []byte("rows that come and go"))
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		r := testRing(MinBytes)
		kinds := []freezeframe.Kind{freezeframe.Counter, freezeframe.Text, freezeframe.Gauge}
		key := "task"
		if seed&1 != 0 {
			key = "text"
		}
		src := testSource("s", key, freezeframe.Lane(seed%3), kinds[:seed%4%3+1]...)
		width := len(src.Columns)
		w := mustWriter(t, r, src)
		var want []freezeframe.Table
		var table freezeframe.Table
		for len(data) > 0 {
			n := int(data[0]) % 20
			data = data[1:]
			table.Reset()
			table.Due += freezeframe.Instant(seed%1e9) + 20 // readings of a lane follow each other
			table.At = table.Due + freezeframe.Instant(n)
			used := map[freezeframe.Key]bool{}
			for range min(n, len(data)) {
				k := freezeframe.Key(data[0])
				if key == "text" {
					k = freezeframe.Key(r.Texts().Intern(data[:1]))
				}
				if used[k] {
					continue
				}
				used[k] = true
				row := table.Row(k, width)
				for c := range row {
					row[c] = uint64(data[0]) * (seed >> (c * 7))
					if src.Columns[c].Kind == freezeframe.Text {
						row[c] = r.Texts().Intern(data[:min(c+3, len(data))])
					}
				}
				if data = data[1:]; len(data) == 0 {
					break
				}
			}
			want = append(want, clone(&table))
			w.Append(&table)
		}
		rec, err := r.Pin(freezeframe.Span{Start: -1 << 62, End: 1 << 62})
		if err != nil {
			t.Fatal(err)
		}
		got := rec.tables(0)
		for _, n := range rec.notes {
			t.Fatal(n)
		}
		sameTables(t, got, want)
	})
}

// A thread has a row for each of its waits: one key, several rows, in this
// table and in the one before.
func TestKeysWithSeveralRows(t *testing.T) {
	r := testRing(1 << 20)
	w := mustWriter(t, r, testSource("waits", "task", freezeframe.Tasks, freezeframe.Gauge))
	var want []freezeframe.Table
	for i, rows := range []int{1, 5, 2, 9, 0, 3, 3} {
		table := freezeframe.Table{Due: freezeframe.Instant(1000 + i), At: freezeframe.Instant(1000 + i)}
		for j := range rows {
			table.Row(freezeframe.Key(7+j%2), 1)[0] = uint64(100*i + j)
		}
		w.Append(&table)
		want = append(want, clone(&table))
	}
	rec := pinAll(t, r)
	series := rec.Series("waits", freezeframe.Span{Start: 0, End: 1 << 62})
	sameTables(t, series.Tables, want)
}
