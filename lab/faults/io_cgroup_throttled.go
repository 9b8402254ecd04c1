package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var ioCgroupThrottled = []lab.Fault{
	{
		Name:      "io.cgroup_throttled/iops-cut",
		Cause:     "io.cgroup_throttled",
		About:     "someone limits the cgroup of a Go service to 2 reads a second",
		MissAbout: "to 500 reads a second, which is enough",
		Needs:     needs(root, controller("blkio"), program("losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { cutIO(s, 2) },
		Miss:      func(s *lab.Scene) { cutIO(s, 500) },
	},
	{
		Name:      "io.cgroup_throttled/sidecar",
		Cause:     "io.cgroup_throttled",
		About:     "a backup in the service's own cgroup uses up its 8 MB/s",
		MissAbout: "it is limited in a cgroup of its own",
		Needs:     needs(root, controller("blkio"), program("losetup")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { sharedIO(s, true) },
		Miss:      func(s *lab.Scene) { sharedIO(s, false) },
	},
}

func cutIO(s *lab.Scene, iops int) {
	disk := s.Loop(64)
	group := s.Cgroup("blkio")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"direct:" + disk.Device}}, lab.Place{Cgroups: []string{group.Dir}})
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	limit := func(n int) func() {
		return func() { group.IOMax(disk, lab.ReadIOs, n) }
	}
	s.Break(limit(iops), limit(0))
}

func sharedIO(s *lab.Scene, shared bool) {
	disk := s.Loop(256)
	group := s.Cgroup("blkio")
	group.IOMax(disk, lab.ReadBytes, 8<<20)
	limited, free := lab.Place{Cgroups: []string{group.Dir}}, lab.Place{}
	if shared {
		free = limited
	}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"direct:" + disk.Device}}, free)
	job := s.Start(lab.Cmd{Name: "backup", Role: "directreader", Args: []string{disk.Device, "8", "1024"}, Place: limited})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
