package rules

import (
	"fmt"

	"freezeframe"
)

func limitNeighbourTable() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.neighbour_table",
		Title: "a full table of neighbours",
		Means: "The kernel's table of hosts on the local networks (ARP, IPv6 neighbours) was full. Packets to hosts that are not in it were dropped, those to others went on.",
		Proof: "The counter of refused entries (table_fulls in /proc/net/stat/arp_cache and ndisc_cache) grew while connections were not made or data was not acknowledged; the kernel's line \"neighbor table overflow\".",
		Remedy: []string{
			"Now: `sysctl -w net.ipv4.neigh.default.gc_thresh3=16384 net.ipv4.neigh.default.gc_thresh2=8192`, and the same for ipv6.",
			"So that it does not come back: smaller networks, routes instead of flat ones; look for a scan of the local network (`ip neigh show nud failed | wc -l`).",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "limits.neigh_entries", "limits.neigh_table_fulls", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"net.packet_loss", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			stall := w.Stall()
			series := w.Between("limits", around(stall.Span))
			fulls := series.Delta(0, "neigh_table_fulls")
			line := logged(w, resent, "neighbor table overflow", "neighbour table overflow")
			if fulls == 0 && line == nil {
				return nil
			}
			ms, network := onNetwork(w)
			told := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "neighbour table full") })
			claim := worth(w, freezeframe.Union(append(network, told...)...))
			if claim == nil {
				return nil
			}
			f := freezeframe.Finding{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable}, Explains: claim, Confidence: counted, Chain: story(ms),
				Summary:  fmt.Sprintf("The table of neighbours was full (%d entries); %d more were refused.", series.Max(0, "neigh_entries"), fulls),
				Evidence: []freezeframe.Evidence{evidence("limits", "neigh_table_fulls", "%d entries refused, %d in the table", fulls, series.Max(0, "neigh_entries"))},
			}
			if line != nil {
				f.Confidence = 0.9
				f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
			}
			return []freezeframe.Finding{f}
		},
	}
}
