package collectors

import (
	"os"
	"runtime"
	"runtime/metrics"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	selfCPU = iota
	selfRSS
	selfHeap
	selfGCPause
	// The sampler knows these two, and fills them in.
	selfLateReadings
	selfReadings
	selfWidth
)

// self reads what freezeframe itself uses, by /proc/self and the Go runtime.
type self struct {
	statm   file
	page    uint64
	procs   float64
	metrics [2]metrics.Sample
}

func (c *self) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "self", From: "clock_gettime(CLOCK_PROCESS_CPUTIME_ID), /proc/self/statm, runtime/metrics",
		Every: time.Second, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			selfCPU:          {Name: "cpu_us"},
			selfRSS:          {Name: "rss_bytes", Kind: freezeframe.Gauge},
			selfHeap:         {Name: "heap_bytes", Kind: freezeframe.Gauge},
			selfGCPause:      {Name: "gc_pause_ns"},
			selfLateReadings: {Name: "late_readings"},
			selfReadings:     {Name: "readings"},
		},
	}
}

func (c *self) Open(h freezeframe.Host) (err error) {
	c.page, c.procs = uint64(os.Getpagesize()), float64(runtime.GOMAXPROCS(0))
	c.metrics[0].Name = "/memory/classes/heap/objects:bytes"
	c.metrics[1].Name = "/cpu/classes/gc/pause:cpu-seconds"
	if c.statm, err = open(h.Proc+"/self/statm", 256); err != nil {
		return err
	}
	return try(c)
}

func (c *self) Close() error { return c.statm.Close() }

func (c *self) Collect(t *freezeframe.Table) error {
	b, err := c.statm.lines()
	if err != nil {
		return err
	}
	s := kernel.Scan(b)
	s.Skip(1)
	resident, ok := s.Uint()
	if !ok {
		return c.statm.malformed
	}
	// The two figures are plain sums that the runtime keeps: no garbage
	// collection and no stop of the world comes of reading them.
	metrics.Read(c.metrics[:])
	row := t.Row(0, selfWidth)
	row[selfCPU] = uint64(kernel.ProcessCPU() / time.Microsecond)
	row[selfRSS] = resident * c.page
	if v := c.metrics[0].Value; v.Kind() == metrics.KindUint64 {
		row[selfHeap] = v.Uint64()
	}
	if v := c.metrics[1].Value; v.Kind() == metrics.KindFloat64 {
		// The runtime charges a pause to every P at once.
		row[selfGCPause] = uint64(v.Float64() / c.procs * 1e9)
	}
	return nil
}
