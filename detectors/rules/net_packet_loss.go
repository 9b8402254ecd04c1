package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// lossShare of the segments sent again, and lossTimeouts at least, are
	// loss and not a stray packet.
	lossShare    = 0.02
	lossTimeouts = 3
)

func netPacketLoss() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.packet_loss",
		Title: "packets that got lost",
		Means: "Packets did not arrive and were sent again, each time after a longer pause (200 ms, 400 ms, … and 1, 3, 7 s for a new connection).",
		Proof: "The victims' own connections were sending again without an answer (retransmits in sock_diag), or the machine's counters of timeouts ran. Told from a silent peer: its kernel acknowledges what arrives, and nothing is sent again; and from a full accept queue on this host.",
		Remedy: []string{
			"Now: `ss -tin dst ADDRESS` shows the retransmissions; `mtr -T -P PORT ADDRESS` where they get lost; `ip -s link` and `ethtool -S IFACE | grep -i -E 'drop|err|miss'` on this side.",
			"So that it does not come back: the cable, port, firewall or provider it points to; shorter timeouts and retries to another replica in the client.",
		},
		Reads: []string{sourceLedger, sourceSymptoms, "connections.probes", "connections.unacked", "connections.retransmits", "connections.total_retrans", "connections.inode", "connections.peer", "connections.pid", "connections.peer_pid", "connections.state", "connections.unacked_at",
			"netstat.TcpRetransSegs", "netstat.TcpOutSegs", "netstat.TcpExtTCPTimeouts", "netdev.rx_drop", "netdev.tx_drop", "netdev.rx_errs", "netdev.tx_errs", "listeners.queue", "listeners.address", "packets.packets", "packets.to_address"},
		Subsumes: []freezeframe.Cause{"dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgePacketLoss,
	}
}

// A resending is a connection on which something was sent again, and when.
type resending struct {
	inode        uint64
	pid, peerPID int
	peer         string
	pids         []int
	spans        []freezeframe.Span
	times        uint64
}

const (
	synSent = 2 // TCP_SYN_SENT
	// unansweredAfter is longer than any round trip on this planet takes.
	unansweredAfter = 400 * time.Millisecond
)

// resendings returns the connections with retransmissions in flight.
func resendings(w freezeframe.Window, s freezeframe.Span) []resending {
	series := w.Between("connections", s)
	type state struct {
		resending
		since, last freezeframe.Instant
		total       growth
		probes      uint64
	}
	at := map[freezeframe.Key]int{}
	var all []*state
	columns := []string{"inode", "pid", "peer_pid", "peer", "retransmits", "total_retrans", "sent_at", "pids", "state", "unacked_at", "probes", "unacked"}
	series.Each(columns, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, &state{})
		}
		c := all[i]
		c.inode, c.pid, c.peerPID = v[0], int(v[1]), int(v[2])
		setText(w, &c.peer, v[3])
		for text := range strings.SplitSeq(w.Text(v[7]), ",") {
			if pid := leadingInt(text); pid > 0 && !slices.Contains(c.pids, pid) {
				c.pids = append(c.pids, pid)
			}
		}
		c.total.add(t, v[5])
		// A request to connect is sent again only after a second; what this host
		// drops itself is never sent.
		asked := freezeframe.Instant(v[9])
		unsent := kernel.DroppedHere(v[10], v[11])
		if unsent {
			c.probes = max(c.probes, v[10])
		}
		if unanswered := v[8] == synSent && asked > 0 && t.Sub(asked) >= unansweredAfter || unsent; v[4] > 0 || unanswered {
			if c.since == 0 && unanswered {
				c.since = asked
			}
			if c.since == 0 {
				c.since = t
				// It was lost when it was sent, before it was sent again.
				if sent := freezeframe.Instant(v[6]); sent > 0 && sent < t && t.Sub(sent) < 60*time.Second {
					c.since = sent
				}
			}
			c.last = t
			return
		}
		if c.since != 0 {
			c.spans = append(c.spans, freezeframe.Span{Start: c.since, End: t})
			c.since = 0
		}
	})
	var out []resending
	for _, c := range all {
		if c.since != 0 {
			// It vanished from the table, or the window ends: a reading later
			// at most.
			c.spans = append(c.spans, freezeframe.Span{Start: c.since, End: c.last.Add(clusterGap)})
		}
		if c.times = c.total.sum + c.probes; len(c.spans) > 0 {
			out = append(out, c.resending)
		}
	}
	return out
}

