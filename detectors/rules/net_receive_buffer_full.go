package rules

import (
	"fmt"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func netReceiveBufferFull() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.receive_buffer_full",
		Title: "a peer that does not read",
		Means: "The service sends to another program (a log receiver, a replica, a client) that does not read. Its receive buffer filled, it closed its window, and the service blocked in send.",
		Proof: "The victims slept in a send, on a connection whose window the peer holds closed: the kernel probes it, and nothing is lost or sent again. A reader on this host has the unread bytes in its queue. Told from net.packet_loss by the missing retransmissions, from dep.remote_unresponsive by the send.",
		Remedy: []string{
			"Now: `ss -tnpe` shows who has a full Recv-Q (the reader) and Send-Q (the sender); look at what the reader does instead.",
			"So that it does not come back: send from a thread of its own with a bounded queue that drops; a timeout on sends (SO_SNDTIMEO, write deadlines); TCP_USER_TIMEOUT ends a connection whose window stays closed.",
		},
		Reads:    []string{sourceLedger, "connections.inode", "connections.peer", "connections.local", "connections.probes", "connections.wqueue", "connections.rqueue", "connections.unacked", "connections.retransmits", "connections.peer_pid", "connections.pid", "procs.comm"},
		Subsumes: []freezeframe.Cause{"dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeReceiveBuffer,
	}
}

// sendWaits is where a thread sleeps that has no room to send into.
var sendWaits = []string{"sk_stream_wait_memory", "sk_wait_sndbuf*"}

// A backlog is a connection to a peer that does not read.
type backlog struct {
	peer     string
	reader   int // on this host; 0: elsewhere, or not known
	queued   uint64
	unread   uint64
	shut     bool // its window was seen closed
	resent   bool
	readings int
}

func judgeReceiveBuffer(w freezeframe.Window) []freezeframe.Finding {
	blocked := func(m *moment) bool { return m.wait.Class == freezeframe.PeerWait && in(m.wait, sendWaits...) }
	ms := roots(w, blocked)
	if worth(w, ms.spans()) == nil {
		return nil
	}
	all := backlogs(w, around(ms.hull()))
	ms = ms.where(func(m *moment) bool {
		b := all[m.wait.File]
		return b != nil && !b.resent && (b.shut || b.unread > 0)
	})
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if x := all[m.wait.File]; x.reader != 0 {
			return fmt.Sprint(x.reader)
		} else {
			return hostOf(x.peer)
		}
	}) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		x := all[b.longest().wait.File]
		f := freezeframe.Finding{Explains: claim, Confidence: proven, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: x.peer}}
		name := x.peer
		if x.reader != 0 {
			f.Culprit = processesIn(w, around(core(claim))).blame(freezeframe.Party{PID: x.reader})
			f.Culprit.Address = x.peer
			name = named(f.Culprit.Comm, x.reader)
		}
		f.Summary = fmt.Sprintf("%s did not read what it was sent; the work waited in send for %s.", name, length(claim.Length()))
		f.Evidence = []freezeframe.Evidence{evidence("connections", "wqueue", "%s stood unsent on the connection to %s, and nothing was sent again", size(x.queued), x.peer)}
		if x.shut {
			f.Evidence = append(f.Evidence, evidence("connections", "probes", "its window was closed: the kernel probed it"))
		}
		if x.unread > 0 {
			f.Evidence = append(f.Evidence, evidence("connections", "rqueue", "%s lay unread at the other end", size(x.unread)))
		}
		out = append(out, f)
	}
	return append(out, mention(w, blocked, func(m *moment) freezeframe.Culprit {
		if h := m.wait.Holder; h != nil && h.PID != 0 {
			return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: h.PID, Comm: h.Comm}
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for room to send")...)
}

// backlogs returns the connections with something to send, by the name their
// descriptor has in /proc/PID/fd.
func backlogs(w freezeframe.Window, s freezeframe.Span) map[string]*backlog {
	series := w.Between("connections", s)
	out := map[string]*backlog{}
	ends := map[string]*backlog{} // by the reader's own local address
	columns := []string{"inode", "peer", "local", "wqueue", "rqueue", "probes", "retransmits", "peer_pid", "pid", "unacked"}
	each := func(f func(v []uint64)) {
		series.Each(columns, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) { f(v) })
	}
	each(func(v []uint64) {
		if v[0] == 0 || v[3] == 0 {
			return
		}
		name := fmt.Sprintf("socket:[%d]", v[0])
		b := out[name]
		if b == nil {
			b = &backlog{}
			out[name] = b
		}
		b.readings++
		setText(w, &b.peer, v[1])
		b.queued = max(b.queued, v[3])
		// Something unacknowledged that is sent again is lost, not refused; a
		// probe of a closed window counts as neither.
		b.shut = b.shut || v[5] > 0
		b.resent = b.resent || v[6] > 0 && v[5] == 0 && v[9] > 0 || kernel.DroppedHere(v[5], v[9])
		if v[7] != 0 {
			b.reader = int(v[7])
		}
		ends[w.Text(v[1])+" "+w.Text(v[2])] = b
	})
	each(func(v []uint64) {
		if b := ends[w.Text(v[2])+" "+w.Text(v[1])]; b != nil && v[4] > 0 {
			b.unread = max(b.unread, v[4])
			if v[8] != 0 {
				b.reader = int(v[8])
			}
		}
	})
	return out
}
