package faults

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appWorkerPoolExhausted = []lab.Fault{
	{
		Name:      "app.worker_pool_exhausted/slow-requests",
		Cause:     "app.worker_pool_exhausted",
		About:     "slow requests occupy all four workers of a pre-forked Python service",
		MissAbout: "they occupy three of four",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { occupy(s, 4) },
		Miss:      func(s *lab.Scene) { occupy(s, 3) },
	},
	{
		Name:      "app.worker_pool_exhausted/slow-clients",
		Cause:     "app.worker_pool_exhausted",
		About:     "clients that send half a request and no more keep all six workers of a pre-forked Python service reading",
		MissAbout: "they keep five of six",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { halfRequests(s, 6) },
		Miss:      func(s *lab.Scene) { halfRequests(s, 5) },
		Roles:     map[string]func([]string){"connholder": connHolder},
	},
	{
		Name:      "app.worker_pool_exhausted/java",
		Cause:     "app.worker_pool_exhausted",
		About:     "clients that keep their connections and say nothing have all eight threads of a Java service",
		MissAbout: "they have seven of eight",
		Needs:     program("java", "javac"),
		Run:       func(s *lab.Scene) { silentClients(s, 8) },
		Miss:      func(s *lab.Scene) { silentClients(s, 7) },
	},
}

func silentClients(s *lab.Scene, n int) {
	svc := s.Serve(victim.Spec{Kind: victim.Workers, Workers: 8, Fresh: true}, lab.Place{})
	client := s.Start(lab.Cmd{Name: "crawler", Role: "connholder", Args: []string{svc.Address, strconv.Itoa(n), "GET / HTTP/1.1\r\nHost:"}})
	s.BlameGroup(svc.Proc, client)
	s.Watch(svc)
	s.Break(saying(s, "go", client), saying(s, "stop", client))
}

func occupy(s *lab.Scene, workers int) {
	svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 4, Fresh: true}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() { get(s, svc, fmt.Sprintf("/sleep/%.3f", s.Length.Seconds())) })
		}
		all.Wait()
	}, nil)
}

func halfRequests(s *lab.Scene, n int) {
	svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 6, Fresh: true}, lab.Place{})
	client := s.Start(lab.Cmd{Name: "crawler", Role: "connholder", Args: []string{svc.Address, strconv.Itoa(n), "GET / HTTP/1.1\r\nHost:"}})
	s.BlameGroup(svc.Proc, client) // the service waits for the client
	s.Watch(svc)
	s.Break(saying(s, "go", client), saying(s, "stop", client))
}

// connHolder opens connections, says something on each and keeps them from
// "go" to "stop": ADDRESS N TEXT.
func connHolder(args []string) {
	n, _ := strconv.Atoi(args[1])
	var conns []net.Conn
	lab.Listen("", func(line string) {
		if line == "stop" {
			for _, c := range conns {
				c.Close()
			}
			conns = nil
			return
		}
		for range n {
			if c, err := net.DialTimeout("tcp", args[0], 5*time.Second); err == nil {
				_, _ = io.WriteString(c, args[2])
				conns = append(conns, c)
			}
		}
	})
}
