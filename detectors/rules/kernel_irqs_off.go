package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"freezeframe"
)

const (
	// offLeast is how late a CPU's own timer must fire: what lies below comes
	// from the host of a virtual machine.
	offLeast = 40 * time.Millisecond
	// takenAway is the share of such a time which the host may have given to
	// others.
	takenAway = 0.5
	// asleep is the share of such a time in which the CPU idled from which on it
	// had nothing to do, rather than its interrupts off.
	asleep = 0.2
)

func kernelIRQsOff() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.irqs_off",
		Title: "a CPU with its interrupts switched off",
		Means: "Something in the kernel (a driver, a huge loop under a spin lock, the console) ran on one CPU with interrupts off. Nothing else could run there, of whatever priority, and its timers and packets waited.",
		Proof: "A timer interrupt on that CPU, which no task can delay, fired late, while those of other CPUs were on time and the host took nothing away. It fires the moment interrupts are on again: the stack that it interrupted is who had them off. Needs BPF.",
		Remedy: []string{
			"Now: look up the function named here; `perf record -e 'irq_vectors:*' -C CPU` and the irqsoff tracer show more.",
			"So that it does not come back: update the driver or kernel; keep the console's log level low (`dmesg -n 4`) on serial consoles; avoid `perf` or firmware calls (ACPI, BMC) that poll.",
		},
		Reads:    []string{sourceLedger, "timers.cpu", "timers.due_ns", "timers.fired_ns", "timers.stack", "timers.pid", "procs.comm", "stat.steal_us", "stat.idle_us", "interrupt_time.longest_ns", "interrupts.count"},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot", "kernel.softirq_storm", "kernel.irq_storm", "runtime.jvm_gc"),
		Judge:    judgeIRQsOff,
	}
}

// A gap is a time in which a CPU took no interrupts.
type gap struct {
	freezeframe.Span
	cpu         freezeframe.Key
	pid         int
	comm, stack string
}

func judgeIRQsOff(w freezeframe.Window) []freezeframe.Finding {
	gaps := gapsIn(w, around(w.Stall().Span))
	if len(gaps) == 0 {
		return nil
	}
	ms := roots(w, outOfAction)
	if worth(w, ms.spans()) == nil {
		return nil
	}
	var spans []freezeframe.Span
	var worst *gap
	for i := range gaps {
		g := &gaps[i]
		all := cpus(w, g.Span)
		_, n := machine(all)
		if c, ok := cpuOf(all, g.cpu); ok && (c.steal > takenAway || c.idle > asleep) || n > 1 && len(gone(gaps, g.Span)) >= n || n == 1 && g.pid == 0 {
			continue // the machine was gone, not its interrupts
		}
		spans = append(spans, g.Span)
		if worst == nil || g.Length() > worst.Length() {
			worst = g
		}
	}
	claim := worth(w, ms.spans().And(freezeframe.Union(spans...)))
	if claim == nil {
		return nil
	}
	f := freezeframe.Finding{
		Explains: claim, Confidence: proven, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Summary:  fmt.Sprintf("CPU %d took no interrupts for %s.", worst.cpu, length(worst.Length())),
		Evidence: []freezeframe.Evidence{evidence("timers", "fired_ns", "the timer of CPU %d fired %s late, those of other CPUs did not", worst.cpu, length(worst.Length()))},
	}
	if all, _ := handledIn(w, worst.Span); all[worst.cpu] != nil {
		for i := range all[worst.cpu].irqs {
			h := &all[worst.cpu].irqs[i]
			if 2*h.longest.And(worst.Span).Length() < worst.Length() {
				continue
			}
			x := numbered(irqsIn(w, worst.Span), h.number)
			if x == nil {
				x = &irq{label: strconv.Itoa(h.number)}
			}
			f.Evidence = append(f.Evidence, evidence("interrupt_time", "longest_ns", "meanwhile the handler of %s ran for %s without a break", x.told(), length(h.longest.Length())))
		}
	}
	if worst.stack != "" {
		f.Evidence = append(f.Evidence, evidence("timers", "stack", "they were on again in %s", quote(worst.stack)))
	}
	if worst.pid != 0 {
		f.Culprit = processesIn(w, around(core(claim))).blame(freezeframe.Party{PID: worst.pid, Comm: worst.comm})
		f.Summary = fmt.Sprintf("CPU %d took no interrupts for %s while %s was in the kernel.", worst.cpu, length(worst.Length()), named(worst.comm, worst.pid))
	}
	return []freezeframe.Finding{f}
}

func gapsIn(w freezeframe.Window, s freezeframe.Span) []gap {
	series := w.Between("timers", freezeframe.Span{Start: s.Start, End: s.End.Add(time.Second)})
	var out []gap
	series.Each([]string{"cpu", "due_ns", "fired_ns", "pid", "comm", "stack"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		g := gap{Span: freezeframe.Span{Start: freezeframe.Instant(v[1]), End: freezeframe.Instant(v[2])}, cpu: freezeframe.Key(v[0]), pid: int(v[3]), comm: w.Text(v[4]), stack: w.Text(v[5])}
		if g.Length() >= offLeast && g.And(s).Length() > 0 {
			out = append(out, g)
		}
	})
	slices.SortStableFunc(out, func(a, b gap) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.cpu, b.cpu)) })
	return out
}

// gone returns the CPUs that took no interrupts for most of a span.
func gone(gaps []gap, s freezeframe.Span) []freezeframe.Key {
	var out []freezeframe.Key
	for i := range gaps {
		if g := &gaps[i]; 2*g.And(s).Length() >= s.Length() && !slices.Contains(out, g.cpu) {
			out = append(out, g.cpu)
		}
	}
	return out
}
