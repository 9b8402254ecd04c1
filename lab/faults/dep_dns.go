package faults

import (
	"fmt"
	"net"
	"os"
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
