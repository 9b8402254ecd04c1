package faults

import (
	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuLowWeight = []lab.Fault{
	{
		Name:      "cpu.low_weight/nice",
		Cause:     "cpu.low_weight",
		About:     "a Go service runs at nice 19; four threads of a batch job at nice -5 leave it next to nothing",
		MissAbout: "the service is not nice: the same job leaves it its share",
		Needs:     root, // for nice
		Run:       func(s *lab.Scene) { niced(s, 19, -5) },
		Miss:      func(s *lab.Scene) { niced(s, 0, 0) },
	},
	{
		Name:      "cpu.low_weight/shares",
		Cause:     "cpu.low_weight",
		About:     "the cgroup of a threaded Python service has cpu.shares of 2, that of a batch job with four threads 1024",
		MissAbout: "both have 1024",
		Needs:     needs(root, controller("cpu"), program("python3")),
		Run:       func(s *lab.Scene) { shared(s, "2") },
		Miss:      func(s *lab.Scene) { shared(s, "1024") },
	},
}

// The service computes more for a request than a waking thread gets at once.
var someWork = []string{"compute:6ms"}

func niced(s *lab.Scene, service, job int) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: someWork}, lab.Place{Nice: service})
	batch := s.Start(lab.Cmd{Name: "render", Role: "spin", Args: []string{"4"}, Place: lab.Place{Nice: job}})
	s.BlameGroup(batch)
	s.Watch(svc)
	s.Break(saying(s, "go", batch), killing(s, batch))
}

func shared(s *lab.Scene, shares string) {
	small, other := s.Cgroup("cpu"), s.Cgroup("cpu")
	small.Set("cpu.shares", shares)
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: someWork}, lab.Place{Cgroups: []string{small.Dir}})
	batch := s.Start(lab.Cmd{Name: "render", Role: "spin", Args: []string{"4"}, Place: lab.Place{Cgroups: []string{other.Dir}}})
	s.BlameGroup(batch)
	s.Blame(lab.Guilty{Cgroups: []string{other.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", batch), killing(s, batch))
}
