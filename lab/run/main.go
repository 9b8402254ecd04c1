// Command run makes the lab's faults, one after the other, lets freezeframe
// diagnose each and scores what it said.
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
	"strings"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/faults"
)

func main() {
	lab.Dispatch(lab.Roles(faults.All()))
	ok, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run() (ok bool, err error) {
	bin := flag.String("bin", "", "the freezeframe binary; without it faults are only made and measured")
	only := flag.String("only", ".", "run only faults whose name matches this expression")
	repeat := flag.Int("repeat", 1, "runs of each fault")
	misses := flag.Bool("misses", true, "run the near misses too")
	bystander := flag.String("bystander", "half", "innocent load beside the fault: none, half (of the runs), all")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the faults' lengths")
	watch := flag.Duration("for", 8*time.Second, "how long freezeframe watches each run")
	out := flag.String("out", "", "directory for the diagnoses, recordings and results")
	list := flag.Bool("list", false, "list the faults and what cannot be made here")
	strict := flag.Bool("strict", false, "fail when a chosen fault cannot be made here or has no valid run")
	retry := flag.Int("retry", 1, "times that an invalid run is tried again")
	warm := flag.Duration("warm", 2500*time.Millisecond, "ordinary use before the fault; on a slow machine freezeframe takes longer to start")
	idle := flag.Duration("idle", 0, "no fault: five healthy services in use for so long; any report is wrong")
	build := flag.Duration("build", 0, "no fault: a parallel Go build and a disk copy for so long; any report is wrong")
	wrap := flag.String("wrap", "", "a command to start freezeframe by, such as \"setpriv --bounding-set=-bpf,-perfmon,-sys_admin\"")
	flag.Parse()

	match, err := regexp.Compile(*only)
	if err != nil {
		return false, fmt.Errorf("-only: %w", err)
	}
	if *list {
		faults.List(os.Stdout, match)
		return true, nil
	}
	if *out != "" {
		if *out, err = filepath.Abs(*out); err != nil {
			return false, err
		}
		if err := os.MkdirAll(*out, 0o755); err != nil {
			return false, err
		}
	}
	if *bin != "" {
		if *bin, err = filepath.Abs(*bin); err != nil {
			return false, err
		}
		if _, err := os.Stat(*bin); err != nil {
			return false, fmt.Errorf("-bin: %w (build it: make build)", err)
		}
	}
	l, err := lab.New()
	if err != nil {
		return false, err
	}
	l.Bin, l.For, l.Out, l.Wrap, l.Warm = *bin, *watch, *out, strings.Fields(*wrap), *warm
	defer func() {
		if e := l.Close(); e != nil {
			ok, err = false, errors.Join(err, e)
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)

	if *idle > 0 || *build > 0 {
		return l.Healthy(*idle, *build, os.Stdout)
	}

	fmt.Printf("seed %d\n", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	var results []lab.Result
	notMade := 0
	for range *repeat {
		for _, f := range faults.All() {
			if !match.MatchString(f.Name) {
				continue
			}
			if f.Needs != nil {
				if why := f.Needs(); why != nil {
					fmt.Printf("%-56s NOT MADE HERE: %v\n", f.Name, why)
					notMade++
					continue
				}
			}
			for _, miss := range []bool{false, true} {
				if miss && (!*misses || f.Miss == nil) {
					continue
				}
				o := lab.RunOptions{Miss: miss, Length: f.Length(random), Seed: random.Uint64()}
				o.Bystander = *bystander == "all" || *bystander == "half" && random.IntN(2) == 0
				var r lab.Result
				for range 1 + *retry {
					r = l.Run(f, o)
					if r.Invalid != "" {
						r.Row(os.Stdout)
					}
					select {
					case <-stop:
						return false, errors.New("interrupted")
					default:
					}
					if r.Invalid == "" {
						r.Row(os.Stdout)
						break
					}
				}
				results = append(results, r)
			}
		}
	}
	if *out != "" {
		text, err := json.MarshalIndent(results, "", "  ")
		if err == nil {
			err = os.WriteFile(filepath.Join(*out, "results.json"), text, 0o644)
		}
		if err != nil {
			return false, err
		}
	}
	fmt.Println()
	t := lab.Total(results)
	if *strict && (notMade > 0 || t.Invalid > 0 || t.Runs == 0) {
		t.Write(os.Stdout)
		return false, fmt.Errorf("-strict: %d not made here, %d of %d runs invalid", notMade, t.Invalid, t.Runs)
	}
	if *bin == "" {
		fmt.Printf("%d runs, %d invalid\n", t.Runs, t.Invalid)
		return t.Invalid == 0, nil
	}
	return t.Write(os.Stdout), nil
}
