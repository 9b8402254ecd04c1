package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf/btf"
)

var packetsFamily = family{
	name: "packets",
	at:   "tp_btf kfree_skb, tcp_retransmit_skb, tcp_{send,receive}_reset, sock_exceed_buf_limit",
	lost: "why packets are dropped, and between whom they are lost",
	load: loadPacketsFamily,
}

// Between says between whom something happened to packets, and what (struct
// between of packets.bpf.c).
type Between struct {
	FromBytes, ToBytes [16]byte
	FromPort, ToPort   uint16 // of the two, the larger is a client's and left out: 0
	What               uint8  // see PacketEvent
	Protocol           uint8  // IPPROTO_TCP 6, IPPROTO_UDP 17
	_                  uint16
}

// From is the sender's address.
func (b *Between) From() netip.Addr { return netip.AddrFrom16(b.FromBytes).Unmap() }

// To is the receiver's address.
func (b *Between) To() netip.Addr { return netip.AddrFrom16(b.ToBytes).Unmap() }

// Happened is how often, and when first and last in CLOCK_MONOTONIC
// nanoseconds (struct happened).
type Happened struct{ Count, First, Last uint64 }

// dropReasons are the reasons to drop a packet that mean something, by the
// kernel's name (include/net/dropreason-core.h) without SKB_DROP_REASON_. What
// a reason is to us is its place here, from 1. Their numbers differ from kernel
// to kernel, and older ones do not have them all.
var dropReasons = [...]string{
	"NETFILTER_DROP",
	"TCP_LISTEN_OVERFLOW",
	"SOCKET_RCVBUFF",
	"SOCKET_BACKLOG",
	"PROTO_MEM",
	"TCP_ZEROWINDOW",
	"NEIGH_CREATEFAIL",
	"NEIGH_FAILED",
	"NEIGH_QUEUEFULL",
	"QDISC_DROP",
	"QDISC_OVERLIMIT",
	"CPU_BACKLOG",
	"FULL_RING",
	"IP_RPFILTER",
	"IP_OUTNOROUTES",
	"XDP",
	"TC_INGRESS",
	"TC_EGRESS",
	"BPF_CGROUP_EGRESS",
	"NOMEM",
}

// packetEvents are the kinds of Between.What from 128 on.
var packetEvents = [...]string{"retransmit", "syn_retransmit", "reset_sent", "reset_received", "buffer_limit"}

const (
	firstPacketEvent = 128
	packetReasons    = 256
)

// PacketEvents returns the name of every kind of Between.What by its number:
// the kernel's word for a drop, in lower case, or what else happened; "" for
// those that do not exist.
func PacketEvents() []string {
	names := make([]string, packetReasons)
	for i, r := range dropReasons {
		names[i+1] = lower(r)
	}
	copy(names[firstPacketEvent:], packetEvents[:])
	return names
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Packets reads what packets.bpf.c counts. It is for one goroutine.
type Packets struct {
	table *batch
	again slots[uint64]
}

func loadPacketsFamily(l *loading) error {
	spec, err := loadPackets()
	if err != nil {
		return fmt.Errorf("read the object of packets: %w", err)
	}
	meaning, err := l.dropReasons()
	if err != nil {
		// The tracepoint is there since ever, the reason since Linux 5.17.
		delete(spec.Programs, "dropped")
		l.need(needOf(l, "tp_btf kfree_skb", "why packets are dropped", err))
	}
	l.without(spec,
		optional{"sent_again", "tcp_retransmit_skb", "between whom packets are lost"},
		optional{"reset_sent", "tcp_send_reset", "who is refused by resets"},
		optional{"reset_received", "tcp_receive_reset", "who refuses by resets"},
		optional{"buffer_limit", "sock_exceed_buf_limit", "whose sockets are at the limit of memory"},
	)
	maps, err := l.open(spec, map[string]any{"meaning": meaning})
	if err != nil {
		return err
	}
	p := &Packets{table: newBatch(maps["packets"])}
	if p.again, err = mapSlots[uint64](maps["again"]); err != nil {
		return err
	}
	l.closing(&p.again)
	l.Packets = p
	return nil
}

// SentAgain is how many TCP segments were sent again since the program runs, by
// any socket. Asking costs no system call; nil and a closed one say 0.
func (p *Packets) SentAgain() uint64 {
	if p == nil || len(p.again.values) == 0 {
		return 0
	}
	return atomic.LoadUint64(&p.again.values[0])
}

// dropReasons returns what each number of this kernel's reasons is to us.
func (l *loading) dropReasons() (meaning [packetReasons]uint8, err error) {
	args, err := tracepoint(l.kernel, "kfree_skb")
	if err != nil {
		return meaning, err
	}
	var enum *btf.Enum
	if err := l.kernel.TypeByName("skb_drop_reason", &enum); err != nil || len(args) < 3 {
		return meaning, fmt.Errorf("this kernel does not say why a packet is dropped (needs Linux 5.17): %w", errors.Join(err))
	}
	for _, v := range enum.Values {
		for i, r := range dropReasons {
			if v.Name == "SKB_DROP_REASON_"+r && v.Value < packetReasons {
				meaning[v.Value] = uint8(i + 1)
			}
		}
	}
	return meaning, nil
}

// Each calls f with everything that was counted so far, in no order; what it is
// given is only valid during the call.
func (p *Packets) Each(f func(*Between, *Happened)) error {
	return p.table.each(func(key, value unsafe.Pointer) { f((*Between)(key), (*Happened)(value)) })
}
