package bpf

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTimersBeat: the timer of every busy CPU fires at its period, and a reading
// allocates nothing. That it fires late where interrupts are off can
// only be seen where a kernel can be made to: in a virtual machine.
func TestTimersBeat(t *testing.T) {
	timers := load(t).Timers
	if timers == nil {
		t.Fatal("no timers")
	}
	cpus, err := onlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	before, err := timers.Fired()
	if err != nil {
		t.Fatal(err)
	}
	// A CPU that idles skips beats on some machines: keep them busy.
	began := time.Now()
	var busy sync.WaitGroup
	for _, cpu := range cpus {
		busy.Go(func() {
			runtime.LockOSThread() // and never unlocked: it is pinned
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			for time.Since(began) < time.Second {
			}
		})
	}
	busy.Wait()
	after, err := timers.Fired()
	if err != nil {
		t.Fatal(err)
	}
	want := float64(time.Since(began) / TimerPeriod)
	for _, cpu := range cpus {
		if n := float64(after[cpu] - before[cpu]); n < want/2 || n > 1.5*want+2 {
			t.Errorf("CPU %d: fired %.0f times, want %.0f", cpu, n, want)
		}
	}
	timers.Drain(1e6, func(l *Late) {
		if l.Fired < l.Due || int(l.CPU) >= len(after) {
			t.Errorf("late: %+v", *l)
		}
	})
	if allocations := testing.AllocsPerRun(20, func() { timers.Drain(100, func(*Late) {}) }); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
}
