package rules

import (
	"fmt"
	"strings"

	"freezeframe"
)

// stormSoftirq is the share of a CPU that softirq work must have taken to be
// what kept others from it.
const stormSoftirq = 0.35

var softirqKinds = []string{"hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"}

func kernelSoftirqStorm() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.softirq_storm",
		Title: "softirq work that fills a CPU",
		Means: "The kernel was busy with work that interrupts leave behind (mostly received packets). It runs ahead of every process, so a CPU full of it has no time for them.",
		Proof: "Softirq and interrupt time took a large share of a CPU on which victims were runnable (told by the handlers themselves with BPF, else by /proc/stat), with ksoftirqd running and packet budgets used up (time_squeeze). Told from cpu.contention: the time belongs to no process.",
		Remedy: []string{
			"Now: see who sends (`tcpdump -ni IFACE -c 200`), drop it early (`nft add rule … drop`, or at the switch), or spread it over CPUs: `ethtool -L IFACE combined N`, RPS in /sys/class/net/IFACE/queues/rx-*/rps_cpus.",
			"So that it does not come back: keep services off the CPUs that take the interrupts (/proc/interrupts, CPUAffinity=), and turn on interrupt coalescing (`ethtool -C IFACE adaptive-rx on`).",
		},
		Reads:    []string{sourceLedger, "stat.softirq_us", "stat.irq_us", "interrupt_time.ns", "softirqs.net_rx", "softnet.time_squeeze", "netdev.rx_packets", "netdev.tx_packets", "tasks.run_ns", "tasks.cpu"},
		Subsumes: bringsAbout("cpu.contention", "cpu.affinity_hotspot", "runtime.jvm_gc"),
		Judge:    judgeSoftirqStorm,
	}
}

// A softStorm is what both rules about too much softirq work need to know.
type softStorm struct {
	moments
	claim freezeframe.Spans
	span  freezeframe.Span
	cpu   cpu      // the CPU it filled most
	exact *handled // of that CPU, where BPF told it
	kind  string   // the softirq that took most time, or without BPF that was served most often
	face  face     // the interface with most packets
}

func stormOf(w freezeframe.Window) *softStorm {
	ms := roots(w, inClass(freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	st := &softStorm{span: core(claim)}
	exact, known := handledIn(w, st.span)
	hot := map[freezeframe.Key]bool{}
	for _, c := range cpus(w, st.span) {
		if known && c.key != freezeframe.AllCPUs {
			x := exact[c.key]
			if x == nil || x.hard > x.soft {
				continue // nothing, or kernel.irq_storm
			}
			c.softirq = x.hard + x.soft
		}
		if c.key != freezeframe.AllCPUs && c.softirq >= stormSoftirq {
			hot[c.key] = true
			if c.softirq > st.cpu.softirq {
				st.cpu = c
			}
		}
	}
	if len(hot) == 0 {
		return nil
	}
	st.exact = exact[st.cpu.key]
	st.moments = onHot(w, st.span, ms, hot)
	if st.claim = worth(w, st.spans()); st.claim == nil {
		return nil
	}
	soft := w.Between("softirqs", st.span)
	var most uint64
	for _, name := range softirqKinds {
		if n := soft.Delta(st.cpu.key, name); n > most {
			most, st.kind = n, name
		}
	}
	if st.exact != nil && len(st.exact.softirqs) > 0 {
		st.kind = st.exact.softirqs[0].softirq
	}
	st.face = busiestFace(w, st.span)
	return st
}

func judgeSoftirqStorm(w freezeframe.Window) []freezeframe.Finding {
	st := stormOf(w)
	if st == nil {
		return nil
	}
	f := freezeframe.Finding{
		Explains: st.claim, Confidence: seen, Chain: story(st.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Summary: fmt.Sprintf("Softirq work took %s of CPU %d; processes there waited for %s.", pct(st.cpu.softirq), st.cpu.key, length(st.claim.Length())),
	}
	was, _ := cpuOf(cpus(w, before(w)), st.cpu.key)
	f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: fmt.Sprintf("interrupts and softirqs on CPU %d", st.cpu.key), Source: "stat", Column: "softirq_us", Before: pct(was.softirq), During: pct(st.cpu.softirq)})
	if x := st.exact; x != nil && len(x.softirqs) > 0 {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, x.took(&x.softirqs[0], "softirq "+x.softirqs[0].softirq, st.cpu.key))
	}
	squeeze := one(w, "softnet", st.span, st.cpu.key, "time_squeeze")
	if squeeze.sum > 0 {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence("softnet", "time_squeeze", "the packet budget of CPU %d ran out %d times", st.cpu.key, squeeze.sum))
	}
	for _, t := range threadsIn(w, st.span) {
		if strings.HasPrefix(t.comm, "ksoftirqd/") && t.load() >= 0.1 {
			f.Confidence = proven
			f.Evidence = append(f.Evidence, evidence("tasks", "run_ns", "%s used %s of its CPU", t.comm, pct(t.load())))
		}
	}
	if st.kind != "" {
		f.Evidence = append(f.Evidence, evidence("softirqs", st.kind, "mostly %s", st.kind))
	}
	if strings.HasPrefix(st.kind, "net_") && st.face.name != "" {
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: st.face.name}
		f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: "packets a second on " + st.face.name, Source: "netdev", Column: "rx_packets", Before: fmt.Sprintf("%.0f", st.face.was), During: fmt.Sprintf("%.0f", st.face.rate)})
	}
	return []freezeframe.Finding{f}
}
