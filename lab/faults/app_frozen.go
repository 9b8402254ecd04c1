package faults

import (
	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appFrozen = []lab.Fault{
	{
		Name:      "app.frozen/freezer",
		Cause:     "app.frozen",
		About:     "the cgroup of a Python event-loop service is frozen, as by docker pause",
		MissAbout: "the cgroup of a process that serves nobody is frozen",
		Needs:     needs(root, controller("freezer"), program("python3")),
		Run: func(s *lab.Scene) {
			group := s.Cgroup("freezer")
			svc := s.Serve(victim.Spec{Kind: victim.Loop}, lab.Place{Cgroups: []string{group.Dir}})
			s.BlameGroup(svc.Proc)
			s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
			s.BlameLab() // which freezes it, as BPF tells with cgroup v2
			s.Watch(svc)
			var thaw func()
			s.Break(func() { thaw = group.Freezer() }, func() { thaw() })
		},
		Miss: func(s *lab.Scene) {
			group := s.Cgroup("freezer")
			svc := s.Serve(victim.Spec{Kind: victim.Loop}, lab.Place{})
			s.Start(lab.Cmd{Name: "batch", Role: "spin", Args: []string{"1"}, Place: lab.Place{Cgroups: []string{group.Dir}}})
			s.Watch(svc)
			var thaw func()
			s.Break(func() { thaw = group.Freezer() }, func() { thaw() })
		},
	},
}
