package rules

import (
	"strings"
	"time"

	"freezeframe"
)

const groupRanOut = "Memory cgroup out of memory: Killed process "

func memCgroupOOMKill() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.cgroup_oom_kill",
		Title: "a cgroup out of memory",
		Means: "The cgroup (the unit or container) could not stay under its memory limit, and the kernel killed a process in it.",
		Proof: "The kernel's line \"Memory cgroup out of memory: Killed process …\" and its oom_memcg=, with victims that reclaimed memory up to it, or that it killed.",
		Remedy: []string{
			"Now: raise the limit, `systemctl set-property UNIT MemoryMax=4G`, and look at what was killed, `systemctl status UNIT`.",
			"So that it does not come back: find what grew (a leak, a cache, a heap larger than the limit); Restart=on-failure brings the service back by itself.",
		},
		Reads:    append([]string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog, "procs.rss_bytes", "procs.cgroup", "signals.pid", "signals.from_pid"}, downReads...),
		Subsumes: bringsAbout("mem.cgroup_max", "mem.cgroup_high", "mem.swap_thrash", "mem.file_thrash", "mem.direct_reclaim", "io.device_saturated", "runtime.jvm_gc", "app.restarted", "app.crash_loop"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeOOM(w, func(text string) bool { return strings.HasPrefix(text, groupRanOut) }, func(f *freezeframe.Finding, k kill) {
				blameGroup(w, f, k)
			})
		},
	}
}

// blameGroup names the cgroup that ran out, as the kernel's line just before
// the kill says, and the process in it that grew.
func blameGroup(w freezeframe.Window, f *freezeframe.Finding, k kill) {
	ps := processesIn(w, freezeframe.Span{Start: k.at.Add(-growTime), End: k.at})
	path := ""
	for _, l := range kernelLog(w, oomReach+time.Second) {
		if rest, ok := after(l.Text, "oom_memcg="); ok && l.At <= k.at {
			path = word(rest, ",")
		}
	}
	if path == "" {
		if p := ps.byPID[k.pid]; p != nil {
			if paths := freezeframe.CgroupPaths(p.cgroup, "memory"); len(paths) > 0 {
				path = cgroupPath(paths[0])
			}
		}
	}
	if path == "" {
		return
	}
	f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: path, PID: k.pid, Comm: k.comm}
	inside := func(p *process) bool { return p.within("memory", path) || p.within("memory", "memory:"+path) }
	if p, how := taker(w, freezeframe.Span{Start: k.at.Add(-time.Second), End: k.at}, inside); p != nil && p.grown() >= muchMemory {
		f.Culprit.PID, f.Culprit.Comm = p.pid, p.comm
		f.Evidence = append(f.Evidence, evidence("procs", "rss_bytes", "%s %s", p, how))
	}
}
