package rules

import (
	"fmt"
	"slices"

	"freezeframe"
)

func depRemoteUnresponsive() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "dep.remote_unresponsive",
		Title: "a peer that does not answer",
		Means: "The service had asked another one (a database, an upstream, an API) and waited for the answer. The network was fine: the peer's kernel took the request, and the program behind it did not answer.",
		Proof: "The victims waited on a connection that they had opened themselves, with nothing sent again on it. With BPF it is known to the microsecond how long each reply was missing and what is usual of the address: one that is always as slow is not blamed. What a peer on this host waited for itself decides where that is known. Told from net.packet_loss by the missing retransmissions.",
		Remedy: []string{
			"Now: look at the peer named here: is it up, and what does it wait for itself? Run `freezeframe diagnose` there.",
			"So that it does not come back: a timeout on every call, shorter than what users put up with, and a breaker that stops asking a dead peer.",
		},
		Reads: []string{
			sourceLedger, "connections.inode", "connections.peer", "connections.server", "connections.retransmits", "connections.peer_pid", "connections.rtt_us", "procs.comm",
			"requests.kind", "requests.service", "requests.pid", "requests.began_at", "requests.done_at", "services.service", "services.far", "services.replys", "services.reply_p99_ns",
		},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeRemote,
	}
}

// A peer is the other end of a wait.
type peer struct {
	pid     int
	address string
}

func judgeRemote(w freezeframe.Window) []freezeframe.Finding {
	conns := connectionsByInode(w, around(w.Stall().Span))
	of := func(m *moment) peer {
		p := peer{}
		if h := m.wait.Holder; h != nil {
			p = peer{h.PID, h.Address}
		}
		if c, ok := conns[m.wait.File]; ok {
			if p.address == "" {
				p.address = c.peer
			}
			if p.pid == 0 {
				p.pid = c.peerPID
			}
		}
		return p
	}
	replies := farReplies(w, w.Stall().Span)
	deaf := notAccepting(w)
	silent := func(m *moment) bool {
		if m.wait.Class != freezeframe.PeerWait || onUnixSend(m) {
			return false
		}
		if p := of(m); p.pid != 0 && slices.Contains(deaf.pids, p.pid) || p.address != "" && slices.Contains(deaf.addresses, p.address) {
			return false // it is a user of a service that is itself what stalled
		}
		if asked, late := waitedFor(w, replies, m, of(m).address); len(asked) > 0 && !late {
			return false // as slow as ever
		}
		c, ok := conns[m.wait.File]
		// A server that waits for its client is waiting for work; and what is
		// sent again was lost, not ignored.
		return !ok || !c.server && !c.again
	}
	ms := roots(w, silent)
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if p := of(m); p.pid != 0 {
			return fmt.Sprint(p.pid)
		} else {
			return p.address
		}
	}) {
		claim := worth(w, b.spans())
		if claim == nil || b.key == "" {
			continue // for an answer, but nobody knows whose
		}
		p := of(b.longest())
		ps := processesIn(w, around(core(claim)))
		f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: p.address}}
		name := p.address
		if p.pid != 0 {
			f.Culprit = ps.blame(freezeframe.Party{PID: p.pid})
			f.Culprit.Address = p.address
			if h := b.longest().wait.Holder; h != nil && f.Culprit.Comm == "" {
				f.Culprit.Comm = h.Comm
			}
			name = named(f.Culprit.Comm, p.pid)
		}
		long := b.longest()
		if c, ok := conns[long.wait.File]; ok {
			f.Confidence = 0.9
			f.Evidence = append(f.Evidence, evidence("connections", "retransmits", "nothing was sent again on the connection to %s; round trip %d µs", c.peer, c.rtt))
		}
		if e, ok := replyEvidence(w, replies, b.moments, p.address); ok {
			f.Evidence = append(f.Evidence, e)
			f.Confidence = 0.9
			if e.Before != "" {
				f.Confidence = proven
			}
		}
		f.Evidence = append(f.Evidence, evidence("tasks", "wchan", "%s %s", who(long.who), doing(long.wait)))
		f.Evidence = append(f.Evidence, meanwhile(long)...)
		f.Summary = fmt.Sprintf("%s did not answer; the work waited for it for %s.", name, length(claim.Length()))
		out = append(out, f)
	}
	return append(out, mention(w, silent, func(m *moment) freezeframe.Culprit {
		if p := of(m); p.pid != 0 {
			return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: p.pid, Address: p.address}
		} else if p.address != "" {
			return freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: p.address}
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for an answer")...)
}

// notAccepting returns the services on this host that did not accept.
func notAccepting(w freezeframe.Window) (deaf struct {
	pids      []int
	addresses []string
}) {
	stall := w.Stall()
	for i := range stall.Symptoms {
		if sy := &stall.Symptoms[i]; sy.Probe == "accept" {
			deaf.addresses = append(deaf.addresses, sy.Target)
			for _, v := range sy.Victims {
				deaf.pids = append(deaf.pids, v.PID)
			}
		}
	}
	return deaf
}

// A connection as seen over a span.
type connection struct {
	peer          string
	peerPID       int
	server, again bool
	rtt           uint64
}

// connectionsByInode returns the connections by the name their descriptor has
// in /proc/PID/fd.
func connectionsByInode(w freezeframe.Window, s freezeframe.Span) map[string]connection {
	series := w.Between("connections", s)
	out := map[string]connection{}
	series.Each([]string{"inode", "peer", "peer_pid", "server", "retransmits", "rtt_us"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if v[0] == 0 {
			return
		}
		name := fmt.Sprintf("socket:[%d]", v[0])
		c := out[name]
		setText(w, &c.peer, v[1])
		if v[2] != 0 {
			c.peerPID = int(v[2])
		}
		c.server = c.server || v[3] != 0
		c.again = c.again || v[4] > 0
		c.rtt = v[5]
		out[name] = c
	})
	return out
}
