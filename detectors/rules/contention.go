package rules

import (
	"cmp"
	"slices"
	"time"

	"freezeframe"
)

// A lockWait is a thread's wait for a lock of the kernel, with who held the
// lock when the wait began (the source contention).
type lockWait struct {
	freezeframe.Span
	pid, tid       int
	kind           string
	lock           uint64
	holder         freezeframe.Party
	shared         bool // the holder only reads, and may be one of many
	addressSpaceOf int
}

type lockWaitsOver freezeframe.Span

// lockWaits returns the waits for the kernel's locks that touch a span. One
// that goes on is as long as it was last seen.
func lockWaitsIn(w freezeframe.Window, s freezeframe.Span) []lockWait {
	return freezeframe.Once(w, lockWaitsOver(s), func() []lockWait {
		series := w.Between("contention", freezeframe.Span{Start: s.Start, End: s.End.Add(time.Second)})
		type id struct {
			tid   int
			began uint64
		}
		at := map[id]int{}
		var out []lockWait
		columns := []string{"pid", "tid", "kind", "lock", "began_ns", "ended_ns", "holder_pid", "holder_tid", "holder_comm", "holder_reads", "address_space_of"}
		series.Each(columns, func(t freezeframe.Instant, _ freezeframe.Key, v []uint64) {
			end := freezeframe.Instant(v[5])
			if end == 0 {
				end = t
			}
			x := lockWait{
				Span: freezeframe.Span{Start: freezeframe.Instant(v[4]), End: end}, pid: int(v[0]), tid: int(v[1]), kind: w.Text(v[2]), lock: v[3],
				holder: freezeframe.Party{PID: int(v[6]), TID: int(v[7]), Comm: w.Text(v[8]), Why: "holds the lock"}, shared: v[9] != 0, addressSpaceOf: int(v[10]),
			}
			key := id{x.tid, v[4]}
			if i, ok := at[key]; ok {
				out[i].End = max(out[i].End, end)
				return
			}
			at[key] = len(out)
			out = append(out, x)
		})
		return slices.DeleteFunc(out, func(x lockWait) bool { return x.And(s).Length() <= 0 })
	})
}

// A holding is how long the waiters of some moments waited for one holder.
type holding struct {
	lockWait
	waited time.Duration
}

// holdings says who held the locks that the threads of the moments waited for
// meanwhile, who was waited for longest first. A holder that waited for another
// lock itself held nothing up: whoever had that one did.
func holdings(w freezeframe.Window, ms moments) []holding {
	if len(ms) == 0 {
		return nil
	}
	g := newLockGraph(lockWaitsIn(w, ms.hull()))
	at := map[int]int{}
	var out []holding
	for i := range ms {
		for _, x := range g.byThread[ms[i].who.TID] {
			g.follow(x, x.And(ms[i].Span), 0, func(root lockWait, d time.Duration) {
				j, ok := at[root.holder.TID]
				if !ok {
					j = len(out)
					at[root.holder.TID] = j
					out = append(out, holding{lockWait: root})
				}
				out[j].waited += d
			})
		}
	}
	slices.SortStableFunc(out, func(a, b holding) int {
		return cmp.Or(cmp.Compare(b.waited, a.waited), cmp.Compare(a.holder.TID, b.holder.TID))
	})
	return out
}

// A lockGraph is who waited for which lock, and who had it.
type lockGraph struct {
	byThread map[int][]lockWait
	byLock   map[uint64][]lockWait // by their end: so they got it
	steps    int
}

const (
	// maxHands is through how many locks a wait is followed.
	maxHands = 8
	// maxLockSteps bounds the work on one graph.
	maxLockSteps = 100_000
)

func newLockGraph(waits []lockWait) *lockGraph {
	g := &lockGraph{byThread: map[int][]lockWait{}, byLock: map[uint64][]lockWait{}}
	for _, x := range waits {
		g.byThread[x.tid] = append(g.byThread[x.tid], x)
		g.byLock[x.lock] = append(g.byLock[x.lock], x)
	}
	for _, list := range g.byLock {
		slices.SortStableFunc(list, func(a, b lockWait) int { return cmp.Compare(a.End, b.End) })
	}
	return g
}

// follow divides a part of a wait by who had the lock, from whom it passed to
// the next of those that waited for it, and goes on to what those waited for
// meanwhile. tell is given the wait at the end of that, and for how long.
func (g *lockGraph) follow(x lockWait, part freezeframe.Span, depth int, tell func(lockWait, time.Duration)) {
	if part.Length() <= 0 || g.steps > maxLockSteps {
		return
	}
	holder := x
	piece := freezeframe.Span{Start: part.Start, End: part.End}
	for _, y := range g.byLock[x.lock] {
		g.steps++
		if y.End <= x.Start || y.tid == x.tid {
			continue
		}
		if y.End >= part.End {
			break
		}
		piece.End = max(y.End, piece.Start)
		g.holds(holder, piece, depth, tell)
		piece = freezeframe.Span{Start: piece.End, End: part.End}
		holder.holder = freezeframe.Party{PID: y.pid, TID: y.tid, Why: "holds the lock"}
		holder.shared = false
	}
	g.holds(holder, piece, depth, tell)
}

// holds tells of a time in which a lock was held by one thread, less that in
// which it waited for another lock.
func (g *lockGraph) holds(x lockWait, piece freezeframe.Span, depth int, tell func(lockWait, time.Duration)) {
	if piece.Length() <= 0 || x.holder.PID == 0 {
		return
	}
	rest := freezeframe.Union(piece)
	if depth < maxHands {
		for _, y := range g.byThread[x.holder.TID] {
			g.steps++
			if y.lock == x.lock {
				continue
			}
			if part := y.And(piece); part.Length() > 0 {
				g.follow(y, part, depth+1, tell)
				rest = rest.Minus(freezeframe.Union(part))
			}
		}
	}
	if d := rest.Length(); d > 0 {
		tell(x, d)
	}
}
