// Command demo freezes a small service of its own for real, lets freezeframe
// diagnose it live, and checks the verdict: as root the filesystem of its log
// is frozen, otherwise the service is stopped.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

func main() {
	lab.Dispatch(lab.Roles(nil))
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	bin := flag.String("bin", "bin/freezeframe", "the freezeframe binary")
	out := flag.String("out", "out/demo", "directory for the report")
	flag.Parse()
	for _, path := range []*string{bin, out} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if !exists(*bin) {
		return fmt.Errorf("no freezeframe at %s (build it: make build)", *bin)
	}
	if err := os.RemoveAll(*out); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	l, err := lab.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	l.Bin, l.Out = *bin, *out

	fault := frozenLog
	if os.Geteuid() != 0 {
		fault = stoppedService
	}
	fmt.Printf("%s.\nfreezeframe watches for %v.\n\n", fault.About, l.For)
	r := l.Run(fault, lab.RunOptions{Length: 2500 * time.Millisecond, Seed: 1})
	switch {
	case r.Invalid != "":
		return errors.New(r.Invalid)
	case !r.Diagnosed:
		return fmt.Errorf("freezeframe diagnose: %s", r.DiagnoseErr)
	case !r.Detected:
		return fmt.Errorf("users waited %s, but freezeframe saw nothing: %s", r.View, r.Diagnosis)
	}
	dir := filepath.Dir(r.Diagnosis)
	view := exec.Command(*bin, "view", filepath.Join(dir, r.ReportID+".json"))
	view.Stdout, view.Stderr = os.Stdout, os.Stderr
	if err := view.Run(); err != nil {
		return fmt.Errorf("freezeframe view: %w", err)
	}
	fmt.Printf("\nMeasured by the service's users, who know nothing of freezeframe: %s.\n", r.View)
	fmt.Printf("The report's edges are off by %+.0f ms and %+.0f ms.\n", r.StartDiff, r.EndDiff)
	if page := filepath.Join(dir, r.ReportID+".html"); exists(page) {
		fmt.Printf("Open in a browser: %s\n", page)
	}
	if !r.First {
		return fmt.Errorf("the verdict is wrong: it was %s, it says %q", fault.Cause, r.Got)
	}
	if !r.Culprit {
		return fmt.Errorf("the culprit is wrong: it says %q", r.Got)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

var frozenLog = lab.Fault{
	Name: "demo", Cause: "fs.frozen",
	About: "A small HTTP service writes a log line for each request. In a moment the filesystem of its log\nis frozen for 2.5 s, as a snapshot would",
	Run: func(s *lab.Scene) {
		fs := s.LoopFS(32)
		svc := s.Serve(victim.Spec{Name: "hello", Kind: victim.Go, Work: []string{"append:" + fs.Path("access.log")}}, lab.Place{})
		s.Blame(lab.Guilty{Mounts: []string{fs.Mount}, Devices: []string{fs.Name}})
		s.Watch(svc)
		var thaw func()
		s.Break(func() { thaw = s.Freeze(fs.Mount) }, func() { thaw() })
	},
}

var stoppedService = lab.Fault{
	Name: "demo", Cause: "app.stopped",
	About: "A small HTTP service answers requests. In a moment it is stopped for 2.5 s by SIGSTOP",
	Run: func(s *lab.Scene) {
		svc := s.Serve(victim.Spec{Name: "hello", Kind: victim.Go}, lab.Place{})
		s.BlameGroup(svc.Proc)
		s.BlameLab()
		s.Watch(svc)
		s.Break(func() { s.Check(svc.Signal(syscall.SIGSTOP)) }, func() { s.Check(svc.Signal(syscall.SIGCONT)) })
	},
}
