package faults

import (
	"fmt"
	"net"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var netAcceptQueueOverflow = []lab.Fault{
	{
		Name:      "net.accept_queue_overflow/slow-accept",
		Cause:     "net.accept_queue_overflow",
		AlsoOK:    []string{"app.worker_pool_exhausted"}, // its only accepting thread is busy
		About:     "a threaded Python service with a backlog of 8 takes 300 ms for each connection that it accepts: SYNs are dropped, and sent again after a second",
		MissAbout: "it takes 1 ms",
		Needs:     program("python3"),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { slowAccept(s, "300ms") },
		Miss:      func(s *lab.Scene) { slowAccept(s, "1ms") },
	},
	{
		Name:      "net.accept_queue_overflow/burst",
		Cause:     "net.accept_queue_overflow",
		About:     "a client opens connections much faster than a service with a backlog of 8 accepts them (one per 20 ms)",
		MissAbout: "it opens 5 a second",
		Needs:     program("python3"),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { burst(s, time.Millisecond) },
		Miss:      func(s *lab.Scene) { burst(s, 200*time.Millisecond) },
		Roles:     map[string]func([]string){"dialer": dialer},
	},
	{
		Name:      "net.accept_queue_overflow/pool",
		Cause:     "net.accept_queue_overflow",
		AlsoOK:    []string{"app.worker_pool_exhausted"}, // its workers are all busy with the burst
		About:     "a client asks a pre-forked Python service of four workers and a backlog of 4 a thousand times a second; it can answer 200",
		MissAbout: "it asks 5 times a second",
		Needs:     program("python3"),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { burstPool(s, time.Millisecond) },
		Miss:      func(s *lab.Scene) { burstPool(s, 200*time.Millisecond) },
	},
}

func slowAccept(s *lab.Scene, each string) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Backlog: 8, Fresh: true}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(saying(s, each, svc.Proc), saying(s, "0s", svc.Proc))
}

func burst(s *lab.Scene, every time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Backlog: 8, Fresh: true, Slow: "20ms"}, lab.Place{})
	client := s.Start(lab.Cmd{Name: "crawler", Role: "dialer", Args: []string{svc.Address, every.String()}})
	s.BlameGroup(svc.Proc, client)
	s.Watch(svc)
	s.Break(saying(s, "go", client), killing(s, client))
}

func burstPool(s *lab.Scene, every time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 4, Backlog: 4, Fresh: true, Work: []string{"sleep:20ms"}}, lab.Place{})
	client := s.Start(lab.Cmd{Name: "crawler", Role: "dialer", Args: []string{svc.Address, every.String()}})
	s.BlameGroup(svc.Proc, client)
	s.Watch(svc)
	s.Break(saying(s, "go", client), killing(s, client))
}

// dialer opens and closes connections when told to go.
func dialer(args []string) {
	every, _ := time.ParseDuration(args[1])
	lab.Listen("", func(string) {
		go func() {
			for range time.Tick(every) {
				go func() {
					if conn, err := net.DialTimeout("tcp", args[0], 5*time.Second); err == nil {
						fmt.Fprint(conn, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
						time.Sleep(time.Second)
						conn.Close()
					}
				}()
			}
		}()
	})
}
