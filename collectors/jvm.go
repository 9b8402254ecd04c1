package collectors

import (
	"bytes"
	"encoding/binary"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	jvmInSafepoint = iota
	jvmInGC
	jvmSafepoints
	jvmSafepointUS
	jvmSafepointSync
	jvmGCCount
	jvmGCUS
	jvmGCEntry
	jvmGCExit
	jvmCause
	jvmCollector
	jvmHeapUsed
	jvmHeapMax
	jvmStopTheWorld
	jvmWidth
)

const maxJVMs = 128

// jvm reads the performance counters of HotSpot JVMs (hsperfdata): a row a
// JVM. The file is read, not mapped: one that is truncated would kill us.
//
// Only safepoint_us and safepoint_sync_us are time in which the program stood
// still. The collector's counters say why: those of Shenandoah, CMS and ZGC
// also count what runs beside the program, which stop_the_world 0 says.
type jvm struct {
	census *census
	vms    []vm
	buf    [maxHsperf]byte
}

// vm is one JVM. Its clock counts from its own start; the moment of that start
// on ours lies between low and high, which each change of its tick counter
// brings closer together.
type vm struct {
	key       freezeframe.Key
	fd        int
	counters  hsperf
	low, high freezeframe.Instant
	ticks     uint64
	readAt    freezeframe.Instant

	safepoints, safepointTime uint64
	read, inSafepoint         bool
}

func (c *jvm) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "jvm", From: "hsperfdata of HotSpot JVMs", Key: "task",
		Every: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			jvmInSafepoint:   {Name: "in_safepoint", Kind: gauge},
			jvmInGC:          {Name: "in_gc", Kind: gauge},
			jvmSafepoints:    {Name: "safepoints"},
			jvmSafepointUS:   {Name: "safepoint_us"},
			jvmSafepointSync: {Name: "safepoint_sync_us"},
			jvmGCCount:       {Name: "gc_count"},
			jvmGCUS:          {Name: "gc_us"},
			jvmGCEntry:       {Name: "gc_entry_at", Kind: gauge},
			jvmGCExit:        {Name: "gc_exit_at", Kind: gauge},
			jvmCause:         {Name: "cause", Kind: text},
			jvmCollector:     {Name: "collector", Kind: text},
			jvmHeapUsed:      {Name: "heap_used_bytes", Kind: gauge},
			jvmHeapMax:       {Name: "heap_max_bytes", Kind: gauge},
			jvmStopTheWorld:  {Name: "stop_the_world", Kind: gauge},
		},
	}
}

func (c *jvm) Open(h freezeframe.Host) error {
	if err := c.census.open(h); err != nil {
		return err
	}
	if c.vms == nil {
		c.vms = make([]vm, 0, maxJVMs)
	}
	c.census.answered = c.attach
	return nil
}

func (c *jvm) Close() error {
	for i := range c.vms {
		kernel.CloseFD(c.vms[i].fd)
	}
	c.vms = c.vms[:0]
	c.census.answered = nil
	c.census.close()
	return nil
}

// attach takes over the counters of a process.
func (c *jvm) attach(slot int32, fd int) {
	p := &c.census.processes[slot]
	p.jvmTries = 1 << 20 // found: not looked for again
	for i := range c.vms {
		if c.vms[i].key == p.key {
			kernel.CloseFD(c.vms[i].fd)
			c.vms[i] = vm{key: p.key, fd: fd}
			return
		}
	}
	if len(c.vms) == cap(c.vms) {
		kernel.CloseFD(fd)
		return
	}
	c.vms = append(c.vms, vm{key: p.key, fd: fd})
}

// Rest is until the next sweep, which may find a JVM, while there is none.
func (c *jvm) Rest() time.Duration {
	if len(c.vms) == 0 {
		return time.Second
	}
	return 0
}

func (c *jvm) Collect(t *freezeframe.Table) error {
	s := c.census
	if err := s.refresh(at(t)); err != nil {
		return err
	}
	for i := 0; i < len(c.vms); {
		v := &c.vms[i]
		slot := s.byPID.get(int32(v.key.TID()))
		if slot == none || s.processes[slot].key != v.key || !c.row(t, v) {
			kernel.CloseFD(v.fd)
			c.vms[i] = c.vms[len(c.vms)-1]
			c.vms = c.vms[:len(c.vms)-1]
			continue
		}
		i++
	}
	return nil
}

