// Package stacks holds named, weighted call stacks and writes them in the forms
// that people's tools read: folded lines, pprof, and the flame graphs of the
// report page.
//
// Names and commands are of those who are watched: every writer here makes them
// fit to be shown.
package stacks

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"freezeframe/internal/printable"
)

// State is what a thread did in the time that its stack stands for.
type State string

const (
	// OnCPU is time in which it ran.
	OnCPU State = "on_cpu"
	// OffCPU is time in which it waited.
	OffCPU State = "off_cpu"
)

// Stack is one call stack and the time that was spent in it.
type Stack struct {
	PID, TID int
	Comm     string

	// Frames are the names of the functions, the innermost first: those of the
	// kernel, then those of the program.
	Frames []string
	Kernel int // how many of Frames are the kernel's

	State       State
	Count       uint64 // samples, or waits
	Nanoseconds uint64
}

// Grouping says whose stacks are one when they are merged.
type Grouping uint8

const (
	// PerThread keeps threads apart.
	PerThread Grouping = iota
	// PerProcess adds up the threads of a process; TID becomes 0.
	PerProcess
	// PerComm adds up everything with the same name; PID and TID become 0.
	PerComm
)

// What is longer than this is cut by the writers.
const (
	maxName  = 256
	maxDepth = 256
	// Cut stands where the outermost frames of a stack that is too deep were.
	Cut = "[cut]"
)

// Merge adds up the stacks that are the same and returns them with the most
// time first. It does not change its argument.
func Merge(in []Stack, g Grouping) []Stack {
	at := make(map[string]int, len(in))
	var out []Stack
	var key []byte
	for _, s := range in {
		s.Comm = printable.Name(s.Comm, maxName)
		if g >= PerProcess {
			s.TID = 0
		}
		if g >= PerComm {
			s.PID = 0
		}
		s.Kernel = min(max(s.Kernel, 0), len(s.Frames))
		if drop := len(s.Frames) - maxDepth; drop > 0 {
			s.Frames = append(slices.Clone(s.Frames[:maxDepth-1]), Cut)
			s.Kernel = min(s.Kernel, maxDepth-1)
		}
		key = key[:0]
		for _, n := range []int{s.PID, s.TID, s.Kernel} {
			key = append(strconv.AppendInt(key, int64(n), 10), 0)
		}
		key = append(append(key, s.State...), 0)
		key = append(append(key, s.Comm...), 0)
		clean := true
		for _, f := range s.Frames {
			name := printable.Name(f, maxName)
			clean = clean && name == f
			key = append(append(key, name...), 0)
		}
		if i, ok := at[string(key)]; ok {
			out[i].Count += s.Count
			out[i].Nanoseconds += s.Nanoseconds
			continue
		}
		at[string(key)] = len(out)
		if !clean {
			s.Frames = slices.Clone(s.Frames)
			for i, f := range s.Frames {
				s.Frames[i] = printable.Name(f, maxName)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Stack) int {
		return cmp.Or(
			cmp.Compare(b.Nanoseconds, a.Nanoseconds), cmp.Compare(b.Count, a.Count),
			strings.Compare(string(a.State), string(b.State)), strings.Compare(a.Comm, b.Comm),
			cmp.Compare(a.PID, b.PID), cmp.Compare(a.TID, b.TID), cmp.Compare(a.Kernel, b.Kernel), slices.Compare(a.Frames, b.Frames))
	})
	return out
}

// Of returns the stacks in a state.
func Of(in []Stack, state State) []Stack {
	var out []Stack
	for _, s := range in {
		if s.State == state {
			out = append(out, s)
		}
	}
	return out
}
