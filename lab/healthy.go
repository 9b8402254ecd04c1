package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"freezeframe/lab/victim"
)

// Healthy lets freezeframe watch a machine on which nothing is wrong: idle for
// so long, with five services in use, and busy for so long with a parallel Go
// build and a disk copy that nobody waits for. Any report is one too many: over
// minutes somebody always waits a little, so that users prove nothing. It has
// to be run in the repository.
func (l *Lab) Healthy(idle, build time.Duration, w io.Writer) (ok bool, err error) {
	if l.Bin == "" {
		return false, errors.New("needs -bin")
	}
	ok = true
	for _, part := range []struct {
		name string
		long time.Duration
		scen func(*Scene)
	}{
		{"idle", idle, fiveServices},
		{"build", build, buildAndCopy},
	} {
		if part.long == 0 {
			continue
		}
		l.For = part.long
		quiet := Fault{Name: part.name, MissAbout: "nothing is wrong", Miss: func(s *Scene) {
			s.Length = part.long - l.Warm - l.After
			part.scen(s)
		}}
		r := l.Run(quiet, RunOptions{Miss: true, Seed: 1})
		switch {
		case r.Err != "":
			return false, errors.New(r.Err)
		case !r.Diagnosed:
			return false, fmt.Errorf("%s: %s", part.name, r.DiagnoseErr)
		}
		fmt.Fprintf(w, "%s for %v: %d reports, %d of what no user felt\n", part.name, part.long, r.Made, len(r.Extra))
		for _, s := range r.Extra {
			fmt.Fprintf(w, "    %s\n", s)
		}
		if r.Invalid != "" {
			fmt.Fprintf(w, "    note: %s\n", r.Invalid)
		}
		ok = ok && r.Made == 0
	}
	return ok, nil
}

func fiveServices(s *Scene) {
	var services []*Service
	for _, v := range []victim.Spec{
		{Name: "orders", Kind: victim.Go, Work: []string{"fsync:" + filepath.Join(s.Dir, "records")}},
		{Kind: victim.Threads, Work: []string{"append:" + filepath.Join(s.Dir, "log")}},
		{Kind: victim.Loop},
		{Kind: victim.Node},
		{Kind: victim.Java, Live: 32, JVM: []string{"-Xmx256m"}},
	} {
		services = append(services, s.Serve(v, Place{}))
	}
	s.Watch(services...)
	s.Break(func() {}, func() {})
}

func buildAndCopy(s *Scene) {
	s.noUsers = true
	cache := filepath.Join(s.Dir, "gocache")
	big, copied := filepath.Join(s.Dir, "big"), filepath.Join(s.Dir, "copy")
	s.Check(command("dd", "if=/dev/zero", "of="+big, "bs=1M", "count=1024", "status=none"))
	loop := func(script string) *Proc {
		return s.Start(Cmd{Path: "/bin/sh", Args: []string{"-c", "while :; do " + script + "; done"}, Quiet: true})
	}
	if _, err := exec.LookPath("go"); err != nil {
		s.Fail("needs go: %v", err)
	}
	if _, err := os.Stat("go.mod"); err != nil {
		s.Fail("has to be run in the repository: %v", err)
	}
	s.Watch()
	s.Break(func() {
		loop("GOCACHE=" + cache + " go build -o /dev/null ./... ; rm -rf " + cache)
		loop("cp " + big + " " + copied + "; cp " + copied + " " + big)
	}, func() {})
}
