package collectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// A round is made on a whole second, and when it is wanted sooner on a quarter
// of one, however often that is said; stop ends the wait for the next at once.
func TestRounds(t *testing.T) {
	var r rounds
	began := make(chan freezeframe.Instant, 10)
	r.start(func() { began <- kernel.Now() })
	on := func(what string, every time.Duration) freezeframe.Instant {
		t.Helper()
		at := <-began
		// The machine may be busy: a round that is late by less than the calm
		// distance still tells the grids apart on most of the tries.
		if off := time.Duration(at) % every; off > every/2 {
			t.Logf("%s: %v after its moment", what, off)
		}
		return at
	}
	on("the first", roundCalm)
	asked := on("the second", roundCalm)
	for range 100 {
		r.soon()
	}
	sooner := on("one that was wanted", roundSoon)
	if d := sooner.Sub(asked); d > 3*roundSoon {
		t.Errorf("the round that was wanted soon came after %v, want about %v", d, roundSoon)
	}
	next := on("the next", roundCalm)
	if d := next.Sub(sooner); d <= roundSoon {
		t.Errorf("a hundred wishes made another round after %v", d)
	}
	r.stop()
	if n := len(began); n != 0 {
		t.Errorf("%d rounds that nobody waited for", n)
	}
}

// A wish that comes while a round is being made is not lost.
func TestRoundsWhileBusy(t *testing.T) {
	var r rounds
	began := make(chan freezeframe.Instant, 10)
	n := 0
	r.start(func() {
		began <- kernel.Now()
		if n++; n == 1 {
			r.soon()
		}
	})
	defer r.stop()
	first := <-began
	if d := (<-began).Sub(first); d > 3*roundSoon {
		t.Errorf("the next round came after %v, want about %v", d, roundSoon)
	}
}

// Asking for a round takes nothing from the sampling path.
func TestRoundsSoonAllocates(t *testing.T) {
	var r rounds
	if n := testing.AllocsPerRun(1000, func() { r.soon(); r.wanted.Store(false) }); n != 0 {
		t.Errorf("%v allocations a wish", n)
	}
}
