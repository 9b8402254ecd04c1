package collectors

import (
	"bytes"
	"errors"
	"os"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	netdevRxBytes = iota
	netdevRxPackets
	netdevRxErrs
	netdevRxDrop
	netdevTxBytes
	netdevTxPackets
	netdevTxErrs
	netdevTxDrop
	netdevCarrierChanges
	netdevWidth
)

// netdevColumns says where each of the 16 numbers of a line goes; -1 nowhere.
var netdevColumns = [16]int{
	netdevRxBytes, netdevRxPackets, netdevRxErrs, netdevRxDrop, -1, -1, -1, -1,
	netdevTxBytes, netdevTxPackets, netdevTxErrs, netdevTxDrop, -1, -1, -1, -1,
}

// carriersMax bounds the interfaces whose carrier is watched.
const carriersMax = 16

// netdev reads /proc/net/dev: bytes, packets, errors and drops of every network
// interface; and how often those with a device behind them lost or found their
// carrier.
type netdev struct {
	file
	texts    freezeframe.Texts
	carriers []carrier
	needs    []freezeframe.Need
}

type carrier struct {
	name []byte
	file
}

func (c *netdev) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "netdev", From: "/proc/net/dev, /sys/class/net/*/carrier_changes", Key: "text",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: counters("rx_bytes", "rx_packets", "rx_errs", "rx_drop",
			"tx_bytes", "tx_packets", "tx_errs", "tx_drop", "carrier_changes"),
		Needs: c.needs,
	}
}

func (c *netdev) Open(h freezeframe.Host) (err error) {
	c.texts, c.needs = h.Texts, nil
	if c.file, err = open(h.Proc+"/net/dev", 4<<10); err != nil {
		return err
	}
	// Containers come and go with virtual interfaces that nobody can unplug;
	// a "device" link marks the others.
	interfaces, _ := os.ReadDir(h.Sys + "/class/net")
	for _, i := range interfaces {
		dir := h.Sys + "/class/net/" + i.Name()
		if _, err := os.Stat(dir + "/device"); err != nil || len(c.carriers) == carriersMax {
			continue
		}
		f, err := open(dir+"/carrier_changes", 256)
		if err != nil {
			c.needs = append(c.needs, freezeframe.Need{
				What: "read " + dir + "/carrier_changes", Lost: "how often " + i.Name() + " lost its carrier", Err: err.Error(),
			})
			continue
		}
		c.carriers = append(c.carriers, carrier{[]byte(i.Name()), f})
	}
	return try(c)
}

func (c *netdev) Close() error {
	err := c.file.Close()
	for _, i := range c.carriers {
		err = errors.Join(err, i.Close())
	}
	c.carriers = nil
	return err
}

func (c *netdev) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !c.parse(t, b) {
		return c.malformed
	}
	return c.readCarriers(t)
}

// parse reads the lines after the two of the header: "eth0: " and 16 numbers.
func (c *netdev) parse(t *freezeframe.Table, b []byte) bool {
	s := kernel.Scan(b)
	if !bytes.Contains(s.Line(), []byte("Receive")) {
		return false
	}
	s.NextLine()
	for s.More() {
		name, numbers, ok := bytes.Cut(s.Line(), []byte(":"))
		if !ok {
			continue
		}
		name = bytes.TrimLeft(name, " ")
		row := t.Row(freezeframe.Key(c.texts.Intern(name)), netdevWidth)
		n := kernel.Scan(numbers)
		for _, column := range netdevColumns {
			v, _ := n.Uint()
			if column >= 0 {
				row[column] = v
			}
		}
	}
	return true
}

func (c *netdev) readCarriers(t *freezeframe.Table) (failed error) {
	for i := range c.carriers {
		carrier := &c.carriers[i]
		if !carrier.IsOpen() {
			continue
		}
		b, err := carrier.lines()
		switch {
		case err == nil:
			s := kernel.Scan(b)
			changes, ok := s.Uint()
			if !ok {
				failed = carrier.malformed
			}
			c.setCarrier(t, carrier.name, changes)
		case kernel.IsGone(err): // the interface was removed or renamed
			carrier.Close()
		default:
			failed = err
		}
	}
	return failed
}

func (c *netdev) setCarrier(t *freezeframe.Table, name []byte, changes uint64) {
	key := freezeframe.Key(c.texts.Intern(name))
	for i := range t.Keys {
		if t.Keys[i] == key {
			t.Values(i, netdevWidth)[netdevCarrierChanges] = changes
		}
	}
}
