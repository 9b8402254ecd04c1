// Command vm boots a Debian virtual machine, runs a command in it as a systemd
// service and ends as the command did. It is where systemd, cgroup v2 and other
// kernels can be tried: ./README.md of the lab says how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab/vm/machine"
	"freezeframe/lab/vm/wire"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = max(code, 125) // as env(1) and docker do when it is not the command's own
	}
	os.Exit(code)
}

func run() (code int, err error) {
	var inputs []machine.Input
	command := flag.String("run", "", "the command, for sh -c; it runs in "+wire.Dir+", which is in its PATH")
	flag.Func("in", "a `FILE` for the machine, or FILE:NAME there; may be repeated", func(s string) error {
		path, name, found := strings.Cut(s, ":")
		if !found {
			name = filepath.Base(path)
		}
		inputs = append(inputs, machine.Input{Path: path, Name: name})
		return nil
	})
	out := flag.String("out", "", "`directory` for what the command leaves in ./"+wire.OutDir+" and for the console's log")
	kernel := flag.String("kernel", machine.DefaultKernel, "Debian `package` of the kernel; PACKAGE/SUITE for another suite's")
	limit := flag.Duration("limit", 10*time.Minute, "how long the command may run")
	boot := flag.Duration("boot", 3*time.Minute, "how long the machine may take to start")
	cpus := flag.Int("cpus", 2, "CPUs; 1 with -steady")
	steady := flag.Bool("steady", false, "let the machine's clock count its instructions, so that slow emulation does not show inside; 1 CPU, and slower still")
	shift := flag.Int("shift", 0, "of a -steady clock: an instruction takes 2^`N` ns")
	memory := flag.Int("memory", 2048, "memory in MiB")
	more := flag.String("append", "", "more of the kernel's command line")
	rebuild := flag.Bool("rebuild", false, "make the images again, from the packages of today")
	flag.Parse()
	if *command == "" && !*rebuild {
		flag.Usage()
		return 0, errors.New("nothing to -run")
	}
	if flag.NArg() > 0 {
		return 0, fmt.Errorf("%q is no flag (the whole command belongs to -run)", flag.Arg(0))
	}
	cache, err := machine.CacheDir()
	if err != nil {
		return 0, err
	}
	if *steady {
		*cpus = 1
	}
	m := &machine.Machine{
		Kernel: *kernel, CPUs: *cpus, Steady: *steady, Shift: *shift, Memory: *memory, Boot: *boot, Append: *more,
		Cache: cache, Rebuild: *rebuild, Log: os.Stderr,
	}
	if err := m.Check(); err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if *rebuild {
		if err := m.Prepare(ctx); err != nil || *command == "" {
			return 0, err
		}
		m.Rebuild = false
	}
	job := machine.Job{
		Job: wire.Job{Command: *command}, Limit: *limit, Inputs: inputs,
		Stdout: os.Stdout, Stderr: os.Stderr, Results: *out, Ask: (*machine.Host).Do,
	}
	if *out != "" {
		if err := os.MkdirAll(*out, 0o755); err != nil {
			return 0, err
		}
		job.Console = filepath.Join(*out, "console.log")
	}
	res, err := m.Run(ctx, job)
	if err != nil {
		return res.Code, err
	}
	fmt.Fprintf(os.Stderr, "the command ended with %d after %.1f s\n", res.Code, res.Ran.Seconds())
	if res.TimedOut {
		return max(res.Code, 124), fmt.Errorf("the command was killed after %v (-limit)", *limit)
	}
	return res.Code, nil
}
