package faults

import (
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var memSwapThrash = []lab.Fault{
	{
		Name:      "mem.swap_thrash/neighbour",
		Cause:     "mem.swap_thrash",
		AlsoOK:    []string{"mem.cgroup_max"}, // the limit is why there is swapping
		About:     "a helper grows in a Go service's cgroup, whose working set of 96 MiB is swapped out and comes back page by page",
		MissAbout: "the helper fits beside it",
		Needs:     needs(root, controllerV1("memory"), program("mkswap", "swapon", "fallocate")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { swapOut(s, 300) },
		Miss:      func(s *lab.Scene) { swapOut(s, 16) },
		Roles:     map[string]func([]string){"sweeper": sweeper},
	},
	{
		Name:      "mem.swap_thrash/limit-cut",
		Cause:     "mem.swap_thrash",
		AlsoOK:    []string{"mem.cgroup_max"}, // the limit is why there is swapping
		About:     "someone cuts the memory limit of a Go service's cgroup to half of its working set; the rest goes to swap and comes back page by page",
		MissAbout: "it is cut to what the service still fits in",
		Needs:     needs(root, controllerV1("memory"), program("mkswap", "swapon", "fallocate")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { cutMemory(s, 72) },
		Miss:      func(s *lab.Scene) { cutMemory(s, 192) },
	},
}

func swapOut(s *lab.Scene, mib int) {
	s.SwapFile(600)
	group := s.Cgroup("memory")
	group.Set("memory.limit_in_bytes", strconv.Itoa(160<<20))
	group.Set("memory.swappiness", "100")
	place := lab.Place{Cgroups: []string{group.Dir}}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Set: 96, Work: []string{"pages:300"}}, place)
	helper := s.Start(lab.Cmd{Name: "importer", Role: "sweeper", Args: []string{strconv.Itoa(mib)}, Place: place})
	s.BlameGroup(helper)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", helper), killing(s, helper))
}

// sweeper touches so many MiB over and over when told to go.
func sweeper(args []string) {
	mib, _ := strconv.Atoi(args[0])
	lab.Listen("", func(string) {
		for range 2 {
			go func() {
				b := make([]byte, mib<<20/2)
				for {
					for i := 0; i < len(b); i += 4096 {
						b[i]++
					}
				}
			}()
		}
	})
}

func cutMemory(s *lab.Scene, mib int) {
	s.SwapFile(600)
	group := s.Cgroup("memory")
	group.Set("memory.limit_in_bytes", strconv.Itoa(256<<20))
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Set: 128, Work: []string{"pages:4000"}}, lab.Place{Cgroups: []string{group.Dir}})
	s.BlameGroup(svc.Proc)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(func() { group.Set("memory.limit_in_bytes", strconv.Itoa(mib<<20)) },
		func() { group.Set("memory.limit_in_bytes", strconv.Itoa(256<<20)) })
}