func judgePacketLoss(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	full := map[string]bool{} // ports of this host whose queue is full: its SYNs are sent again too
	for _, l := range listeners(w, s) {
		if l.overflowed() {
			full[portOf(l.address)] = true
		}
	}
	ms, network := onNetwork(w)
	// A service that gets no acknowledgement does not wait itself: its clients do.
	network = freezeframe.Union(append(network, symptoms(w, func(sy *freezeframe.Symptom) bool { return sy.Probe == "delivery" || sy.Probe == "connect" })...)...)
	pids := ms.pids()
	waited := map[string]bool{} // peers that somebody waits for, whoever that is
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if sy.Probe == "delivery" || sy.Probe == "connect" {
			waited[sy.Target] = true
		}
		for _, v := range sy.Victims {
			pids = append(pids, v.PID)
		}
	}
	type loss struct {
		peers   map[string]int
		spans   []freezeframe.Span
		times   uint64
		victims int
	}
	got := loss{peers: map[string]int{}}
	for _, c := range resendings(w, s) {
		if full[portOf(c.peer)] && (c.peerPID != 0 || local(c.peer)) {
			continue
		}
		mine := waited[c.peer] || slices.Contains(pids, c.pid) && c.pid != 0 || slices.ContainsFunc(c.pids, func(p int) bool { return slices.Contains(pids, p) }) ||
			ms.share(func(m *moment) bool { return m.wait.File == fmt.Sprintf("socket:[%d]", c.inode) }) > 0
		if mine {
			got.victims++
			got.peers[hostOf(c.peer)]++
			got.spans = append(got.spans, c.spans...)
			got.times += c.times
		}
	}
	f := freezeframe.Finding{Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	if got.victims > 0 {
		f.Explains, f.Confidence = worth(w, network.And(freezeframe.Union(got.spans...))), 0.9
		f.Evidence = append(f.Evidence, evidence("connections", "retransmits", "%d connections of the victims sent again, %d segments in all", got.victims, got.times))
		f.Summary = "Packets of the victims' own connections got lost and were sent again"
	} else {
		again, sent, timeouts := one(w, "netstat", stall.Span, 0, "TcpRetransSegs"), one(w, "netstat", stall.Span, 0, "TcpOutSegs"), one(w, "netstat", stall.Span, 0, "TcpExtTCPTimeouts")
		if float64(again.sum) < lossShare*float64(sent.sum) || timeouts.sum < lossTimeouts || len(full) > 0 {
			return nil
		}
		f.Explains, f.Confidence = worth(w, network), inferred
		f.Evidence = append(f.Evidence, evidence("netstat", "TcpRetransSegs", "%d of %d segments were sent again, after %d timeouts", again.sum, sent.sum, timeouts.sum))
		f.Summary = "Packets got lost and were sent again"
		// To whom, the kernel's own count by peer says (BPF).
		for _, p := range packetsIn(w, stall.Span, "retransmit", "syn_retransmit") {
			got.peers[p.to] += int(p.count.sum)
			f.Evidence = append(f.Evidence, evidence("packets", "packets", "%d segments from %s were sent again", p.count.sum, p.String()))
			if len(f.Evidence) > 3 {
				break
			}
		}
	}
	if f.Explains == nil {
		return nil
	}
	if face := lossyInterface(w, stall.Span, &f); face != "" && len(got.peers) != 1 {
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: face}
	} else if len(got.peers) > 0 {
		best := ""
		for host, n := range sorted(got.peers) {
			if best == "" || n > got.peers[best] {
				best = host
			}
		}
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: best}
		f.Summary += " on the way to " + best
	}
	f.Summary += "; the work waited for " + length(f.Explains.Length()) + "."
	return []freezeframe.Finding{f}
}

// lossyInterface is the interface that itself counts drops or errors.
func lossyInterface(w freezeframe.Window, s freezeframe.Span, f *freezeframe.Finding) string {
	series := w.Between("netdev", s)
	best, most := "", uint64(0)
	for name, key := range sorted(textKeys(w, &series)) {
		var n uint64
		for _, column := range []string{"rx_drop", "tx_drop", "rx_errs", "tx_errs"} {
			n += series.Delta(key, column)
		}
		if n > most {
			best, most = name, n
		}
	}
	if best != "" {
		f.Evidence = append(f.Evidence, evidence("netdev", "rx_drop", "%s counted %d drops and errors", best, most))
	}
	return best
}

// local tells whether an address is the loopback's.
func local(address string) bool {
	h := hostOf(address)
	return strings.HasPrefix(h, "127.") || h == "::1"
}
