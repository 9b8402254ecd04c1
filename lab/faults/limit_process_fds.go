package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitProcessFDs = []lab.Fault{
	{
		Name:      "limit.process_fds/leak",
		Cause:     "limit.process_fds",
		About:     "a Go service leaks descriptors up to its limit of 100; connections that stay are served, new ones are not accepted",
		MissAbout: "it leaks 50, which leaves it room",
		Run: func(s *lab.Scene) {
			svc := leaky(s)
			s.Break(asking(s, svc, "leak 1000000"), asking(s, svc, "close"))
		},
		Miss: func(s *lab.Scene) {
			svc := leaky(s)
			s.Break(asking(s, svc, "leak 50"), asking(s, svc, "close"))
		},
	},
}

func leaky(s *lab.Scene) *lab.Service {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, lab.Place{Files: 100})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	return svc
}

// asking makes a service do something and waits until it did.
func asking(s *lab.Scene, svc *lab.Service, line string) func() {
	return func() {
		_, err := svc.Ask(line, 5*time.Second)
		s.Check(err)
	}
}
