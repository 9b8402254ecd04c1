package recorder

import (
	"bytes"
	"testing"

	"freezeframe"
)

// second is the moment n seconds after the start of the clock.
func second(n float64) freezeframe.Instant { return freezeframe.Instant(n * 1e9) }

func ats(s freezeframe.Series) (first, last float64, n int) {
	if n = len(s.Tables); n == 0 {
		return 0, 0, 0
	}
	return float64(s.Tables[0].At) / 1e9, float64(s.Tables[n-1].At) / 1e9, n
}

// A window gives each phase the readings that frame it, live and replayed
// alike.
func TestWindow(t *testing.T) {
	r := testRing(MinBytes)
	w := mustWriter(t, r, testSource("s", "", freezeframe.Fast, freezeframe.Counter))
	for n := range 61 {
		table := freezeframe.Table{Due: second(float64(n)), At: second(float64(n))}
		table.Row(0, 1)[0] = uint64(n) * 10
		w.Append(&table)
	}
	for _, at := range []float64{10, 20, 30, 40} {
		r.AddEvent(freezeframe.Event{Kind: "point", At: second(at)})
	}
	r.AddEvent(freezeframe.Event{Kind: "span", At: second(15), End: second(25.5)})
	live := pinAll(t, r)
	var file bytes.Buffer
	if err := Write(&file, live); err != nil {
		t.Fatal(err)
	}
	replayed, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	stall := freezeframe.Stall{Span: freezeframe.Span{Start: second(20.5), End: second(30.5)}}
	for name, rec := range map[string]*Recording{"live": live, "replayed": replayed} {
		win := rec.Window(stall)
		win.SetLedger(freezeframe.Ledger{Accounts: []freezeframe.Account{{Weight: 1}}})
		if len(win.Ledger().Accounts) != 1 || win.Stall().Start != stall.Start {
			t.Errorf("%s: the window lost its ledger or stall", name)
		}
		for _, c := range []struct {
			phase       freezeframe.Phase
			first, last float64
			events      int
			points      int
		}{
			{freezeframe.Before, 0, 21, 3, 2},
			{freezeframe.During, 20, 31, 2, 1},
			{freezeframe.After, 30, 60, 1, 1},
			{freezeframe.Whole, 0, 60, 5, 4},
		} {
			s := win.Phase("s", c.phase)
			if first, last, n := ats(s); first != c.first || last != c.last || n != int(c.last-c.first)+1 {
				t.Errorf("%s: phase %d has %d readings from %v to %v, want %v to %v", name, c.phase, n, first, last, c.first, c.last)
			}
			if n := len(win.Events("", c.phase)); n != c.events {
				t.Errorf("%s: phase %d has %d events, want %d", name, c.phase, n, c.events)
			}
			if n := len(win.Events("point", c.phase)); n != c.points {
				t.Errorf("%s: phase %d has %d points, want %d", name, c.phase, n, c.points)
			}
		}
		s := win.Between("s", freezeframe.Span{Start: second(5), End: second(7)})
		if first, last, _ := ats(s); first != 5 || last != 7 || s.Delta(0, "c0") != 20 {
			t.Errorf("%s: between 5 and 7 there is %v to %v", name, first, last)
		}
		s = win.Between("s", freezeframe.Span{Start: second(100), End: second(101)})
		if first, last, n := ats(s); n != 1 || first != 60 || last != 60 {
			t.Errorf("%s: after the end there are %d readings", name, n)
		}
		s = win.Between("s", freezeframe.Span{Start: second(-2), End: second(-1)})
		if first, _, n := ats(s); n != 1 || first != 0 {
			t.Errorf("%s: before the beginning there are %d readings", name, n)
		}
		s = win.Phase("nothing", freezeframe.Whole)
		if len(s.Tables) != 0 || s.Source.Name != "nothing" {
			t.Errorf("%s: an unknown source: %+v", name, s)
		}
		if win.Text(0) != "" || win.Text(12345) != "" {
			t.Errorf("%s: texts that do not exist", name)
		}
	}
}

// A recording that is packed for its size reads like any other, and keeps no
// more decoded than it may.
func TestLargeRecordingIsPacked(t *testing.T) {
	r := testRing(40 << 20)
	const rows = 2000
	var sources []string
	for i, name := range []string{"a", "b", "c", "d"} {
		src := testSource(name, "task", freezeframe.Tasks, freezeframe.Counter, freezeframe.Gauge, freezeframe.Text)
		sources = append(sources, name)
		w := mustWriter(t, r, src)
		id := r.Texts().Intern([]byte(name))
		for n := range 200 {
			table := freezeframe.Table{At: second(float64(n)), Due: second(float64(n))}
			for k := range rows {
				row := table.Row(freezeframe.Key(k), 3)
				row[0] = uint64(n*k*(i+1)) * 0x9e3779b97f4a7c15 // does not compress
				row[1], row[2] = uint64(k), id
			}
			w.Append(&table)
		}
	}
	rec := pinAll(t, r)
	packed := 0
	for i := range rec.blocks {
		if rec.blocks[i].plain == nil {
			packed++
		}
	}
	if packed == 0 {
		t.Fatal("nothing is packed: this tests nothing")
	}
	for range 2 {
		for i, name := range sources {
			s := rec.Series(name, freezeframe.Span{End: second(200)})
			if len(s.Tables) == 0 {
				t.Fatalf("nothing of %s", name)
			}
			for _, table := range s.Tables {
				n := int(table.At / 1e9)
				for k := range rows {
					v := table.Values(k, 3)
					if v[0] != uint64(n*k*(i+1))*0x9e3779b97f4a7c15 || rec.Text(v[2]) != name {
						t.Fatalf("%s: reading %d row %d is %v", name, n, k, v)
					}
				}
			}
			if rec.held > keepDecoded && len(rec.decoded) > 1 {
				t.Fatalf("%d bytes of %d sources are kept decoded", rec.held, len(rec.decoded))
			}
		}
	}
}
