package freezeframe

import (
	"slices"
	"time"
)

// Spans is a set of moments: sorted spans that neither touch nor overlap. The
// zero value is the empty set. All arithmetic of a verdict (what is explained,
// what is not, who may claim what) is done with these four operations.
type Spans []Span

// Union returns the moments that lie in any of the given spans, in any order
// and overlapping as they like.
func Union(spans ...Span) Spans {
	var in []Span
	for _, s := range spans {
		if s.Length() > 0 {
			in = append(in, s)
		}
	}
	slices.SortFunc(in, func(a, b Span) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	var out Spans
	for _, s := range in {
		if n := len(out); n > 0 && s.Start <= out[n-1].End {
			if s.End > out[n-1].End {
				out[n-1].End = s.End
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// Within returns the part of the set that lies in s.
func (set Spans) Within(s Span) Spans {
	var out Spans
	for _, have := range set {
		if cut := have.And(s); cut.Length() > 0 {
			out = append(out, cut)
		}
	}
	return out
}

// And returns the moments that lie in both sets.
func (set Spans) And(other Spans) Spans {
	var out []Span
	for _, s := range other {
		out = append(out, set.Within(s)...)
	}
	return Union(out...)
}

// Minus returns the moments of the set that do not lie in other.
func (set Spans) Minus(other Spans) Spans {
	var out Spans
	for _, s := range set {
		at := s.Start
		for _, cut := range other.Within(s) {
			if cut.Start > at {
				out = append(out, Span{at, cut.Start})
			}
			at = cut.End
		}
		if at < s.End {
			out = append(out, Span{at, s.End})
		}
	}
	return out
}

// Length returns how much time the set covers.
func (set Spans) Length() time.Duration {
	var sum time.Duration
	for _, s := range set {
		sum += s.Length()
	}
	return sum
}
