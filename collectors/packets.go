package collectors

import (
	"fmt"
	"hash/maphash"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	packetsWhat = iota
	packetsProtocol
	packetsFrom
	packetsTo
	packetsFromPort
	packetsToPort
	packetsCount
	packetsFirst
	packetsLast
	packetsWidth
)

// packets reads what BPF counts of packets that were dropped for a reason that
// means something, sent again, or answered by a reset. A row is one such thing
// between two addresses.
type packets struct {
	programs *bpf.Packets
	texts    freezeframe.Texts
	names    [256]uint64
	seed     maphash.Seed
	address  []byte

	table *freezeframe.Table // of the reading that goes on
	take  func(*bpf.Between, *bpf.Happened)
}

func (c *packets) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "packets", From: "BPF: kfree_skb, tcp_retransmit_skb, tcp_send_reset, tcp_receive_reset, sock_exceed_buf_limit", Key: "record",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			// A reason of skb_drop_reason in lower case, or retransmit,
			// syn_retransmit, reset_sent, reset_received, buffer_limit.
			packetsWhat:     {Name: "what", Kind: text},
			packetsProtocol: {Name: "protocol", Kind: gauge}, // 6 TCP, 17 UDP
			packetsFrom:     {Name: "from_address", Kind: text},
			packetsTo:       {Name: "to_address", Kind: text},
			packetsFromPort: {Name: "from_port", Kind: gauge}, // of the two ports, the larger is a client's: 0
			packetsToPort:   {Name: "to_port", Kind: gauge},
			packetsCount:    {Name: "packets"},
			packetsFirst:    {Name: "first_ns", Kind: gauge},
			packetsLast:     {Name: "last_ns", Kind: gauge},
		},
	}
}

func (c *packets) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("packets: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	c.texts, c.seed = h.Texts, maphash.MakeSeed()
	c.address = make([]byte, 0, 64)
	for i, name := range bpf.PacketEvents() {
		c.names[i] = h.Texts.Intern([]byte(name))
	}
	c.take = c.row // made once: a method value allocates
	return nil
}

func (c *packets) Close() error { return nil }

func (c *packets) Collect(t *freezeframe.Table) error {
	c.table = t
	err := c.programs.Each(c.take)
	c.table = nil
	return err
}

func (c *packets) row(b *bpf.Between, h *bpf.Happened) {
	row := c.table.Row(freezeframe.Key(maphash.Comparable(c.seed, *b)), packetsWidth)
	row[packetsWhat] = c.names[b.What]
	row[packetsProtocol] = uint64(b.Protocol)
	c.address = b.From().AppendTo(c.address[:0])
	row[packetsFrom] = c.texts.Intern(c.address)
	c.address = b.To().AppendTo(c.address[:0])
	row[packetsTo] = c.texts.Intern(c.address)
	row[packetsFromPort], row[packetsToPort] = uint64(b.FromPort), uint64(b.ToPort)
	row[packetsCount] = h.Count
	row[packetsFirst], row[packetsLast] = h.First, h.Last
}
