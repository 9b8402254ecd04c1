package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/collectors"
	"freezeframe/internal/kernel"
	"freezeframe/probes"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// checkTime is how long each probe is tried, and how long a collector may
// take before it counts as hanging.
const checkTime = time.Second

func (a *app) check() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Say what this kernel and these privileges let freezeframe see",
		Long: `Try every source and every probe for a moment, and say which can be had here,
what cannot be told without the others, and how to get them.`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			result := a.runCheck(c.Context())
			if asJSON {
				return reports.JSON(a.stdout, result)
			}
			return reports.CheckText(a.stdout, result, textOptions(a.stdout))
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return a.configured(c)
}

func (a *app) runCheck(ctx context.Context) reports.Check {
	result := reports.Check{Host: reports.Host(ctx), Version: version, Root: os.Geteuid() == 0}
	ring := recorder.NewRing(a.config.Ring.Bytes)
	focus := &freezeframe.Focus{}
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: ring.Texts(), Focus: focus}
	o := watchOptions(a.config)
	programs := bpf.Load(o.BPF)
	defer programs.Close()
	result.Items = append(result.Items, checkPrograms(programs)...)
	for _, c := range collectors.All(programs) {
		result.Items = append(result.Items, checkCollector(c, host))
	}
	po := o.Probes
	po.Focus, po.Texts = focus, ring.Texts().String
	result.Items = append(result.Items, checkProbes(ctx, probes.All(po))...)
	result.Normalize()
	return result
}

// checkPrograms says which families of BPF programs run, what each costs on
// this machine as it is now, and what is lost without the others.
func checkPrograms(programs *bpf.Programs) []reports.CheckItem {
	var items []reports.CheckItem
	costs, err := programs.Measure(checkTime)
	for _, c := range costs {
		item := reports.CheckItem{Kind: "program", Name: c.Name, From: c.At, State: reports.CheckOK}
		switch seconds := c.Over.Seconds(); {
		case err != nil:
			item.State, item.Err = reports.CheckPartly, err.Error()
		case seconds > 0:
			cost := reports.CheckCost{RunsPerSecond: float64(c.Runs) / seconds, CPUPct: 100 * c.Share()}
			if c.Runs > 0 {
				cost.RunNS = float64(c.RunTime.Nanoseconds()) / float64(c.Runs)
			}
			item.Cost = &cost
		}
		items = append(items, item)
	}
	for _, n := range programs.Needs() {
		name := strings.TrimPrefix(n.What, "BPF ")
		name, _, _ = strings.Cut(name, " ")
		items = append(items, reports.CheckItem{
			Kind: "program", Name: name, State: reports.CheckMissing, Err: n.Err, Needs: reports.NotSeen([]freezeframe.Need{n}),
		})
	}
	return items
}

// checkCollector opens a collector and reads it twice, as the sampler would.
func checkCollector(c freezeframe.Collector, host freezeframe.Host) reports.CheckItem {
	done := make(chan reports.CheckItem, 1)
	go func() {
		item := reports.CheckItem{Kind: "source", State: reports.CheckOK}
		err := c.Open(host)
		src := c.Source()
		item.Name, item.From, item.Needs = src.Name, src.From, reports.NotSeen(src.Needs)
		if err == nil {
			var t freezeframe.Table
			for range 2 {
				t.Reset()
				t.Due = kernel.Now()
				t.At = t.Due
				if err = c.Collect(&t); err != nil {
					break
				}
			}
			if cerr := c.Close(); err == nil {
				err = cerr
			}
			item.Rows = len(t.Keys)
		}
		switch {
		case errors.Is(err, freezeframe.ErrNotHere):
			item.State, item.Err = reports.CheckMissing, err.Error()
		case err != nil:
			item.State, item.Err = reports.CheckFailed, err.Error()
		case len(item.Needs) > 0:
			item.State = reports.CheckPartly
		}
		done <- item
	}()
	select {
	case item := <-done:
		return item
	case <-time.After(5 * checkTime):
		return reports.CheckItem{Kind: "source", Name: fmt.Sprintf("%T", c), State: reports.CheckFailed, Err: "hangs: it has not returned for " + (5 * checkTime).String()}
	}
}

// checkProbes runs every probe for a moment, all at once.
func checkProbes(ctx context.Context, all []freezeframe.Probe) []reports.CheckItem {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	type ended struct {
		index int
		err   error
		early bool
	}
	results := make(chan ended, len(all))
	var mu sync.Mutex
	errs := make(map[string]string) // what a probe said of its own work
	for i, p := range all {
		go func() {
			err := p.Run(ctx, func(l freezeframe.Lateness) {
				if l.Err != "" {
					mu.Lock()
					errs[p.Name()] = strings.TrimSpace(l.Target + ": " + l.Err)
					mu.Unlock()
				}
			})
			results <- ended{i, err, ctx.Err() == nil}
		}()
	}
	items := make([]reports.CheckItem, len(all))
	for i, p := range all {
		items[i] = reports.CheckItem{Kind: "probe", Name: p.Name(), State: reports.CheckFailed, Err: "hangs: it does not end when told to"}
	}
	late := time.After(3 * checkTime)
	for range all {
		select {
		case r := <-results:
			item := &items[r.index]
			item.State, item.Err = reports.CheckOK, ""
			if r.early && r.err != nil {
				item.State, item.Err = reports.CheckMissing, r.err.Error()
			}
		case <-late:
			return annotate(items, errs, &mu)
		}
	}
	return annotate(items, errs, &mu)
}

func annotate(items []reports.CheckItem, errs map[string]string, mu *sync.Mutex) []reports.CheckItem {
	mu.Lock()
	defer mu.Unlock()
	for i := range items {
		if e := errs[items[i].Name]; e != "" && items[i].State == reports.CheckOK {
			items[i].State, items[i].Err = reports.CheckPartly, e
		}
	}
	slices.SortStableFunc(items, func(a, b reports.CheckItem) int { return strings.Compare(a.Name, b.Name) })
	return items
}
