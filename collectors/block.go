package collectors

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	blockDev = iota
	blockIssued
	blockDone
	blockErrors
	blockReadBytes
	blockWriteBytes
	blockFlushes
	blockDiscards
	blockQueue
	blockDevice
	blockFlush
	blockInFlight
	blockQueued
	blockOldest
	blockOldestQueued
	blockOldestPID
	blockOldestComm
	blockOldestOp
	blockP50
	blockP99
	blockWidth
)

// block reads what BPF knows of every disk: the requests that are in it now,
// and how long those took that were done since the reading before.
type block struct {
	from  *bpf.Block
	texts freezeframe.Texts
	ops   [4]uint64
	other uint64
	// seen is the histogram of each slot as it was at the last reading.
	seen []seenBlock
	fly  []flying
}

type seenBlock struct {
	dev     uint32
	buckets [len(bpf.BlockDevice{}.Buckets)]uint64
}

// flying is what is in flight on one device.
type flying struct {
	inFlight, queued     uint64
	oldest, oldestQueued uint64 // when issued, when made
	op                   uint32
	issuer, asked        uint32 // indices; asked: of the oldest flush that waits for the device's own
	asking               uint64
}

func (c *block) Source() freezeframe.Source {
	s := freezeframe.Source{
		Name: "block", From: "BPF: block_io_start, block_rq_insert, block_rq_issue, block_rq_complete", Key: "text",
		Every: 200 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: append(gauges("dev"), counters("issued", "done", "errors", "read_bytes", "write_bytes", "flushes", "discards",
			"queue_ns", "device_ns", "flush_ns")...),
	}
	s.Columns = append(s.Columns, gauges("in_flight", "queued", "oldest_age_ns", "oldest_queued_ns", "oldest_pid", "oldest_comm", "oldest_op", "p50_ns", "p99_ns")...)
	s.Columns[blockOldestComm].Kind, s.Columns[blockOldestOp].Kind = freezeframe.Text, freezeframe.Text
	return s
}

func (c *block) Open(h freezeframe.Host) error {
	if c.from == nil {
		return fmt.Errorf("requests of block devices by BPF: %w", freezeframe.ErrNotHere)
	}
	c.texts = h.Texts
	for op, name := range []string{bpf.OpRead: "read", bpf.OpWrite: "write", bpf.OpFlush: "flush", bpf.OpDiscard: "discard"} {
		c.ops[op] = h.Texts.Intern([]byte(name))
	}
	c.other = h.Texts.Intern([]byte("other"))
	c.seen, c.fly = make([]seenBlock, len(c.from.Devices())), make([]flying, len(c.from.Devices()))
	for i := range c.seen {
		d := &c.from.Devices()[i]
		c.seen[i] = seenBlock{d.Dev, d.Buckets}
	}
	return nil
}

func (c *block) Close() error { return nil }

func (c *block) Collect(t *freezeframe.Table) error {
	c.look()
	devices, issuers := c.from.Devices(), c.from.Issuers()
	for i := range devices {
		d := &devices[i]
		if d.Dev == 0 {
			continue
		}
		row := t.Row(freezeframe.Key(c.texts.Intern(d.Name())), blockWidth)
		row[blockDev] = uint64(d.Dev)
		row[blockIssued], row[blockDone], row[blockErrors] = d.Issued, d.Done, d.Errors
		row[blockReadBytes], row[blockWriteBytes] = d.ReadBytes, d.WriteBytes
		row[blockFlushes], row[blockDiscards] = d.Flushes, d.Discards
		row[blockQueue], row[blockDevice], row[blockFlush] = d.QueueNanos, d.DeviceNanos, d.FlushNanos
		f := &c.fly[i]
		row[blockInFlight], row[blockQueued] = f.inFlight, f.queued
		row[blockOldest], row[blockOldestQueued] = since(f.oldest, t.At), since(f.oldestQueued, t.At)
		if f.oldest != 0 {
			row[blockOldestOp] = c.other
			if int(f.op) < len(c.ops) {
				row[blockOldestOp] = c.ops[f.op]
			}
			who := f.issuer
			if f.op == bpf.OpFlush && int(who) >= len(issuers) {
				who = f.asked // for whom the device writes out its cache
			}
			if int(who) < len(issuers) {
				s := &issuers[who]
				row[blockOldestPID], row[blockOldestComm] = uint64(s.TGID), c.texts.Intern(s.Comm())
			}
		}
		row[blockP50], row[blockP99] = c.quantiles(i, d)
	}
	return nil
}

// since is how long ago a moment was, 0 for none.
func since(then uint64, now freezeframe.Instant) uint64 {
	if then == 0 || then >= uint64(now) {
		return 0
	}
	return uint64(now) - then
}

// look goes through the requests that are not done.
func (c *block) look() {
	for i := range c.fly {
		c.fly[i] = flying{asked: ^uint32(0), issuer: ^uint32(0)}
	}
	flights := c.from.Flights()
	for i := range flights {
		if flights[i].Request == 0 {
			continue
		}
		f := flights[i] // it may be used again meanwhile
		if f.Request == 0 || int(f.Device) >= len(c.fly) {
			continue
		}
		d := &c.fly[f.Device]
		if f.Issued == 0 {
			d.queued++
			if d.oldestQueued == 0 || f.Made < d.oldestQueued {
				d.oldestQueued = f.Made
			}
			if f.Bytes == 0 && (d.asking == 0 || f.Made < d.asking) {
				d.asking, d.asked = f.Made, f.Issuer
			}
			continue
		}
		d.inFlight++
		if d.oldest == 0 || f.Issued < d.oldest {
			d.oldest, d.op, d.issuer = f.Issued, f.Op, f.Issuer
		}
	}
}

// quantiles returns the median and the 99th percentile of what was done since
// the last reading; 0 without any.
func (c *block) quantiles(i int, d *bpf.BlockDevice) (p50, p99 uint64) {
	seen := &c.seen[i]
	if seen.dev != d.Dev {
		*seen = seenBlock{dev: d.Dev}
	}
	var fresh [len(seen.buckets)]uint64
	var sum uint64
	for j := range d.Buckets {
		now := d.Buckets[j]
		fresh[j] = now - seen.buckets[j]
		seen.buckets[j] = now
		sum += fresh[j]
	}
	if sum == 0 {
		return 0, 0
	}
	return quantile(&fresh, (sum+1)/2), quantile(&fresh, sum-sum/100)
}

// quantile returns the middle of the bucket that the nth lies in.
func quantile(buckets *[len(seenBlock{}.buckets)]uint64, nth uint64) uint64 {
	for i, n := range buckets {
		if n >= nth {
			from, width := bpf.BucketNanos(i)
			return from + width/2
		}
		nth -= n
	}
	return 0
}
