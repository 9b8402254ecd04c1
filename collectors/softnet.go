package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	softnetProcessed = iota
	softnetDropped
	softnetTimeSqueeze
	softnetBacklog
	softnetWidth
)

// The places of what we read in a line of softnet_stat; the last two are there
// since Linux 5.10.
const (
	softnetFieldBacklog = 11
	softnetFieldCPU     = 12
)

// softnet reads /proc/net/softnet_stat: packets that each CPU took in, and had
// no room or no time for.
type softnet struct{ file }

func (c *softnet) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "softnet", From: "/proc/net/softnet_stat", Key: "cpu",
		Every: 100 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(counters("processed", "dropped", "time_squeeze"), gauges("backlog")...),
	}
}

func (c *softnet) Open(h freezeframe.Host) (err error) {
	if c.file, err = open(h.Proc+"/net/softnet_stat", 4<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *softnet) Collect(t *freezeframe.Table) error {
	b, err := c.lines()
	if err != nil {
		return err
	}
	if !parseSoftnet(t, b) {
		return c.malformed
	}
	return nil
}

func parseSoftnet(t *freezeframe.Table, b []byte) (ok bool) {
	line := 0
	for s := kernel.Scan(b); s.More(); s.NextLine() {
		var n [softnetFieldCPU + 1]uint64
		count := 0
		for count < len(n) {
			v, isNumber := s.Hex()
			if !isNumber {
				break
			}
			n[count] = v
			count++
		}
		if count <= softnetTimeSqueeze {
			continue
		}
		cpu := uint64(line) // right only while no CPU is offline
		if count > softnetFieldCPU {
			cpu = n[softnetFieldCPU]
		}
		line++
		row := t.Row(freezeframe.Key(cpu), softnetWidth)
		copy(row, n[:softnetTimeSqueeze+1])
		row[softnetBacklog] = n[softnetFieldBacklog]
		ok = true
	}
	return ok
}
