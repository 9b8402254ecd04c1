// Command served holds what freezeframe says of services against what their
// clients measured: stalls of many kinds at servers of many shapes, over TCP
// and Unix sockets; services that wait by design, of which nothing may be said;
// and what watching costs a busy service on the loopback.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"freezeframe/lab"
)

func main() {
	roles := lab.Roles(nil)
	for name, role := range ownRoles {
		roles[name] = role
	}
	lab.Dispatch(roles)
	ok, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "served:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// ownRoles are the programs of this command, beside those of the lab.
var ownRoles = map[string]func(args []string){
	"drain":   drain,
	"locker":  locker,
	"patient": patientServices,
	"guests":  guests,
	"rush":    rush,
}

// quietFlag is a duration that may be left out: then it is an hour.
type quietFlag time.Duration

func (q *quietFlag) String() string   { return time.Duration(*q).String() }
func (q *quietFlag) IsBoolFlag() bool { return true }
func (q *quietFlag) Set(s string) error {
	if s == "true" {
		*q = quietFlag(time.Hour)
		return nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d <= 0 {
		err = errors.New("wants a time above 0")
	}
	*q = quietFlag(d)
	return err
}

func run() (ok bool, err error) {
	var quiet quietFlag
	bin := flag.String("bin", "bin/freezeframe", "the freezeframe binary; \"\" makes and measures the stalls only")
	only := flag.String("only", ".", "make only the stalls whose name (server/family/stall) matches this expression")
	repeat := flag.Int("repeat", 1, "times that each stall is made")
	again := flag.Int("retry", 1, "times that invalid stalls are tried again")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the stalls' lengths and order, and of the clients")
	realtime := flag.Bool("realtime", false, "give the servers real-time priority: for a machine that others use too")
	out := flag.String("out", "", "directory for the diagnoses and results.json")
	list := flag.Bool("list", false, "list the stalls, and what does not make sense and why")
	flag.Var(&quiet, "quiet", "no stall: services that wait by design for so long (-quiet 2m; an hour if it says nothing); any report is wrong")
	throughput := flag.Bool("throughput", false, "no stall: requests per second of a busy service with and without freezeframe beside it")
	rounds := flag.Int("rounds", 7, "of -throughput, each with and without")
	each := flag.Duration("each", 3*time.Second, "length of a part of a round of -throughput")
	flag.Parse()
	rest := flag.Args()
	if quiet > 0 && len(rest) > 0 && quiet.Set(rest[0]) == nil { // -quiet 2m
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return false, fmt.Errorf("what is %q? see -help (-quiet and its time come last, or -quiet=2m)", rest[0])
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return false, fmt.Errorf("-only: %w", err)
	}
	if *list {
		listStalls(os.Stdout, match)
		return true, nil
	}
	if os.Geteuid() != 0 {
		return false, errors.New("needs root: it freezes filesystems and takes CPUs")
	}
	if *bin != "" {
		if *bin, err = filepath.Abs(*bin); err != nil {
			return false, err
		}
		if _, err := os.Stat(*bin); err != nil {
			return false, fmt.Errorf("-bin: %w (build it: make build)", err)
		}
	}
	if *out != "" {
		if *out, err = filepath.Abs(*out); err != nil {
			return false, err
		}
		if err := os.MkdirAll(*out, 0o755); err != nil {
			return false, err
		}
	}
	l, err := lab.New()
	if err != nil {
		return false, err
	}
	l.Bin, l.Out = *bin, *out
	defer func() {
		if e := l.Close(); e != nil {
			ok, err = false, errors.Join(err, e)
		}
	}()
	// An interrupt ends the process, and the janitor undoes what it made.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; os.Exit(130) }()

	fmt.Printf("seed %d\n", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	switch {
	case quiet > 0 || *throughput:
		if *bin == "" {
			return false, errors.New("needs -bin")
		}
		if *throughput {
			return measureThroughput(l, *rounds, *each, os.Stdout)
		}
		return stayQuiet(l, time.Duration(quiet), random.Uint64(), os.Stdout)
	}

	var all []row
	var extra []said
	var t totals
	for range *repeat {
		for _, b := range batches(match, *realtime) {
			for left := *again; ; left-- {
				rows, beyond := b.run(l, random.Uint64(), os.Stdout)
				extra = append(extra, beyond...)
				b.keep(func(st stall) bool {
					return left > 0 && slices.ContainsFunc(rows, func(r row) bool { return r.Stall == st.name && r.Invalid != "" })
				})
				for _, r := range rows {
					if left == 0 || r.Invalid == "" {
						all = append(all, r)
					}
				}
				if len(b.stalls) == 0 {
					break
				}
			}
			// Each time: a run that is interrupted has something to show.
			t = total(all, extra)
			if err := save(*out, results{Seed: *seed, Rows: all, Extra: extra, Totals: t}); err != nil {
				return false, err
			}
		}
	}
	fmt.Println()
	return t.write(os.Stdout, *bin != ""), nil
}

// save writes what is known into the directory, if there is one.
func save(dir string, r results) error {
	if dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), text, 0o644)
}
