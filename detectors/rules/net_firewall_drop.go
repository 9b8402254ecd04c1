package rules

import (
	"fmt"
	"slices"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func netFirewallDrop() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.firewall_drop",
		Title: "packets that a rule drops",
		Means: "A rule of this host's packet filter (nftables, iptables, a network policy) drops packets of the very connections that the work waits on. Both ends send again and again, and nobody refuses.",
		Proof: "The kernel freed packets between the victims' own addresses and ports for the reason NETFILTER_DROP (BPF, Linux 5.17). What is dropped between others, as port scans are all day, does not count.",
		Remedy: []string{
			"Now: `nft list ruleset`, `iptables-save -c` show the rule and its counter; `nft monitor trace` with `meta nftrace set 1` which one it is.",
			"So that it does not come back: let rules that drop also count and log (`limit rate 1/second log`), load rule sets at once (`nft -f`), so that there is no half-loaded one, and keep the rules of containers apart from the host's.",
		},
		Reads: []string{sourceLedger, sourceSymptoms, "packets.what", "packets.packets", "packets.from_address", "packets.to_address", "connections.probes", "connections.unacked", "connections.peer", "connections.local", "connections.retransmits",
			"connections.inode", "connections.pid", "parents.exec", "parents.execs"},
		Subsumes: []freezeframe.Cause{"net.packet_loss", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeFirewall,
	}
}

func judgeFirewall(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	drops := packetsIn(w, s, "netfilter_drop")
	if len(drops) == 0 {
		return nil
	}
	ms, network := onNetwork(w)
	paths := pathsOf(w, s, ms)
	mine := slices.DeleteFunc(drops, func(p packetLoss) bool {
		return !slices.ContainsFunc(paths, func(x [2]string) bool { return p.between(x[0], x[1]) || p.between(x[1], x[0]) })
	})
	if len(mine) == 0 {
		return nil
	}
	claim := worth(w, network)
	if claim == nil {
		return nil
	}
	var sum uint64
	for i := range mine {
		sum += mine[i].count.sum
	}
	p := &mine[0]
	// Whose packets are dropped: the end that is not this service's.
	address := p.from
	if p.fromPort != 0 {
		address = p.to
	}
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: address}, Explains: claim, Confidence: proven, Chain: story(ms),
		Summary:  fmt.Sprintf("A rule of the packet filter dropped packets from %s; the work waited for %s.", p, length(claim.Length())),
		Evidence: []freezeframe.Evidence{evidence("packets", "packets", "%d packets of the victims' connections dropped by the packet filter, most of them from %s", sum, p)},
	}
	if b := ruleSetter(w); b != nil {
		f.Culprit = b.culprit()
		f.Culprit.Address = address
		f.Summary = fmt.Sprintf("%s changed the packet filter, which then dropped packets from %s; the work waited for %s.", b, p, length(claim.Length()))
		f.Evidence = append(f.Evidence, evidence("parents", "exec", "%s had run %s", b, b.exec))
	}
	return []freezeframe.Finding{f}
}

// pathsOf returns between whom the packets of the victims go: pairs of a
// service's address with its port, and the other end.
func pathsOf(w freezeframe.Window, s freezeframe.Span, ms moments) [][2]string {
	stall := w.Stall()
	var paths [][2]string
	pids := ms.pids()
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if sy.Err != "" {
			continue
		}
		for _, v := range sy.Victims {
			pids = append(pids, v.PID)
		}
		if sy.Probe == "delivery" || sy.Probe == "connect" || sy.Probe == "active" {
			paths = append(paths, [2]string{sy.Target, ""})
		}
	}
	files := map[string]bool{}
	for i := range ms {
		files[ms[i].wait.File] = true
	}
	series := w.Between("connections", s)
	series.Each([]string{"inode", "pid", "local", "peer", "retransmits", "state", "probes", "unacked"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		asked := files[fmt.Sprintf("socket:[%d]", v[0])]
		if !asked && !(slices.Contains(pids, int(v[1])) && v[1] != 0 && (v[4] > 0 || v[5] == synSent || kernel.DroppedHere(v[6], v[7]))) {
			return
		}
		local, peer := w.Text(v[2]), w.Text(v[3])
		for _, path := range [][2]string{{local, peer}, {peer, local}} {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	})
	return paths
}

// filterTools are the programs that change the packet filter, as their comm.
var filterTools = []string{"nft", "iptables", "ip6tables", "iptables-restor", "ip6tables-resto", "iptables-nft", "iptables-legacy", "xtables-nft-mul", "xtables-legacy-", "ipset", "ufw", "firewall-cmd", "pfctl"}

// ruleSetter is who has run a program that changes the packet filter last,
// between the beginning of the recording and the stall.
func ruleSetter(w freezeframe.Window) *breeder {
	span := freezeframe.Span{Start: w.Span().Start, End: w.Stall().Start.Add(stateSlack)}
	var last *breeder
	for _, b := range breeders(w, span) {
		if slices.Contains(filterTools, b.exec) && (last == nil || b.last > last.last) {
			last = b
		}
	}
	return last
}
