// Command bench prints the figures of freezeframe's budgets, measured on this
// machine: what a reading costs, what the sampler costs beside a C loop that
// reads the same files and beside the usual Go libraries, and what the whole
// process costs beside atop.
//
// The contestants take turns in one run, each as a daemon of its own, so the
// ratios hold on a machine that others use too; the absolute figures do not.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"freezeframe/collectors"
)

type options struct {
	each      time.Duration
	rounds    int
	stalled   bool
	binary    string
	processes int
	many      bool
	churn     time.Duration
	forks     int
	sockets   int
	only      string
}

func main() {
	// Children are told to die with this thread, so it must not end before.
	runtime.LockOSThread()
	var o options
	role := flag.String("role", "", "run as one of the contestants (the bench starts itself so)")
	flag.DurationVar(&o.each, "each", 20*time.Second, "how long each contestant is measured")
	flag.IntVar(&o.rounds, "rounds", 4, "in how many turns")
	flag.BoolVar(&o.stalled, "stalled", false, "read at the rates of an open stall")
	flag.StringVar(&o.binary, "binary", "./bin/freezeframe", "the program that is measured beside atop")
	flag.IntVar(&o.processes, "processes", 300, "how many processes there are beside atop: idle ones are added up to it")
	flag.BoolVar(&o.many, "many", false, "measure beside atop with 1,100 processes too")
	flag.DurationVar(&o.churn, "churn", 0, "only watch the memory of a diagnose for so long, while processes come and go")
	flag.IntVar(&o.forks, "forks", 0, "only watch the memory of a diagnose while so many processes come and go as fast as they can")
	flag.IntVar(&o.sockets, "sockets", 0, "only watch the memory of a diagnose while so many sockets of loopback connections are opened, held and closed")
	flag.StringVar(&o.only, "only", "", "only one part: readings, hooks, sampler or process")
	flag.Parse()
	if *role == "sockets" {
		runtime.UnlockOSThread()
		fatal(holdSockets(o.sockets))
		return
	}
	if *role != "" {
		fatal(contestant(*role, o.stalled))
		return
	}
	if flag.NArg() > 0 || o.rounds < 1 || o.each <= 0 {
		fmt.Fprintln(os.Stderr, "bench: see -help")
		os.Exit(2)
	}
	// Ctrl-C ends the children too: they die with us.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; os.Exit(130) }()

	fmt.Printf("%s %s, %d CPUs, %d collectors\n", runtime.GOOS, kernelRelease(), runtime.NumCPU(), len(collectors.All(nil)))
	if o.forks > 0 || o.sockets > 0 {
		fatal(crowd(o))
		return
	}
	if o.churn > 0 {
		fatal(churn(o))
		return
	}
	ok := true
	part := func(name string, f func(options) (bool, error)) {
		if o.only != "" && o.only != name {
			return
		}
		within, err := f(o)
		fatal(err)
		ok = ok && within
	}
	part("readings", readings)
	part("hooks", hooks)
	part("sampler", sampler)
	part("process", wholeProcess)
	if !ok {
		fmt.Println("\nsomething is over its budget")
		os.Exit(1)
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// verdict compares a ratio with its budget.
func verdict(ratio, budget float64) (string, bool) {
	if ratio <= budget {
		return fmt.Sprintf("%.2f (budget %.2f)", ratio, budget), true
	}
	return fmt.Sprintf("%.2f: OVER the budget of %.2f", ratio, budget), false
}
