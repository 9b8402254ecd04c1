package freezeframe

import "sort"

// Phase is a part of a window.
type Phase uint8

const (
	Before Phase = iota // what was recorded up to the stall's start
	During              // the stall
	After               // what was recorded from its end on
	Whole               // all of it
)

// Window is the recording around one stall. A live and a replayed window are
// the same to everything that reads them.
type Window interface {
	Clock() Clock
	Stall() Stall
	Span() Span // what was kept, from before the stall to after it
	// Phase returns the readings of a source in a phase; an unknown source
	// gives an empty series. Between is the same for any span.
	Phase(source string, p Phase) Series
	Between(source string, s Span) Series
	// Events returns the events of a kind that touch the phase, in order; the
	// empty kind means all.
	Events(kind string, p Phase) []Event
	// Text returns the string behind an id of a Text column or a text key.
	Text(id uint64) string
	// Missing says what this machine did not give.
	Missing() []Need
	// Ledger says where each victim's time went.
	Ledger() Ledger
}

// Remembering returns the window with a memory for Once. It is for one
// goroutine.
func Remembering(w Window) Window {
	return &remembering{Window: w, made: map[any]any{}}
}

type remembering struct {
	Window
	made map[any]any
}

// Once returns what build makes of a window. One that remembers builds it only
// when a key is asked for first, so that what many rules need is derived once;
// what it returns is then shared and must not be changed. A key is of a type
// of its own, as for context.WithValue.
func Once[K comparable, T any](w Window, key K, build func() T) T {
	r, ok := w.(*remembering)
	if !ok {
		return build()
	}
	if v, ok := r.made[key]; ok {
		return v.(T)
	}
	v := build()
	r.made[key] = v
	return v
}

// Series is the readings of one source over a span, oldest first, with one
// reading at or before its start and one at or after its end where there are
// such, so that the difference of a counter covers the whole span.
type Series struct {
	Source Source
	Span   Span
	Tables []Table
}

// Point is one value of a column.
type Point struct {
	At    Instant
	Value uint64
}

// Each calls f with the values of the named columns of every row, oldest first;
// a column that the source does not have reads 0. v is reused from row to row.
func (s *Series) Each(columns []string, f func(at Instant, key Key, v []uint64)) {
	where := make([]int, len(columns))
	for i, name := range columns {
		where[i] = s.Source.Column(name)
	}
	width := len(s.Source.Columns)
	v := make([]uint64, len(columns))
	for i := range s.Tables {
		t := &s.Tables[i]
		for r, key := range t.Keys {
			row := t.Values(r, width)
			for j, c := range where {
				v[j] = 0
				if c >= 0 {
					v[j] = row[c]
				}
			}
			f(t.At, key, v)
		}
	}
}

// Keys returns every key of the series, in the order of first appearance.
func (s *Series) Keys() []Key {
	seen := make(map[Key]bool)
	var keys []Key
	for i := range s.Tables {
		for _, k := range s.Tables[i].Keys {
			if !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// Points returns the values of one column of one key; nil when the source has
// no such column or key.
func (s *Series) Points(key Key, column string) []Point {
	c := s.Source.Column(column)
	if c < 0 {
		return nil
	}
	width := len(s.Source.Columns)
	var out []Point
	for i := range s.Tables {
		t := &s.Tables[i]
		for r, k := range t.Keys {
			if k == key {
				out = append(out, Point{t.At, t.Values(r, width)[c]})
				break
			}
		}
	}
	return out
}

// Delta returns how much a counter of a key grew over the series. A value that
// falls (the key was reused, the counter wrapped) starts again from there. A
// key that appears only inside the series began at its first reading.
func (s *Series) Delta(key Key, column string) uint64 {
	return Delta(s.Points(key, column))
}

// Delta returns how much a counter grew over its points.
func Delta(points []Point) uint64 {
	var sum uint64
	for i := 1; i < len(points); i++ {
		if a, b := points[i-1].Value, points[i].Value; b >= a {
			sum += b - a
		} else {
			sum += b
		}
	}
	return sum
}

// Max returns the largest value of a gauge of a key, 0 without one.
func (s *Series) Max(key Key, column string) uint64 {
	var most uint64
	for _, p := range s.Points(key, column) {
		most = max(most, p.Value)
	}
	return most
}

// Last returns the newest value of a key's column.
func (s *Series) Last(key Key, column string) (uint64, bool) {
	points := s.Points(key, column)
	if len(points) == 0 {
		return 0, false
	}
	return points[len(points)-1].Value, true
}

// Amount is a key with how much of something it has.
type Amount struct {
	Key   Key
	Value uint64
}

// Top returns the keys by how much a counter of theirs grew over the series,
// most first, without those that did not grow.
func (s *Series) Top(column string) []Amount {
	c := s.Source.Column(column)
	if c < 0 {
		return nil
	}
	width := len(s.Source.Columns)
	type state struct{ last, sum uint64 }
	states := make(map[Key]*state)
	var order []Key
	for i := range s.Tables {
		t := &s.Tables[i]
		for r, k := range t.Keys {
			v := t.Values(r, width)[c]
			st := states[k]
			if st == nil {
				states[k] = &state{last: v}
				order = append(order, k)
				continue
			}
			if v >= st.last {
				st.sum += v - st.last
			} else {
				st.sum += v
			}
			st.last = v
		}
	}
	var out []Amount
	for _, k := range order {
		if st := states[k]; st.sum > 0 {
			out = append(out, Amount{k, st.sum})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Value > out[j].Value })
	return out
}
