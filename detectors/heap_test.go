package detectors

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestHeapBound(t *testing.T) {
	for live, want := range map[uint64]int64{0: heapMost, 20 << 20: heapMost, 40 << 20: 84 << 20, 120 << 20: 204 << 20} {
		if got := heapBound(live); got != want {
			t.Errorf("%d MiB in use: %d MiB", live>>20, got>>20)
		}
	}
}

// What is in use is never above the bound for long: the collector would run without
// end.
func TestBoundMovesWithWhatIsInUse(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer func() { debug.SetMemoryLimit(limit); debug.SetGCPercent(percent) }()
	if !boundHeap() {
		t.Fatal("the bound is not ours")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); keepBound(ctx) }()
	wait := func(what string, ok func(bound int64) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(debug.SetMemoryLimit(-1)); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the bound is %d MiB, in use are %d", what, debug.SetMemoryLimit(-1)>>20, liveHeap()>>20)
			}
		}
	}
	many := make([]byte, 2*heapMost)
	for i := 0; i < len(many); i += 4096 {
		many[i] = 1
	}
	runtime.GC()
	wait("with much in use", func(bound int64) bool { return bound > 3*heapMost })
	runtime.KeepAlive(many)
	many = nil
	runtime.GC()
	wait("when it is given back", func(bound int64) bool { return bound < 2*heapMost })
	cancel()
	<-ended
	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(math.MaxInt64)
	if boundHeap() || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		t.Error("somebody else's bound is changed")
	}
}
