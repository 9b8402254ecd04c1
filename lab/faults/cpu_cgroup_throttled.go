package faults

import (
	"sync"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuCgroupThrottled = []lab.Fault{
	{
		Name:      "cpu.cgroup_throttled/sidecar",
		Cause:     "cpu.cgroup_throttled",
		About:     "a helper in a Go service's own cgroup eats its CPU quota (100 ms of every second)",
		MissAbout: "a batch job is throttled in a cgroup of its own, and nobody waits for it",
		Needs:     needs(root, controller("cpu")),
		Run: func(s *lab.Scene) {
			group := quota(s, 100_000, 1_000_000)
			place := lab.Place{Cgroups: []string{group.Dir}}
			svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:200us"}}, place)
			helper := s.Start(lab.Cmd{Name: "reindex", Role: "spin", Args: []string{"2"}, Place: place})
			s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
			s.BlameGroup(helper)
			s.Watch(svc)
			s.Break(func() { s.Check(helper.Say("go")) }, func() { s.Check(helper.Say("stop")) })
		},
		Miss: func(s *lab.Scene) {
			group := quota(s, 20_000, 100_000)
			svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:200us"}}, lab.Place{})
			job := s.Start(lab.Cmd{Name: "reindex", Role: "spin", Args: []string{"2"}, Place: lab.Place{Cgroups: []string{group.Dir}}})
			s.Watch(svc)
			s.Break(func() { s.Check(job.Say("go")) }, func() { s.Check(job.Say("stop")) })
		},
	},
	{
		Name:      "cpu.cgroup_throttled/limit-cut",
		Cause:     "cpu.cgroup_throttled",
		About:     "someone cuts the quota of a threaded Python service to 2 % of a CPU",
		MissAbout: "it is cut to what the service still fits in",
		Needs:     needs(root, controller("cpu"), program("python3")),
		Shortest:  600e6,
		Run:       func(s *lab.Scene) { cutQuota(s, 2_000) },
		Miss:      func(s *lab.Scene) { cutQuota(s, 80_000) },
	},
	{
		Name:      "cpu.cgroup_throttled/own-burst",
		Cause:     "cpu.cgroup_throttled",
		About:     "a burst of heavy requests makes a Go service use up its own quota, 20 ms of every 100 ms",
		MissAbout: "one request of 5 ms, which fits",
		Needs:     needs(root, controller("cpu")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { heavyRequests(s, 4, s.Length/5/4) },
		Miss:      func(s *lab.Scene) { heavyRequests(s, 1, 5*time.Millisecond) },
	},
	{
		Name:      "cpu.cgroup_throttled/nested",
		Cause:     "cpu.cgroup_throttled",
		About:     "a batch job in a sibling cgroup eats the CPU quota of the cgroup above a Python event loop's own, which has none",
		MissAbout: "it has a quota of its own, which leaves the service enough",
		Needs:     needs(root, controllerV1("cpu"), program("python3")),
		Run:       func(s *lab.Scene) { nestedQuota(s, -1) },
		Miss:      func(s *lab.Scene) { nestedQuota(s, 5_000) },
	},
	{
		Name:      "cpu.cgroup_throttled/unit-quota",
		Cause:     "cpu.cgroup_throttled",
		About:     "an administrator sets CPUQuota=2% on the unit of a Go service",
		MissAbout: "CPUQuota=80%, which it fits in",
		Needs:     needs(root, units),
		Shortest:  900 * time.Millisecond,
		Run:       func(s *lab.Scene) { unitQuota(s, "2%") },
		Miss:      func(s *lab.Scene) { unitQuota(s, "80%") },
	},
}

func unitQuota(s *lab.Scene, to string) {
	unit := s.Unit()
	s.Watch(s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:2ms"}}, unit))
	s.Break(func() { s.SetProperty(unit, "CPUQuota="+to) }, func() { s.SetProperty(unit, "CPUQuota=") })
}

func quota(s *lab.Scene, us, period int) *lab.Cgroup {
	group := s.Cgroup("cpu")
	group.CPUQuota(us, period)
	return group
}

func cutQuota(s *lab.Scene, to int) {
	group := quota(s, -1, 100_000)
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"compute:2ms"}}, lab.Place{Cgroups: []string{group.Dir}})
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(func() { group.CPUQuota(to, 100_000) }, func() { group.CPUQuota(-1, 100_000) })
}

func heavyRequests(s *lab.Scene, n int, each time.Duration) {
	group := quota(s, 20_000, 100_000)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, lab.Place{Cgroups: []string{group.Dir}})
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() {
		var all sync.WaitGroup
		for range n {
			all.Go(func() { s.Check(request(s, svc, "/compute/"+each.String())) })
		}
		all.Wait()
	}, nil)
}

// nestedQuota gives the batch job so much of the 40 ms of every 100 that the
// cgroup above it and the service has.
func nestedQuota(s *lab.Scene, job int) {
	group := quota(s, 40_000, 100_000)
	service, batch := group.Below("service"), group.Below("batch")
	batch.CPUQuota(job, 100_000)
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"compute:2ms"}}, lab.Place{Cgroups: []string{service.Dir}})
	hog := s.Start(lab.Cmd{Name: "reindex", Role: "spin", Args: []string{"4"}, Place: lab.Place{Cgroups: []string{batch.Dir}}})
	s.BlameGroup(hog)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", hog), killing(s, hog))
}
