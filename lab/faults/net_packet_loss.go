package faults

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
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
		MissAbout: "it loses 30 % of a replication stream that nobody waits for",
		Needs:     needs(root, program("ip", "nft")),
		Run:       func(s *lab.Scene) { lose(s, "") },
		Miss:      func(s *lab.Scene) { loseStream(s, "numgen random mod 100 < 30") },
		Roles:     map[string]func([]string){"streamsink": streamSink, "stream": stream},
	},
	{
		Name:      "net.packet_loss/some",
		Cause:     "net.packet_loss",
		AlsoOK:    []string{"net.firewall_drop"},
		About:     "it loses 70 % of them",
		MissAbout: "it loses 2 % of a replication stream that nobody waits for",
		Needs:     needs(root, program("ip", "nft")),
		Shortest:  1200 * time.Millisecond,
		Run:       func(s *lab.Scene) { lose(s, "numgen random mod 100 < 70") },
		Miss:      func(s *lab.Scene) { loseStream(s, "numgen random mod 100 < 2") },
	},
	{
		Name:      "net.packet_loss/large-packets",
		Cause:     "net.packet_loss",
		AlsoOK:    []string{"net.firewall_drop"},
		About:     "the path from a threaded Python service to its upstream loses packets over 1,000 bytes, as a tunnel with a smaller MTU does; its requests to it are larger",
		MissAbout: "its requests are small",
		Needs:     needs(root, program("ip", "nft", "python3")),
		Shortest:  600 * time.Millisecond,
		Run:       func(s *lab.Scene) { loseLarge(s, "post") },
		Miss:      func(s *lab.Scene) { loseLarge(s, "call") },
	},
	{
		Name:      "net.packet_loss/netem",
		Cause:     "net.packet_loss",
		About:     "the path from the users of a Go service, a unit of systemd, loses every packet (netem)",
		MissAbout: "it loses none and takes 5 ms",
		Needs:     needs(root, units, program("ip", "tc"), kernelModule("sch_netem")),
		Run:       func(s *lab.Scene) { netem(s, "loss", "100%") },
		Miss:      func(s *lab.Scene) { netem(s, "delay", "5ms") },
	},
}

// netem makes the path from the users to the service what it says.
func netem(s *lab.Scene, what ...string) {
	ns := s.Netns()
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP}, s.Unit())
	svc.UsersIn(ns)
	s.Blame(lab.Guilty{Addresses: []string{ns.IP, ns.HostIP}, Interfaces: []string{ns.HostLink, ns.Link}})
	s.Watch(svc)
	s.Break(func() { ns.Run("tc", append([]string{"qdisc", "add", "dev", ns.Link, "root", "netem"}, what...)...) },
		func() { ns.Run("tc", "qdisc", "del", "dev", ns.Link, "root") })
}

// kernelModule needs what is a module in most kernels.
func kernelModule(name string) func() error {
	return func() error {
		if out, err := exec.Command("modprobe", name).CombinedOutput(); err != nil {
			return fmt.Errorf("needs the kernel module %s: %s", name, bytes.TrimSpace(out))
		}
		return nil
	}
}

// lose drops which TCP packets where the users' namespace takes them in: what
// the service sends is lost after it left this host.
func lose(s *lab.Scene, which string) {
	ns := s.Netns()
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP}, lab.Place{})
	svc.UsersIn(ns)
	s.Blame(lab.Guilty{Addresses: []string{ns.IP, ns.HostIP}, Interfaces: []string{ns.HostLink}}) // both ends lose the other
	s.BlameLab()                                                                                  // its rule does it
	s.Watch(svc)
	s.Break(lossy(ns, "meta l4proto tcp "+which))
}

func lossy(ns *lab.Netns, rule string) (begin, end func()) {
	return func() {
		ns.Nft("table inet lossy { chain in { type filter hook input priority 0; " + rule + " drop; }; }")
	}, func() { ns.Nft("delete table inet lossy") }
}

func loseLarge(s *lab.Scene, work string) {
	ns := s.Netns()
	up := s.Start(lab.Cmd{Name: "inventory", Role: "upstream", Args: []string{ns.IP}, Place: lab.Place{Netns: ns.Name}})
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{work + ":" + up.Ready}}, lab.Place{})
	s.Blame(lab.Guilty{Addresses: []string{ns.IP, ns.HostIP, up.Ready}, Interfaces: []string{ns.HostLink}})
	s.BlameLab()
	s.Watch(svc)
	s.Break(lossy(ns, "meta l4proto tcp meta length > 1000"))
}

// loseStream drops packets of a stream into the namespace, but none of the
// service's users.
func loseStream(s *lab.Scene, which string) {
	ns := s.Netns()
	sink := s.Start(lab.Cmd{Name: "replica", Role: "streamsink", Args: []string{ns.IP}, Place: lab.Place{Netns: ns.Name}})
	s.Start(lab.Cmd{Name: "replicate", Role: "stream", Args: []string{sink.Ready}})
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Host: ns.HostIP}, lab.Place{})
	svc.UsersIn(ns)
	s.Watch(svc)
	_, port, _ := net.SplitHostPort(sink.Ready)
	s.Break(lossy(ns, "tcp dport "+port+" "+which))
}

// streamSink takes a connection and reads whatever comes.
func streamSink(args []string) {
	l, err := net.Listen("tcp", args[0]+":0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	lab.Listen(l.Addr().String(), nil)
}

// stream sends 20 KiB every 20 ms.
func stream(args []string) {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			_, _ = conn.Write(make([]byte, 20<<10))
		}
	}()
	lab.Listen("", nil)
}
