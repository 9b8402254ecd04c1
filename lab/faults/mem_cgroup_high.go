package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var memCgroupHigh = []lab.Fault{
	{
		Name:      "mem.cgroup_high/unit",
		Cause:     "mem.cgroup_high",
		About:     "an administrator sets MemoryHigh=24M on the unit of a Go service that keeps 64 MiB and takes and gives back 4 MiB for each request",
		MissAbout: "MemoryHigh=1G, which it fits in",
		Needs:     needs(root, units),
		Shortest:  900 * time.Millisecond,
		Run:       func(s *lab.Scene) { memoryHigh(s, "24M") },
		Miss:      func(s *lab.Scene) { memoryHigh(s, "1G") },
	},
}

func memoryHigh(s *lab.Scene, to string) {
	unit := s.Unit("MemoryAccounting=yes")
	s.Watch(s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Set: 64, Work: []string{"pages:100", "touch:4096"}}, unit))
	s.Break(func() { s.SetProperty(unit, "MemoryHigh="+to) }, func() { s.SetProperty(unit, "MemoryHigh=infinity") })
}
