package faults

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitEphemeralPorts = []lab.Fault{
	{
		Name:      "limit.ephemeral_ports/one-upstream",
		Cause:     "limit.ephemeral_ports",
		About:     "a poller holds all 64 local ports of a network namespace towards the upstream of a Go service, which needs a new connection per request and tries until it gets one",
		MissAbout: "it holds 20",
		Needs:     needs(root, program("ip")),
		Run:       func(s *lab.Scene) { holdPorts(s, 64) },
		Miss:      func(s *lab.Scene) { holdPorts(s, 20) },
		Roles:     map[string]func([]string){"portholder": portHolder, "closer": closer},
	},
	{
		Name:      "limit.ephemeral_ports/time-wait",
		Cause:     "limit.ephemeral_ports",
		About:     "a health check connects and hangs up without pause: all 64 local ports towards the upstream of a Go service are in TIME_WAIT, and nobody holds them",
		MissAbout: "it connects 20 times",
		Needs:     needs(root, program("ip")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { portsInTimeWait(s, "-1") },
		Miss:      func(s *lab.Scene) { portsInTimeWait(s, "20") },
		Roles:     map[string]func([]string){"hangup": hangUp},
	},
}

func holdPorts(s *lab.Scene, n int) {
	ns := s.Netns()
	ns.Set("/proc/sys/net/ipv4/ip_local_port_range", "40000 40063")
	ns.Set("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
	// What the service closes must not stay in TIME_WAIT: its upstream closes.
	up := s.Start(lab.Cmd{Name: "inventory", Role: "closer", Args: []string{ns.HostIP}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"dial:" + up.Ready}, Host: ns.IP}, lab.Place{Netns: ns.Name})
	svc.UsersIn(nil) // from the host: they need no port of the namespace
	job := s.Start(lab.Cmd{Name: "poller", Role: "portholder", Args: []string{up.Ready, strconv.Itoa(n)}, Place: lab.Place{Netns: ns.Name}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Addresses: []string{up.Ready}, Tables: true})
	s.Watch(svc)
	s.Break(saying(s, "go", job), saying(s, "stop", job))
}

// portHolder holds so many connections between "go" and "stop": it keeps
// trying for those that it did not get.
func portHolder(args []string) {
	n, _ := strconv.Atoi(args[1])
	stop := make(chan struct{})
	lab.Listen("", func(line string) {
		if line == "stop" {
			close(stop)
			return
		}
		go func() {
			var held []net.Conn
			for {
				for len(held) < n {
					conn, err := net.DialTimeout("tcp", args[0], time.Second)
					if err != nil {
						break
					}
					held = append(held, conn)
				}
				select {
				case <-stop:
					for _, c := range held {
						_ = c.(*net.TCPConn).SetLinger(0)
						c.Close()
					}
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		}()
	})
}

// closer is an upstream that closes each connection after its answer, and so
// keeps the TIME_WAIT on its side.
func closer(args []string) {
	l, err := net.Listen("tcp", args[0]+":0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				continue
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 4096)); err == nil {
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
				}
			}()
		}
	}()
	lab.Listen(l.Addr().String(), nil)
}

func portsInTimeWait(s *lab.Scene, n string) {
	ns := s.Netns()
	ns.Set("/proc/sys/net/ipv4/ip_local_port_range", "40000 40063")
	ns.Set("/proc/sys/net/ipv4/tcp_tw_reuse", "0")
	up := s.Start(lab.Cmd{Name: "inventory", Role: "closer", Args: []string{ns.HostIP}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"dial:" + up.Ready}, Host: ns.IP}, lab.Place{Netns: ns.Name})
	svc.UsersIn(nil)
	job := s.Start(lab.Cmd{Name: "healthcheck", Role: "hangup", Args: []string{up.Ready, n}, Place: lab.Place{Netns: ns.Name}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Addresses: []string{up.Ready}, Tables: true})
	s.Watch(svc)
	s.Break(saying(s, "go", job), func() {
		killing(s, job)()
		ns.Set("/proc/sys/net/ipv4/ip_local_port_range", "30000 40063")
	})
}

// hangUp connects and closes at once, so often or (-1) without end.
func hangUp(args []string) {
	n, _ := strconv.Atoi(args[1])
	lab.Listen("", func(string) {
		go func() {
			for i := 0; i != n; i++ {
				if conn, err := net.DialTimeout("tcp", args[0], time.Second); err == nil {
					conn.Close()
				} else {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	})
}
