package detectors

import (
	"cmp"
	"slices"
	"strings"

	"freezeframe"
	"freezeframe/bpf"
)

// A reply is a request to another host, from when it was sent to the first byte
// that came back or, if none has, to when it was last seen.
type reply struct {
	freezeframe.Span
	pid, tid int // the thread that sent it
	address  string
	behind   *freezeframe.Party // who serves it, where that is on this host
}

// readReplies takes what BPF tells of the answers that threads of this host
// waited for: to the microsecond, and whatever thread it is.
func (b *book) readReplies(requests, services freezeframe.Series) {
	type answer struct {
		freezeframe.Span
		party freezeframe.Party
	}
	local := map[string]freezeframe.Party{} // listeners by their address
	services.Each([]string{"service", "far", "pid", "comm"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if v[1] == 0 && v[2] != 0 {
			local[b.w.Text(v[0])] = freezeframe.Party{PID: int(v[2]), Comm: b.w.Text(v[3])}
		}
	})
	answers := map[string][]answer{} // what services of this host were asked, by the asker's address
	at := map[freezeframe.Key]int{}
	var all []reply
	var cookies []freezeframe.Key
	requests.Each([]string{"kind", "service", "cookie", "pid", "tid", "comm", "peer", "began_at", "done_at"}, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
		span := freezeframe.Span{Start: freezeframe.Instant(v[7]), End: freezeframe.Instant(v[8])}
		if span.End == 0 {
			span.End = t
		}
		if span.Start == 0 || span.Length() <= 0 || v[3] == 0 {
			return
		}
		if v[0] != bpf.WaitReply {
			if peer := b.w.Text(v[6]); peer != "" {
				answers[peer] = append(answers[peer], answer{span, freezeframe.Party{PID: int(v[3]), TID: int(v[4]), Comm: b.w.Text(v[5])}})
			}
			return
		}
		i, ok := at[key]
		if !ok {
			i = len(all)
			at[key] = i
			all = append(all, reply{Span: span, pid: int(v[3]), tid: int(v[4]), address: b.w.Text(v[1])})
			cookies = append(cookies, freezeframe.Key(v[2]))
		}
		all[i].End = max(all[i].End, span.End)
	})
	for i := range all {
		r := &all[i]
		if p, ok := local[r.address]; ok {
			r.behind = &p
		}
		// The other end of the same connection knows the thread.
		for _, a := range answers[b.locals[cookies[i]]] {
			if a.And(r.Span).Length() > 0 && a.party.PID != r.pid {
				p := a.party
				r.behind = &p
			}
		}
		b.replies[r.pid] = append(b.replies[r.pid], *r)
	}
	for _, list := range b.replies {
		slices.SortStableFunc(list, func(x, y reply) int { return cmp.Compare(x.Start, y.Start) })
	}
}

// party is who has not answered.
func (r *reply) party() *freezeframe.Party {
	p := freezeframe.Party{Address: r.address, Why: "has not answered on " + r.address}
	if r.behind != nil {
		p.PID, p.TID, p.Comm = r.behind.PID, r.behind.TID, r.behind.Comm
	}
	return &p
}

// replying returns the reply that a process waited for during most of a wait: one
// that the thread itself asked for, before others.
func (b *book) replying(th *thread, w *freezeframe.Wait, earliest freezeframe.Instant) *reply {
	var best *reply
	for i := range b.replies[th.pid] {
		r := &b.replies[th.pid][i]
		if r.Start < earliest || r.And(w.Span).Length() < w.Length()/2 {
			continue
		}
		if own := r.tid == th.key.TID(); own || best == nil {
			best = r
			if own {
				break
			}
		}
	}
	return best
}

// cutByReplies cuts the waits of an event loop for work where the replies begin
// and end that it had asked for itself.
func (b *book) cutByReplies(th *thread, waits []freezeframe.Wait) []freezeframe.Wait {
	tid := th.key.TID()
	if !slices.ContainsFunc(b.replies[th.pid], func(r reply) bool { return r.tid == tid }) {
		return waits
	}
	var out []freezeframe.Wait
	for _, w := range waits {
		if w.Class == freezeframe.Idle && !strings.Contains(w.Stack, "accept") {
			for _, r := range b.replies[th.pid] {
				if r.tid != tid {
					continue
				}
				for _, at := range [2]freezeframe.Instant{r.Start, r.End} {
					if at.Sub(w.Start) < sameWait || w.End.Sub(at) < sameWait {
						continue
					}
					part := w
					part.End, part.Woken = at, nil
					out = append(out, part)
					w.Start = at
				}
			}
		}
		out = append(out, w)
	}
	return out
}
