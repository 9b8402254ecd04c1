package rules

import (
	"cmp"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"freezeframe"
)

// growth is a counter over time: how much it grew between its first and last
// reading, and how much time lies between the two.
type growth struct {
	first, last freezeframe.Instant
	value, sum  uint64
	any         bool
}

func (g *growth) add(at freezeframe.Instant, v uint64) {
	switch {
	case !g.any:
		g.first, g.any = at, true
	case v >= g.value:
		g.sum += v - g.value
	default:
		g.sum += v // the counter began anew
	}
	g.value, g.last = v, at
}

// seconds is the time the growth was counted over.
func (g *growth) seconds() float64 { return g.last.Sub(g.first).Seconds() }

// rate is the growth a second; 0 with a single reading.
func (g *growth) rate() float64 { return ratio(float64(g.sum), g.seconds()) }

// one returns the growth of a column of a key over a span.
func one(w freezeframe.Window, source string, s freezeframe.Span, key freezeframe.Key, column string) growth {
	series := w.Between(source, s)
	var g growth
	for _, p := range series.Points(key, column) {
		g.add(p.At, p.Value)
	}
	return g
}

// before is the time up to the stall, against which it is compared.
func before(w freezeframe.Window) freezeframe.Span {
	return freezeframe.Span{Start: w.Span().Start, End: w.Stall().Start}
}

// growing returns when a counter grew, with pauses of up to bridge counted in:
// a counter that is written once a period does not grow at every reading.
func growing(points []freezeframe.Point, bridge time.Duration) freezeframe.Spans {
	var out []freezeframe.Span
	for i := 1; i < len(points); i++ {
		if points[i].Value > points[i-1].Value {
			out = append(out, freezeframe.Span{Start: points[i-1].At, End: points[i].At.Add(bridge)})
		}
	}
	set := freezeframe.Union(out...)
	for i := range set {
		set[i].End = max(set[i].Start+1, set[i].End.Add(-bridge))
	}
	return set
}

// textKeys returns the keys of a source keyed by text, by that text.
func textKeys(w freezeframe.Window, s *freezeframe.Series) map[string]freezeframe.Key {
	out := map[string]freezeframe.Key{}
	for _, k := range s.Keys() {
		out[w.Text(uint64(k))] = k
	}
	return out
}

// A cpu is how a CPU (or all, AllCPUs) spent a span, as shares of its time.
type cpu struct {
	key                                      freezeframe.Key
	busy, user, system, idle, softirq, steal float64
	irq                                      float64 // of softirq, what is interrupts'
	seconds                                  float64
}

// cpus returns every CPU's share over a span, by number, AllCPUs last.
func cpus(w freezeframe.Window, s freezeframe.Span) []cpu {
	series := w.Between("stat", s)
	columns := []string{"user_us", "nice_us", "system_us", "idle_us", "iowait_us", "irq_us", "softirq_us", "steal_us"}
	type counters [8]growth
	all := map[freezeframe.Key]*counters{}
	var keys []freezeframe.Key
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		c := all[key]
		if c == nil {
			c = &counters{}
			all[key] = c
			keys = append(keys, key)
		}
		for i := range c {
			c[i].add(at, v[i])
		}
	})
	slices.Sort(keys)
	var out []cpu
	for _, k := range keys {
		c := all[k]
		var sum float64
		for i := range c {
			sum += float64(c[i].sum)
		}
		if sum == 0 {
			continue
		}
		part := func(i ...int) (x float64) {
			for _, n := range i {
				x += float64(c[n].sum)
			}
			return x / sum
		}
		out = append(out, cpu{
			key: k, user: part(0, 1), system: part(2), idle: part(3, 4), softirq: part(5, 6), irq: part(5), steal: part(7),
			busy: 1 - part(3, 4), seconds: c[0].seconds(),
		})
	}
	return out
}

// machine returns the share of all CPUs, and how many there are.
func machine(all []cpu) (total cpu, count int) {
	for _, c := range all {
		if c.key == freezeframe.AllCPUs {
			total = c
		} else {
			count++
		}
	}
	return total, max(count, 1)
}

func cpuOf(all []cpu, key freezeframe.Key) (cpu, bool) {
	for _, c := range all {
		if c.key == key {
			return c, true
		}
	}
	return cpu{}, false
}

