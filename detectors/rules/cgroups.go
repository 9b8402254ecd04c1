package rules

import (
	"slices"
	"strings"

	"freezeframe"
)

// cgroupPath is a cgroup's path without the controller before it.
func cgroupPath(name string) string {
	if i := strings.IndexByte(name, ':'); i >= 0 && !strings.HasPrefix(name, "/") {
		return name[i+1:]
	}
	return name
}

// A control is a cgroup of a victim (its own or one above it) and the rows of
// it in the cgroups source.
type control struct {
	name   string
	series *freezeframe.Series
	key    freezeframe.Key
}

func (c *control) grew(column string) uint64 { return c.series.Delta(c.key, column) }
func (c *control) max(column string) uint64  { return c.series.Max(c.key, column) }
func (c *control) last(column string) uint64 {
	v, _ := c.series.Last(c.key, column)
	return v
}
func (c *control) path() string { return cgroupPath(c.name) }

// control finds the innermost cgroup of a process, from its own up, for which
// keep is true.
func (ps *processes) control(w freezeframe.Window, s freezeframe.Span, pid int, controller string, keep func(*control) bool) *control {
	p := ps.byPID[pid]
	if p == nil {
		return nil
	}
	series := w.Between("cgroups", s)
	keys := textKeys(w, &series)
	for _, name := range freezeframe.CgroupPaths(p.cgroup, controller) {
		if key, ok := keys[name]; ok {
			if c := (&control{name, &series, key}); keep(c) {
				return c
			}
		}
	}
	return nil
}

// within tells whether a process is in the cgroup or below it.
func (p *process) within(controller, name string) bool {
	return slices.Contains(freezeframe.CgroupPaths(p.cgroup, controller), name)
}
