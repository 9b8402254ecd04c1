package faults

import (
	"fmt"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var timeStepped = []lab.Fault{
	{
		Name:      "time.stepped/back",
		Cause:     "time.stepped",
		About:     "the wall clock is set back by 5 s, and right again; a Go service limits its rate in wall-clock time",
		MissAbout: "it is set back by 1 ms",
		Needs:     root,
		Longest:   1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { stepClock(s, -5*time.Second) },
		Miss:      func(s *lab.Scene) { stepClock(s, -time.Millisecond) },
	},
	{
		Name:      "time.stepped/forward",
		Cause:     "time.stepped",
		About:     "the wall clock is set forward by 25 s, and right again; the login of a threaded Python service, good for 20 s, has ended, and all requests wait for a new one",
		MissAbout: "it is set forward by 1 ms",
		Needs:     needs(root, program("python3")),
		Longest:   1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { expire(s, 25*time.Second) },
		Miss:      func(s *lab.Scene) { expire(s, time.Millisecond) },
	},
}

func stepClock(s *lab.Scene, by time.Duration) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"wall:1ms"}}, lab.Place{})
	s.Blame(lab.Guilty{Host: true})
	s.BlameLab()
	s.Watch(svc)
	var right func()
	s.Break(func() { right = s.StepClock(by) }, func() { right() })
}

func expire(s *lab.Scene, by time.Duration) {
	login := s.Length - 50*time.Millisecond // it is over when the clock is set right
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{fmt.Sprintf("token:20s,%dms", login.Milliseconds())}}, lab.Place{})
	s.Blame(lab.Guilty{Host: true})
	s.BlameLab()
	s.Watch(svc)
	var right func()
	s.Break(func() { right = s.StepClock(by) }, func() { right() })
}