// A disk is what a block device did over a span.
type disk struct {
	name          string
	dev           uint64
	busy          float64       // share of the time in which it had work
	queue         float64       // requests in it on average
	done, flushes float64       // completed a second
	flushing      float64       // share of the time spent flushing
	bytes         uint64        // read and written
	rate          float64       // of them a second
	inFlight      uint64        // at most
	latency       time.Duration // of a read or write, on average
}

// disks returns the devices, the busiest first.
func disks(w freezeframe.Window, s freezeframe.Span) []disk {
	series := w.Between("diskstats", s)
	columns := []string{"io_us", "weighted_us", "reads", "writes", "flushes", "flush_us", "read_bytes", "write_bytes", "read_us", "write_us", "dev", "in_flight"}
	type state struct {
		g             [10]growth
		dev, inFlight uint64
	}
	all := map[freezeframe.Key]*state{}
	var keys []freezeframe.Key
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		d := all[key]
		if d == nil {
			d = &state{}
			all[key] = d
			keys = append(keys, key)
		}
		for i := range d.g {
			d.g[i].add(at, v[i])
		}
		d.dev, d.inFlight = v[10], max(d.inFlight, v[11])
	})
	var out []disk
	for _, k := range keys {
		d := all[k]
		out = append(out, disk{
			name: w.Text(uint64(k)), dev: d.dev, inFlight: d.inFlight,
			busy: math.Min(1, d.g[0].rate()/1e6), queue: d.g[1].rate() / 1e6,
			done: d.g[2].rate() + d.g[3].rate(), flushes: d.g[4].rate(), flushing: math.Min(1, d.g[5].rate()/1e6),
			bytes: d.g[6].sum + d.g[7].sum, rate: d.g[6].rate() + d.g[7].rate(),
			latency: nanoseconds(1e3 * ratio(float64(d.g[8].sum+d.g[9].sum), float64(d.g[2].sum+d.g[3].sum))),
		})
	}
	slices.SortStableFunc(out, func(a, b disk) int {
		return cmp.Or(cmp.Compare(b.busy, a.busy), cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.name, b.name))
	})
	return out
}

func diskOf(all []disk, dev uint64) *disk {
	for i := range all {
		if dev != 0 && all[i].dev == dev {
			return &all[i]
		}
	}
	return nil
}

// A mount is a mounted filesystem as it was at its worst in a span: room that
// was made afterwards does not undo what was refused.
type mount struct {
	dev                           uint64
	point, fstype, source         string
	readonly                      bool
	size, avail, files, filesFree uint64
}

func mounts(w freezeframe.Window, s freezeframe.Span) []mount {
	series := w.Between("mounts", s)
	columns := []string{"dev", "fstype", "mountpoint", "source", "readonly", "size_bytes", "avail_bytes", "files", "files_free"}
	at := map[freezeframe.Key]int{}
	var out []mount
	series.Each(columns, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, mount{})
		}
		m := mount{v[0], w.Text(v[2]), w.Text(v[1]), w.Text(v[3]), v[4] != 0, v[5], v[6], v[7], v[8]}
		if ok && out[i].size == m.size {
			m.readonly = m.readonly || out[i].readonly
			m.avail, m.filesFree = min(m.avail, out[i].avail), min(m.filesFree, out[i].filesFree)
		}
		out[i] = m
	})
	return out
}

// mountOf returns the mount that a path lies on: the longest mount point above
// it, and of two on the same point the later.
func mountOf(all []mount, path string) *mount {
	var best *mount
	for i := range all {
		if m := &all[i]; under(path, m.point) && (best == nil || len(m.point) >= len(best.point)) {
			best = m
		}
	}
	return best
}

// where finds the mount that a moment's wait is about: by the file it waits
// on, else by what the symptom's probe was working on.
func mountOfMoment(w freezeframe.Window, all []mount, m *moment) *mount {
	if len(m.wait.File) > 0 && m.wait.File[0] == '/' {
		return mountOf(all, m.wait.File)
	}
	stall := w.Stall()
	if i := m.account.Symptom; m.depth == 0 && i >= 0 && i < len(stall.Symptoms) {
		if t := stall.Symptoms[i].Target; len(t) > 0 && t[0] == '/' {
			return mountOf(all, t)
		}
	}
	return nil
}

func under(path, point string) bool {
	if point == "" || path == "" || path[0] != '/' {
		return false
	}
	if point == "/" || path == point {
		return true
	}
	return len(path) > len(point) && path[:len(point)] == point && path[len(point)] == '/'
}

// sorted ranges over a map in the order of its keys, so that a rule says the
// same twice.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
