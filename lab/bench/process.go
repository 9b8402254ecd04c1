package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"
)

// The budgets of the whole process: its CPU as a ratio to that of atop -w 1,
// and its resident memory.
const (
	budgetAtop     = 0.25
	budgetAtopMany = 0.12
	budgetRSS      = 64.0 // MiB
	manyProcesses  = 1100
)

// wholeProcess measures diagnose beside atop, at the same time.
func wholeProcess(o options) (bool, error) {
	ok, err := besideAtop(o, o.processes, budgetAtop)
	if err != nil || !o.many {
		return ok, err
	}
	within, err := besideAtop(o, manyProcesses, budgetAtopMany)
	return ok && within, err
}

func besideAtop(o options, processes int, budget float64) (bool, error) {
	fmt.Printf("\nthe whole process beside atop -w FILE 1, %s, %d processes\n", o.each, processes)
	if _, err := os.Stat(o.binary); err != nil {
		fmt.Printf("SKIPPED: %v (build it first, or say -binary)\n", err)
		return true, nil
	}
	idle, err := idlers(processes)
	if err != nil {
		return false, err
	}
	defer func() {
		for _, c := range idle {
			c.end()
		}
	}()
	diagnose, err := startDiagnose(o.binary, o.each+time.Minute)
	if err != nil {
		return false, err
	}
	defer diagnose.end()
	daemons := []*child{diagnose}
	if path, err := exec.LookPath("atop"); err != nil {
		fmt.Printf("SKIPPED, atop: %v (apt-get install atop)\n", err)
	} else {
		dir, err := os.MkdirTemp("", "freezeframe-bench")
		if err != nil {
			return false, err
		}
		defer os.RemoveAll(dir)
		atop, err := start("atop", path, "-w", filepath.Join(dir, "atop"), "1")
		if err != nil {
			return false, err
		}
		defer atop.end()
		daemons = append(daemons, atop)
	}
	time.Sleep(5 * time.Second) // the first look at every process does not count
	used, err := watch(o.each, daemons...)
	if err != nil {
		return false, err
	}

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%% of a CPU\tswitches/s\tresident MiB\t\n")
	resident := 0.0
	for i, c := range daemons {
		mib, err := c.rss()
		if err != nil {
			return false, err
		}
		if c == diagnose {
			resident = mib
		}
		fmt.Fprintf(w, "%s\t%.3f\t%.0f\t%.1f\t\n", c.name, used[i].percent(), float64(used[i].switches)/used[i].wall.Seconds(), mib)
	}
	if err := w.Flush(); err != nil {
		return false, err
	}
	text, ok := verdict(resident, budgetRSS)
	fmt.Printf("resident MiB: %s\n", text)
	ok = !busy(used...) && ok
	if len(daemons) == 2 {
		text, within := verdict(used[0].percent()/used[1].percent(), budget)
		fmt.Printf("CPU beside atop: %s\n", text)
		ok = ok && within
	}
	return ok, nil
}

// startDiagnose starts a diagnose that would watch for so long.
func startDiagnose(binary string, length time.Duration) (*child, error) {
	return start("freezeframe diagnose", binary, "diagnose", "--for", length.String(), "--json")
}

// idlers starts idle processes until the machine has so many.
func idlers(processes int) (idle []*child, err error) {
	n, err := countProcesses()
	if err != nil {
		return nil, err
	}
	if n > processes {
		fmt.Printf("(there are %d already)\n", n)
	}
	for ; n < processes; n++ {
		c, err := start("sleep", "sleep", "86400")
		if err != nil {
			return idle, err
		}
		idle = append(idle, c)
	}
	return idle, nil
}

// countProcesses counts all but the kernel's own threads.
func countProcesses() (n int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			n++
		}
	}
	return n, nil
}

// churn watches the memory of a diagnose while 50 processes a second come and
// go. It prints a line a minute, and at the end the least, the most, and how
// fast it grew.
func churn(o options) error {
	fmt.Printf("\nresident memory while about 50 processes a second come and go, %s\n", o.churn)
	diagnose, err := startDiagnose(o.binary, o.churn+time.Minute)
	if err != nil {
		return err
	}
	defer diagnose.end()
	stop := make(chan struct{})
	ended := make(chan int)
	go func() {
		started := 0
		defer func() { ended <- started }()
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				// It lives long enough to be seen: some for a moment, some for a second.
				c := exec.Command("sleep", []string{"0.01", "0.3", "1.1"}[started%3])
				if c.Start() == nil {
					started++
					go func() { _ = c.Wait() }() // it only had to be there
				}
			}
		}
	}()

	var at, mib []float64
	begin := time.Now()
	every := min(time.Minute, max(time.Second, o.churn/10))
	for time.Since(begin) < o.churn {
		time.Sleep(every)
		m, err := diagnose.rss()
		if err != nil {
			return fmt.Errorf("diagnose ended: %w: %s", err, diagnose.stderr.String())
		}
		at, mib = append(at, time.Since(begin).Hours()), append(mib, m)
		fmt.Printf("%8s  %6.1f MiB\n", time.Since(begin).Round(time.Second), m)
	}
	close(stop)
	fmt.Printf("%d processes came and went\n", <-ended)
	// Its tables and its ring fill at first: the second half tells whether it grows.
	half := len(mib) / 2
	least, most := math.Inf(1), math.Inf(-1)
	for _, m := range mib {
		least, most = min(least, m), max(most, m)
	}
	fmt.Printf("least %.1f, most %.1f MiB; second half: %+.2f MiB an hour\n", least, most, slope(at[half:], mib[half:]))
	text, ok := verdict(most, budgetRSS)
	fmt.Printf("resident MiB: %s\n", text)
	if !ok {
		return fmt.Errorf("resident memory is over its budget")
	}
	return nil
}

// slope is the least-squares line's.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	n := float64(len(x))
	for i := range x {
		sx += x[i]
		sy += y[i]
		sxx += x[i] * x[i]
		sxy += x[i] * y[i]
	}
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}
