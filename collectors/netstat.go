package collectors

import (
	"bytes"
	"errors"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// netstat reads /proc/net/snmp and /proc/net/netstat: the protocols' counters.
// The columns are named as nstat(8) does: the group, then the kernel's name.
type netstat struct {
	snmp, netstat file
	column        map[string]int
	width         int
	groups        [4]netstatGroup
}

// netstatGroup is a pair of lines: names, then values, both after "Tcp:". The
// names are the same as long as the kernel runs, so they are looked up once.
type netstatGroup struct {
	name    string
	header  []byte // the line of names that columns belongs to
	columns []int  // the column of each value, -1 for none
}

func (c *netstat) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "netstat", From: "/proc/net/snmp, /proc/net/netstat",
		Every: time.Second, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: counters("TcpActiveOpens", "TcpPassiveOpens", "TcpAttemptFails", "TcpEstabResets",
			"TcpInSegs", "TcpOutSegs", "TcpRetransSegs", "TcpOutRsts",
			"TcpExtListenOverflows", "TcpExtListenDrops", "TcpExtTCPReqQFullDrop", "TcpExtTCPReqQFullDoCookies",
			"TcpExtSyncookiesSent", "TcpExtSyncookiesRecv", "TcpExtSyncookiesFailed",
			"TcpExtTCPTimeouts", "TcpExtTCPSynRetrans", "TcpExtTCPLostRetransmit",
			"TcpExtTCPAbortOnMemory", "TcpExtTCPMemoryPressures", "TcpExtTCPRcvQDrop", "TcpExtTCPToZeroWindowAdv",
			"TcpExtTCPTimeWaitOverflow", "TcpExtTCPBacklogDrop", "TcpExtPruneCalled",
			"UdpInDatagrams", "UdpInErrors", "UdpRcvbufErrors", "UdpSndbufErrors",
			"IpInDiscards", "IpOutDiscards"),
	}
}

func (c *netstat) Open(h freezeframe.Host) (err error) {
	c.prepare()
	if c.snmp, err = open(h.Proc+"/net/snmp", 4<<10); err != nil {
		return err
	}
	if c.netstat, err = open(h.Proc+"/net/netstat", 8<<10); err != nil {
		c.snmp.Close()
		return err
	}
	return try(c)
}

func (c *netstat) prepare() {
	columns := c.Source().Columns
	c.column, c.width = names(columns), len(columns)
	c.groups = [...]netstatGroup{{name: "Tcp"}, {name: "TcpExt"}, {name: "Udp"}, {name: "Ip"}}
}

func (c *netstat) Close() error { return errors.Join(c.snmp.Close(), c.netstat.Close()) }

func (c *netstat) Collect(t *freezeframe.Table) error {
	row := t.Row(0, c.width)
	for _, f := range [...]*file{&c.snmp, &c.netstat} {
		b, err := f.lines()
		if err != nil {
			return err
		}
		if !c.parse(row, b) {
			return f.malformed
		}
	}
	return nil
}

func (c *netstat) parse(row []uint64, b []byte) (ok bool) {
	for s := kernel.Scan(b); s.More(); {
		header := s.Line()
		name, _, isHeader := bytes.Cut(header, []byte(": "))
		g := c.group(name)
		if !isHeader || g == nil {
			continue
		}
		values := kernel.Scan(s.Line())
		if word := values.Word(); len(word) != len(name)+1 || !bytes.HasPrefix(word, name) {
			continue
		}
		g.learn(header, c.column)
		for _, column := range g.columns {
			v, isNumber := values.Int() // MaxConn is -1
			if !isNumber {
				break
			}
			if column >= 0 {
				row[column] = uint64(v)
				ok = true
			}
		}
	}
	return ok
}

func (c *netstat) group(name []byte) *netstatGroup {
	for i := range c.groups {
		if string(name) == c.groups[i].name {
			return &c.groups[i]
		}
	}
	return nil
}

// learn looks up the names of a header that is not the one known.
func (g *netstatGroup) learn(header []byte, column map[string]int) {
	if bytes.Equal(header, g.header) {
		return
	}
	g.header = append(g.header[:0], header...)
	g.columns = g.columns[:0]
	var buf [128]byte
	s := kernel.Scan(header)
	s.Word() // "Tcp:"
	for !s.EndOfLine() {
		i, wanted := column[string(append(append(buf[:0], g.name...), s.Word()...))]
		if !wanted {
			i = -1
		}
		g.columns = append(g.columns, i)
	}
}
