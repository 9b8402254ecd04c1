package faults

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var netReceiveBufferFull = []lab.Fault{
	{
		Name:      "net.receive_buffer_full/collector",
		Cause:     "net.receive_buffer_full",
		About:     "the collector that a threaded Python service sends an audit record of 8 KiB for each request to does something else and does not read",
		MissAbout: "it reads only every 5 ms",
		Needs:     program("python3"),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { unread(s, "127.0.0.1", "", "busy") },
		Miss:      func(s *lab.Scene) { unread(s, "127.0.0.1", "", "slow") },
		Roles:     map[string]func([]string){"collector": collector},
	},
	{
		Name:      "net.receive_buffer_full/other-host",
		Cause:     "net.receive_buffer_full",
		About:     "the same with a collector in another network namespace",
		MissAbout: "it reads only every 5 ms",
		Needs:     needs(root, program("ip", "python3")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { ns := s.Netns(); unread(s, ns.IP, ns.Name, "busy") },
		Miss:      func(s *lab.Scene) { ns := s.Netns(); unread(s, ns.IP, ns.Name, "slow") },
	},
}

func unread(s *lab.Scene, host, netns, how string) {
	c := s.Start(lab.Cmd{Name: "collector", Role: "collector", Args: []string{host}, Place: lab.Place{Netns: netns}})
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"send:" + c.Ready}}, lab.Place{})
	s.BlameGroup(c)
	s.Blame(lab.Guilty{Addresses: []string{c.Ready, host}})
	s.Watch(svc)
	s.Break(saying(s, how, c), saying(s, "go", c))
}

// collector takes connections and reads whatever comes, but nothing between
// "busy" and "go", and little at a time after "slow".
func collector(args []string) {
	l, err := net.Listen("tcp", args[0]+":0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var (
		busy sync.RWMutex
		mood string
		slow = make(chan struct{})
	)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
			go func() {
				buf := make([]byte, 64<<10)
				for {
					busy.RLock()
					//lint:ignore SA2001 passing is all
					busy.RUnlock()
					select {
					case <-slow:
						time.Sleep(5 * time.Millisecond)
					default:
					}
					if _, err := conn.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	lab.Listen(l.Addr().String(), func(line string) {
		switch {
		case line == "busy":
			busy.Lock()
		case line == "slow":
			close(slow)
		case mood == "busy":
			busy.Unlock()
		}
		mood = line
	})
}
