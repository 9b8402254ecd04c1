package collectors

import (
	"bytes"
	"fmt"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// file is a kernel text file that is kept open.
type file struct {
	*kernel.File
	malformed error // made beforehand: a bad file must not cost an allocation
}

// open opens a kernel file for repeated reading; size is what it is expected
// to hold.
func open(path string, size int) (file, error) {
	f, err := kernel.OpenFile(path, size)
	if err != nil {
		return file{}, notHere(err)
	}
	return file{f, malformed(path)}, nil
}

func malformed(path string) error {
	return fmt.Errorf("read %s: not in the format expected", path)
}

// lines returns the file's whole lines. The kernel ends every line, so what
// follows the last newline was cut off, and a number in it may be half a number.
func (f file) lines() ([]byte, error) {
	b, err := f.Read()
	return wholeLines(b), err
}

// slowLines is lines of a file for which the kernel may wait long: for a lock, or
// until every CPU has been idle or in user space (RCU). The Go scheduler is told:
// a garbage collection would spin on every CPU, at our priority, until a raw call
// is over, and what the call waits for may need one of them.
func (f file) slowLines() ([]byte, error) {
	b, err := f.SlowRead()
	return wholeLines(b), err
}

func wholeLines(b []byte) []byte { return b[:bytes.LastIndexByte(b, '\n')+1] }

// try reads a collector once at the end of its Open: what cannot be read or
// understood is known at once, and the buffers find their size.
func try(c freezeframe.Collector) error {
	var t freezeframe.Table
	if err := c.Collect(&t); err != nil {
		c.Close()
		if kernel.IsForbidden(err) {
			return err
		}
		return fmt.Errorf("%w: %w", freezeframe.ErrNotHere, err)
	}
	return nil
}

// notHere wraps an error in ErrNotHere when it says that the kernel lacks the
// file.
func notHere(err error) error {
	if err != nil && kernel.IsGone(err) {
		return fmt.Errorf("%w: %w", freezeframe.ErrNotHere, err)
	}
	return err
}

// names maps the names of a source's columns, which are the kernel's own, to
// their indexes.
func names(columns []freezeframe.Column) map[string]int {
	m := make(map[string]int, len(columns))
	for i, c := range columns {
		m[c.Name] = i
	}
	return m
}

// counters and gauges shorten the lists of columns.
func counters(names ...string) []freezeframe.Column { return columns(freezeframe.Counter, names) }
func gauges(names ...string) []freezeframe.Column   { return columns(freezeframe.Gauge, names) }

func columns(kind freezeframe.Kind, names []string) []freezeframe.Column {
	cs := make([]freezeframe.Column, len(names))
	for i, n := range names {
		cs[i] = freezeframe.Column{Name: n, Kind: kind}
	}
	return cs
}
