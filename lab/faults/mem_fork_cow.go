package faults

import (
	"fmt"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var memForkCOW = []lab.Fault{
	{
		Name:      "mem.fork_cow/big-event-loop",
		Cause:     "mem.fork_cow",
		About:     "a Python event loop with 2.5 GiB in small pages forks helpers one after the other",
		MissAbout: "the same with 16 MiB, one fork",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { forkBig(s, 2560, fmt.Sprintf("/fork/%.3f", s.Length.Seconds())) },
		Miss:      func(s *lab.Scene) { forkBig(s, 16, "/fork/0.001") },
	},
}

func forkBig(s *lab.Scene, mib int, path string) {
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Live: mib}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, path) }, nil)
}
