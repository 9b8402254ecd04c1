package detectors

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// heapMost is from when on the garbage collector works harder rather than let
// the heap grow. It must lie well above what judging a window needs at once
// (18 MB of heap and 10 MB of the runtime's own, for a usual one): below that
// the collector takes every CPU there is, at our priority.
const heapMost = 56 << 20

// heapRoom is what lies between what is in use and the bound: the runtime's own
// memory and what a verdict takes for a moment.
const heapRoom = 24 << 20

// heapEvery is how often the bound is held against what is in use.
const heapEvery = 2 * time.Second

// A heap is when the garbage of this process is collected. Who set the runtime's
// own variables knows better: what they set is theirs.
type heap struct {
	bounded bool // its bound is ours
	paced   bool // and when it is collected
	held    atomic.Bool
	settled atomic.Int64 // when work aside was done last, CLOCK_MONOTONIC; 0: collected since
}

const (
	// heapGrowth is by how much what was found in use may grow, in percent.
	heapGrowth = 50
	// heapLeast is the garbage that is not worth a collection.
	heapLeast = 4 << 20
	// heapAfter is how long after work aside its results are written and garbage
	// themselves.
	heapAfter = 10 * time.Second
)

// bound keeps the garbage that judging a window makes small: the process has the
// memory of its rings beside the heap, and all of it is resident.
func (h *heap) bound() {
	h.paced = os.Getenv("GOGC") == ""
	h.bounded = os.Getenv("GOMEMLIMIT") == ""
	if h.paced {
		debug.SetGCPercent(heapGrowth)
	}
	if h.bounded {
		debug.SetMemoryLimit(heapMost)
	}
}

// atEase has nothing collected from now on but where our priority is an ordinary
// one, or the bound is reached: at real-time priority the collector keeps every
// CPU that is idle from all others until it is done, and its sweeper the one that
// an ordinary thread of ours needs to finish sweeping (some 100 ms of other
// services' waits, each time).
func (h *heap) atEase() {
	if h.paced {
		h.held.Store(true)
		debug.SetGCPercent(-1) // waits for a collection that runs
	}
}

// collect has garbage collected as it is made: our priority is an ordinary one.
func (h *heap) collect() {
	if h.held.Load() {
		debug.SetGCPercent(heapGrowth)
	}
}

// settle collects what was made meanwhile, to the end, and gives its memory back:
// it is needed again at the next stall. Then atEase.
func (h *heap) settle() {
	if h.held.Load() {
		debug.SetGCPercent(-1)
	}
	debug.FreeOSMemory()
	h.settled.Store(int64(kernel.Now()))
}

// release ends atEase.
func (h *heap) release() {
	if h.held.CompareAndSwap(true, false) {
		debug.SetGCPercent(heapGrowth)
	}
}

// due tells whether a collection is worth its while.
func (h *heap) due(now freezeframe.Instant, live, used uint64) bool {
	if !h.held.Load() {
		return false
	}
	settled := freezeframe.Instant(h.settled.Load())
	return used > live+max(live*heapGrowth/100, heapLeast) || settled != 0 && now.Sub(settled) > heapAfter
}

// heapBound is the bound where so much is in use: a machine with 20,000 processes
// has tables that do not fit below heapMost, and the collector would run without
// end to no avail.
func heapBound(live uint64) int64 {
	return max(heapMost, int64(live+live/2+heapRoom))
}

// heapUse is what the last collection found in use, and that with the garbage
// since, in bytes; 0 from a runtime that does not tell.
func heapUse() (live, used uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	for i, to := range []*uint64{&live, &used} {
		if s[i].Value.Kind() == metrics.KindUint64 {
			*to = s[i].Value.Uint64()
		}
	}
	return live, used
}

// keepHeap moves the bound with what is in use until ctx ends, and collects what
// little garbage is made between stalls.
func (w *Watch) keepHeap(ctx context.Context) {
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	bound := int64(heapMost)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		live, used := heapUse()
		if now := heapBound(live); w.heap.bounded && now != bound {
			bound = now
			debug.SetMemoryLimit(bound)
		}
		// While work is late, a stop of the world could wait for an ordinary thread
		// of ours that gets no CPU either, and the lanes with it.
		if w.heap.due(kernel.Now(), live, used) && !w.stalled.Load() {
			w.Aside(func() {})
			w.heap.settled.Store(0)
		}
	}
}