// row reads one JVM; false when its file has become something else.
func (c *jvm) row(t *freezeframe.Table, v *vm) bool {
	want := len(c.buf)
	if v.counters.size != 0 {
		want = v.counters.size
	}
	before := kernel.Now()
	n, err := kernel.Pread(v.fd, c.buf[:want], 0)
	after := kernel.Now()
	if err != nil || n < hsperfHeader {
		return false
	}
	b := c.buf[:n]
	if v.counters.size == 0 || binary.NativeEndian.Uint32(b[28:]) != v.counters.entries {
		// It is new, or the JVM has added counters.
		if n, err = kernel.Pread(v.fd, c.buf[:], 0); err != nil {
			return false
		}
		b = c.buf[:n]
		if !parseHsperf(b, &v.counters) {
			return false
		}
	}
	h := &v.counters
	frequency := hsperfValue(b, h.frequency)
	if frequency == 0 {
		frequency = 1e9
	}
	v.clock(hsperfValue(b, h.ticks), frequency, before, after)

	row := t.Row(v.key, jvmWidth)
	safepoints, safepointTime := hsperfValue(b, h.safepoints), hsperfValue(b, h.safepointTime)
	// The count goes up when a safepoint begins, the time when it ends.
	switch {
	case !v.read || safepointTime != v.safepointTime:
		v.inSafepoint = false
	case safepoints != v.safepoints:
		v.inSafepoint = true
	}
	v.read, v.safepoints, v.safepointTime = true, safepoints, safepointTime
	row[jvmInSafepoint] = asGauge(v.inSafepoint)
	row[jvmSafepoints] = safepoints
	row[jvmSafepointUS] = micros(safepointTime, frequency)
	row[jvmSafepointSync] = micros(hsperfValue(b, h.safepointSync), frequency)

	newest, inGC, stopped := -1, false, true
	var entry, exit uint64
	for i := range h.gcs {
		gc := &h.gcs[i]
		if gc.invocations == 0 {
			continue
		}
		row[jvmGCCount] += hsperfValue(b, gc.invocations)
		row[jvmGCUS] += micros(hsperfValue(b, gc.time), frequency)
		in, out := hsperfValue(b, gc.entry), hsperfValue(b, gc.exit)
		if newest < 0 || in > entry {
			newest, entry, exit = i, in, out
		}
		inGC = inGC || in > out
		if concurrent(hsperfText(b, gc.name)) {
			stopped = false
		}
	}
	row[jvmInGC] = asGauge(inGC)
	row[jvmStopTheWorld] = asGauge(stopped && newest >= 0)
	g1 := false
	if newest >= 0 {
		name := hsperfText(b, h.gcs[newest].name)
		g1 = bytes.HasPrefix(name, []byte("G1"))
		row[jvmCollector] = c.census.host.Texts.Intern(name)
		row[jvmGCEntry] = v.moment(entry, frequency)
		row[jvmGCExit] = v.moment(exit, frequency)
	}
	cause := hsperfText(b, h.cause)
	if !inGC {
		cause = hsperfText(b, h.lastCause)
	}
	if string(cause) != "No GC" {
		row[jvmCause] = c.census.host.Texts.Intern(cause)
	}
	for _, at := range h.used[:h.spaces] {
		row[jvmHeapUsed] += hsperfValue(b, at)
	}
	for _, at := range h.maxCapacity {
		most := hsperfValue(b, at)
		if g1 {
			// Each of its generations may take the whole heap.
			row[jvmHeapMax] = max(row[jvmHeapMax], most)
		} else {
			row[jvmHeapMax] += most
		}
	}
	return true
}

// clock narrows down when the JVM's clock began. Its tick counter is refreshed
// every 50 ms: a value that is new was written after the reading before.
func (v *vm) clock(ticks, frequency uint64, before, after freezeframe.Instant) {
	if ticks == 0 || ticks == v.ticks {
		v.readAt = before
		return
	}
	since := freezeframe.Instant(nanos(ticks, frequency))
	high := after - since
	if v.high == 0 || high < v.high {
		v.high = high
	}
	if v.ticks != 0 && v.readAt-since > v.low {
		v.low = v.readAt - since
	}
	if v.low > v.high {
		v.low = v.high
	}
	v.ticks, v.readAt = ticks, before
}

// moment returns a time of the JVM's clock as an Instant, 0 when there is none.
func (v *vm) moment(ticks, frequency uint64) uint64 {
	if ticks == 0 || v.high == 0 {
		return 0
	}
	began := v.high
	// A bound that is a second off is none: the JVM stood still in between.
	if v.low != 0 && v.high-v.low < freezeframe.Instant(time.Second) {
		began = v.low + (v.high-v.low)/2
	}
	return uint64(began) + nanos(ticks, frequency)
}

// concurrent tells whether a collector's counters also count work beside the
// running program.
func concurrent(name []byte) bool {
	return bytes.Contains(name, []byte("Shenandoah")) || bytes.HasPrefix(name, []byte("Z")) || bytes.Contains(name, []byte("CMS"))
}

func asGauge(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

func nanos(ticks, frequency uint64) uint64 {
	if frequency == 1e9 {
		return ticks
	}
	return ticks/frequency*1e9 + ticks%frequency*1e9/frequency
}

func micros(ticks, frequency uint64) uint64 { return nanos(ticks, frequency) / 1000 }
