package bpf

import (
	"strings"
	"testing"
	"time"
)

func costs(shares ...float64) []Cost {
	names := []string{"waits", "block", "requests"}
	var out []Cost
	for i, s := range shares {
		out = append(out, Cost{Name: names[i], Over: time.Second, RunTime: time.Duration(s * float64(time.Second))})
	}
	return out
}

func TestTheDearestFamilyIsShedWhenTheBudgetStaysPassed(t *testing.T) {
	g := guard{budget: 0.01}
	if name, _ := g.judge(costs(0.004, 0.009)); name != "" {
		t.Errorf("one burst: shed %s", name)
	}
	if name, _ := g.judge(costs(0.004, 0.002)); name != "" {
		t.Errorf("within the budget: shed %s", name)
	}
	if name, _ := g.judge(costs(0.004, 0.009)); name != "" {
		t.Errorf("a second burst, much later: shed %s", name)
	}
	name, why := g.judge(costs(0.004, 0.009))
	if name != "block" || !strings.Contains(why, "1.30 %") || !strings.Contains(why, "0.90 %") {
		t.Errorf("shed %q: %q", name, why)
	}
	// What is shed costs nothing more.
	after := costs(0.011, 0.5)
	after[1].Shed = why
	g.judge(after)
	if name, _ := g.judge(after); name != "waits" {
		t.Errorf("shed %q, want the dearest that still runs", name)
	}
}

func TestShedFamilyIsANeed(t *testing.T) {
	p := load(t)
	p.Shed("waits", "it cost too much")
	needs := p.Needs()
	if len(needs) != 1 || needs[0].Err != "it cost too much" || needs[0].Lost == "" {
		t.Fatalf("needs: %+v", needs)
	}
	// Its readers go on, and find nothing new.
	drop(p.Waits)
	if err := p.Waits.Stalled(true); err != nil {
		t.Error(err)
	}
	time.Sleep(60 * time.Millisecond)
	p.Waits.Drain(1e6, func(w *Wait) {
		if w.Began > 0 && w.Kind == Slept {
			t.Error("a shed family still tells")
		}
	})
	costs, err := p.Measure(50 * time.Millisecond)
	if err != nil || len(costs) == 0 {
		t.Fatalf("costs %v: %v", costs, err)
	}
	for _, c := range costs {
		if c.Name == "waits" && (c.Shed == "" || c.Runs != 0) {
			t.Errorf("cost of what was shed: %+v", c)
		}
	}
}
