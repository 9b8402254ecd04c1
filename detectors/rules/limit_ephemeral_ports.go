package rules

import (
	"fmt"
	"strings"

	"freezeframe"
)

// portsFull is how much of the range to one destination must be in use.
const portsFull = 0.95

func limitEphemeralPorts() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.ephemeral_ports",
		Title: "no local ports left to connect from",
		Means: "Every connection to one address and port needs a local port of its own, and all of the range were in use or still in TIME_WAIT, so connecting failed at once.",
		Proof: "Connecting failed with EADDRNOTAVAIL, and the connections to that destination fill the range (net.ipv4.ip_local_port_range).",
		Remedy: []string{
			"Now: `sysctl net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1`.",
			"So that it does not come back: keep connections open (keep-alive, a pool) instead of one per request; spread over several destination addresses.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "ports.used", "ports.range", "ports.pid", "procs.comm", "procs.ppid", "failures.failures", "failures.errno"},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "net.packet_loss"},
		Judge:    judgePorts,
	}
}

func judgePorts(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	series := w.Between("ports", s)
	told := symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "EADDRNOTAVAIL") })
	var name string
	var used, limit, pid uint64
	for text, key := range sorted(textKeys(w, &series)) {
		u, r := series.Max(key, "used"), series.Max(key, "range")
		if r > 0 && float64(u) >= portsFull*float64(r) && u > used {
			name, used, limit = text, u, r
			pid = series.Max(key, "pid")
		}
	}
	ps := processesIn(w, s)
	// Of bind it says that the address is not this machine's.
	list := refusedIn(w, s, "EADDRNOTAVAIL", "connect", "sendto", "sendmsg")
	claim := told
	if used > 0 || len(told) > 0 {
		claim = freezeframe.Union(append(claim, lateOf(w, ps, list)...)...)
	}
	if used > 0 && pid != 0 {
		// The user of the ports is itself late: it cannot connect.
		claim = freezeframe.Union(append(claim, symptoms(w, func(sy *freezeframe.Symptom) bool { return sy.Err == "" && suffers(sy, int(pid)) })...)...)
	}
	if claim = worth(w, claim); claim == nil {
		return nil
	}
	f := freezeframe.Finding{Explains: claim, Confidence: seen, Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable, Device: "ip_local_port_range"}}
	switch {
	case used > 0 && (len(told) > 0 || len(list) > 0):
		f.Confidence = proven
	case used > 0:
		f.Confidence = counted
	}
	f.Summary = "No local port was left to connect from."
	if used > 0 {
		_, peer, ok := strings.Cut(name, "|")
		if !ok {
			peer = name
		}
		f.Culprit.Address = peer
		if pid != 0 {
			f.Culprit = ps.blame(freezeframe.Party{PID: int(pid)})
			f.Culprit.Address = peer
		}
		f.Summary = fmt.Sprintf("%d of %d local ports to %s were in use; no other connection could be made.", used, limit, peer)
		f.Evidence = append(f.Evidence, evidence("ports", "used", "%d of %d local ports to %s in use", used, limit, peer))
	}
	if len(told) > 0 {
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventRefused, "", "connecting failed with EADDRNOTAVAIL"))
	}
	f.Evidence = append(f.Evidence, refusals(list)...)
	return []freezeframe.Finding{f}
}
