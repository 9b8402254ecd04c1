package reports

import (
	"strings"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/stacks"
)

// sampleTime is what one row of the source profile stands for: bpf.ProfileHz
// samples a second.
const sampleTime = 1_000_000_000 / bpf.ProfileHz

// Stacks returns where time went in a stall, by call stack: what ran on the
// CPUs, whoever it was, and what the victims, those who held them up, and
// everybody who could not be interrupted waited in. It is empty where BPF was
// not to be had.
func Stacks(w freezeframe.Window) []stacks.Stack {
	if w == nil {
		return nil
	}
	stall := w.Stall().Span
	var out []stacks.Stack
	profile := w.Between("profile", freezeframe.Span{Start: stall.Start, End: stall.End.Add(2 * reading)})
	profile.Each([]string{"pid", "comm", "at_ns", "kernel_stack", "user_stack"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if !stall.Contains(freezeframe.Instant(v[2])) {
			return
		}
		kernel, user := frames(w.Text(v[3])), frames(w.Text(v[4]))
		if len(kernel)+len(user) == 0 {
			user = []string{"[unknown]"}
		}
		out = append(out, stacks.Stack{
			PID: int(v[0]), TID: key.TID(), Comm: w.Text(v[1]), Frames: append(kernel, user...), Kernel: len(kernel),
			State: stacks.OnCPU, Count: 1, Nanoseconds: sampleTime,
		})
	})
	of := concerned(w)
	waits := w.Between("waits", freezeframe.Span{Start: stall.Start, End: stall.End.Add(2 * reading)})
	waits.Each([]string{"pid", "comm", "kind", "began_ns", "ended_ns", "state", "stack"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		span := freezeframe.Span{Start: freezeframe.Instant(v[3]), End: freezeframe.Instant(v[4])}.And(stall)
		if v[2] != bpf.Slept || span.Length() == 0 || v[5] != 'D' && !of[key.TID()] {
			return
		}
		kernel := frames(w.Text(v[6]))
		out = append(out, stacks.Stack{
			PID: int(v[0]), TID: key.TID(), Comm: w.Text(v[1]), Frames: kernel, Kernel: len(kernel),
			State: stacks.OffCPU, Count: 1, Nanoseconds: uint64(span.Length()),
		})
	})
	return stacks.Merge(out, stacks.PerThread)
}

// reading is the time between two readings, at most, in a stall.
const reading = 250e6 // ns

// frames takes a recorded stack apart, innermost first.
func frames(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "<-")
}

// concerned are the threads of victims of weight and of their chains.
func concerned(w freezeframe.Window) map[int]bool {
	of := map[int]bool{}
	ledger := w.Ledger()
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 {
			continue
		}
		of[a.Victim.TID] = true
		links := a.Chain
		for j := range a.Waits {
			links = append(links[:len(links):len(links)], a.Waits[j].Chain...)
		}
		for _, l := range links {
			of[max(l.Party.TID, l.Party.PID)] = true
		}
	}
	return of
}
