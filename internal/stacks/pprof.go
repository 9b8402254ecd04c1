package stacks

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/google/pprof/profile"
)

// Pprof writes a gzipped profile (profile.proto of github.com/google/pprof) of
// stacks that were taken in the given time. Its sample types are
// samples/count, then cpu/nanoseconds and off-cpu/nanoseconds, those of which
// there are stacks; each sample has the labels pid, tid and comm.
func Pprof(w io.Writer, in []Stack, start time.Time, length time.Duration) error {
	p := &profile.Profile{
		TimeNanos: start.UnixNano(), DurationNanos: int64(length),
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}},
		Mapping: []*profile.Mapping{
			{ID: 1, File: "[user]", HasFunctions: true}, // the first is taken for the program
			{ID: 2, File: "[kernel.kallsyms]", HasFunctions: true},
		},
	}
	merged := Merge(in, PerThread)
	column := make(map[State]int)
	for _, t := range []struct {
		state State
		name  string
	}{{OnCPU, "cpu"}, {OffCPU, "off-cpu"}} {
		if len(Of(merged, t.state)) > 0 {
			column[t.state] = len(p.SampleType)
			p.SampleType = append(p.SampleType, &profile.ValueType{Type: t.name, Unit: "nanoseconds"})
		}
	}
	type function struct {
		name   string
		kernel bool
	}
	locations := make(map[function]*profile.Location)
	for _, s := range merged {
		c, ok := column[s.State]
		if !ok {
			return fmt.Errorf("write a profile: a stack is in the state %q, neither %s nor %s", s.State, OnCPU, OffCPU)
		}
		sample := &profile.Sample{
			Value:    make([]int64, len(p.SampleType)),
			Label:    map[string][]string{"comm": {s.Comm}},
			NumLabel: map[string][]int64{"pid": {int64(s.PID)}, "tid": {int64(s.TID)}},
		}
		sample.Value[0], sample.Value[c] = signed(s.Count), signed(s.Nanoseconds)
		for i, f := range s.Frames {
			key := function{f, i < s.Kernel}
			l := locations[key]
			if l == nil {
				fn := &profile.Function{ID: uint64(len(p.Function) + 1), Name: f, SystemName: f}
				l = &profile.Location{ID: fn.ID, Mapping: p.Mapping[0], Line: []profile.Line{{Function: fn}}}
				if key.kernel {
					l.Mapping = p.Mapping[1]
				}
				locations[key] = l
				p.Function = append(p.Function, fn)
				p.Location = append(p.Location, l)
			}
			sample.Location = append(sample.Location, l)
		}
		p.Sample = append(p.Sample, sample)
	}
	if err := p.CheckValid(); err != nil {
		return fmt.Errorf("write a profile: %w", err)
	}
	return p.Write(w)
}

func signed(v uint64) int64 { return int64(min(v, math.MaxInt64)) }
