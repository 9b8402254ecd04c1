package detectors

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"freezeframe/internal/kernel"
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
	w := &Watch{}
	if w.heap.bound(); !w.heap.bounded {
		t.Fatal("the bound is not ours")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); w.keepHeap(ctx) }()
	wait := func(what string, ok func(bound int64) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(debug.SetMemoryLimit(-1)); time.Sleep(10 * time.Millisecond) {
			if live, _ := heapUse(); time.Now().After(end) {
				t.Fatalf("%s: the bound is %d MiB, in use are %d", what, debug.SetMemoryLimit(-1)>>20, live>>20)
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
	if w.heap.bound(); w.heap.bounded || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		t.Error("somebody else's bound is changed")
	}
}

// At real-time priority nothing is collected: when work is done aside it is, to
// the end, and when little by little garbage was made.
func TestGarbageIsCollectedAside(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer func() { debug.SetMemoryLimit(limit); debug.SetGCPercent(percent) }()
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumGC
	}
	var sink []byte
	garbage := func(bytes int) {
		for range bytes >> 16 {
			sink = make([]byte, 1<<16)
		}
	}
	w := &Watch{}
	w.heap.bound()
	debug.SetMemoryLimit(limit) // what other tests have in use is not what this is about
	w.heap.atEase()
	runtime.GC()
	before := collections()
	garbage(40 << 20)
	if n := collections() - before; n != 0 {
		t.Errorf("%d collections at real-time priority", n)
	}
	live, used := heapUse()
	if now := kernel.Now(); !w.heap.due(now, live, used) || w.heap.due(now, live, live) {
		t.Errorf("%d MiB with %d in use: due %v", used>>20, live>>20, w.heap.due(now, live, used))
	}
	w.heap.collect()
	before = collections()
	garbage(40 << 20)
	if collections() == before {
		t.Error("none while work is done aside")
	}
	garbage(1 << 20)
	w.heap.settle()
	live, used = heapUse()
	if used > live+1<<20 {
		t.Errorf("%d kB left with %d in use", used>>10, live>>10)
	}
	if now := kernel.Now(); w.heap.due(now, live, live) || !w.heap.due(now.Add(heapAfter+time.Second), live, live) {
		t.Error("what work aside leaves behind is collected at once or never")
	}
	before = collections()
	if garbage(20 << 20); collections() != before {
		t.Error("a collection after work aside")
	}
	w.heap.release()
	if got := debug.SetGCPercent(percent); got != heapGrowth {
		t.Errorf("released: %d %%", got)
	}
	runtime.KeepAlive(sink)
	t.Setenv("GOGC", "80")
	debug.SetGCPercent(80)
	var theirs heap
	theirs.bound()
	theirs.atEase()
	theirs.collect()
	theirs.settle()
	if got := debug.SetGCPercent(percent); got != 80 {
		t.Errorf("somebody else's pace became %d %%", got)
	}
}
