package bpf

import (
	"testing"
	"time"
)

// TestTimersBeat: the timer of every CPU fires at its period, busy or idle, and
// a reading allocates nothing. That it fires late where interrupts are off can
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
	began := time.Now()
	time.Sleep(time.Second)
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
