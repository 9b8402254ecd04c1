// Command service boots a Debian virtual machine, installs the package in it and
// holds the service against its promises: the checks of ./checks, and power cuts
// at random moments. It runs itself again inside the machine.
package main

import (
	"context"
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

	"freezeframe/lab/service/checks"
	"freezeframe/lab/vm/machine"
	"freezeframe/lab/vm/wire"
)

// The names that files have inside.
const (
	selfName = "labservice"
	debName  = "freezeframe.deb"
	nextName = "next.deb"
)

func main() {
	var err error
	ok := true
	if len(os.Args) > 1 && os.Args[1] == "inside" {
		ok, err = inside(os.Args[2:])
	} else {
		ok, err = host()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func host() (ok bool, err error) {
	deb := flag.String("deb", "", "the package, a `FILE` .deb for amd64")
	next := flag.String("next", "", "a newer package, for the upgrade")
	only := flag.String("only", ".", "make only checks whose name matches this expression; install is always made")
	cuts := flag.Int("cuts", 3, "power cuts at random moments, each with a boot; 0: none")
	images := flag.Int("images", 0, "look at the disk at so many random moments under load, as the power's end would leave it; 0: none")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of those moments")
	list := flag.Bool("list", false, "list the checks")
	out := flag.String("out", "out/vm-service", "`directory` for the results and the console's logs")
	limit := flag.Duration("limit", 40*time.Minute, "how long one boot may last")
	boot := flag.Duration("boot", 8*time.Minute, "how long the machine may take to start")
	cpus := flag.Int("cpus", 2, "CPUs")
	shift := flag.Int("shift", -1, "let the machine's clock count its instructions, 2^`N` ns each, so that slow emulation costs it no time; 1 CPU")
	memory := flag.Int("memory", 1536, "memory in MiB")
	kernel := flag.String("kernel", machine.DefaultKernel, "Debian `package` of the kernel")
	slow := flag.Int("slow", 6, "by how much longer than on a real machine things may take inside")
	flag.Parse()
	match, err := regexp.Compile(*only)
	if err != nil {
		return false, fmt.Errorf("-only: %w", err)
	}
	if *list {
		for _, c := range checks.All() {
			fmt.Printf("%-18s %s\n", c.Name, c.About)
		}
		fmt.Printf("%-18s %s\n", "power-cut", aboutCuts)
		return true, nil
	}
	if *deb == "" {
		return false, errors.New("-deb: which package? (make packages)")
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cache, err := machine.CacheDir()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return false, err
	}
	m := &machine.Machine{Kernel: *kernel, CPUs: *cpus, Memory: *memory, Boot: *boot, Cache: cache, Log: os.Stderr}
	if *shift >= 0 {
		m.Steady, m.Shift, m.CPUs = true, *shift, 1
	}
	if err := m.Check(); err != nil {
		return false, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	job := machine.Job{
		Limit: *limit, Stdout: os.Stdout, Stderr: os.Stderr, Results: *out,
		Inputs: []machine.Input{{Path: self, Name: selfName}, {Path: *deb, Name: debName}},
		Ask:    (*machine.Host).Do,
	}
	if *next != "" {
		job.Inputs = append(job.Inputs, machine.Input{Path: *next, Name: nextName})
	}
	ok = true
	for _, c := range checks.All() {
		if !match.MatchString(c.Name) {
			continue
		}
		// One boot for all of them.
		job.Console = filepath.Join(*out, "console.log")
		job.Command = fmt.Sprintf("exec %s inside checks -slow %d -only '%s'", selfName, *slow, strings.ReplaceAll(*only, "'", ""))
		res, err := m.Run(ctx, job)
		if err != nil {
			return false, err
		}
		ok = res.Code == 0 && !res.TimedOut
		break
	}
	if *images > 0 {
		fmt.Printf("images of the disk, seed %d\n", *seed)
		fine, err := diskImages(ctx, m, job, *images, *slow, rand.New(rand.NewPCG(*seed, 1)))
		if err != nil {
			return false, err
		}
		ok = ok && fine
	}
	if *cuts > 0 && match.MatchString("power-cut") {
		fmt.Printf("power cuts, seed %d\n", *seed)
		fine, err := powerCuts(ctx, m, job, *cuts, *slow, rand.New(rand.NewPCG(*seed, 0)))
		return ok && fine, err
	}
	return ok, nil
}

// inside is this program in the machine; its directory is wire.Dir.
func inside(args []string) (ok bool, err error) {
	if len(args) == 0 {
		return false, errors.New("inside: what?")
	}
	f := flag.NewFlagSet("inside "+args[0], flag.ExitOnError)
	only := f.String("only", ".", "")
	slow := f.Int("slow", 1, "")
	first := f.Bool("first", false, "")
	if err := f.Parse(args[1:]); err != nil {
		return false, err
	}
	m := &checks.Machine{Slow: *slow}
	for name, path := range map[string]*string{debName: &m.Deb, nextName: &m.Next} {
		if _, err := os.Stat(filepath.Join(wire.Dir, name)); err == nil {
			*path = filepath.Join(wire.Dir, name)
		}
	}
	if args[0] == "load" {
		return true, load(m, *first)
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}
	ok = true
	failed := 0
	for i, c := range checks.All() {
		if i > 0 && !match.MatchString(c.Name) {
			continue
		}
		began := time.Now()
		word, why := "ok", error(nil)
		if c.Needs != nil {
			why = c.Needs(m)
		}
		if why != nil {
			word = "NOT TRIED"
		} else if why = c.Run(m); why != nil {
			word = "FAILED"
			failed++
		}
		line := fmt.Sprintf("%-18s %-9s %5.1f s  %s", c.Name, word, time.Since(began).Seconds(), m.TakeNotes())
		if why != nil {
			line += fmt.Sprintf(" %v", why)
		}
		fmt.Println(strings.TrimSpace(line))
		if word == "FAILED" && i == 0 {
			return false, nil // nothing is installed
		}
	}
	// For whoever reads the results.
	if _, err := m.Sh("journalctl --no-pager -q -o short-precise -u %s > out/journal.txt; journalctl --no-pager -q -k > out/kernel.txt; freezeframe list > out/reports.txt 2>&1 || true", checks.Service); err != nil {
		return false, err
	}
	return failed == 0, nil
}
