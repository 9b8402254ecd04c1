package bpf

import (
	"context"
	"fmt"
	"time"
)

const (
	// costEvery is how often the programs' cost is measured, and costOver for
	// how long: counting makes every run some 40 ns dearer, and to switch it on
	// the kernel changes its own code, which takes both CPUs of a virtual machine
	// for milliseconds.
	costEvery = 2 * time.Minute
	costOver  = 250 * time.Millisecond
	// costTimes is in how many measurements in a row, costAgain apart, the budget
	// must be passed before a family is shed: one burst is no reason to go blind.
	costTimes = 2
	costAgain = 20 * time.Second
)

// Guard measures now and then what all programs cost together, and takes out
// the dearest when they pass the budget (a share of one CPU) and go on doing
// so, until ctx ends. What was shed is in Needs. No budget is none kept.
func (p *Programs) Guard(ctx context.Context, budget float64) {
	if p == nil || budget <= 0 || !p.any() {
		return
	}
	timer := time.NewTimer(costAgain)
	defer timer.Stop()
	g := guard{budget: budget}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		costs, err := p.Measure(costOver)
		if err != nil {
			return // counting is refused: nothing can be said, and nothing is shed
		}
		if name, why := g.judge(costs); name != "" {
			p.Shed(name, why)
		}
		if g.over > 0 {
			timer.Reset(costAgain)
		} else {
			timer.Reset(costEvery)
		}
	}
}

func (p *Programs) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.loaded) > 0
}

// guard decides what is shed.
type guard struct {
	budget float64
	over   int // measurements in a row
}

// judge returns the family to shed, if any, and why.
func (g *guard) judge(costs []Cost) (name, why string) {
	var sum float64
	var most Cost
	for _, c := range costs {
		if c.Shed != "" {
			continue
		}
		sum += c.Share()
		if c.Share() > most.Share() {
			most = c
		}
	}
	if sum <= g.budget {
		g.over = 0
		return "", ""
	}
	if g.over++; g.over < costTimes || most.Name == "" {
		return "", ""
	}
	g.over = 0
	return most.Name, fmt.Sprintf("shed: BPF programs took %.2f %% of a CPU, the budget is %.2f %%, and these took most (%.2f %%)", 100*sum, 100*g.budget, 100*most.Share())
}
