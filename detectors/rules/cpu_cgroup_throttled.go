package rules

import (
	"fmt"

	"freezeframe"
)

// throttleBridge is the longest quota period in use (1 s): within it a
// throttled cgroup's counter may stand still.
const throttleBridge = 1e9

func cpuCgroupThrottled() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.cgroup_throttled",
		Title: "a spent CPU quota",
		Means: "The cgroup (the unit or container) had used up its CPU quota for the period, so the kernel did not let its threads run until the next one, however idle the machine was.",
		Proof: "The throttled time of the victim's own cgroup, or of one above it, grew by about the time that was lost, while the victim wanted to run. Told from cpu.contention by that counter.",
		Remedy: []string{
			"Now: raise the quota, `systemctl set-property UNIT CPUQuota=200%` (or empty to lift it), `docker update --cpus 2 NAME`, in Kubernetes the CPU limit.",
			"So that it does not come back: look at who else lives in the cgroup; match thread counts to the quota (GOMAXPROCS, -XX:ActiveProcessorCount, worker counts); prefer CPUWeight over CPUQuota.",
		},
		Reads:    []string{sourceLedger, "procs.cgroup", "cgroups.cpu_throttled_us", "cgroups.cpu_throttled", "cgroups.cpu_periods", "cgroups.cpu_quota_us", "cgroups.cpu_period_us", "tasks.run_ns"},
		Subsumes: bringsAbout("cpu.contention", "runtime.jvm_gc", "app.busy_loop"),
		Judge:    judgeThrottled,
	}
}

func judgeThrottled(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Throttled, freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := around(ms.hull())
	ps := processesIn(w, s)
	cs := cgroupsIn(w, s)
	groups := map[int]*control{}
	for _, pid := range ms.pids() {
		groups[pid] = cs.of(ps.byPID[pid], "cpu", func(c *control) bool { return c.grew("cpu_throttled_us") > 0 })
	}
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if c := groups[m.who.PID]; c != nil {
			return c.name
		}
		return ""
	}) {
		if b.key == "" {
			continue
		}
		c := groups[b.moments[0].who.PID]
		// The ledger has compared lost and throttled time where it says so;
		// other waiting counts only while the counter grew.
		held := b.where(inClass(freezeframe.Throttled)).spans()
		queued := b.where(inClass(freezeframe.Runnable)).spans().And(growing(c.series.Points(c.key, "cpu_throttled_us"), throttleBridge))
		spent := float64(c.grew("cpu_throttled_us")) * 1e3
		if len(held) == 0 && spent < float64(queued.Length())/2 {
			continue
		}
		mine := worth(w, freezeframe.Union(append(held, queued...)...))
		if mine == nil {
			continue
		}
		f := freezeframe.Finding{
			Culprit:    freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: c.path()},
			Summary:    fmt.Sprintf("The CPU quota of %s was spent; its threads were kept from running for %s.", c.path(), length(mine.Length())),
			Explains:   mine,
			Confidence: proven,
			Chain:      story(b.moments),
			Evidence: []freezeframe.Evidence{evidence("cgroups", "cpu_throttled_us", "%s was throttled for %s in %d periods (summed over its CPUs)",
				c.path(), length(nanoseconds(spent)), c.grew("cpu_throttled"))},
		}
		if quota := c.last("cpu_quota_us"); quota > 0 {
			f.Evidence = append(f.Evidence, evidence("cgroups", "cpu_quota_us", "its quota is %d µs of CPU in every %d µs", quota, c.last("cpu_period_us")))
		}
		inside := func(p *process) bool { return !p.within("cpu", c.name) }
		for i, u := range crowds(w, core(mine), inside) {
			if i == 0 {
				f.Culprit.PID, f.Culprit.Comm = u.members[0].pid, u.comm
			}
			if i < 2 {
				f.Evidence = append(f.Evidence, evidence("tasks", "run_ns", "in it, %d × %s used %.2f CPUs", len(u.members), u.members[0], u.used))
			}
		}
		out = append(out, f)
	}
	return out
}
