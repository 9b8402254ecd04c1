package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

func depDNS() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "dep.dns",
		Title: "a name server that does not answer",
		Means: "The service wanted to look up a name and got no answer. Resolvers ask again after 5 s by default, so requests take 5, 10 or 15 seconds longer, and everything else looks healthy.",
		Proof: "The service had a socket to port 53 open for as long as its threads had nothing else to wait for; a question is answered, and its socket closed, within milliseconds. Where a forwarder on this host was asked, and had asked another one itself, that one is named.",
		Remedy: []string{
			"Now: `dig @ADDRESS example.org +time=1 +tries=1` asks the name server by itself; `resolvectl status` or /etc/resolv.conf shows who else could be asked.",
			"So that it does not come back: a cache on the host (systemd-resolved, unbound); `options timeout:1 attempts:3 rotate` in /etc/resolv.conf; connections that stay, so that no request has to look up a name.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "udp.peer", "udp.peer_port", "udp.local_port", "udp.since_ns", "udp.pid", "connections.peer", "connections.peer_port", "connections.pid", "procs.comm"},
		Subsumes: []freezeframe.Cause{"dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeDNS,
	}
}

const (
	portDNS = 53
	// silentDNS is how long a question is open before its name server counts as
	// silent: a recursion to the other side of the world takes half of it.
	silentDNS = 400 * time.Millisecond
	// readApart is a little more than lies between two readings of sockets.
	readApart = 300 * time.Millisecond
)

// A question is a socket that asks a name server, and as long as it was seen.
type question struct {
	freezeframe.Span
	pids   []int
	inode  uint64
	server string
}

func judgeDNS(w freezeframe.Window) []freezeframe.Finding {
	asked, servers := questions(w, around(w.Stall().Span))
	if len(asked) == 0 {
		return nil
	}
	about := func(m *moment) []question {
		var out []question
		for _, q := range asked {
			if q.And(m.Span).Length() > 0 && slices.Contains(q.pids, m.who.PID) {
				out = append(out, q)
			}
		}
		return out
	}
	// One that waits for another peer meanwhile was not held up by a name.
	elsewhere := roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.PeerWait && strings.HasPrefix(m.wait.File, "socket:") &&
			!slices.ContainsFunc(asked, func(q question) bool { return m.wait.File == fmt.Sprintf("socket:[%d]", q.inode) })
	})
	ms := roots(w, func(m *moment) bool {
		switch m.wait.Class {
		case freezeframe.Idle, freezeframe.UserLock, freezeframe.PeerWait, freezeframe.Unseen:
			return len(about(m)) > 0
		}
		return false
	})
	type silence struct {
		claim freezeframe.Spans
		ms    moments
		count int
	}
	by := map[string]*silence{}
	for i := range ms {
		m := &ms[i]
		other := elsewhere.where(func(x *moment) bool { return x.who.PID == m.who.PID }).spans()
		for _, q := range about(m) {
			s := by[q.server]
			if s == nil {
				s = &silence{}
				by[q.server] = s
			}
			s.claim = freezeframe.Union(append(s.claim, freezeframe.Union(q.And(m.Span)).Minus(other)...)...)
			s.ms = append(s.ms, *m)
		}
	}
	for _, q := range asked {
		if s := by[q.server]; s != nil {
			s.count++
		}
	}
	var out []freezeframe.Finding
	for server, s := range sorted(by) {
		claim := worth(w, s.claim)
		if claim == nil {
			continue
		}
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: server}, Explains: claim, Confidence: seen, Chain: story(s.ms),
			Summary:  fmt.Sprintf("The name server %s did not answer for %s.", server, length(claim.Length())),
			Evidence: []freezeframe.Evidence{evidence("udp", "since_ns", "%d questions to %s stood open for %s and more", s.count, server, length(silentDNS))},
		}
		ps := processesIn(w, around(core(claim)))
		if own := servers[server]; own != 0 {
			// A forwarder on this host: who did it ask?
			f.Culprit.PID, f.Culprit.Comm = own, ps.name(own)
			for _, q := range asked {
				if q.server != server && slices.Contains(q.pids, own) && freezeframe.Union(q.Span).And(claim).Length() >= claim.Length()/2 {
					f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: q.server}
					f.Summary = fmt.Sprintf("The name server %s, asked by %s on this host, did not answer for %s.", q.server, named(ps.name(own), own), length(claim.Length()))
					f.Evidence = append(f.Evidence, evidence("udp", "peer", "%s had asked %s meanwhile", named(ps.name(own), own), q.server))
					break
				}
			}
		}
		out = append(out, f)
	}
	return out
}

// questions returns the sockets that asked a name server for longer than an
// answer takes, and which name servers are processes of this host.
func questions(w freezeframe.Window, s freezeframe.Span) (asked []question, servers map[string]int) {
	servers = map[string]int{}
	at := map[freezeframe.Key]int{}
	var all []question
	bound := map[string]int{}
	series := w.Between("udp", s)
	series.Each([]string{"peer", "peer_port", "local", "local_port", "since_ns", "pid", "pids", "inode"}, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[3] == portDNS && v[5] != 0 {
			bound[hostOf(w.Text(v[2]))] = int(v[5])
		}
		if v[1] != portDNS {
			return
		}
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, question{Span: freezeframe.Span{Start: freezeframe.Instant(v[4])}, server: w.Text(v[0]), inode: v[7]})
		}
		q := &all[i]
		q.End = t
		if pid := int(v[5]); pid != 0 && !slices.Contains(q.pids, pid) {
			q.pids = append(q.pids, pid)
		}
		for text := range strings.SplitSeq(w.Text(v[6]), ",") {
			if pid := leadingInt(text); pid > 0 && !slices.Contains(q.pids, pid) {
				q.pids = append(q.pids, pid)
			}
		}
	})
	// A long answer comes by TCP; a connection is not closed after it, so only
	// one on which something is sent and not answered counts.
	conns := w.Between("connections", s)
	conns.Each([]string{"peer", "peer_port", "sent_at", "received_at", "pid", "inode", "server"}, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[1] != portDNS || v[6] != 0 || v[2] == 0 || v[3] > v[2] {
			return
		}
		i, ok := at[^key]
		if !ok {
			i = len(all)
			at[^key] = i
			all = append(all, question{Span: freezeframe.Span{Start: freezeframe.Instant(v[2])}, server: w.Text(v[0]), inode: v[5], pids: []int{int(v[4])}})
		}
		all[i].End = t
	})
	readings := make([]freezeframe.Instant, len(series.Tables))
	for i := range series.Tables {
		readings[i] = series.Tables[i].At
	}
	for _, q := range all {
		if q.Length() >= silentDNS {
			// It came up to a reading earlier than it was seen, and was there
			// until the first reading without it.
			i, _ := slices.BinarySearch(readings, q.Start)
			if i > 0 {
				q.Start = max(readings[i-1], q.Start.Add(-readApart))
			}
			if i, found := slices.BinarySearch(readings, q.End); found && i+1 < len(readings) {
				q.End = min(readings[i+1], q.End.Add(readApart))
			}
			asked = append(asked, q)
		}
		if pid, ok := bound[hostOf(q.server)]; ok {
			servers[q.server] = pid
		}
	}
	return asked, servers
}
