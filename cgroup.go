package freezeframe

import (
	"slices"
	"strings"
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
