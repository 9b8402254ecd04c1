package reports

import (
	"fmt"
	"strings"

	"freezeframe"
	"freezeframe/collectors"
)

// identify fills in what the recording knows of a culprit: the facts of its
// process, and the unit and container of its cgroup. It never overwrites what
// the rule said.
func identify(w freezeframe.Window, c freezeframe.Culprit, user func(uint32) string) freezeframe.Culprit {
	if c.PID != 0 {
		if p, ok := process(w, c.PID, c.Comm); ok {
			fill(&c.Comm, p.comm)
			fill(&c.Exe, p.exe)
			fill(&c.Cmdline, p.cmdline)
			fill(&c.Unit, collectors.UnitOf(p.cgroup))
			fill(&c.Container, collectors.ContainerOf(p.cgroup))
			fill(&c.Cgroup, cgroupPath(p.cgroup))
			fill(&c.User, userName(p.uid, user))
		}
	}
	// A rule may name only a path ("/a/b", or "cpu:/a/b").
	if slash := strings.IndexByte(c.Cgroup, '/'); slash >= 0 {
		line := "0::" + c.Cgroup[slash:]
		fill(&c.Unit, collectors.UnitOf(line))
		fill(&c.Container, collectors.ContainerOf(line))
	}
	return c
}

func fill(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

func userName(uid uint32, user func(uint32) string) string {
	if user != nil {
		if name := user(uid); name != "" {
			return name
		}
	}
	if uid == 0 {
		return "root"
	}
	return fmt.Sprintf("uid %d", uid)
}

// proc is one process as the recording last saw it before the stall ended.
type proc struct {
	key                        freezeframe.Key
	pid, ppid                  int
	comm, exe, cmdline, cgroup string
	uid                        uint32
	state                      byte
	rss                        uint64
	threads                    uint64
}

// process finds a pid in the window. A pid that was reused is told apart by
// its comm, where the finding has one, and else by being there in the stall.
func process(w freezeframe.Window, pid int, comm string) (proc, bool) {
	procs := processes(w, func(k freezeframe.Key) bool { return k.TID() == pid })
	best := -1
	for i := range procs {
		if best < 0 || comm == "" || procs[i].comm == comm || procs[best].comm != comm {
			best = i
		}
	}
	if best < 0 {
		return proc{}, false
	}
	return procs[best], true
}

// processes returns what the window says of the processes whose key is wanted,
// each at its last reading up to the end of the stall (else its first after),
// in the order of their last reading.
func processes(w freezeframe.Window, want func(freezeframe.Key) bool) []proc {
	s := w.Phase("procs", freezeframe.Whole)
	width := len(s.Source.Columns)
	end := w.Stall().End
	type place struct{ table, row int }
	last := make(map[freezeframe.Key]place)
	for t := range s.Tables {
		for i, k := range s.Tables[t].Keys {
			if !want(k) {
				continue
			}
			if _, have := last[k]; have && s.Tables[t].At > end {
				continue
			}
			last[k] = place{t, i}
		}
	}
	var out []proc
	for t := range s.Tables {
		for i, k := range s.Tables[t].Keys {
			if at, ok := last[k]; !ok || at != (place{t, i}) {
				continue
			}
			row := s.Tables[t].Values(i, width)
			value := func(column string) uint64 {
				if c := s.Source.Column(column); c >= 0 {
					return row[c]
				}
				return 0
			}
			text := func(column string) string { return w.Text(value(column)) }
			out = append(out, proc{
				key: k, pid: k.TID(), ppid: int(value("ppid")),
				comm: text("comm"), exe: text("exe"), cmdline: text("cmdline"), cgroup: text("cgroup"),
				uid: uint32(value("uid")), state: byte(value("state")),
				rss: value("rss_bytes"), threads: value("threads"),
			})
		}
	}
	return out
}

// cgroupPath picks the path to show out of the lines of /proc/PID/cgroup
// (joined by ';'): the v2 path, or where that is the root (hybrid), that of
// the first v1 controller that is not.
func cgroupPath(lines string) string {
	best := ""
	for line := range strings.SplitSeq(lines, ";") {
		_, rest, _ := strings.Cut(line, ":")
		_, path, ok := strings.Cut(rest, ":")
		switch {
		case !ok || path == "":
		case strings.HasPrefix(line, "0::") && path != "/":
			return path
		case best == "" || best == "/":
			best = path
		}
	}
	return best
}
