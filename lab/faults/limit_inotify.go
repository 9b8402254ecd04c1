package faults

import (
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var limitInotify = []lab.Fault{
	{
		Name:      "limit.inotify/another-program",
		Cause:     "limit.inotify",
		About:     "an indexer takes all inotify instances of its user; a threaded Python service of the same user takes one per request, and tries until it can",
		MissAbout: "it takes 30",
		Needs:     needs(root, program("python3")),
		Run:       func(s *lab.Scene) { takeInotify(s, 400) },
		Miss:      func(s *lab.Scene) { takeInotify(s, 30) },
		Roles:     map[string]func([]string){"indexer": indexer},
	},
	{
		Name:      "limit.inotify/leak",
		Cause:     "limit.inotify",
		About:     "a threaded Python service with a user of its own leaks inotify instances until there are none; it needs one per request, and tries until it gets it",
		MissAbout: "it leaks 30",
		Needs:     needs(root, program("python3")),
		Run:       func(s *lab.Scene) { leakInotify(s, 400) },
		Miss:      func(s *lab.Scene) { leakInotify(s, 30) },
	},
}

func watcher(s *lab.Scene, user int) *lab.Service {
	return s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"watch"}}, lab.Place{UID: user})
}

func takeInotify(s *lab.Scene, n int) {
	user := s.User()
	svc := watcher(s, user)
	job := s.Start(lab.Cmd{Name: "indexer", Role: "indexer", Args: []string{strconv.Itoa(n)}, Place: lab.Place{UID: user}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Tables: true}) // whose the instances are cannot be seen from outside
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

func leakInotify(s *lab.Scene, n int) {
	svc := watcher(s, s.User())
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(saying(s, "watches "+strconv.Itoa(n), svc.Proc), saying(s, "end", svc.Proc))
}

// indexer holds so many inotify instances from "go" on: it keeps trying for
// those that it did not get.
func indexer(args []string) {
	n, _ := strconv.Atoi(args[0])
	lab.Listen("", func(string) {
		go func() {
			for held := 0; ; time.Sleep(2 * time.Millisecond) {
				for held < n {
					if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
						break
					}
					held++
				}
			}
		}()
	})
}
