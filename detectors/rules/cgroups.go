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

// cgroups is the cgroups source over a span.
type cgroups struct {
	series freezeframe.Series
	keys   map[string]freezeframe.Key
	known  map[string]*control
}

func cgroupsIn(w freezeframe.Window, s freezeframe.Span) *cgroups {
	cs := &cgroups{series: w.Between("cgroups", s), known: map[string]*control{}}
	cs.keys = textKeys(w, &cs.series)
	return cs
}

// A control is one cgroup over that span.
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

// of finds the innermost cgroup of a process, from its own up, for which keep
// is true. It asks keep once for each cgroup.
func (cs *cgroups) of(p *process, controller string, keep func(*control) bool) *control {
	if p == nil {
		return nil
	}
	for _, name := range freezeframe.CgroupPaths(p.cgroup, controller) {
		c, asked := cs.known[name]
		if !asked {
			if key, ok := cs.keys[name]; ok {
				if got := (&control{name, &cs.series, key}); keep(got) {
					c = got
				}
			}
			cs.known[name] = c
		}
		if c != nil {
			return c
		}
	}
	return nil
}

// within tells whether a process is in the cgroup or below it.
func (p *process) within(controller, name string) bool {
	return slices.Contains(freezeframe.CgroupPaths(p.cgroup, controller), name)
}
