package freezeframe_test

import (
	"math/rand/v2"
	"testing"
	"time"

	. "freezeframe"
)

// set turns spans into a bitmap of moments, to hold the set operations against
// the plainest thing that could be right.
func set(spans Spans) (m [64]bool) {
	for _, s := range spans {
		for i := s.Start; i < s.End; i++ {
			m[i] = true
		}
	}
	return m
}

func randomSpans(r *rand.Rand) []Span {
	out := make([]Span, r.IntN(6))
	for i := range out {
		a := Instant(r.IntN(60))
		out[i] = Span{a, a + Instant(r.IntN(12)) - 2}
		out[i].End = min(max(out[i].End, 0), 63)
	}
	return out
}

func TestSpansAgreeWithBitmaps(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		a, b := Union(randomSpans(r)...), Union(randomSpans(r)...)
		ma, mb := set(a), set(b)
		and, minus, union := set(a.And(b)), set(a.Minus(b)), set(Union(append(append([]Span{}, a...), b...)...))
		n := time.Duration(0)
		for i := range ma {
			if ma[i] {
				n++
			}
			if and[i] != (ma[i] && mb[i]) || minus[i] != (ma[i] && !mb[i]) || union[i] != (ma[i] || mb[i]) {
				t.Fatalf("a %v b %v: and %v minus %v", a, b, a.And(b), a.Minus(b))
			}
		}
		if a.Length() != n {
			t.Fatalf("%v: length %v, want %v", a, a.Length(), n)
		}
		for i := 1; i < len(a); i++ {
			if a[i].Start <= a[i-1].End {
				t.Fatalf("%v: spans touch", a)
			}
		}
	}
}

func TestSeriesDeltas(t *testing.T) {
	src := Source{Name: "x", Columns: []Column{{"n", Counter}, {"level", Gauge}}}
	s := Series{Source: src}
	for i, v := range []uint64{100, 150, 20, 25} { // the counter starts again
		tab := Table{At: Instant(i)}
		copy(tab.Row(1, 2), []uint64{v, v})
		if i > 1 {
			copy(tab.Row(2, 2), []uint64{7 + uint64(i)*100, 0})
		}
		s.Tables = append(s.Tables, tab)
	}
	if got := s.Delta(1, "n"); got != 50+20+5 {
		t.Errorf("delta %d", got)
	}
	if top := s.Top("n"); len(top) != 2 || top[0] != (Amount{2, 100}) || top[1] != (Amount{1, 75}) {
		t.Errorf("top %v", top)
	}
	if got := s.Max(1, "level"); got != 150 {
		t.Errorf("max %d", got)
	}
	if s.Delta(1, "nothing") != 0 || s.Points(9, "n") != nil {
		t.Error("an unknown column or key has values")
	}
}

func TestTableRowReusesItsMemory(t *testing.T) {
	var tab Table
	fill := func() {
		tab.Reset()
		for k := range Key(50) {
			row := tab.Row(k, 8)
			for i := range row {
				if row[i] != 0 {
					t.Fatal("a row is not zeroed")
				}
				row[i] = uint64(k)
			}
		}
	}
	fill()
	if n := testing.AllocsPerRun(10, fill); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

func TestFocusMergesVictimsAndHolders(t *testing.T) {
	var f Focus
	f.Watch([]int32{1, 2})
	f.Hold([]int32{2, 3})
	if got := f.PIDs(); len(got) != 3 || got[0] != 1 || got[2] != 3 {
		t.Errorf("pids %v", got)
	}
	same := []int32{1, 2}
	if n := testing.AllocsPerRun(10, func() { f.Watch(same) }); n != 0 {
		t.Errorf("%v allocations to change nothing", n)
	}
	f.Suspect(100)
	f.Suspect(50)
	if !f.Stalled(99) || f.Stalled(100) {
		t.Error("a shorter suspicion shortened a longer one")
	}
}

func TestClockGoesBothWays(t *testing.T) {
	c := Clock{Mono: 5e9, WallNanos: 1_700_000_000e9}
	if got := c.Instant(c.Wall(7e9)); got != 7e9 {
		t.Errorf("there and back: %d", got)
	}
}
