package kernel

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A thread in WaitUntil does not hold up a garbage collection, Wake ends the
// wait, and so does its moment.
func TestWaitUntil(t *testing.T) {
	var word atomic.Uint32
	asleep, woken := make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(asleep)
		WaitUntil(&word, 0, Now().Add(time.Minute))
		close(woken)
	}()
	<-asleep
	for range 20 {
		runtime.GC()
	}
	select {
	case <-woken:
		t.Error("the collections waited for the sleeper, or it was woken by them")
	default:
	}
	Wake(&word)
	<-woken

	at := Now().Add(5 * time.Millisecond)
	WaitUntil(&word, word.Load(), at)
	if now := Now(); now < at {
		t.Errorf("back %s too early", at.Sub(now))
	}
	if n := testing.AllocsPerRun(10, func() { WaitUntil(&word, word.Load(), Now()) }); n != 0 {
		t.Errorf("%v allocations a wait", n)
	}
}
