package faults

import (
	"strconv"
	"syscall"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuContention = []lab.Fault{
	{
		Name:      "cpu.contention/threads",
		Cause:     "cpu.contention",
		AlsoOK:    []string{"cpu.low_weight"}, // the hogs' nice value is why so few win
		About:     "a batch job with 40 threads at nice -10 on all CPUs, against a Go service",
		MissAbout: "the same job at nice 19, which leaves the service its CPU",
		Needs:     root, // for nice
		Run:       func(s *lab.Scene) { contend(s, -10, 40, 1, victim.Go) },
		Miss:      func(s *lab.Scene) { contend(s, 19, 2, 1, victim.Go) },
	},
	{
		Name:      "cpu.contention/processes",
		Cause:     "cpu.contention",
		About:     "100 ordinary compute processes, against a threaded Python service",
		MissAbout: "one compute process beside it",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { contend(s, 0, 1, 100, victim.Threads) },
		Miss:      func(s *lab.Scene) { contend(s, 0, 1, 1, victim.Threads) },
	},
	{
		Name:      "cpu.contention/checksums",
		Cause:     "cpu.contention",
		About:     "80 sha256sum at once, against a Node service",
		MissAbout: "one sha256sum beside it",
		Needs:     program("node", "sha256sum"),
		Run:       func(s *lab.Scene) { checksums(s, 80) },
		Miss:      func(s *lab.Scene) { checksums(s, 1) },
	},
	{
		Name:      "cpu.contention/pipelines",
		Cause:     "cpu.contention",
		About:     "20 shell pipelines that compress, against a Python event loop",
		MissAbout: "one of them, at nice 19",
		Needs:     program("python3", "gzip", "yes"),
		Run:       func(s *lab.Scene) { pipelines(s, 20, "") },
		Miss:      func(s *lab.Scene) { pipelines(s, 1, "nice -n 19 ") },
	},
}

func pipelines(s *lab.Scene, n int, nice string) {
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"compute:3ms"}}, lab.Place{})
	jobs := shells(s, n, func(int) string { return nice + "yes | " + nice + "gzip -9 > /dev/null" })
	s.BlameGroup(jobs...)
	s.Blame(lab.Guilty{Swarms: []string{"gzip", "yes"}})
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), killing(s, jobs...))
}

func contend(s *lab.Scene, nice, threads, processes int, kind string) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: []string{"compute:3ms"}}, lab.Place{})
	var jobs []*lab.Proc
	for range processes {
		jobs = append(jobs, s.Start(lab.Cmd{Name: "render", Role: "spin", Args: []string{strconv.Itoa(threads)}, Place: lab.Place{Nice: nice}}))
	}
	s.BlameGroup(jobs...)
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), killing(s, jobs...))
}

func checksums(s *lab.Scene, n int) {
	svc := serveNode(s, lab.Place{}, "compute:5")
	jobs := shells(s, n, func(int) string { return "exec sha256sum /dev/zero" })
	s.BlameGroup(jobs...)
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), killing(s, jobs...))
}

// shell is a script that begins when it is told to.
func shell(script string) lab.Cmd {
	return lab.Cmd{Path: "/bin/sh", Args: []string{"-c", "echo ready; read go; " + script}}
}

// shells starts so many.
func shells(s *lab.Scene, n int, script func(i int) string) (all []*lab.Proc) {
	for i := range n {
		all = append(all, s.Start(shell(script(i))))
	}
	return all
}

// serveNode starts a Node service that does some work for each request.
func serveNode(s *lab.Scene, place lab.Place, work ...string) *lab.Service {
	spec := victim.Spec{Kind: victim.Node}
	_, path, args, err := spec.Command(s.Dir)
	s.Check(err)
	p := s.Start(lab.Cmd{Path: path, Args: append(args, work...), Place: place})
	return &lab.Service{Proc: p, Spec: spec, Address: p.Ready}
}

// saying tells all of them something.
func saying(s *lab.Scene, line string, ps ...*lab.Proc) func() {
	return func() {
		for _, p := range ps {
			s.Check(p.Say(line))
		}
	}
}

// killing ends them at once, with all that a shell has started: a load that
// starves everybody would also take its time to hear that it should stop.
func killing(s *lab.Scene, ps ...*lab.Proc) func() {
	return func() {
		for _, p := range ps {
			s.Check(p.SignalGroup(syscall.SIGKILL))
		}
	}
}
