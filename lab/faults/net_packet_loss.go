package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var netPacketLoss = []lab.Fault{
	{
		Name:      "net.packet_loss/all",
		Cause:     "net.packet_loss",
		AlsoOK:    []string{"net.firewall_drop"}, // a rule does it
		About:     "the path to the users of a Go service loses every packet",
		MissAbout: "it loses the packets of somebody else",
		Needs:     needs(root, program("ip", "nft")),
		Run:       func(s *lab.Scene) { lose(s, "tcp sport 1-65535 drop") },
		Miss:      func(s *lab.Scene) { lose(s, "udp dport 9 drop") },
	},
	{
		Name:      "net.packet_loss/some",
		Cause:     "net.packet_loss",
		AlsoOK:    []string{"net.firewall_drop"},
		About:     "it loses 70 % of them",
		MissAbout: "it loses 1 in 1,000 and makes up for it",
		Needs:     needs(root, program("ip", "nft")),
		Shortest:  1200 * time.Millisecond,
		Run:       func(s *lab.Scene) { lose(s, "tcp sport 1-65535 numgen random mod 100 < 70 drop") },
		Miss:      func(s *lab.Scene) { lose(s, "udp dport 9 numgen random mod 1000 < 1 drop") },
	},
}

// lose drops what rule matches where the users' namespace takes packets in:
// what the service sends is lost after it left this host.
func lose(s *lab.Scene, rule string) {
	ns := s.Netns()
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP}, lab.Place{})
	svc.UsersIn(ns)
	s.Blame(lab.Guilty{Addresses: []string{ns.IP}, Interfaces: []string{ns.HostLink}})
	s.Watch(svc)
	s.Break(func() {
		ns.Nft("table inet lossy { chain in { type filter hook input priority 0; " + rule + "; }; }")
	}, func() { ns.Nft("delete table inet lossy") })
}
