package collectors

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// pressureFiles are the resources that the kernel may account, and what is
// lost without each.
var pressureFiles = [...]struct {
	name []byte
	lost string
}{
	{[]byte("cpu"), "how long work waited for a CPU"},
	{[]byte("memory"), "how long work waited for memory"},
	{[]byte("io"), "how long work waited for a device"},
	{[]byte("irq"), "how long interrupts held up work (only kernels with CONFIG_IRQ_TIME_ACCOUNTING, from 6.1)"},
}

const pressureFix = "boot with psi=1 (needs CONFIG_PSI)"

// pressure reads /proc/pressure: how long some, or all, of the work of the
// whole machine stood still for want of a resource.
type pressure struct {
	texts freezeframe.Texts
	files [len(pressureFiles)]file // those with a nil File are not there
	needs []freezeframe.Need
}

const (
	pressureSome = iota
	pressureFull
	pressureWidth
)

func (c *pressure) Source() freezeframe.Source {
	return freezeframe.Source{
		Name: "pressure", From: "/proc/pressure/{cpu,memory,io,irq}", Key: "text",
		Every: 100 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Fast,
		Columns: counters("some_us", "full_us"),
		Needs:   c.needs,
	}
}

func (c *pressure) Open(h freezeframe.Host) error {
	c.texts, c.needs = h.Texts, nil
	var errs []error
	for i, p := range pressureFiles {
		path := fmt.Sprintf("%s/pressure/%s", h.Proc, p.name)
		f, err := open(path, 256)
		if err == nil {
			// A kernel booted with psi=0 may have the files and refuse to read them.
			var t freezeframe.Table
			c.files[i] = f
			if err = c.read(&t, i); err != nil {
				f.Close()
				c.files[i] = file{}
			}
		}
		if err != nil {
			need := freezeframe.Need{What: "read " + path, Lost: p.lost, Err: err.Error()}
			if string(p.name) != "irq" {
				need.Fix = pressureFix
			}
			c.needs = append(c.needs, need)
			errs = append(errs, err)
		}
	}
	if len(errs) == len(pressureFiles) {
		return fmt.Errorf("%w: no pressure stall information, %s: %w", freezeframe.ErrNotHere, pressureFix, errors.Join(errs...))
	}
	return nil
}

func (c *pressure) Close() error {
	var errs []error
	for i := range c.files {
		errs = append(errs, c.files[i].Close())
		c.files[i] = file{}
	}
	return errors.Join(errs...)
}

func (c *pressure) Collect(t *freezeframe.Table) error {
	var failed error
	for i := range c.files {
		if c.files[i].File == nil {
			continue
		}
		if err := c.read(t, i); err != nil {
			failed = err // the other resources are still worth having
		}
	}
	return failed
}

func (c *pressure) read(t *freezeframe.Table, i int) error {
	b, err := c.files[i].lines()
	if err != nil {
		return err
	}
	some, full, ok := parsePressure(b)
	if !ok {
		return c.files[i].malformed
	}
	row := t.Row(freezeframe.Key(c.texts.Intern(pressureFiles[i].name)), pressureWidth)
	row[pressureSome], row[pressureFull] = some, full
	return nil
}

var totalWord = []byte("total=")

// parsePressure reads a pressure file, of the machine or of a control group:
// "some avg10=0.00 avg60=0.00 avg300=0.00 total=12", then the same for full.
// Either line may be missing; the totals are microseconds.
func parsePressure(b []byte) (some, full uint64, ok bool) {
	for s := kernel.Scan(b); s.More(); {
		line := s.Line()
		_, total, found := bytes.Cut(line, totalWord)
		if !found {
			continue
		}
		v, isNumber := kernel.Uint(total)
		switch {
		case !isNumber:
		case bytes.HasPrefix(line, []byte("some ")):
			some, ok = v, true
		case bytes.HasPrefix(line, []byte("full ")):
			full, ok = v, true
		}
	}
	return some, full, ok
}
