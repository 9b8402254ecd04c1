// Command endure runs the built daemon, with a configuration and a filesystem of
// its own, beside what a machine can do to it: a disk that hangs, is full or
// returns errors, memory that is exhausted, crowds of processes, floods of log
// lines, its own death, hostile clients. It says what that cost, whether anything
// that was recorded before is lost, and, with -soak, whether the daemon grows.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
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
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	ok := false
	if err == nil {
		ok, err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "endure:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// ownRoles are the programs of this command, beside those of the lab.
var ownRoles = map[string]func(args []string){
	"hog":     hog,
	"hostile": hostile,
	"errorfs": errorFS,
}

// options are the command line.
type options struct {
	bin    string
	out    string
	only   *regexp.Regexp
	list   bool
	length time.Duration // of a condition
	calm   time.Duration // before it
	soak   time.Duration // 0: none
	rates  rates
	// resident is what the daemon may have resident, in MiB.
	resident float64
}

// rates say how hard the machine is pressed.
type rates struct {
	processes   int           // that do nothing
	forks       int           // programs started a second
	lines       int           // into the kernel log, in all
	connections int           // of strangers at the control socket
	killEvery   time.Duration // the daemon
	hogEvery    time.Duration // pause between two that are killed for memory
}

// low are the rates of a soak.
var low = rates{processes: 1000, forks: 50, lines: 1000, connections: 50, hogEvery: 5 * time.Second}

// parse reads the command line; what is wrong with it goes to w too.
func parse(args []string, w io.Writer) (o options, err error) {
	f := flag.NewFlagSet("endure", flag.ContinueOnError)
	f.SetOutput(w)
	f.StringVar(&o.bin, "bin", "bin/freezeframe", "the freezeframe binary")
	f.StringVar(&o.out, "out", "", "directory for the daemons' logs and results.json")
	only := f.String("only", ".", "only the conditions whose name matches this expression")
	f.BoolVar(&o.list, "list", false, "list the conditions, and what cannot be made here and why")
	f.DurationVar(&o.length, "for", 5*time.Minute, "how long each condition lasts")
	f.DurationVar(&o.calm, "calm", 30*time.Second, "how long is recorded before it")
	f.DurationVar(&o.soak, "soak", 0, "no conditions: the daemon under a load that changes, for so long; is it flat?")
	f.Float64Var(&o.resident, "resident", budgetRSS, "MiB that the daemon may have resident")
	f.IntVar(&o.rates.processes, "processes", 20000, "processes of the condition processes")
	f.IntVar(&o.rates.forks, "forks", 200, "programs that the condition forks starts a second")
	f.IntVar(&o.rates.lines, "lines", 50000, "lines of the condition kernel-log")
	f.IntVar(&o.rates.connections, "connections", 1000, "connections of the condition hostile")
	f.DurationVar(&o.rates.killEvery, "kill-every", 10*time.Second, "pause between two kills of the condition killed")
	o.rates.hogEvery = 300 * time.Millisecond
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("what is %q? see -help", f.Arg(0))
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	for _, c := range []struct {
		name        string
		have, least time.Duration
	}{{"for", o.length, time.Second}, {"calm", o.calm, 5 * time.Second}, {"kill-every", o.rates.killEvery, time.Second}} {
		if c.have < c.least {
			return o, fmt.Errorf("-%s wants at least %v", c.name, c.least)
		}
	}
	for _, c := range []struct {
		name              string
		have, least, most int
	}{
		{"processes", o.rates.processes, 1, 1 << 20}, {"forks", o.rates.forks, 1, 10000},
		{"lines", o.rates.lines, 1, 10_000_000}, {"connections", o.rates.connections, 1, 10000},
	} {
		if c.have < c.least || c.have > c.most {
			return o, fmt.Errorf("-%s wants a number from %d to %d", c.name, c.least, c.most)
		}
	}
	if o.resident <= 0 {
		return o, errors.New("-resident wants a number above 0")
	}
	if o.soak != 0 && o.soak < shortestSoak {
		return o, fmt.Errorf("-soak wants at least %v", shortestSoak)
	}
	return o, nil
}

func run(o options) (ok bool, err error) {
	if o.list {
		list(os.Stdout, o)
		return true, nil
	}
	if os.Geteuid() != 0 {
		return false, errors.New("needs root: it mounts and freezes a filesystem, and makes control groups")
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return false, err
	}
	if _, err := os.Stat(o.bin); err != nil {
		return false, fmt.Errorf("-bin: %w (build it: make build)", err)
	}
	if o.out != "" {
		if o.out, err = filepath.Abs(o.out); err != nil {
			return false, err
		}
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return false, err
		}
	}
	l, err := lab.New()
	if err != nil {
		return false, err
	}
	defer func() {
		if e := l.Close(); e != nil {
			ok, err = false, errors.Join(err, e)
		}
	}()
	// An interrupt ends the process, and the janitor undoes what it made.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; os.Exit(130) }()
	if o.soak > 0 {
		return soak(l, o, os.Stdout)
	}
	return all(l, o, os.Stdout)
}

// all makes the conditions that were asked for, one after the other, each with a
// daemon of its own.
func all(l *lab.Lab, o options, w io.Writer) (ok bool, err error) {
	ok = true
	var results []figures
	for _, c := range conditions() {
		if !o.only.MatchString(c.name) {
			continue
		}
		if why := c.cannot(o); why != nil {
			fmt.Fprintf(w, "%-15s not run: %v\n", c.name, why)
			continue
		}
		f := c.run(l, o)
		ok = f.write(w) && ok
		results = append(results, f)
		// Each time: a run that is interrupted has something to show.
		if err := save(o.out, results); err != nil {
			return false, err
		}
	}
	return ok, nil
}

// list prints the conditions.
func list(w io.Writer, o options) {
	for _, c := range conditions() {
		fmt.Fprintf(w, "%-15s %s\n", c.name, c.about)
		if why := c.cannot(o); why != nil {
			fmt.Fprintf(w, "%-15s cannot be made here: %v\n", "", why)
		}
	}
}

// save writes what is known into the directory, if there is one.
func save(dir string, v any) error {
	if dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), text, 0o644)
}
