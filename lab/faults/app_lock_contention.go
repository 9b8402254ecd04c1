package faults

import (
	"fmt"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appLockContention = []lab.Fault{
	{
		Name:      "app.lock_contention/sleeper",
		Cause:     "app.lock_contention",
		About:     "a thread of a threaded Python service sleeps holding the lock that all its requests need",
		MissAbout: "it sleeps for 5 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { holdLock(s, "hold", s.Length) },
		Miss:      func(s *lab.Scene) { holdLock(s, "hold", 5*time.Millisecond) },
	},
	{
		Name:      "app.lock_contention/computing",
		Cause:     "app.lock_contention",
		AlsoOK:    []string{"app.busy_loop"}, // its holder is one thread at 100 % of a CPU
		About:     "a thread derives a key holding that lock; the interpreter's own lock is free",
		MissAbout: "a key that takes 10 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { holdLock(s, "digest", s.Length) },
		Miss:      func(s *lab.Scene) { holdLock(s, "digest", 10*time.Millisecond) },
	},
}

func holdLock(s *lab.Scene, how string, length time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"lock"}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, fmt.Sprintf("/%s/%.3f", how, length.Seconds())) }, nil)
}
