package rules

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

// What BPF tells of disks. A machine without it has none of these tables, and
// every function here returns nothing.

// An issuer is what one process had one disk do over a span.
type issuer struct {
	pid              int
	comm             string
	via              string // "", writeback, loop, kernel
	requests, bytes  uint64
	flushes          uint64
	device, flushing time.Duration // of its requests, added up
}

// wholeDisk is the disk that a partition lies on: sda1, nvme0n1p2.
func wholeDisk(name string) string {
	short := strings.TrimRight(name, "0123456789")
	if short == name || short == "" {
		return name
	}
	if strings.HasSuffix(short, "p") && len(short) > 1 && short[len(short)-2] >= '0' && short[len(short)-2] <= '9' {
		return short[:len(short)-1]
	}
	if hasPrefix(name, "loop", "dm-", "md", "nvme", "mmcblk", "zram", "nbd", "sr", "drbd", "bcache", "rbd") {
		return name // the number is the disk's own
	}
	return short
}

// issuersOn returns who used a disk over a span, most bytes first.
func issuersOn(w freezeframe.Window, s freezeframe.Span, name string) []issuer {
	series := w.Between("block_issuers", s)
	columns := []string{"device", "pid", "comm", "via", "reads", "writes", "read_bytes", "write_bytes", "flushes", "device_ns", "flush_ns", "since"}
	type state struct {
		issuer
		g [7]growth
	}
	name = wholeDisk(name)
	all := map[freezeframe.Key]*state{}
	var keys []freezeframe.Key
	var read []freezeframe.Instant // moments of the readings so far
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if len(read) == 0 || read[len(read)-1] != at {
			read = append(read, at)
		}
		if w.Text(v[0]) != name {
			return
		}
		x := all[key]
		if x == nil {
			x = &state{}
			all[key] = x
			keys = append(keys, key)
			if n := len(read); n > 1 && freezeframe.Instant(v[11]) >= read[n-2] {
				// It is counted since the reading before: all it has is of then.
				for i := range x.g {
					x.g[i].add(read[n-2], 0)
				}
			}
		}
		x.pid = int(v[1])
		setText(w, &x.comm, v[2])
		x.via = w.Text(v[3])
		for i := range x.g {
			x.g[i].add(at, v[4+i])
		}
	})
	var out []issuer
	for _, k := range keys {
		x := all[k]
		x.requests, x.bytes, x.flushes = x.g[0].sum+x.g[1].sum, x.g[2].sum+x.g[3].sum, x.g[4].sum
		x.device, x.flushing = time.Duration(x.g[5].sum), time.Duration(x.g[6].sum)
		if x.requests+x.flushes > 0 {
			out = append(out, x.issuer)
		}
	}
	slices.SortStableFunc(out, func(a, b issuer) int { return cmp.Compare(b.bytes, a.bytes) })
	return out
}

// kernel tells whether it is a kernel thread, about its own business.
func (i *issuer) kernel() bool { return i.via == "kernel" }

// loads are issuers alike (of one command), as one.
type loads struct {
	issuer       // the one that did most, with the sums of all
	pids   []int // most bytes first
}

// shareOf returns the part that one has of what value gives of all.
func shareOf(all []issuer, one *loads, value func(*issuer) uint64) float64 {
	var sum uint64
	for i := range all {
		sum += value(&all[i])
	}
	return ratio(float64(value(&one.issuer)), float64(sum))
}

// largest returns the command other than those left out of which value is
// largest; nil when nobody has any.
func largest(all []issuer, not []int, value func(*issuer) uint64) *loads {
	byComm := map[string]*loads{}
	var order []*loads
	for i := range all {
		x := &all[i]
		if x.kernel() || slices.Contains(not, x.pid) || value(x) == 0 {
			continue
		}
		l := byComm[x.comm]
		if l == nil {
			l = &loads{issuer: issuer{pid: x.pid, comm: x.comm, via: x.via}}
			byComm[x.comm] = l
			order = append(order, l)
		}
		l.pids = append(l.pids, x.pid)
		l.requests, l.bytes, l.flushes = l.requests+x.requests, l.bytes+x.bytes, l.flushes+x.flushes
		l.device, l.flushing = l.device+x.device, l.flushing+x.flushing
	}
	var best *loads
	for _, l := range order {
		if best == nil || value(&l.issuer) > value(&best.issuer) {
			best = l
		}
	}
	return best
}

// ourPIDs are the processes of our own probes, which ask a disk for something
// only to see how long it takes.
func ourPIDs(w freezeframe.Window) []int {
	stall := w.Stall()
	var out []int
	for i := range stall.Symptoms {
		if sy := &stall.Symptoms[i]; sy.Own {
			for _, v := range sy.Victims {
				out = append(out, v.PID)
			}
		}
	}
	return out
}

// inDevice is how long an issuer's requests were in the device, added up.
func inDevice(i *issuer) uint64 { return uint64(i.device) }

// culprit blames the one that did most.
func (l *loads) culprit() freezeframe.Culprit {
	c := freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: l.pid, Comm: l.comm}
	if len(l.pids) > 1 {
		c.Count = len(l.pids)
	}
	return c
}

// An inside is what was in a disk at its worst over a span.
type inside struct {
	age      time.Duration // of the oldest request in the device
	began    freezeframe.Instant
	inFlight uint64
	pid      int
	comm, op string
	median   time.Duration // the largest of the readings' medians
	p99      time.Duration
}

// insideOf returns it; false without BPF.
func insideOf(w freezeframe.Window, s freezeframe.Span, name string) (inside, bool) {
	series := w.Between("block", s)
	name = wholeDisk(name)
	var in inside
	known := false
	series.Each([]string{"oldest_age_ns", "oldest_pid", "oldest_comm", "oldest_op", "in_flight", "p50_ns", "p99_ns"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if w.Text(uint64(key)) != name {
			return
		}
		known = true
		if age := time.Duration(v[0]); age > in.age {
			in.age, in.began = age, at.Add(-age)
			in.pid, in.comm, in.op = int(v[1]), w.Text(v[2]), w.Text(v[3])
		}
		in.inFlight = max(in.inFlight, v[4])
		in.median, in.p99 = max(in.median, time.Duration(v[5])), max(in.p99, time.Duration(v[6]))
	})
	return in, known
}

// onDevice tells whether a wait is for a block device, or for a filesystem that
// itself waits for one.
func onDevice(m *moment) bool {
	waits := m.wait.Class == freezeframe.DeviceWait || m.wait.Class == freezeframe.SwapIn && !in(m.wait, inSwap...) ||
		m.wait.Class == freezeframe.FilesystemWait && (in(m.wait, inJournal...) || in(m.wait, paced...) || in(m.wait, "folio_wait*", "wait_on_page*", "wait_on_buffer*"))
	return waits && !in(m.wait, throttling...)
}
