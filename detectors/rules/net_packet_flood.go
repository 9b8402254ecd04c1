package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// floodLeast is the packet rate below which no CPU is overrun.
	floodLeast = 20_000.0
	// floodTimes is how many times the rate before it must be.
	floodTimes = 5.0
	// floodCPU is the share of one CPU that must go into softirqs.
	floodCPU = 0.5
)

func netPacketFlood() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.packet_flood",
		Title: "more packets than the CPU can take",
		Means: "So many packets arrived on an interface that handling them took a CPU for itself: threads on that CPU waited, and packets were dropped.",
		Proof: "The interface's packet rate rose far above the time before, one CPU spent most of its time in softirqs, and the receive path was squeezed or dropped (softnet_stat). Told from a softirq storm of another kind by the packets.",
		Remedy: []string{
			"Now: see who sends: `tcpdump -ni IF -c 1000 | awk '{print $3}' | sort | uniq -c | sort -n`; drop them early: `nft add rule netdev …` or at the switch or provider.",
			"So that it does not come back: spread receive queues over CPUs (`ethtool -L`, RPS), keep the service off the CPU that takes the interrupts, rate-limit at the edge.",
		},
		Reads:    []string{sourceLedger, "netdev.rx_packets", "stat.softirq_us", "softnet.dropped", "softnet.time_squeeze"},
		Subsumes: bringsAbout("kernel.softirq_storm", "cpu.contention", "net.packet_loss"),
		Judge:    judgeFlood,
	}
}

func judgeFlood(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable))
	spans := ms.spans()
	if lost := symptoms(w, func(sy *freezeframe.Symptom) bool { return sy.Probe == "delivery" || sy.Probe == "connect" }); len(lost) > 0 {
		spans = freezeframe.Union(append(spans, lost...)...)
	}
	claim := worth(w, spans)
	if claim == nil {
		return nil
	}
	s := core(claim)
	busiest := cpu{}
	for _, c := range cpus(w, s) {
		if c.key != freezeframe.AllCPUs && c.softirq > busiest.softirq {
			busiest = c
		}
	}
	if busiest.softirq < floodCPU {
		return nil
	}
	series, earlier := w.Between("netdev", around(s)), w.Between("netdev", before(w))
	name, rate, was := "", 0.0, 0.0
	for _, k := range series.Keys() {
		g := rateOf(&series, k, "rx_packets")
		if r := g.rate(); r > rate {
			b := rateOf(&earlier, k, "rx_packets")
			name, rate, was = w.Text(uint64(k)), r, b.rate()
		}
	}
	if rate < floodLeast || rate < floodTimes*was {
		return nil
	}
	dropped, squeezed := growthOf(w, "softnet", s, "dropped"), growthOf(w, "softnet", s, "time_squeeze")
	f := freezeframe.Finding{
		Explains: claim, Confidence: seen, Chain: story(ms),
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: name},
		Summary: fmt.Sprintf("%.0f packets a second arrived on %s and took %s of CPU %d.", rate, name, pct(busiest.softirq), busiest.key),
		Evidence: []freezeframe.Evidence{
			{Text: "packets received on " + name, Source: "netdev", Column: "rx_packets", Before: fmt.Sprintf("%.0f/s", was), During: fmt.Sprintf("%.0f/s", rate)},
			evidence("stat", "softirq_us", "CPU %d spent %s of its time in softirqs", busiest.key, pct(busiest.softirq)),
		},
	}
	if dropped+squeezed > 0 {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence("softnet", "dropped", "the receive path dropped %d packets and was squeezed %d times", dropped, squeezed))
	}
	return []freezeframe.Finding{f}
}

func rateOf(s *freezeframe.Series, key freezeframe.Key, column string) growth {
	var g growth
	for _, p := range s.Points(key, column) {
		g.add(p.At, p.Value)
	}
	return g
}

// growthOf sums what a counter grew in all rows of a source.
func growthOf(w freezeframe.Window, source string, s freezeframe.Span, column string) uint64 {
	series := w.Between(source, s)
	var sum uint64
	for _, a := range series.Top(column) {
		sum += a.Value
	}
	return sum
}
