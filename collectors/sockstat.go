package collectors

import (
	"errors"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	sockstatTCPInuse = iota
	sockstatTCPOrphan
	sockstatTCPTw
	sockstatTCPAlloc
	sockstatTCPMem
	sockstatUDPInuse
	sockstatUDPMem
	sockstatUsed
	sockstatWidth
)

// sockstat reads /proc/net/sockstat and sockstat6: how many sockets there are
// and the memory that TCP and UDP hold. The inuse columns are IPv4 and IPv6
// together; the kernel keeps only one figure for the others.
type sockstat struct {
	v4, v6 file
	needs  []freezeframe.Need
}

func (c *sockstat) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "sockstat", From: "/proc/net/sockstat, sockstat6",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: gauges("tcp_inuse", "tcp_orphan", "tcp_tw", "tcp_alloc", "tcp_mem_pages",
			"udp_inuse", "udp_mem_pages", "sockets_used"),
		Needs: c.needs,
	}
}

func (c *sockstat) Open(h freezeframe.Host) (err error) {
	if c.v4, err = open(h.Proc+"/net/sockstat", 512); err != nil {
		return err
	}
	c.needs = nil
	if c.v6, err = open(h.Proc+"/net/sockstat6", 512); err != nil {
		c.needs = append(c.needs, freezeframe.Need{
			What: "read " + h.Proc + "/net/sockstat6", Lost: "how many IPv6 sockets there are (none, where IPv6 is off)", Err: err.Error(),
		})
	}
	return try(c)
}

func (c *sockstat) Close() error { return errors.Join(c.v4.Close(), c.v6.Close()) }

func (c *sockstat) Collect(t *freezeframe.Table) error {
	row := t.Row(0, sockstatWidth)
	b, err := c.v4.lines()
	if err != nil {
		return err
	}
	if !parseSockstat(row, b) {
		return c.v4.malformed
	}
	if c.v6.File == nil {
		return nil
	}
	if b, err = c.v6.lines(); err == nil && !parseSockstat(row, b) {
		err = c.v6.malformed
	}
	return err
}

// parseSockstat adds to row the lines of sockstat ("TCP: inuse 1 orphan 0 tw 1
// alloc 1 mem 298") and sockstat6 ("TCP6: inuse 0").
func parseSockstat(row []uint64, b []byte) (ok bool) {
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		protocol := s.Word()
		for !s.EndOfLine() {
			name := s.Word()
			v, isNumber := s.Uint()
			if !isNumber {
				break
			}
			if i := sockstatColumn(protocol, name); i >= 0 {
				row[i] += v
				ok = true
			}
		}
	}
	return ok
}

func sockstatColumn(protocol, name []byte) int {
	switch string(protocol) {
	case "sockets:":
		if string(name) == "used" {
			return sockstatUsed
		}
	case "TCP:", "TCP6:":
		switch string(name) {
		case "inuse":
			return sockstatTCPInuse
		case "orphan":
			return sockstatTCPOrphan
		case "tw":
			return sockstatTCPTw
		case "alloc":
			return sockstatTCPAlloc
		case "mem":
			return sockstatTCPMem
		}
	case "UDP:", "UDP6:":
		switch string(name) {
		case "inuse":
			return sockstatUDPInuse
		case "mem":
			return sockstatUDPMem
		}
	}
	return -1
}
