package faults

import (
	"net"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var netFirewallDrop = []lab.Fault{
	{
		Name:      "net.firewall_drop/upstream",
		Cause:     "net.firewall_drop",
		About:     "a rule of this host's packet filter drops what the upstream of a threaded Python service answers",
		MissAbout: "it drops packets of others: a port scan",
		Needs:     needs(root, program("ip", "nft", "python3")),
		Run:       func(s *lab.Scene) { closedUpstream(s, true) },
		Miss:      func(s *lab.Scene) { closedUpstream(s, false) },
		Roles:     map[string]func([]string){"portscan": udpScanner},
	},
	{
		Name:      "net.firewall_drop/users",
		Cause:     "net.firewall_drop",
		About:     "a rule drops what the users of a Go service send to it",
		MissAbout: "it drops packets to another port",
		Needs:     needs(root, program("ip", "nft")),
		Run:       func(s *lab.Scene) { closedUsers(s, true) },
		Miss:      func(s *lab.Scene) { closedUsers(s, false) },
	},
}

// closed loads and takes away a rule of the namespace.
func closed(ns *lab.Netns, hook, rule string) (begin, end func()) {
	return func() {
		ns.Nft("table inet closing { chain x { type filter hook " + hook + " priority 0; " + rule + " drop; }; }")
	}, func() { ns.Nft("delete table inet closing") }
}

func closedUpstream(s *lab.Scene, used bool) {
	ns := s.Netns()
	up := s.Start(lab.Cmd{Name: "inventory", Role: "upstream", Args: []string{ns.IP}, Place: lab.Place{Netns: ns.Name}})
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"call:" + up.Ready}}, lab.Place{})
	s.BlameLab() // it made the rule
	s.Blame(lab.Guilty{Addresses: []string{ns.IP, ns.HostIP}})
	_, port, _ := net.SplitHostPort(up.Ready)
	hook, rule := "output", "tcp sport "+port
	if !used {
		hook, rule = "input", "meta l4proto udp"
	}
	scan := s.Start(lab.Cmd{Name: "scanner", Role: "portscan", Args: []string{ns.IP, "200"}})
	s.Watch(svc)
	begin, end := closed(ns, hook, rule)
	s.Break(func() { saying(s, "go", scan)(); begin() }, func() { end(); killing(s, scan)() })
}

func closedUsers(s *lab.Scene, used bool) {
	ns := s.Netns()
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP}, lab.Place{})
	svc.UsersIn(ns)
	s.BlameLab()
	s.Blame(lab.Guilty{Addresses: []string{ns.IP, ns.HostIP}})
	_, port, _ := net.SplitHostPort(svc.Address)
	if !used {
		port = "9"
	}
	s.Watch(svc)
	s.Break(closed(ns, "output", "tcp dport "+port))
}
