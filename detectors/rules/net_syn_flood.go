package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// floodSYNs a second that found the queue of half-open connections full
	// are a flood.
	floodSYNs = 50
	synRecv   = 3 // TCP_SYN_RECV
)

func netSYNFlood() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.syn_flood",
		Title: "a flood of half-open connections",
		Means: "Somebody sent connection requests without completing them. The queue of half-open connections was full, so real ones were dropped or had to make do with a cookie.",
		Proof: "The counters of a full request queue (TCPReqQFullDrop, TCPReqQFullDoCookies, SyncookiesSent) ran, far ahead of those of a full accept queue; the kernel's line \"possible SYN flooding\".",
		Remedy: []string{
			"Now: `sysctl net.ipv4.tcp_syncookies=1 net.ipv4.tcp_max_syn_backlog=8192`; see the senders with `ss -tn state syn-recv`; drop them at the firewall or provider.",
			"So that it does not come back: a SYN proxy (`nft … synproxy`) or the provider's protection.",
		},
		Reads: []string{sourceLedger, sourceSymptoms, "netstat.TcpExtTCPReqQFullDrop", "netstat.TcpExtTCPReqQFullDoCookies", "netstat.TcpExtSyncookiesSent", "netstat.TcpExtListenOverflows",
			"connections.state", "connections.peer", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"net.packet_loss", "dep.remote_unresponsive"},
		Judge:    judgeSYNFlood,
	}
}

func judgeSYNFlood(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := stall.Span
	dropped := one(w, "netstat", s, 0, "TcpExtTCPReqQFullDrop")
	cookies := one(w, "netstat", s, 0, "TcpExtTCPReqQFullDoCookies")
	sent := one(w, "netstat", s, 0, "TcpExtSyncookiesSent")
	overflows := one(w, "netstat", s, 0, "TcpExtListenOverflows")
	rate := dropped.rate() + max(cookies.rate(), sent.rate())
	if rate < floodSYNs || rate < 2*overflows.rate() {
		return nil
	}
	ms, network := onNetwork(w)
	// Connections that wait for a listener are late too, wherever they are seen.
	network = freezeframe.Union(append(network, symptoms(w, func(sy *freezeframe.Symptom) bool {
		return sy.Probe == "accept" || sy.Probe == "connect" || sy.Probe == "active"
	})...)...)
	var when []freezeframe.Span
	series := w.Between("netstat", s)
	for _, column := range []string{"TcpExtTCPReqQFullDrop", "TcpExtTCPReqQFullDoCookies", "TcpExtSyncookiesSent"} {
		for _, g := range growing(series.Points(0, column), resent) {
			when = append(when, freezeframe.Span{Start: g.Start, End: g.End.Add(resent)})
		}
	}
	claim := worth(w, network.And(freezeframe.Union(when...)))
	if claim == nil {
		return nil
	}
	f := freezeframe.Finding{
		Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "many senders"},
		Summary: fmt.Sprintf("%.0f connection requests a second found the queue of half-open connections full.", rate),
		Evidence: []freezeframe.Evidence{
			evidence("netstat", "TcpExtTCPReqQFullDrop", "%d requests dropped, %d answered with a cookie", dropped.sum, max(cookies.sum, sent.sum)),
		},
	}
	if line := logged(w, resent, "ossible SYN flooding on"); line != nil {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
	}
	hosts := map[string]int{}
	half := map[freezeframe.Key]bool{}
	conns := w.Between("connections", s)
	conns.Each([]string{"state", "peer"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[0] == synRecv && !half[key] {
			half[key] = true
			hosts[hostOf(w.Text(v[1]))]++
		}
	})
	for host, n := range sorted(hosts) {
		if 2*n >= len(half) && n >= 3 && host != "" {
			f.Culprit.Address = host
			f.Evidence = append(f.Evidence, evidence("connections", "peer", "%d of %d half-open connections were from %s", n, len(half), host))
		}
	}
	return []freezeframe.Finding{f}
}
