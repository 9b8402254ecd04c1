package faults

import (
	"fmt"
	"sync"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appWorkerPoolExhausted = []lab.Fault{
	{
		Name:      "app.worker_pool_exhausted/slow-requests",
		Cause:     "app.worker_pool_exhausted",
		About:     "slow requests occupy all four workers of a pre-forked Python service",
		MissAbout: "they occupy three of four",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { occupy(s, 4) },
		Miss:      func(s *lab.Scene) { occupy(s, 3) },
	},
}

func occupy(s *lab.Scene, workers int) {
	svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 4, Fresh: true}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() { get(s, svc, fmt.Sprintf("/sleep/%.3f", s.Length.Seconds())) })
		}
		all.Wait()
	}, nil)
}
