package rules

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"freezeframe"
)

const (
	// outweighs is how many times the weight of the winners must be the
	// victim's: five steps of nice.
	outweighs = 3.0
	// fairShare of a CPU is what the victim would have had to get with equal
	// weights for its weight to be the reason, and not the number of threads.
	fairShare = 0.2
)

func cpuLowWeight() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.low_weight",
		Title: "a service that weighs too little",
		Means: "The service's nice value, or the CPU weight of its cgroup, is so much lower than that of others that it got next to nothing while they wanted the CPU. With equal weights there would have been enough for it.",
		Proof: "The victims stood in line for a CPU, those who ran meanwhile weigh several times as much (nice, cpu.weight, cpu.shares), and they are so few that a fair share would have been enough. Told from cpu.contention, where nobody would have had enough.",
		Remedy: []string{
			"Now: `renice -n 0 -p PID`, `systemctl set-property UNIT CPUWeight=100`.",
			"So that it does not come back: weights by importance: CPUWeight= below 100 for batch jobs instead of nice for the service; a cgroup without a weight of its own counts 100 (1,024 in version 1) however much is in it.",
		},
		Reads:    []string{sourceLedger, "stat.idle_us", "tasks.nice", "tasks.run_ns", "procs.nice", "procs.cgroup", "procs.utime_us", "cgroups.cpu_weight"},
		Subsumes: bringsAbout("cpu.contention", "runtime.jvm_gc"),
		Judge:    judgeLowWeight,
	}
}

func judgeLowWeight(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	total, n := machine(cpus(w, s))
	if total.busy < fullMachine {
		return nil
	}
	ps := processesIn(w, around(s))
	nice := niceValues(w, around(s))
	cs := cgroupsIn(w, around(s))
	victims := ms.pids()
	long := ms.longest().who
	victim := ps.byPID[long.PID]
	if victim == nil {
		return nil
	}
	users := crowds(w, s, func(p *process) bool { return slices.Contains(victims, p.pid) })
	// Whoever ran: all together, and those who weigh more than the victim.
	var loads []float64
	used := 0.0
	var winners []crowd
	var how weighing
	for _, c := range users {
		loads = append(loads, loadsIn(w, s, &c)...)
		wg := weighs(cs, victim, c.members[0], nice)
		if wg.ratio < outweighs {
			continue
		}
		winners = append(winners, c)
		used += c.used
		if wg.ratio > how.ratio {
			how = wg
		}
	}
	fair := fairPart(loads, float64(n))
	if len(winners) == 0 || used < 0.5*total.busy*float64(n) || fair < fairShare {
		return nil
	}
	top := winners[0]
	f := freezeframe.Finding{Culprit: top.culprit(), Explains: claim, Confidence: proven, Chain: story(ms)}
	if how.cgroup != "" {
		f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: how.cgroup, PID: top.members[0].pid, Comm: top.comm}
	}
	f.Summary = fmt.Sprintf("%s weighs %.0f times as much as %s, used %s, and left it waiting for a CPU for %s.", orElse(top.comm, "another process"), how.ratio, named(orElse(victim.comm, long.Comm), victim.pid), cpusWorth(used, n), length(claim.Length()))
	f.Evidence = []freezeframe.Evidence{
		how.evidence,
		evidence("tasks", "run_ns", "with equal weights it would have had %s of a CPU against the %d threads that ran", pct(fair), len(loads)),
	}
	return []freezeframe.Finding{f}
}

// loadsIn is what each thread of a crowd used, in CPUs.
func loadsIn(w freezeframe.Window, s freezeframe.Span, c *crowd) []float64 {
	var out []float64
	for _, t := range threadsIn(w, s) {
		if slices.ContainsFunc(c.members, func(p *process) bool { return p.pid == t.pid }) && t.load() >= leastLoad {
			out = append(out, t.load())
		}
	}
	for len(out) < len(c.members) { // threads that were not sampled
		out = append(out, c.used/float64(len(c.members)))
	}
	return out
}

