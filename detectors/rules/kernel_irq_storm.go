package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// stormIRQ is the share of a CPU that interrupts must have taken to be what
	// kept others from it.
	stormIRQ = 0.35
	// stormRate is how often a second an interrupt must come to be named by its
	// count alone: at a few microseconds each that is such a share.
	stormRate = 10000.0
)

func kernelIRQStorm() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.irq_storm",
		Title: "interrupts that fill a CPU",
		Means: "A device interrupted a CPU so often, or its handler took so long, that there was little time for anything else. It runs ahead of every process and of softirq work.",
		Proof: "The handlers of interrupts took a large share of a CPU on which victims were, told exactly by number with BPF, else by the interrupt time of /proc/stat (where the kernel measures it) and the counts of /proc/interrupts. Told from kernel.softirq_storm by the handlers themselves taking more than the work they leave behind, from kernel.irqs_off by many handlers instead of one.",
		Remedy: []string{
			"Now: see who it is, `watch -d -n1 cat /proc/interrupts`, and move it to a CPU with nothing to do: `echo CPU > /proc/irq/N/smp_affinity_list`.",
			"So that it does not come back: turn on interrupt coalescing (`ethtool -C IFACE adaptive-rx on rx-usecs 50`), update the driver and the firmware; an interrupt that no driver wants (`irq N: nobody cared`) is a defect of the device or its line.",
		},
		Reads:    []string{sourceLedger, "interrupt_time.ns", "interrupts.count", "stat.irq_us", "stat.softirq_us", "netdev.rx_packets", "tasks.cpu"},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot", "kernel.softirq_storm", "app.busy_loop", "runtime.jvm_gc"),
		Judge:    judgeIRQStorm,
	}
}

func judgeIRQStorm(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable, freezeframe.OnCPU))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	exact, known := handledIn(w, s)
	hot, full := map[freezeframe.Key]bool{}, map[freezeframe.Key]bool{}
	var at freezeframe.Key
	most := 0.0
	for _, c := range cpus(w, s) {
		if c.key == freezeframe.AllCPUs {
			continue
		}
		// BPF does not tell of a CPU's own interrupts, the kernel's ticks not of
		// most handlers.
		hard, soft := c.irq, c.softirq-c.irq
		if x := exact[c.key]; x != nil {
			hard, soft = max(hard, x.hard), x.soft
		}
		if hard < stormIRQ || hard <= soft {
			continue
		}
		hot[c.key], full[c.key] = true, hard >= 0.5
		if hard > most {
			most, at = hard, c.key
		}
	}
	if len(hot) == 0 {
		return nil
	}
	// Who is on a CPU of which interrupts took more than half hardly ran.
	ms = onHot(w, s, ms, hot).where(func(m *moment) bool { return m.wait.Class == freezeframe.Runnable || full[at] })
	if claim = worth(w, ms.spans()); claim == nil {
		return nil
	}
	f := freezeframe.Finding{
		Explains: claim, Confidence: counted, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Summary: fmt.Sprintf("Interrupts took %s of CPU %d; the work lost %s to them.", pct(most), at, length(claim.Length())),
	}
	if was, ok := cpuOf(cpus(w, before(w)), at); ok {
		if c, _ := cpuOf(cpus(w, s), at); c.irq >= 0.01 {
			f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: fmt.Sprintf("interrupts on CPU %d", at), Source: "stat", Column: "irq_us", Before: pct(was.irq), During: pct(c.irq)})
		}
	}
	all := irqsIn(w, s)
	var who *irq
	if x := exact[at]; known && x != nil && len(x.irqs) > 0 && 2*x.irqs[0].share >= x.hard && x.hard >= stormIRQ {
		h := &x.irqs[0]
		if who = numbered(all, h.number); who == nil {
			who = &irq{label: fmt.Sprint(h.number), rate: h.rate}
		}
		f.Confidence = proven
		f.Evidence = append(f.Evidence, x.took(h, "the handler of "+who.told(), at))
	} else {
		for i := range all {
			if all[i].cpu == at && all[i].rate >= stormRate && all[i].rate >= 2*all[i].was {
				who = &all[i]
				f.Confidence = seen
				break
			}
		}
	}
	if who != nil {
		f.Culprit = handledBy(w, s, who)
		f.Summary = fmt.Sprintf("Interrupts, mostly %s, took %s of CPU %d; the work lost %s to them.", who.told(), pct(most), at, length(claim.Length()))
		f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: who.told() + ", a second", Source: "interrupts", Column: "count", Before: fmt.Sprintf("%.0f", who.was), During: fmt.Sprintf("%.0f", who.rate)})
	}
	return []freezeframe.Finding{f}
}

// told names an interrupt: "interrupt 36 (virtio1-req.0)".
func (x *irq) told() string {
	if n := x.number(); n >= 0 && x.name() != "interrupt "+x.label {
		return fmt.Sprintf("interrupt %d (%s)", n, x.name())
	}
	return x.name()
}
