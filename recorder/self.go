package recorder

import (
	"os"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// self is the source of what the recorder itself costs. The sampler adds it to
// the collectors, as only it knows how late they were.
type self struct {
	sampler *Sampler
	statm   *kernel.File
	page    uint64
}

// Source describes the one row of self.
func (c *self) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "self", From: "/proc/self/statm, the Go runtime", Every: time.Second, Lane: freezeframe.Fast,
		Columns: []freezeframe.Column{
			{Name: "cpu_us", Kind: freezeframe.Counter},
			{Name: "rss_bytes", Kind: freezeframe.Gauge},
			{Name: "heap_bytes", Kind: freezeframe.Gauge},
			{Name: "gc_pause_ns", Kind: freezeframe.Counter}, // summed over the CPUs, as the runtime estimates it
			{Name: "late_readings", Kind: freezeframe.Counter},
			{Name: "readings", Kind: freezeframe.Counter},
		},
	}
}

func (c *self) Open(freezeframe.Host) (err error) {
	c.page = uint64(os.Getpagesize())
	c.statm, err = kernel.OpenFile("/proc/self/statm", 256)
	return err
}

func (c *self) Collect(t *freezeframe.Table) error {
	b, err := c.statm.Read()
	if err != nil {
		return err
	}
	s := kernel.Scan(b)
	s.Word()
	rss, _ := s.Uint()
	row := t.Row(0, 6)
	row[0] = uint64(kernel.ProcessCPU() / time.Microsecond)
	row[1] = rss * c.page
	row[2] = c.sampler.heapBytes.Load()
	row[3] = c.sampler.gcPauseNs.Load()
	for i := range c.sampler.lanes {
		l := &c.sampler.lanes[i]
		row[4] += l.lateN.Load()
		row[5] += l.readings.Load()
	}
	return nil
}

func (c *self) Close() error { return c.statm.Close() }
