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
// meanwhile, who was waited for longest first.
func holdings(w freezeframe.Window, ms moments) []holding {
	if len(ms) == 0 {
		return nil
	}
	waits := lockWaitsIn(w, ms.hull())
	at := map[int]int{}
	var out []holding
	for i := range ms {
		for _, x := range waits {
			part := x.And(ms[i].Span).Length()
			if x.tid != ms[i].who.TID || part <= 0 || x.holder.PID == 0 {
				continue
			}
			j, ok := at[x.holder.TID]
			if !ok {
				j = len(out)
				at[x.holder.TID] = j
				out = append(out, holding{lockWait: x})
			}
			out[j].waited += part
		}
	}
	slices.SortStableFunc(out, func(a, b holding) int {
		return cmp.Or(cmp.Compare(b.waited, a.waited), cmp.Compare(a.holder.TID, b.holder.TID))
	})
	return out
}
