package stacks

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Value is the number that a line of folded stacks ends with.
type Value uint8

const (
	// Counts is the number of samples.
	Counts Value = iota
	// Nanoseconds is the time.
	Nanoseconds
)

// Folded writes one line a stack, as flamegraph.pl, speedscope and inferno read
// them:
//
//	comm;outermost;...;innermost value
//
// Kernel functions end with "_[k]", as stackcollapse-perf.pl --kernel writes
// them. Stacks of one command are one line; those whose value is 0 are left
// out. On and off CPU are not told apart: choose with Of.
func Folded(w io.Writer, in []Stack, v Value) error {
	b := bufio.NewWriter(w)
	// A semicolon would be a frame more.
	name := strings.NewReplacer(";", ":").Replace
	lines := make(map[string]uint64)
	for _, s := range Merge(in, PerComm) {
		value := s.Count
		if v == Nanoseconds {
			value = s.Nanoseconds
		}
		var line strings.Builder
		line.WriteString(name(s.Comm))
		for i := len(s.Frames) - 1; i >= 0; i-- {
			line.WriteByte(';')
			line.WriteString(name(s.Frames[i]))
			if i < s.Kernel {
				line.WriteString("_[k]")
			}
		}
		if value > 0 {
			lines[line.String()] += value
		}
	}
	order := make([]string, 0, len(lines))
	for l := range lines {
		order = append(order, l)
	}
	slices.Sort(order)
	for _, l := range order {
		b.WriteString(l)
		b.WriteByte(' ')
		b.WriteString(strconv.FormatUint(lines[l], 10))
		b.WriteByte('\n')
	}
	return b.Flush()
}
