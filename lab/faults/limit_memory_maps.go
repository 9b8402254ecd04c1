package faults

import (
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitMemoryMaps = []lab.Fault{
	{
		Name:      "limit.memory_maps/pages",
		Cause:     "limit.memory_maps",
		About:     "a threaded Python service protects every other page of its memory until it may have no more maps; it needs one per request, and tries until it gets it",
		MissAbout: "it protects 10,000 pages",
		Needs:     needs(program("python3")),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { manyMaps(s, "pages", 1<<17) },
		Miss:      func(s *lab.Scene) { manyMaps(s, "pages", 20_000) },
	},
	{
		Name:      "limit.memory_maps/segments",
		Cause:     "limit.memory_maps",
		About:     "a threaded Python service maps one file again and again, as a search index does with its segments, until it may have no more maps; it needs one per request, and tries until it gets it",
		MissAbout: "it maps it 20,000 times",
		Needs:     needs(program("python3")),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { manyMaps(s, "segments", 1<<17) },
		Miss:      func(s *lab.Scene) { manyMaps(s, "segments", 20_000) },
	},
}

func manyMaps(s *lab.Scene, how string, most int) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"map:1"}}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(saying(s, "maps "+how+" "+strconv.Itoa(most), svc.Proc), saying(s, "end", svc.Proc))
}
