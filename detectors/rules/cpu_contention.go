package rules

import (
	"slices"

	"freezeframe"
)

const (
	// fullMachine is how busy all CPUs together must have been: with a CPU
	// idle for a sixth of the time nobody has to wait long for one.
	fullMachine = 0.85
	// mainUser is the share of all CPUs from which on a user is named.
	mainUser = 0.2
)

func cpuContention() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.contention",
		Title: "too many threads for the CPUs",
		Means: "Every CPU was busy, and the threads that should have done the work stood in line for one.",
		Proof: "The victims were runnable and did not run (schedstat), no CPU was idle (/proc/stat), and other processes used the CPUs meanwhile. " +
			"Told from a spent quota (the cgroup's throttled time), from a real-time thread (its policy), from one crowded CPU (others idle) and from a host that took the CPU away (steal).",
		Remedy: []string{
			"Now: renice the culprit (`renice -n 19 -p PID`), or stop it for a moment (`kill -STOP PID`, later `kill -CONT PID`).",
			"So that it does not come back: give it less than the service has, `systemctl set-property UNIT CPUWeight=20`, or a ceiling, `systemctl set-property UNIT CPUQuota=50%`; run batch jobs with `chrt --idle 0` or at another time.",
		},
		Reads:    []string{sourceLedger, "stat.idle_us", "stat.user_us", "tasks.run_ns", "procs.utime_us", "procs.stime_us", "procs.cgroup"},
		Subsumes: bringsAbout("runtime.jvm_gc"),
		Judge:    judgeContention,
	}
}

func judgeContention(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	all := cpus(w, s)
	total, n := machine(all)
	sure := proven
	switch {
	case len(all) == 0:
		sure = inferred
	case total.busy < fullMachine:
		return nil
	}
	f := freezeframe.Finding{
		Explains: claim, Confidence: sure, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Evidence: []freezeframe.Evidence{evidence("tasks", "wait_ns", "the victims stood in line for a CPU for %s", length(claim.Length()))},
	}
	if len(all) > 0 {
		was, _ := machine(cpus(w, before(w)))
		f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: "CPU time in use on all CPUs", Source: "stat", Column: "idle_us", Before: pct(was.busy), During: pct(total.busy)})
	}
	users := crowds(w, s, nil)
	if len(users) == 0 || users[0].used < mainUser*float64(n) {
		f.Confidence = min(f.Confidence, counted)
		f.Summary = "All CPUs were busy with many small users; the work waited for one for " + length(claim.Length()) + "."
		return []freezeframe.Finding{f}
	}
	top := users[0]
	f.Culprit = top.culprit()
	if group, used := crowdedCgroup(users); group != "" && top.used < used/2 {
		// Many commands of one job, such as a build: the job is to blame.
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: group, PID: top.members[0].pid, Comm: top.comm}
	}
	f.Summary = orElse(top.comm, "a process") + " used " + cpusWorth(top.used, n) + "; the work waited for a CPU for " + length(claim.Length()) + "."
	for _, c := range users[:min(3, len(users))] {
		f.Evidence = append(f.Evidence, evidence("tasks", "run_ns", "%d × %s used %s", len(c.members), c.members[0], cpusWorth(c.used, n)))
	}
	return []freezeframe.Finding{f}
}

// crowdedCgroup returns the cgroup whose processes together used the CPUs
// most; not the root, where everything is.
func crowdedCgroup(users []crowd) (string, float64) {
	sums := map[string]float64{}
	var names []string
	for _, c := range users {
		paths := freezeframe.CgroupPaths(c.cgroup, "cpu")
		if len(paths) == 0 {
			continue
		}
		path := cgroupPath(paths[0])
		if path == "/" {
			continue // of version 1, which may be mounted beside version 2
		}
		if !slices.Contains(names, path) {
			names = append(names, path)
		}
		sums[path] += c.used
	}
	best := ""
	for _, n := range names {
		if best == "" || sums[n] > sums[best] {
			best = n
		}
	}
	return best, sums[best]
}
