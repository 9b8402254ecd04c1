package rules

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	// enoughReplies before the stall say what is usual of an address.
	enoughReplies = 3
	// usualShare of them took no longer than what counts as usual: a bad second
	// among thirty is none.
	usualShare = 0.9
	// beyondUsual: a reply that takes so many times what is usual is late.
	beyondUsual = 2
)

// A farReply is what a thread asked of another host, from the request to the
// first byte that came back, or to when it was last seen to wait.
type farReply struct {
	freezeframe.Span
	pid, tid int
	address  string
	open     bool // no byte had come back when it was last seen
}

// usualReply is what replies of an address took before the stall.
type usualReply struct {
	count uint64
	p99   time.Duration
}

type (
	farRepliesOver   freezeframe.Span
	usualRepliesOver struct{}
)

// farReplies returns the waits for other hosts' answers that touch a span.
func farReplies(w freezeframe.Window, s freezeframe.Span) []farReply {
	return freezeframe.Once(w, farRepliesOver(s), func() []farReply {
		at := map[freezeframe.Key]int{}
		var out []farReply
		series := w.Between("requests", s)
		series.Each([]string{"kind", "service", "pid", "tid", "began_at", "done_at"}, func(t freezeframe.Instant, key freezeframe.Key, v []uint64) {
			r := farReply{Span: freezeframe.Span{Start: freezeframe.Instant(v[4]), End: freezeframe.Instant(v[5])}, pid: int(int32(v[2])), tid: int(int32(v[3])), address: w.Text(v[1])}
			if r.End == 0 {
				r.End, r.open = t, true
			}
			if v[0] != bpf.WaitReply || r.Start == 0 || r.address == "" || r.And(s).Length() <= 0 {
				return
			}
			if i, ok := at[key]; ok {
				out[i].End, out[i].open = max(out[i].End, r.End), r.open
				return
			}
			at[key] = len(out)
			out = append(out, r)
		})
		return out
	})
}

// usualReplies returns what was usual before the stall, by address.
func usualReplies(w freezeframe.Window) map[string]usualReply {
	return freezeframe.Once(w, usualRepliesOver{}, func() map[string]usualReply {
		type second struct{ p99, count uint64 }
		seconds := map[string][]second{}
		start := w.Stall().Start
		series := w.Between("services", freezeframe.Span{Start: w.Span().Start, End: start})
		series.Each([]string{"service", "far", "replys", "reply_p99_ns"}, func(t freezeframe.Instant, _ freezeframe.Key, v []uint64) {
			// A reading tells of the second before it.
			if address := w.Text(v[0]); v[1] != 0 && v[2] > 0 && v[2] < 1<<40 && t <= start && address != "" {
				seconds[address] = append(seconds[address], second{v[3], v[2]})
			}
		})
		out := map[string]usualReply{}
		for address, list := range seconds {
			slices.SortFunc(list, func(a, b second) int { return cmp.Compare(a.p99, b.p99) })
			var u usualReply
			for _, x := range list {
				u.count += x.count
			}
			below := uint64(0)
			for _, x := range list {
				below += x.count
				u.p99 = time.Duration(min(x.p99, 1<<62))
				if float64(below) >= usualShare*float64(u.count) {
					break
				}
			}
			if u.count >= enoughReplies {
				out[address] = u
			}
		}
		return out
	})
}

// late tells whether a reply takes longer than what is usual, where that is
// known. A far service that is slow by design is not.
func (u usualReply) late(r *farReply) bool {
	return u.count == 0 || r.Length() > beyondUsual*u.p99
}

// waitedFor returns the replies of an address that a thread waited for in a
// moment, and whether any of them was late; where the thread is not known, those
// of its process.
func waitedFor(w freezeframe.Window, all []farReply, m *moment, address string) (replies []farReply, late bool) {
	usual := usualReplies(w)
	for i := range all {
		r := &all[i]
		if r.pid != m.who.PID || r.address != address || r.And(m.Span).Length() <= 0 {
			continue
		}
		replies = append(replies, *r)
		late = late || usual[address].late(r)
	}
	return replies, late
}

// replyEvidence tells how long the replies of an address were missing, and what
// is usual.
func replyEvidence(w freezeframe.Window, all []farReply, ms moments, address string) (e freezeframe.Evidence, ok bool) {
	usual := usualReplies(w)[address]
	seen := map[farReply]bool{}
	var most time.Duration
	open := 0
	for i := range ms {
		replies, _ := waitedFor(w, all, &ms[i], address)
		for _, r := range replies {
			if seen[r] || !usual.late(&r) {
				continue
			}
			seen[r] = true
			most = max(most, r.Length())
			if r.open {
				open++
			}
		}
	}
	if len(seen) == 0 {
		return e, false
	}
	text := fmt.Sprintf("%d replies of %s were missing, one of them for %s", len(seen), address, length(most))
	if open > 0 {
		text += fmt.Sprintf(" (%d had not come when they were last seen)", open)
	}
	e = evidence("requests", "began_at", "%s", text)
	e.During = length(most)
	if usual.count > 0 {
		e.Before = length(usual.p99)
		e.Text += fmt.Sprintf("; of the %d before, 99 in 100 took no longer than %s", usual.count, length(usual.p99))
	}
	return e, true
}
