package detectors

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// heapMost is from when on the garbage collector works harder rather than let
// the heap grow. It must lie well above what judging a window needs at once
// (18 MB of heap and 10 MB of the runtime's own, for a usual one): below that
// the collector takes every CPU there is, at our priority.
const heapMost = 56 << 20

// heapRoom is what lies between what is in use and the bound: the runtime's own
// memory and what a verdict takes for a moment.
const heapRoom = 24 << 20

// boundEvery is how often the bound is held against what is in use.
const boundEvery = 2 * time.Second

// boundHeap keeps the garbage that judging a window makes small: the process
// has the memory of its rings beside the heap, and all of it is resident. Who
// set the runtime's own variables knows better; false: the bound is theirs.
func boundHeap() bool {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return false
	}
	debug.SetMemoryLimit(heapMost)
	return true
}

// heapBound is the bound where so much is in use: a machine with 20,000 processes
// has tables that do not fit below heapMost, and the collector would run without
// end to no avail.
func heapBound(live uint64) int64 {
	return max(heapMost, int64(live+live/2+heapRoom))
}

// liveHeap is what the last collection found in use, in bytes.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a runtime that does not tell
	}
	return s[0].Value.Uint64()
}

// keepBound moves the bound with what is in use until ctx ends.
func keepBound(ctx context.Context) {
	tick := time.NewTicker(boundEvery)
	defer tick.Stop()
	bound := int64(heapMost)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := heapBound(liveHeap()); now != bound {
			bound = now
			debug.SetMemoryLimit(bound)
		}
	}
}
