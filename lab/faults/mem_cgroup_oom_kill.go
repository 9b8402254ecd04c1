package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var memCgroupOOMKill = []lab.Fault{
	{
		Name:      "mem.cgroup_oom_kill/worker",
		Cause:     "mem.cgroup_oom_kill",
		About:     "a request makes the only worker of a Python service outgrow its cgroup; it is killed and comes back after a pause",
		MissAbout: "a batch job in a cgroup of its own is killed",
		Needs:     needs(root, controller("memory"), program("python3")),
		Run: func(s *lab.Scene) {
			group := s.Cgroup("memory")
			group.MemoryMax(64 << 20)
			svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 1, Fresh: true, Slow: s.Length.String()}, lab.Place{Cgroups: []string{group.Dir}})
			s.BlameGroup(svc.Proc)
			s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
			s.Watch(svc)
			s.Break(func() {
				s.CollectGuilty() // before it is dead
				request(s, svc, "/grow")
				time.Sleep(s.Length)
			}, nil)
		},
		Miss: func(s *lab.Scene) {
			group := s.Cgroup("memory")
			group.MemoryMax(64 << 20)
			svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 1, Fresh: true}, lab.Place{})
			job := s.Start(lab.Cmd{Name: "importer", Role: "grower", Args: []string{"200"}, Place: lab.Place{Cgroups: []string{group.Dir}}})
			s.Watch(svc)
			s.Break(saying(s, "go", job), func() {})
		},
	},
}
