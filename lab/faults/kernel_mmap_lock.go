package faults

import (
	"fmt"
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
	{
		Name:      "kernel.mmap_lock/mprotect",
		Cause:     "kernel.mmap_lock",
		About:     "a thread of a threaded Python service changes the protection of 1 GiB of memory to and fro; its requests map ten buffers each",
		MissAbout: "of 2 MiB, for 50 ms",
		Needs:     program("python3"),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { protectMuch(s, 1024, s.Length) },
		Miss:      func(s *lab.Scene) { protectMuch(s, 2, 50*time.Millisecond) },
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

func protectMuch(s *lab.Scene, mib int, length time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Live: mib, Work: []string{"map:10"}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, fmt.Sprintf("/protect/%.3f", length.Seconds())) }, nil)
}
