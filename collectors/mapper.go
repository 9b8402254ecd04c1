package collectors

import (
	"bytes"
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	mapperName = iota
	mapperSuspended
	mapperWidth
)

// maxMapped is how many devices of the mapper are looked at.
const maxMapped = 256

// mapper reads which devices of the device mapper (LVM, LUKS, multipath) are
// suspended: /sys/block/dm-N/dm (Documentation/ABI/testing/sysfs-block-dm). A
// suspended one keeps what it is asked for from the counters of /proc/diskstats,
// so that it looks idle there.
type mapper struct {
	dir       kernel.Dir
	there     kernel.Status
	texts     freezeframe.Texts
	block     []byte
	path      []byte
	small     []byte
	malformed error
	mapped    int // at the last reading
}

func (c *mapper) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "mapper", From: "/sys/block/dm-*/dm", Key: "text",
		Every: time.Second, Stalled: 100 * time.Millisecond, Lane: freezeframe.Slow,
		Columns: []freezeframe.Column{
			mapperName:      {Name: "name", Kind: freezeframe.Text}, // /dev/mapper/NAME
			mapperSuspended: {Name: "suspended", Kind: freezeframe.Gauge},
		},
	}
}

func (c *mapper) Open(h freezeframe.Host) error {
	c.texts = h.Texts
	c.malformed = fmt.Errorf("parse %s/block/dm-*/dm/suspended: neither 0 nor 1 at its beginning", h.Sys)
	c.block = append([]byte(h.Sys), "/block\x00"...)
	c.path, c.small = make([]byte, 0, 4096), make([]byte, 256)
	return try(c)
}

func (c *mapper) Close() error { return nil }

// Rest is long while there is no such device.
func (c *mapper) Rest() time.Duration {
	if c.mapped == 0 {
		return 10 * time.Second
	}
	return 0
}

func (c *mapper) Collect(t *freezeframe.Table) (failed error) {
	if err := c.dir.Open(kernel.AtCWD, c.block); err != nil {
		return fmt.Errorf("list %s: %w", c.block[:len(c.block)-1], err)
	}
	defer c.dir.Close()
	for name := c.dir.Next(); name != nil && len(t.Keys) < maxMapped; name = c.dir.Next() {
		if !bytes.HasPrefix(name, []byte("dm-")) {
			continue
		}
		called, err := c.read(name, "name\x00")
		id := c.texts.Intern(bytes.TrimSuffix(called, []byte("\n")))
		var suspended []byte
		if err == nil {
			suspended, err = c.read(name, "suspended\x00")
		}
		flag, ok := kernel.Uint(firstWord(suspended))
		switch {
		case err != nil && c.there.At(c.dir.FD, name) != nil:
			continue // it goes
		case err != nil:
			failed = fmt.Errorf("read /sys/block/%s/dm: %w", name[:len(name)-1], err)
			continue
		case !ok:
			failed = c.malformed
			continue
		}
		row := t.Row(freezeframe.Key(c.texts.Intern(name[:len(name)-1])), mapperWidth)
		row[mapperName], row[mapperSuspended] = id, flag
	}
	c.mapped = len(t.Keys)
	return failed
}

// read reads a file of a device; what it returns holds until the next call.
func (c *mapper) read(device []byte, file string) ([]byte, error) {
	c.path = append(append(c.path[:0], device[:len(device)-1]...), "/dm/"...)
	c.path = append(c.path, file...)
	n, err := kernel.SlowReadAt(c.dir.FD, c.path, c.small)
	return c.small[:n], err
}
