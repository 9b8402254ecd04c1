package faults

import (
	"strconv"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitUserProcesses = []lab.Fault{
	{
		Name:      "limit.user_processes/helpers",
		Cause:     "limit.user_processes",
		About:     "helpers of the same user leave a Python event loop, whose user may have 60 processes, none for the program that it runs per request; it tries until it can",
		MissAbout: "they leave it room",
		Needs:     needs(root, program("python3")),
		Run:       func(s *lab.Scene) { userHelpers(s, 90) },
		Miss:      func(s *lab.Scene) { userHelpers(s, 15) },
	},
	{
		Name:      "limit.user_processes/threads",
		Cause:     "limit.user_processes",
		About:     "a program of the same user starts a thread per job: with 100 of them a Python event loop, whose user may have 60, can run no program per request, and tries until it can",
		MissAbout: "it starts 15",
		Needs:     needs(root, program("python3")),
		Run:       func(s *lab.Scene) { userThreads(s, 100) },
		Miss:      func(s *lab.Scene) { userThreads(s, 15) },
	},
}

const userMost = 60

func userHelpers(s *lab.Scene, n int) {
	user := s.User()
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"fork:/bin/true"}}, lab.Place{UID: user, Procs: userMost})
	job := s.Start(lab.Cmd{Name: "cronjobs", Role: "sleepers", Args: []string{strconv.Itoa(n)}, Place: lab.Place{UID: user}})
	s.BlameGroup(job)
	s.Watch(svc)
	s.Break(saying(s, "go", job), saying(s, "stop", job))
}

func userThreads(s *lab.Scene, n int) {
	user := s.User()
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"fork:/bin/true"}}, lab.Place{UID: user, Procs: userMost})
	job := s.Start(threadPerJob(s, n, lab.Place{UID: user}))
	s.BlameGroup(job)
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
