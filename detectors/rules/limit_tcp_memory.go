package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

func limitTCPMemory() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.tcp_memory",
		Title: "no memory left for TCP",
		Means: "The buffers of all TCP connections together had as much memory as the machine allows (net.ipv4.tcp_mem). What arrives is then dropped, and what is to be sent has to wait, on every connection.",
		Proof: "The pages of TCP (/proc/net/sockstat) stood at the limit while victims waited for the network; the kernel's line \"TCP: out of memory -- consider tuning tcp_mem\".",
		Remedy: []string{
			"Now: `sysctl -w net.ipv4.tcp_mem='LOW PRESSURE HIGH'`, in pages of 4 KiB; `ss -tm state established | sort` shows whose queues are full.",
			"So that it does not come back: end or limit the connections of which nobody reads (net.ipv4.tcp_rmem and tcp_wmem, TCP_USER_TIMEOUT, net.ipv4.tcp_max_orphans).",
		},
		Reads: []string{
			sourceLedger, sourceSymptoms, "sockstat.tcp_mem_pages", "limits.tcp_mem_max_pages",
			"connections.rqueue", "connections.wqueue", "connections.pid", "procs.comm", freezeframe.EventKernelLog,
		},
		Subsumes: []freezeframe.Cause{"net.packet_loss", "net.receive_buffer_full", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeTCPMemory,
	}
}

func judgeTCPMemory(w freezeframe.Window) []freezeframe.Finding {
	s := around(w.Stall().Span)
	limits := w.Between("limits", s)
	most := limits.Max(0, "tcp_mem_max_pages")
	series := w.Between("sockstat", s)
	var when []freezeframe.Span
	points := series.Points(0, "tcp_mem_pages")
	for i, p := range points {
		if most == 0 || float64(p.Value) < nearLimit*float64(most) {
			continue
		}
		full := freezeframe.Span{Start: p.At, End: p.At.Add(time.Second)}
		if i > 0 {
			full.Start = points[i-1].At
		}
		if i+1 < len(points) {
			full.End = points[i+1].At
		}
		when = append(when, full)
	}
	line := logged(w, resent, "TCP: out of memory")
	if len(when) == 0 && line == nil {
		return nil
	}
	if line != nil {
		when = append(when, freezeframe.Span{Start: line.At.Add(-time.Second), End: line.At.Add(resent)})
	}
	ms, network := onNetwork(w)
	claim := worth(w, network.And(freezeframe.Union(when...)))
	if claim == nil {
		return nil
	}
	used := series.Max(0, "tcp_mem_pages")
	f := freezeframe.Finding{
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable, Device: "tcp_mem"}, Explains: claim, Confidence: seen, Chain: story(ms),
		Summary:  fmt.Sprintf("TCP had %d pages of memory for its buffers, and may have %d.", used, most),
		Evidence: []freezeframe.Evidence{evidence("sockstat", "tcp_mem_pages", "%d pages in use, the limit of net.ipv4.tcp_mem is %d", used, most)},
	}
	if line != nil {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(line.Text)))
	}
	if pid, bytes := mostQueued(w, s); bytes > 0 && float64(bytes) >= mainHolder*pageBytes*float64(used) {
		f.Culprit = processesIn(w, s).blame(freezeframe.Party{PID: pid})
		f.Evidence = append(f.Evidence, evidence("connections", "rqueue", "%s of it in the queues of pid %d", size(bytes), pid))
	}
	return []freezeframe.Finding{f}
}

// pageBytes is a page of memory as tcp_mem counts, where no other is known.
const pageBytes = 4096

// mostQueued returns the process with most in the queues of its connections at
// one time, and how much that is.
func mostQueued(w freezeframe.Window, s freezeframe.Span) (pid int, bytes uint64) {
	series := w.Between("connections", s)
	queued := map[int]uint64{}
	var reading freezeframe.Instant
	series.Each([]string{"pid", "rqueue", "wqueue"}, func(at freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if at != reading {
			reading = at
			clear(queued)
		}
		if v[0] == 0 {
			return
		}
		queued[int(v[0])] += v[1] + v[2]
		if q := queued[int(v[0])]; q > bytes {
			pid, bytes = int(v[0]), q
		}
	})
	return pid, bytes
}
