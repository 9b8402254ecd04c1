package faults

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitConntrack = []lab.Fault{
	{
		Name:      "limit.conntrack/udp-flood",
		Cause:     "limit.conntrack",
		About:     "UDP packets to many ports fill the connection tracking table (of 200 for the time); the SYNs of a Go service's users are dropped",
		MissAbout: "40 entries in it",
		Needs:     needs(root, program("ip", "nft"), conntrack),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { fillConntrack(s, 4000) },
		Miss:      func(s *lab.Scene) { fillConntrack(s, 40) },
		Roles:     map[string]func([]string){"udpscan": udpScanner},
	},
	{
		Name:      "limit.conntrack/idle-connections",
		Cause:     "limit.conntrack",
		About:     "a client opens 400 TCP connections to a second service and keeps them: they fill the connection tracking table (of 200 for the time), and the SYNs of a threaded Python service's users are dropped",
		MissAbout: "it opens 40",
		Needs:     needs(root, program("ip", "nft", "python3"), conntrack),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { connsInConntrack(s, "400") },
		Miss:      func(s *lab.Scene) { connsInConntrack(s, "40") },
		Roles:     map[string]func([]string){"connkeeper": connKeeper},
	},
}

func conntrack() error {
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max")
	return err
}

func fillConntrack(s *lab.Scene, ports int) {
	ns := s.Netns()
	ns.Nft("table inet track { chain in { type filter hook input priority 0; ct state invalid counter; }; }")
	ns.Set("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "1")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.IP, Fresh: true}, lab.Place{Netns: ns.Name})
	svc.UsersIn(nil)
	scan := s.Start(lab.Cmd{Name: "scanner", Role: "udpscan", Args: []string{ns.IP, strconv.Itoa(ports)}})
	s.BlameGroup(scan)
	s.Blame(lab.Guilty{Tables: true, Addresses: []string{ns.HostIP}})
	restore := s.Sysctl("/proc/sys/net/netfilter/nf_conntrack_max", "200")
	s.Watch(svc)
	s.Break(saying(s, "go", scan), func() {
		killing(s, scan)()
		restore()
	})
}

// udpScanner sends a packet to each of so many ports, over and over.
func udpScanner(args []string) {
	n, _ := strconv.Atoi(args[1])
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(string) {
		go func() {
			for {
				for i := range n {
					_, _ = conn.WriteToUDP([]byte("x"), &net.UDPAddr{IP: net.ParseIP(args[0]), Port: 10000 + i})
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
	})
}

func connsInConntrack(s *lab.Scene, n string) {
	ns := s.Netns()
	ns.Nft("table inet track { chain in { type filter hook input priority 0; ct state invalid counter; }; }")
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Host: ns.IP, Fresh: true}, lab.Place{Netns: ns.Name})
	svc.UsersIn(nil)
	// What users close must not stay in the table for two minutes.
	ns.Set("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
	other := s.Serve(victim.Spec{Name: "chat", Kind: victim.Go, Host: ns.IP}, lab.Place{Netns: ns.Name})
	job := s.Start(lab.Cmd{Name: "chatclient", Role: "connkeeper", Args: []string{other.Address, n}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Tables: true, Addresses: []string{ns.HostIP, other.Address}})
	restore := s.Sysctl("/proc/sys/net/netfilter/nf_conntrack_max", "200")
	s.Watch(svc)
	s.Break(saying(s, "go", job), func() {
		killing(s, job)()
		restore()
	})
}

// connKeeper opens so many connections at once and keeps trying for those that
// it did not get.
func connKeeper(args []string) {
	n, _ := strconv.Atoi(args[1])
	lab.Listen("", func(string) {
		for range n {
			go func() {
				for {
					if conn, err := net.DialTimeout("tcp", args[0], 5*time.Second); err == nil {
						_, _ = conn.Read(make([]byte, 1))
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
	})
}
