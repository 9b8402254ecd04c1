package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	issuerDev = iota
	issuerDevice
	issuerPID
	issuerComm
	issuerVia
	issuerCgroup
	issuerSince
	issuerReads
	issuerWrites
	issuerReadBytes
	issuerWriteBytes
	issuerFlushes
	issuerDiscards
	issuerErrors
	issuerQueue
	issuerDeviceNS
	issuerFlush
	issuerInFlight
	issuerWidth
)

// issuerQuiet is how long after its last request a process keeps its row.
const issuerQuiet = 5 * time.Second

// blockIssuers reads, by BPF, what each process had each disk do. What the
// kernel writes back from memory is charged to who wrote it there.
type blockIssuers struct {
	from     *bpf.Block
	texts    freezeframe.Texts
	via      [4]uint64
	inFlight []uint32
}

func (c *blockIssuers) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "block_issuers", From: "BPF: block_io_start, block_rq_complete, writeback_dirty_inode_enqueue", Key: "issuer",
		Every: time.Second, Stalled: 100 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(gauges("dev", "device", "pid", "comm", "via", "cgroup", "since"), counters("reads", "writes", "read_bytes", "write_bytes",
			"flushes", "discards", "errors", "queue_ns", "device_ns", "flush_ns")...),
	}
	s.Columns = append(s.Columns, gauges("in_flight")...)
	for _, i := range []int{issuerDevice, issuerComm, issuerVia} {
		s.Columns[i].Kind = freezeframe.Text
	}
	return s
}

func (c *blockIssuers) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("who uses block devices, by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	for via, name := range []string{bpf.ViaItself: "", bpf.ViaWriteback: "writeback", bpf.ViaLoop: "loop", bpf.ViaKernel: "kernel"} {
		c.via[via] = h.Texts.Intern([]byte(name))
	}
	c.inFlight = make([]uint32, len(c.from.Issuers()))
	return nil
}

func (c *blockIssuers) Close() error { return nil }

func (c *blockIssuers) Collect(t *freezeframe.Table) error {
	clear(c.inFlight)
	flights := c.from.Flights()
	for i := range flights {
		if f := &flights[i]; f.Request != 0 {
			if who := f.Issuer; int(who) < len(c.inFlight) {
				c.inFlight[who]++
			}
		}
	}
	devices, issuers := c.from.Devices(), c.from.Issuers()
	for i := range issuers {
		s := &issuers[i]
		if s.LastNanos == 0 || c.inFlight[i] == 0 && since(s.LastNanos, t.At) > uint64(issuerQuiet) {
			continue
		}
		row := t.Row(freezeframe.Key(s.Dev)<<32|freezeframe.Key(s.TGID), issuerWidth)
		row[issuerDev], row[issuerPID] = uint64(s.Dev), uint64(s.TGID)
		for j := range devices {
			if devices[j].Dev == s.Dev {
				row[issuerDevice] = c.texts.Intern(devices[j].Name())
			}
		}
		row[issuerComm] = c.texts.Intern(s.Comm())
		if int(s.Via) < len(c.via) {
			row[issuerVia] = c.via[s.Via]
		}
		row[issuerCgroup], row[issuerSince] = s.Cgroup, s.SinceNanos
		row[issuerReads], row[issuerWrites] = s.Reads, s.Writes
		row[issuerReadBytes], row[issuerWriteBytes] = s.ReadBytes, s.WriteBytes
		row[issuerFlushes], row[issuerDiscards], row[issuerErrors] = s.Flushes, s.Discards, s.Errors
		row[issuerQueue], row[issuerDeviceNS], row[issuerFlush] = s.QueueNanos, s.DeviceNanos, s.FlushNanos
		row[issuerInFlight] = uint64(c.inFlight[i])
	}
	return nil
}
