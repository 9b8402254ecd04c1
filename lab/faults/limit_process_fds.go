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
	{
		Name:      "limit.process_fds/idle-clients",
		Cause:     "limit.process_fds",
		About:     "a client opens 60 connections to a threaded Python service that may have 40 descriptors, and leaves them idle",
		MissAbout: "it opens 10",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { idleClients(s, "60") },
		Miss:      func(s *lab.Scene) { idleClients(s, "10") },
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

func idleClients(s *lab.Scene, n string) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads}, lab.Place{Files: 40})
	client := s.Start(lab.Cmd{Name: "monitor", Role: "connholder", Args: []string{svc.Address, n, ""}})
	s.BlameGroup(svc.Proc, client)
	s.Watch(svc)
	s.Break(saying(s, "go", client), saying(s, "stop", client))
}