// fairPart is what one more thread would get of so many CPUs if all weighed the
// same: those who want less than their part leave it to the others.
func fairPart(loads []float64, cpus float64) float64 {
	slices.Sort(loads)
	left, sharing := cpus, float64(len(loads)+1)
	for _, l := range loads {
		if l >= left/sharing {
			break
		}
		left -= l
		sharing--
	}
	return math.Min(1, left/sharing)
}

// niceValues returns the nice value of each process, as it was last read.
func niceValues(w freezeframe.Window, s freezeframe.Span) map[int]int {
	out := map[int]int{}
	for _, source := range []string{"procs", "tasks"} {
		series := w.Between(source, s)
		if series.Source.Column("nice") < 0 {
			continue
		}
		series.Each([]string{"nice"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
			out[key.TID()] = int(int64(v[0]))
		})
	}
	return out
}

// A weighing is by how much one process outweighs another, and by what.
type weighing struct {
	ratio    float64
	cgroup   string // of the winner; "" when it is nice values that decide
	evidence freezeframe.Evidence
}

// weighs compares the weights of a winner and a victim where their paths part:
// those of the cgroups right below the last one that they share, or the nice
// values of two in the same cgroup.
func weighs(cs *cgroups, victim, winner *process, nice map[int]int) weighing {
	mine, theirs := cs.cpuPath(victim.cgroup), cs.cpuPath(winner.cgroup)
	i, j := len(mine)-1, len(theirs)-1
	for i > 0 && j > 0 && mine[i-1] == theirs[j-1] {
		i--
		j--
	}
	// mine[i] is shared; what lies below it on either side competes.
	if i <= 0 && j <= 0 || len(mine) == 0 || len(theirs) == 0 {
		a, b := nice[winner.pid], nice[victim.pid]
		return weighing{
			ratio:    math.Pow(1.25, float64(b-a)),
			evidence: evidence("procs", "nice", "%s runs at nice %d, %s at nice %d", victim, b, winner, a),
		}
	}
	// Whoever is in the shared cgroup itself counts by its own nice value, as
	// one entity among the cgroups.
	a, b := entity(cs, theirs, j, nice[winner.pid]), entity(cs, mine, i, nice[victim.pid])
	if a <= 0 || b <= 0 {
		return weighing{}
	}
	out := weighing{ratio: a / b, evidence: evidence("cgroups", "cpu_weight", "the weight of %s is %.0f, that of %s %.0f", below(theirs, j), a, below(mine, i), b)}
	if j > 0 {
		out.cgroup = cgroupPath(theirs[j-1])
	}
	return out
}

func below(path []string, shared int) string {
	if shared == 0 {
		return "a process in " + cgroupPath(path[0])
	}
	return cgroupPath(path[shared-1])
}

// entity is the weight with which the branch below a shared cgroup competes.
func entity(cs *cgroups, path []string, shared, nice int) float64 {
	v1 := strings.Contains(path[shared], ":")
	if shared == 0 {
		usual := 100.0
		if v1 {
			usual = 1024
		}
		return usual * math.Pow(1.25, float64(-nice))
	}
	if key, ok := cs.keys[path[shared-1]]; ok {
		if v := cs.series.Max(key, "cpu_weight"); v > 0 {
			return float64(v)
		}
	}
	return 0
}

// cpuPath is the path of cgroups that share the CPUs, innermost first, the root
// last: of version 1 where its controller is mounted, else of version 2. Those
// for which the controller is not enabled have no weight and share nothing.
func (cs *cgroups) cpuPath(lines string) []string {
	all := freezeframe.CgroupPaths(lines, "cpu")
	if i := slices.IndexFunc(all, func(p string) bool { return strings.HasPrefix(p, "cpu:") }); i >= 0 {
		all = all[i:]
	}
	if len(all) == 0 {
		return nil
	}
	root := all[len(all)-1]
	path := slices.DeleteFunc(all[:len(all)-1], func(p string) bool {
		key, ok := cs.keys[p]
		return !ok || cs.series.Max(key, "cpu_weight") == 0
	})
	return append(path, root)
}
