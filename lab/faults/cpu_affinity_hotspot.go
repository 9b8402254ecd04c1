package faults

import (
	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuAffinityHotspot = []lab.Fault{
	{
		Name:      "cpu.affinity_hotspot/pinned-threads",
		Cause:     "cpu.affinity_hotspot",
		About:     "200 threads and a Go service are pinned to one CPU while the other idles",
		MissAbout: "one thread is pinned beside the service",
		Run:       func(s *lab.Scene) { pinned(s, victim.Go, "200") },
		Miss:      func(s *lab.Scene) { pinned(s, victim.Go, "1") },
	},
	{
		Name:      "cpu.affinity_hotspot/event-loop",
		Cause:     "cpu.affinity_hotspot",
		About:     "the same, and the service is a Python event loop",
		MissAbout: "one thread is pinned beside the service",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { pinned(s, victim.Loop, "200") },
		Miss:      func(s *lab.Scene) { pinned(s, victim.Loop, "1") },
	},
}

func pinned(s *lab.Scene, kind, threads string) {
	cpu1 := lab.Place{CPUs: []int{1}}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: []string{"compute:3ms"}}, cpu1)
	job := s.Start(lab.Cmd{Name: "render", Role: "spin", Args: []string{threads}, Place: cpu1})
	s.BlameGroup(job)
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
