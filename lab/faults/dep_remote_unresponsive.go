package faults

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var depRemoteUnresponsive = []lab.Fault{
	{
		Name:      "dep.remote_unresponsive/other-host",
		Cause:     "dep.remote_unresponsive",
		About:     "the upstream of a threaded Python service, in another network namespace, takes requests and is silent",
		MissAbout: "it is silent for somebody else only",
		Needs:     needs(root, program("ip", "python3")),
		Run:       func(s *lab.Scene) { silent(s, victim.Threads, true, true) },
		Miss:      func(s *lab.Scene) { silent(s, victim.Threads, true, false) },
		Roles:     map[string]func([]string){"upstream": upstream},
	},
	{
		Name:      "dep.remote_unresponsive/same-host",
		Cause:     "dep.remote_unresponsive",
		About:     "the upstream of a Go service, on this host, takes requests and is silent",
		MissAbout: "it is silent for somebody else only",
		Run:       func(s *lab.Scene) { silent(s, victim.Go, false, true) },
		Miss:      func(s *lab.Scene) { silent(s, victim.Go, false, false) },
	},
	{
		Name:      "dep.remote_unresponsive/upstream-lock",
		Cause:     "dep.remote_unresponsive",
		AlsoOK:    []string{"app.lock_contention"}, // why the upstream is silent, seen from this host
		About:     "a thread of the Python upstream of a threaded Python service sleeps holding the lock that all its requests need; each call has a connection of its own",
		MissAbout: "it sleeps for 5 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { upstreamLock(s, s.Length) },
		Miss:      func(s *lab.Scene) { upstreamLock(s, 5*time.Millisecond) },
	},
}

func silent(s *lab.Scene, kind string, away, used bool) {
	host, place := "127.0.0.1", lab.Place{}
	if away {
		ns := s.Netns()
		host, place.Netns = ns.IP, ns.Name
	}
	up := s.Start(lab.Cmd{Name: "inventory", Role: "upstream", Args: []string{host}, Place: place})
	var work []string
	if used {
		work = []string{"call:" + up.Ready}
	}
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: work}, lab.Place{})
	s.BlameGroup(up)
	s.Blame(lab.Guilty{Addresses: []string{up.Ready, host}})
	s.Watch(svc)
	s.Break(saying(s, "hang", up), saying(s, "go", up))
}

func upstreamLock(s *lab.Scene, hold time.Duration) {
	up := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"lock"}}, lab.Place{})
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"dial:" + up.Address}}, lab.Place{})
	s.BlameGroup(up.Proc)
	s.Blame(lab.Guilty{Addresses: []string{up.Address}})
	s.Watch(svc)
	s.Break(func() { get(s, up, fmt.Sprintf("/hold/%.3f", hold.Seconds())) }, nil)
}

// upstream answers at once, but not between "hang" and "go".
func upstream(args []string) {
	l, err := net.Listen("tcp", args[0]+":0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var hang sync.RWMutex
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			hang.RLock()
			//lint:ignore SA2001 passing is all
			hang.RUnlock()
			_, _ = io.WriteString(w, "ok\n")
		}))
	}()
	lab.Listen(l.Addr().String(), func(line string) {
		if line == "hang" {
			hang.Lock()
		} else {
			hang.Unlock()
		}
	})
}
