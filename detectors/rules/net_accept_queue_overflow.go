package rules

import (
	"fmt"
	"strings"

	"freezeframe"
)

func netAcceptQueueOverflow() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "net.accept_queue_overflow",
		Title: "a service that does not accept its connections",
		Means: "Connections stood in the queue of a listening socket until it was full; the kernel then drops new ones, and clients try again after 1, 3 and 7 seconds. Why the service did not accept is the deeper cause, where it is known.",
		Proof: "The listener's queue was at its backlog and its own drop counter grew (sock_diag). It is the verdict only when nothing explains what its owner did meanwhile.",
		Remedy: []string{
			"Now: `ss -ltn` (Recv-Q against Send-Q), `cat /proc/PID/stack` of the owner.",
			"So that it does not come back: more workers, or less work before accept; a longer queue helps against short bursts only: listen(…, 4096) and `sysctl net.core.somaxconn=4096`.",
		},
		Reads: []string{sourceSymptoms, "listeners.queue", "listeners.backlog", "listeners.drops", "listeners.pid", "listeners.comm", "listeners.address", "packets.what", "packets.packets"},
		Judge: judgeAcceptQueue,
	}
}

// A listener is one listening socket over a span.
type listener struct {
	address, comm  string
	pid            int
	queue, backlog uint64
	drops          uint64
}

func listeners(w freezeframe.Window, s freezeframe.Span) []listener {
	series := w.Between("listeners", s)
	type state struct {
		listener
		drops growth
	}
	at := map[freezeframe.Key]int{}
	var all []state
	series.Each([]string{"address", "comm", "pid", "queue", "backlog", "drops"}, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, state{})
		}
		l := &all[i]
		setText(w, &l.address, v[0])
		setText(w, &l.comm, v[1])
		if v[2] != 0 {
			l.pid = int(v[2])
		}
		if v[3] >= l.queue {
			l.queue = v[3]
		}
		l.backlog = v[4]
		l.drops.add(t, v[5])
	})
	out := make([]listener, len(all))
	for i := range all {
		out[i] = all[i].listener
		out[i].drops = all[i].drops.sum
	}
	return out
}

// overflowed tells whether a listener's queue was full and lost connections,
// or at least full.
func (l *listener) overflowed() bool {
	return l.backlog > 0 && l.queue >= l.backlog && (l.drops > 0 || l.queue > l.backlog)
}

// of tells whether a symptom is about the listener.
func (l *listener) of(sy *freezeframe.Symptom) bool {
	return l.address != "" && sy.Target == l.address || l.pid != 0 && suffers(sy, l.pid) || l.address != "" && sy.Probe == "active" && strings.HasSuffix(sy.Target, portOf(l.address))
}

// portOf is ":80" of an address, "" for a Unix socket.
func portOf(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 && !strings.HasPrefix(address, "unix:") {
		return address[i:]
	}
	return "\x00"
}

func judgeAcceptQueue(w freezeframe.Window) []freezeframe.Finding {
	var out []freezeframe.Finding
	exact := packetsIn(w, w.Stall().Span, "tcp_listen_overflow")
	for _, l := range listeners(w, w.Stall().Span) {
		// Counted by the kernel at the very moment, where BPF is.
		var refused uint64
		for i := range exact {
			if exact[i].between(l.address, "") {
				refused += exact[i].count.sum
			}
		}
		if !l.overflowed() && refused == 0 {
			continue
		}
		claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool { return l.of(sy) }))
		if claim == nil {
			continue
		}
		f := freezeframe.Finding{
			Explains: claim, Confidence: inferred, Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
			Summary:  fmt.Sprintf("%s did not accept connections on %s: %d stood in a queue for %d, %d were dropped.", orElse(l.comm, "Its owner"), l.address, l.queue, l.backlog, l.drops),
			Evidence: []freezeframe.Evidence{evidence("listeners", "queue", "%d connections in the queue of %s, backlog %d", l.queue, l.address, l.backlog)},
		}
		if l.drops > 0 {
			f.Confidence = counted
			f.Evidence = append(f.Evidence, evidence("listeners", "drops", "%d connections dropped at %s", l.drops, l.address))
		}
		if refused > 0 {
			f.Confidence = counted
			f.Evidence = append(f.Evidence, evidence("packets", "packets", "%d packets for %s dropped because its queue was full", refused, l.address))
		}
		if l.pid != 0 {
			f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: l.pid, Comm: l.comm}
		}
		out = append(out, f)
	}
	return out
}
