package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var kernelMmapLock = []lab.Fault{
	{
		Name:      "kernel.mmap_lock/populate",
		Cause:     "kernel.mmap_lock",
		About:     "a thread of a Go service maps and fills 1 GiB in one call, again and again; its requests map memory",
		MissAbout: "it fills 8 MiB at a time",
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { mapMuch(s, "populate 1024") },
		Miss:      func(s *lab.Scene) { mapMuch(s, "populate 8") },
	},
}

func mapMuch(s *lab.Scene, say string) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"touch:64"}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() {
		for end := time.Now().Add(s.Length); time.Now().Before(end); {
			_, err := svc.Ask(say, 10*time.Second)
			s.Check(err)
			time.Sleep(time.Millisecond)
		}
	}, nil)
}
