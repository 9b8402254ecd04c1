package rules_test

import (
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

func TestPacketsSayWhy(t *testing.T) {
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
		says    string
	}{
		"who changed the packet filter": {func(w *window) {
			resending(w)
			lost(w, 1, "netfilter_drop", "10.0.0.9", 5432, "10.0.0.1", 0, 20)
			w.Rows("parents", s, hog, func(at time.Duration) v {
				row := v{"pid": hog, "ppid": 1, "comm": "firewalld", "exec": "nft", "since_ns": windowtest.At(0), "forks": 3, "execs": 3, "exits": 3}
				if at >= stallFrom-s {
					row["forks"], row["execs"], row["exits"] = 4, 4, 4
				}
				return row
			})
		}, "net.firewall_drop", process(hog), "firewalld"},
		"it changed it only to repair it": {func(w *window) {
			resending(w)
			lost(w, 1, "netfilter_drop", "10.0.0.9", 5432, "10.0.0.1", 0, 20)
			w.Rows("parents", s, hog, func(at time.Duration) v {
				row := v{"pid": hog, "ppid": 1, "comm": "bash", "exec": "nft", "since_ns": windowtest.At(0), "forks": 3, "execs": 3, "exits": 3}
				if at >= stallTo {
					row["forks"], row["execs"], row["exits"] = 4, 4, 4
				}
				return row
			})
		}, "net.firewall_drop", culprit(freezeframe.CulpritAddress), ""},
		"what this host drops on its way out": {func(w *window) {
			sending(w)
			unsent(w)
			lost(w, 1, "netfilter_drop", "10.0.0.1", 0, "10.0.0.9", 5432, 20)
		}, "net.firewall_drop", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.1"}, ""},
		"what does not leave this host, nobody says why": {func(w *window) {
			sending(w)
			unsent(w)
		}, "net.packet_loss", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.9"}, "1 connections"},
		"lost between others": {func(w *window) {
			resending(w)
			lost(w, 1, "netfilter_drop", "10.0.0.8", 5432, "10.0.0.1", 0, 20)
		}, "net.packet_loss", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.9"}, ""},
		"the peer of what the machine sent again": {func(w *window) {
			asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4009]", Syscall: "recvfrom"})
			netstat(w, map[string]float64{"TcpRetransSegs": 100, "TcpExtTCPTimeouts": 20})
			lost(w, 3, "retransmit", "10.0.0.1", 80, "10.0.0.77", 0, 60)
			lost(w, 4, "retransmit", "10.0.0.1", 80, "10.0.0.78", 0, 2)
		}, "net.packet_loss", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.77"}, "10.0.0.77"},
		"a queue that was full between two readings": {func(w *window) {
			w.Symptom(freezeframe.Symptom{Probe: "accept", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: service}}})
			listener(w, service, "orders", 9, 0)
			lost(w, 5, "tcp_listen_overflow", "10.0.0.77", 0, "10.0.0.1", 80, 30)
		}, "net.accept_queue_overflow", process(service), "because its queue was full"},
	} {
		t.Run(name, func(t *testing.T) {
			f := verdict(t, build(x.scene), x.cause, x.culprit)
			if text := whole(f); !strings.Contains(text, x.says) {
				t.Errorf("%q is not said in %q", x.says, text)
			}
		})
	}
}

// What is dropped because a table is full, the packet filter drops.
func TestDroppedForAFullTable(t *testing.T) {
	w := build(func(w *window) {
		resending(w)
		lost(w, 1, "netfilter_drop", "10.0.0.9", 5432, "10.0.0.1", 0, 20)
		w.Kernel(stallFrom, "nf_conntrack: nf_conntrack: table full, dropping packet")
	})
	verdict(t, w, "limit.conntrack", culprit(freezeframe.CulpritTable))
	for _, f := range detectors.Judge(w, rules.All()).Symptoms {
		if f.Cause == "net.firewall_drop" && f.SymptomOf == "limit.conntrack" {
			return
		}
	}
	t.Error("the filter's drops are no symptom of the table's")
}

// unsent has a connection try again and again to send what never leaves the host.
func unsent(w *window) {
	conn(w, 1, func(at time.Duration) v {
		if !w.InStall(at) {
			return v{}
		}
		return v{"wqueue": 53, "probes": 2 + int((at-stallFrom)/s), "unacked_at": windowtest.At(stallFrom)}
	})
}
