package faults

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var kernelSoftirqStorm = []lab.Fault{
	{
		Name:      "kernel.softirq_storm/udp-flood",
		Cause:     "kernel.softirq_storm",
		AlsoOK:    []string{"net.packet_flood"}, // the same seen from the network
		About:     "a UDP flood through a veth pair and 3,000 firewall rules is worked off in softirq on the CPU that a Go service is pinned to",
		MissAbout: "200 packets a second",
		Needs:     needs(root, program("ip", "nft")),
		Shortest:  time.Second,
		Run:       func(s *lab.Scene) { udpFlood(s, 0) },
		Miss:      func(s *lab.Scene) { udpFlood(s, 5*time.Millisecond) },
		Roles:     map[string]func([]string){"udpflood": udpFlooder},
	},
}

func udpFlood(s *lab.Scene, every time.Duration) {
	ns := s.Netns()
	rules := strings.Builder{}
	for i := range 3000 {
		fmt.Fprintf(&rules, "udp dport %d counter drop\n", 20000+i)
	}
	ns.Nft("table inet long { chain in { type filter hook prerouting priority 0; " + rules.String() + " }; }")
	// Receive packet steering: the other CPU works them off.
	ns.Run("sh", "-c", "echo 2 > /sys/class/net/"+ns.Link+"/queues/rx-0/rps_cpus")
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:3ms"}}, lab.Place{CPUs: []int{1}})
	job := s.Start(lab.Cmd{Name: "flood", Role: "udpflood", Args: []string{ns.IP, every.String()}, Place: lab.Place{CPUs: []int{0}}})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Interfaces: []string{ns.HostLink, ns.Link}, Addresses: []string{ns.IP, ns.HostIP}, Host: true})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

// udpFlooder sends packets as fast as it can, or one every so often.
func udpFlooder(args []string) {
	every, _ := time.ParseDuration(args[1])
	dst := unix.SockaddrInet4{Addr: [4]byte(net.ParseIP(args[0]).To4()), Port: 9}
	lab.Listen("", func(string) {
		for range 4 {
			go func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				packet := []byte(strconv.Itoa(fd))
				for {
					_ = unix.Sendto(fd, packet, 0, &dst)
					if every > 0 {
						time.Sleep(every)
					}
				}
			}()
		}
	})
}
