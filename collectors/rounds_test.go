package collectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

func TestNextRound(t *testing.T) {
	at := func(d time.Duration) freezeframe.Instant { return freezeframe.Instant(time.Hour + d) }
	for _, c := range []struct {
		after time.Duration
		soon  bool
		want  time.Duration
	}{
		{0, false, time.Second},
		{999 * time.Millisecond, false, time.Second},
		{0, true, 250 * time.Millisecond},
		{600 * time.Millisecond, true, 750 * time.Millisecond},
		{600 * time.Millisecond, false, time.Second},
	} {
		if got := nextRound(at(c.after), c.soon); got != at(c.want) {
			t.Errorf("after %v, soon %t: at %v, want %v", c.after, c.soon, got.Sub(at(0)), c.want)
		}
	}
}

// A round that is wanted, also while one is being made, comes before the whole
// second; wanted once or a hundred times it is one.
func TestRoundsComeSoonerWhenWanted(t *testing.T) {
	for _, during := range []bool{false, true} {
		sooner := 0
		// On a busy machine one may be late for its quarter of a second, and even
		// for the whole one.
		for range 8 {
			var r rounds
			began := make(chan freezeframe.Instant, 10)
			n := 0
			r.start(func() {
				began <- kernel.Now()
				if n++; n == 1 && during {
					r.soon()
				}
			})
			first := <-began
			if !during {
				time.Sleep(20 * time.Millisecond) // it sleeps by now, and has to be woken
				for range 100 {
					r.soon()
				}
			}
			wanted := <-began
			next := <-began
			r.stop()
			if first < wanted && wanted < nextRound(first, false) && next >= nextRound(wanted, false) {
				sooner++
				break
			}
		}
		if sooner == 0 {
			t.Errorf("wanted while one was made %t: never came sooner, or again and again", during)
		}
	}
}

// After stop there are no rounds, and asking for one takes nothing from the
// sampling path.
func TestRoundsStopAndAllocateNothing(t *testing.T) {
	var r rounds
	r.start(func() {})
	r.stop()
	select {
	case <-r.done:
	default:
		t.Error("stopped, and goes on")
	}
	if n := testing.AllocsPerRun(1000, func() { r.soon(); r.wanted.Store(false) }); n != 0 {
		t.Errorf("%v allocations a wish", n)
	}
}
