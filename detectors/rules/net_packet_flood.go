package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// floodPackets a second on one interface, and floodTimes more than before,
	// are a flood and not a busy day.
	floodPackets = 20000
	floodTimes   = 4
)

func netPacketFlood() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.packet_flood",
		Title: "more packets than the CPU can take",
		Means: "An interface received so many packets that taking them in filled a CPU.",
		Proof: "The conditions of kernel.softirq_storm, on a real interface (not loopback or a virtual pair, where the sender is on this machine), with several times the packets of before and packets dropped for want of time.",
		Remedy: []string{
			"Now: see who sends, `tcpdump -ni IFACE -c 1000 | awk '{print $3}' | sort | uniq -c | sort -n`, and drop them before the stack does (`nft` in the netdev family's ingress hook, the switch, the provider's filter).",
			"So that it does not come back: more receive queues (`ethtool -L`, RPS), services off the CPUs that take the interrupts, and rate limits upstream.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "stat.softirq_us", "interrupt_time.ns", "softirqs.net_rx", "softnet.dropped", "netdev.rx_packets", "tasks.cpu"},
		Subsumes: bringsAbout("kernel.softirq_storm"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			st := stormOf(w)
			if st == nil || st.kind != "net_rx" || st.face.rate < floodPackets || st.face.rate < floodTimes*st.face.was || hasPrefix(st.face.name, "lo", "veth", "br", "docker", "cni", "tap", "tun", "virbr") {
				return nil
			}
			dropped := one(w, "softnet", st.span, st.cpu.key, "dropped")
			if dropped.sum == 0 {
				return nil
			}
			return []freezeframe.Finding{{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: st.face.name}, Explains: st.claim, Confidence: seen, Chain: story(st.moments),
				Summary: fmt.Sprintf("%s received %.0f packets a second, which took %s of CPU %d.", st.face.name, st.face.rate, pct(st.cpu.softirq), st.cpu.key),
				Evidence: []freezeframe.Evidence{
					{Text: "packets received a second on " + st.face.name, Source: "netdev", Column: "rx_packets", Before: count(st.face.was), During: count(st.face.rate)},
					evidence("softnet", "dropped", "%d packets were dropped because CPU %d could not take them", dropped.sum, st.cpu.key),
				},
			}}
		},
	}
}
