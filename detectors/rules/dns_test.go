package rules_test

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

func TestNameServers(t *testing.T) {
	idle := wait{Class: freezeframe.Idle, Wchan: "do_epoll_wait", Syscall: "epoll_wait"}
	const server = "10.0.0.53:53"
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause // "": not dep.dns
		address string
	}{
		"asked again and again": {func(w *window) {
			asleep(w, idle)
			for i := range 2 {
				asks(w, 1+i, service, server, stallFrom+time.Duration(i)*s, stallFrom+time.Duration(i+1)*s)
			}
		}, "dep.dns", server},
		"a forwarder on this host, whose upstream is silent": {func(w *window) {
			asleep(w, idle)
			asks(w, 1, service, "127.0.0.53:53", stallFrom, stallTo)
			asks(w, 2, hog, "9.9.9.9:53", stallFrom, stallTo)
			for at := stallFrom; at <= stallTo; at += 250 * ms {
				w.Row("udp", at, 77, v{"pid": hog, "local": "127.0.0.53:53", "local_port": 53})
			}
		}, "dep.dns", "9.9.9.9:53"},
		"a thread that reads the answer's socket": {func(w *window) {
			asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", File: "socket:[7001]", Wchan: "skb_wait_for_more_packets"})
			asks(w, 1, service, server, stallFrom, stallTo)
		}, "dep.dns", server},
		"by TCP": {func(w *window) {
			asleep(w, idle)
			conn(w, 3, func(at time.Duration) v {
				if !w.InStall(at) {
					return v{"peer": server, "peer_port": 53}
				}
				return v{"peer": server, "peer_port": 53, "sent_at": windowtest.At(stallFrom), "received_at": windowtest.At(s)}
			})
		}, "dep.dns", server},
		"answers that take 150 ms": {func(w *window) {
			asleep(w, idle)
			for i := range 8 {
				asks(w, 1+i, service, server, stallFrom+time.Duration(i)*250*ms, stallFrom+time.Duration(i)*250*ms+150*ms)
			}
		}, "", ""},
		"answers that take 350 ms": {func(w *window) {
			asleep(w, idle)
			for i := range 4 { // each is seen twice
				from := stallFrom + time.Duration(i)*500*ms
				for _, at := range []time.Duration{from, from + 250*ms} {
					w.Row("udp", at, 1+i, v{"pid": service, "peer": server, "peer_port": 53, "local": "10.0.0.1:40000", "inode": 7001 + i, "since_ns": windowtest.At(from)})
				}
			}
		}, "", ""},
		"it waits for its database meanwhile": {func(w *window) {
			asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", File: "socket:[4001]", Wchan: "wait_woken"})
			conn(w, 1, func(time.Duration) v { return v{} })
			asks(w, 1, service, server, stallFrom, stallTo)
		}, "dep.remote_unresponsive", "10.0.0.9:5432"},
		"it waits for a disk meanwhile": {func(w *window) {
			asleep(w, frozen("/srv/data/x"))
			mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
			asks(w, 1, service, server, stallFrom, stallTo)
		}, "fs.frozen", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if x.cause != "" {
				verdict(t, build(x.scene), x.cause, freezeframe.Culprit{Address: x.address})
				return
			}
			for _, f := range detectors.Judge(build(x.scene), rules.All()).Findings {
				t.Errorf("%s: %s", f.Cause, f.Summary)
			}
		})
	}
}
