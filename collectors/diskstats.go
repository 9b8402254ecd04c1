package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// sector is the unit of /proc/diskstats, whatever the device's own sectors are.
const sector = 512

const (
	diskDev = iota
	diskReads
	diskReadsMerged
	diskReadBytes
	diskReadUS
	diskWrites
	diskWritesMerged
	diskWriteBytes
	diskWriteUS
	diskInFlight
	diskIOUS
	diskWeightedUS
	diskDiscards
	diskDiscardUS
	diskFlushes
	diskFlushUS
	diskWidth
)

// diskstats reads /proc/diskstats: requests, time and queue of every block
// device that ever did anything.
type diskstats struct {
	file
	texts freezeframe.Texts
}

func (c *diskstats) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "diskstats", From: "/proc/diskstats", Key: "text",
		Every: 100 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: counters("dev", "reads", "reads_merged", "read_bytes", "read_us",
			"writes", "writes_merged", "write_bytes", "write_us", "in_flight", "io_us", "weighted_us",
			"discards", "discard_us", "flushes", "flush_us"),
	}
	s.Columns[diskDev].Kind = freezeframe.Gauge
	s.Columns[diskInFlight].Kind = freezeframe.Gauge
	return s
}

func (c *diskstats) Open(h freezeframe.Host) (err error) {
	c.texts = h.Texts
	if c.file, err = open(h.Proc+"/diskstats", 8<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *diskstats) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !parseDiskstats(t, b, c.texts) {
		return c.malformed
	}
	return nil
}

// parseDiskstats reads lines of "major minor name" and 11 numbers, 15 since
// Linux 4.18 (discards) or 17 since 5.5 (flushes). A machine without block
// devices has an empty file.
func parseDiskstats(t *freezeframe.Table, b []byte, texts freezeframe.Texts) (ok bool) {
	ok = len(b) == 0
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		major, okMajor := s.Uint()
		minor, okMinor := s.Uint()
		name := s.Word()
		var n [17]uint64
		count := 0
		for count < len(n) && !s.EndOfLine() {
			v, isNumber := s.Int() // in_flight has been seen below zero
			if !isNumber {
				break
			}
			n[count] = uint64(v)
			count++
		}
		if !okMajor || !okMinor || count < 11 {
			continue
		}
		ok = true
		var ever uint64
		for _, v := range n {
			ever |= v
		}
		if ever == 0 {
			continue
		}
		row := t.Row(freezeframe.Key(texts.Intern(name)), diskWidth)
		row[diskDev] = major<<20 | minor
		row[diskReads], row[diskReadsMerged], row[diskReadBytes], row[diskReadUS] = n[0], n[1], n[2]*sector, n[3]*1000
		row[diskWrites], row[diskWritesMerged], row[diskWriteBytes], row[diskWriteUS] = n[4], n[5], n[6]*sector, n[7]*1000
		row[diskInFlight], row[diskIOUS], row[diskWeightedUS] = n[8], n[9]*1000, n[10]*1000
		row[diskDiscards], row[diskDiscardUS] = n[11], n[14]*1000
		row[diskFlushes], row[diskFlushUS] = n[15], n[16]*1000
	}
	return ok
}
