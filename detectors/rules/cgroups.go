package rules

import (
	"slices"
	"strings"

	"freezeframe"
)

// CgroupPaths returns the names, in the cgroups source, of the cgroup that a
// process is in for a controller and of those above it, innermost first.
// lines is the content of /proc/PID/cgroup, lines joined by ';' (cgroups(7)).
func CgroupPaths(lines, controller string) []string {
	var out []string
	for line := range strings.SplitSeq(lines, ";") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || parts[2] == "" {
			continue
		}
		prefix := controller + ":"
		if parts[1] == "" {
			prefix = "" // the v2 tree
		} else if !slices.Contains(strings.Split(parts[1], ","), controller) {
			continue
		}
		path := parts[2]
		for path != "" && path != "/" {
			out = append(out, prefix+path)
			path = path[:max(strings.LastIndexByte(path, '/'), 0)]
		}
		out = append(out, prefix+"/")
	}
	return out
}

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
	for _, name := range CgroupPaths(p.cgroup, controller) {
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
	return slices.Contains(CgroupPaths(p.cgroup, controller), name)
}
