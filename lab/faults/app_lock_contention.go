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
	{
		Name:      "app.lock_contention/mutex",
		Cause:     "app.lock_contention",
		About:     "a thread of a threaded Python service sleeps owning two mutexes of the C library that all its requests need: long waits, which end",
		MissAbout: "it sleeps for 5 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { heldBy(s, "mutexes", fmt.Sprintf("/both/%.3f", s.Length.Seconds())) },
		Miss:      func(s *lab.Scene) { heldBy(s, "mutexes", "/both/0.005") },
	},
	{
		Name:      "app.lock_contention/java",
		Cause:     "app.lock_contention",
		About:     "a thread of a Java service with a pool of 16 threads sleeps holding the ReentrantLock that all its requests need",
		MissAbout: "it sleeps for 5 ms",
		Needs:     program("java", "javac"),
		Run:       func(s *lab.Scene) { lockOfJava(s, s.Length) },
		Miss:      func(s *lab.Scene) { lockOfJava(s, 5*time.Millisecond) },
	},
	{
		Name:      "app.lock_contention/c-mutex",
		Cause:     "app.lock_contention",
		About:     "a thread of a threaded Python service computes in C holding the mutex of the C library that all its requests need",
		MissAbout: "for 5 ms",
		AlsoOK:    []string{"app.busy_loop"}, // its holder is one thread at 100 % of a CPU
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { heldBy(s, "mutexes", fmt.Sprintf("/bothdigest/%.3f", s.Length.Seconds())) },
		Miss:      func(s *lab.Scene) { heldBy(s, "mutexes", "/bothdigest/0.005") },
	},
}

// lockOfJava has a thread of a Java service that serves nobody hold the lock.
func lockOfJava(s *lab.Scene, length time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Workers, Workers: 16, Work: []string{"lock"}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(saying(s, fmt.Sprintf("hold %d", length.Milliseconds()), svc.Proc), func() {})
}

func holdLock(s *lab.Scene, how string, length time.Duration) {
	heldBy(s, "lock", fmt.Sprintf("/%s/%.3f", how, length.Seconds()))
}

// heldBy has a service whose requests need locks serve one that holds them.
func heldBy(s *lab.Scene, work, path string) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{work}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, path) }, nil)
}
