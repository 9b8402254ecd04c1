package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var depDNS = []lab.Fault{
	{
		Name:      "dep.dns/go-resolver",
		Cause:     "dep.dns",
		About:     "the name server of a Go service, which looks up a name for each request and tries again after a second, goes silent",
		MissAbout: "it answers after 8 ms",
		Needs:     needs(root, program("ip")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { nameServer(s, victim.Go, "hang") },
		Miss:      func(s *lab.Scene) { nameServer(s, victim.Go, "slow") },
		Roles:     map[string]func([]string){"nameserver": nameServerRole},
	},
	{
		Name:      "dep.dns/threads",
		Cause:     "dep.dns",
		About:     "the same with a threaded Python service that asks by a socket for each name, as libc does",
		MissAbout: "it answers after 8 ms",
		Needs:     needs(root, program("ip", "python3")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { nameServer(s, victim.Threads, "hang") },
		Miss:      func(s *lab.Scene) { nameServer(s, victim.Threads, "slow") },
	},
	{
		Name:      "dep.dns/getaddrinfo",
		Cause:     "dep.dns",
		About:     "the name server in the resolv.conf of a threaded Python service, which calls getaddrinfo for each request, goes silent: libc asks again after five seconds",
		MissAbout: "it answers after 8 ms",
		Needs:     needs(root, program("ip", "python3")),
		Shortest:  600 * time.Millisecond,
		Longest:   1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { lookUp(s, "hang") },
		Miss:      func(s *lab.Scene) { lookUp(s, "slow") },
	},
	{
		Name:      "dep.dns/node",
		Cause:     "dep.dns",
		About:     "the name server of a Node service, which looks up a name for each request and tries again after a second, goes silent",
		MissAbout: "it answers after 8 ms",
		Needs:     needs(root, program("ip", "node")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { nodeLookUp(s, "hang") },
		Miss:      func(s *lab.Scene) { nodeLookUp(s, "slow") },
	},
	{
		Name:      "dep.dns/forwarder",
		Cause:     "dep.dns",
		About:     "a Go service asks a forwarder on this host, as systemd-resolved is one, and the name server that this one asks goes silent",
		MissAbout: "it answers after 8 ms",
		Needs:     needs(root, program("ip")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { forwarded(s, "hang") },
		Miss:      func(s *lab.Scene) { forwarded(s, "slow") },
		Roles:     map[string]func([]string){"forwarder": forwarder},
	},
}

func startNameServer(s *lab.Scene) *lab.Proc {
	ns := s.Netns()
	server := s.Start(lab.Cmd{Name: "named", Role: "nameserver", Args: []string{ns.IP}, Place: lab.Place{Netns: ns.Name}})
	s.Blame(lab.Guilty{Addresses: []string{server.Ready, ns.IP}})
	s.BlameGroup(server)
	return server
}

func lookUp(s *lab.Scene, how string) {
	server := startNameServer(s)
	host, _, _ := strings.Cut(server.Ready, ":")
	conf := filepath.Join(s.Dir, "resolv.conf")
	s.Check(os.WriteFile(conf, []byte("nameserver "+host+"\n"), 0o644))
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"lookup:" + conf}}, lab.Place{})
	s.Watch(svc)
	s.Break(saying(s, how, server), saying(s, "go", server))
}

func nodeLookUp(s *lab.Scene, how string) {
	server := startNameServer(s)
	svc := serveNode(s, lab.Place{}, "resolve:"+server.Ready)
	s.Watch(svc)
	s.Break(saying(s, how, server), saying(s, "go", server))
}

func forwarded(s *lab.Scene, how string) {
	server := startNameServer(s)
	stub := s.Start(lab.Cmd{Name: "resolved", Role: "forwarder", Args: []string{"127.0.53.53", server.Ready}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"resolve:" + stub.Ready}}, lab.Place{})
	s.Watch(svc)
	s.Break(saying(s, how, server), saying(s, "go", server))
}

// forwarder asks another name server for each question, by a socket of its own.
func forwarder(args []string) {
	conn, err := net.ListenPacket("udp4", args[0]+":53")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			buf := make([]byte, 1500)
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			go func() {
				up, err := net.Dial("udp4", args[1])
				if err != nil {
					return
				}
				defer up.Close()
				_ = up.SetDeadline(time.Now().Add(5 * time.Second))
				answer := make([]byte, 1500)
				if _, err := up.Write(buf[:n]); err != nil {
					return
				}
				if n, err = up.Read(answer); err == nil {
					_, _ = conn.WriteTo(answer[:n], from)
				}
			}()
		}
	}()
	lab.Listen(conn.LocalAddr().String(), nil)
}

func nameServer(s *lab.Scene, kind, how string) {
	ns := s.Netns()
	server := s.Start(lab.Cmd{Name: "named", Role: "nameserver", Args: []string{ns.IP}, Place: lab.Place{Netns: ns.Name}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: kind, Work: []string{"resolve:" + server.Ready}}, lab.Place{})
	s.Blame(lab.Guilty{Addresses: []string{server.Ready, ns.IP}})
	s.BlameGroup(server)
	s.Watch(svc)
	s.Break(saying(s, how, server), saying(s, "go", server))
}

// nameServerRole answers every question for an address, but not between "hang"
// and "go", and late after "slow".
func nameServerRole(args []string) {
	conn, err := net.ListenPacket("udp4", args[0]+":53")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mood atomic.Value
	mood.Store("go")
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			switch mood.Load() {
			case "hang":
				continue
			case "slow":
				time.Sleep(8 * time.Millisecond)
			}
			if answer := addressAnswer(buf[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	lab.Listen(conn.LocalAddr().String(), func(line string) { mood.Store(line) })
}

// addressAnswer answers a question for an A record by 192.0.2.1, and others by
// no record (RFC 1035).
func addressAnswer(question []byte) []byte {
	if len(question) < 17 {
		return nil
	}
	end := 12
	for end < len(question) && question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 5 // the root, type and class
	if end > len(question) {
		return nil
	}
	answer := append([]byte{}, question[:end]...)
	answer[2], answer[3] = 0x81, 0x80            // an answer, recursion available
	answer[4], answer[5] = 0, 1                  // one question
	copy(answer[6:12], []byte{0, 0, 0, 0, 0, 0}) // no more sections: EDNS is not spoken here
	if question[end-4] == 0 && question[end-3] == 1 {
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 1)
	}
	return answer
}
