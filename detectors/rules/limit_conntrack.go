package rules

import (
	"fmt"
	"strings"
	"time"

	"freezeframe"
)

const (
	// tableFull is how full the table must be, where only its level is known.
	tableFull = 0.98
	// resent is how long after a drop a connection may still wait for it: SYNs
	// are sent again after 1, 3 and 7 s.
	resent = 4 * time.Second
)

func limitConntrack() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.conntrack",
		Title: "a full connection-tracking table",
		Means: "The firewall remembers each connection in a table. It was full, so the packets of new connections were dropped without a word.",
		Proof: "The table's drop counter grew with its count at its limit, or the kernel said \"nf_conntrack: table full, dropping packet\", while victims waited for the network.",
		Remedy: []string{
			"Now: `sysctl net.netfilter.nf_conntrack_max=1048576`; look at who fills it: `conntrack -L | awk '{print $5}' | sort | uniq -c | sort -n | tail`.",
			"So that it does not come back: shorter timeouts (nf_conntrack_tcp_timeout_established, _time_wait), `notrack` rules for busy services, a buckets count to match (nf_conntrack_buckets).",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "limits.conntrack_count", "limits.conntrack_max", "limits.conntrack_drop", freezeframe.EventKernelLog, "connections.peer"},
		Subsumes: []freezeframe.Cause{"net.firewall_drop", "net.packet_loss", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow", "net.syn_flood"},
		Judge:    judgeConntrack,
	}
}

// networked tells whether a symptom is of work that the network may hold up.
func networked(sy *freezeframe.Symptom) bool {
	switch sy.Probe {
	case "connect", "delivery", "active", "loopback":
		return true
	}
	return refusal(sy, "ETIMEDOUT", "EHOSTUNREACH", "ECONNREFUSED", "ECONNRESET", "EPERM", "conntrack table full", "table full")
}

// onNetwork returns the time that network waits of victims, networked symptoms
// without accounts, and packets without an answer cover: whoever waits for
// those may well sleep in epoll.
func onNetwork(w freezeframe.Window) (moments, freezeframe.Spans) {
	ms := roots(w, func(m *moment) bool { return m.wait.Class == freezeframe.PeerWait && !onUnixSend(m) })
	ledger := w.Ledger()
	has := map[int]bool{}
	for i := range ledger.Accounts {
		has[ledger.Accounts[i].Symptom] = true
	}
	stall := w.Stall()
	claim := ms.spans()
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if !has[i] && networked(sy) || sy.Probe == "connect" || sy.Probe == "delivery" {
			claim = freezeframe.Union(append(claim, symptoms(w, func(x *freezeframe.Symptom) bool { return x == sy || sameSymptom(x, sy) })...)...)
		}
	}
	return ms, claim
}

func sameSymptom(a, b *freezeframe.Symptom) bool {
	return a.Probe == b.Probe && a.Target == b.Target && a.Err == b.Err && a.Span == b.Span
}

func judgeConntrack(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	series := w.Between("limits", s)
	count, limit := series.Max(0, "conntrack_count"), series.Max(0, "conntrack_max")
	drops := series.Points(0, "conntrack_drop")
	line := logged(w, resent, "nf_conntrack: table full", "nf_conntrack: nf_conntrack: table full")
	dropped := freezeframe.Delta(drops)
	full := limit > 0 && float64(count) >= tableFull*float64(limit)
	if dropped == 0 && line == nil || dropped > 0 && line == nil && !full {
		return nil
	}
	when := growing(drops, resent)
	for i := range when {
		when[i].End = when[i].End.Add(resent)
	}
	if line != nil {
		when = append(when, freezeframe.Span{Start: line.At.Add(-time.Second), End: line.At.Add(resent)})
	}
	ms, network := onNetwork(w)
	claim := worth(w, network.And(freezeframe.Union(when...)))
	if claim == nil {
		return nil
	}
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable, Device: "nf_conntrack", Address: busiestPeer(w, s)}, Explains: claim, Confidence: seen, Chain: story(ms),
		Summary: "A connection-tracking table was full; new connections were dropped.",
	}
	if full {
		f.Summary = fmt.Sprintf("The connection-tracking table was full (%d of %d); new connections were dropped.", count, limit)
	}
	if full || dropped > 0 {
		// Every network namespace has a table of its own; these are the host's.
		f.Evidence = append(f.Evidence, evidence("limits", "conntrack_drop", "%d packets dropped; %d of %d entries in use", dropped, count, limit))
	}
	if line != nil || full && dropped > 0 {
		f.Confidence = proven
	}
	if line != nil {
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
	}
	return []freezeframe.Finding{f}
}

// busiestPeer is the address with at least half of all connections that were
// seen, "" without one.
func busiestPeer(w freezeframe.Window, s freezeframe.Span) string {
	series := w.Between("connections", s)
	hosts := map[string]int{}
	seen := map[freezeframe.Key]bool{}
	series.Each([]string{"peer"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if !seen[key] {
			seen[key] = true
			hosts[hostOf(w.Text(v[0]))]++
		}
	})
	for host, n := range sorted(hosts) {
		if host != "" && 2*n >= len(seen) && n >= 10 {
			return host
		}
	}
	return ""
}

// hostOf is an address without its port.
func hostOf(address string) string {
	if i := strings.LastIndexByte(address, ':'); i > 0 && !strings.HasPrefix(address, "unix:") {
		return strings.Trim(address[:i], "[]")
	}
	return address
}
