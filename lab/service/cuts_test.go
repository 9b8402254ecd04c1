package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func at(s float64) time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(s * float64(time.Second)))
}

func TestWhatACutCosts(t *testing.T) {
	// The machine's clock is 2 s ahead by now.
	words := []word{
		{Now: at(12), heard: at(10.5)},
		{Now: at(15), heard: at(13), Oldest: at(1), Newest: at(14), Ends: 2, Closed: map[string]int64{"a": 9000}},
	}
	cutAt := cut(words[1], at(18))
	if cutAt != at(20) {
		t.Errorf("cut at %v of the machine's clock", cutAt)
	}
	fine := word{Oldest: at(1), Ends: 3, Last: at(17.5), Closed: map[string]int64{"a": 9000, "b": 5000}}
	if missing, faults := lost(words, cutAt, fine); missing != 2500*time.Millisecond || len(faults) > 0 {
		t.Errorf("missing %v, %q", missing, faults)
	}
	for want, change := range map[string]func(*word){
		"6.0 s of recording":  func(w *word) { w.Last = at(14) },
		"anybody for 5.0 s":   func(w *word) { w.Last, w.Witness = at(14), at(15) },
		"was on the disk":     func(w *word) { w.Last = at(12) },
		"2 unclean ends":      func(w *word) { w.Ends = 2 },
		"the oldest reading":  func(w *word) { w.Oldest = at(3) },
		"segment a had 9000":  func(w *word) { w.Closed = nil },
		"9000 bytes, and has": func(w *word) { w.Closed = map[string]int64{"a": 8999} },
	} {
		w := fine
		change(&w)
		if _, faults := lost(words, cutAt, w); !strings.Contains(strings.Join(faults, "; "), want) {
			t.Errorf("%q: faults %q", want, faults)
		}
	}
}

func TestHearing(t *testing.T) {
	h := &hearing{}
	for _, p := range []string{"{\"ends\":1", "}\n{\"ends\":", "2}\n{\"tick\":true}\n{\"ends\":3"} {
		if _, err := h.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if words, last := h.all(); len(words) != 2 || words[0].Ends != 1 || words[1].Ends != 2 || !last.Tick {
		t.Errorf("heard %+v, last %+v", words, last)
	}
}

func TestWitness(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	for _, want := range []time.Time{at(1.5), at(22)} {
		if err := stamp(path, want); err != nil {
			t.Fatal(err)
		}
		var w word
		if err := w.readWitness(path); err != nil || !w.Witness.Equal(want) {
			t.Errorf("%v, %v; want %v", w.Witness, err, want)
		}
	}
}
