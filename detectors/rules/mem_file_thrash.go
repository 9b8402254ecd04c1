package rules

import (
	"fmt"
	"slices"

	"freezeframe"
)

const (
	// refaults is how many pages of files must have been read back that had
	// been thrown out a moment before.
	refaults = 200
)

func memFileThrash() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.file_thrash",
		Title: "program code and files that were thrown out and read back",
		Means: "Memory, or that of the cgroup, was so short that the kernel threw out pages of running programs and of files that they have mapped, and read them from disk again at the next step they took.",
		Proof: "The victims waited in page faults on files while the counter of pages that came back soon after they were evicted (workingset_refault_file) ran. Told from slow disks by that counter, and from mem.cgroup_max by what the victims did in a cgroup at its limit: they read pages back, and hardly had to free any themselves. Who pushed them out freed most pages (BPF), or grew most.",
		Remedy: []string{
			"Now: end whoever filled memory, or, in a cgroup at its limit, raise that (`systemctl set-property UNIT MemoryMax=4G`).",
			"So that it does not come back: a cgroup of its own for what reads much (a page cache is shared within one, so that a backup pushes out what its neighbour needs), or O_DIRECT and POSIX_FADV_DONTNEED in it; MemoryLow= for what must answer, MemoryHigh= for the rest; some swap, so that idle memory can go instead of code; an out-of-memory daemon.",
		},
		Reads:    []string{sourceLedger, "vmstat.workingset_refault_file", "vmstat.pgmajfault", "procs.rss_bytes", "procs.cgroup", "cgroups.memory_max_events", "cgroups.memory_max_bytes", "reclaim.pages"},
		Subsumes: bringsAbout("io.device_saturated", "runtime.jvm_gc"),
		Judge:    judgeFileThrash,
	}
}

func onFileFault(m *moment) bool {
	return m.wait.Class == freezeframe.SwapIn && in(m.wait, inFileFault...) && !in(m.wait, inSwap...)
}

func judgeFileThrash(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, onFileFault)
	if worth(w, ms.spans()) == nil {
		return nil
	}
	limits := limitsOf(w)
	ms = ms.where(func(m *moment) bool { return !limits.decide(m.who.PID) })
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	ps := processesIn(w, around(s))
	f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
	if vmstat(w, &f, s, "workingset_refault_file", "pages of files read back soon after they were evicted") < refaults {
		return nil
	}
	vmstat(w, &f, s, "pgmajfault", "major faults")
	// In a cgroup at its limit it was one of its own processes.
	var mine func(*process) bool
	where := "memory"
	for _, pid := range ms.pids() {
		if c := limits.groups[pid]; c != nil {
			mine = func(p *process) bool { return p.within("memory", c.name) }
			where = "the memory of cgroup " + c.path()
			f.Evidence = append(f.Evidence, evidence("cgroups", "memory_max_events", "cgroup %s reached its limit of %s %d times", c.path(), size(c.max("memory_max_bytes")), c.grew("memory_max_events")))
			break
		}
	}
	blameTaker(w, &f, s, func(p *process) bool { return !slices.Contains(ms.pids(), p.pid) && (mine == nil || mine(p)) })
	if f.Culprit.Kind == freezeframe.CulpritHost {
		blameTaker(w, &f, s, mine) // they did it to themselves
	}
	if pid, comm, share := pusher(w, s, ms.pids()); pid != 0 {
		f.Culprit = ps.blame(freezeframe.Party{PID: pid, Comm: comm})
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence("reclaim", "pages", "%s pushed %s of the pages out that processes freed", named(comm, pid), pct(share)))
	}
	f.Summary = fmt.Sprintf("Pages of programs and mapped files had been thrown out of %s and were read back; the work waited for them for %s.", where, length(claim.Length()))
	return []freezeframe.Finding{f}
}

// limitHolds is the share of the victims' waits for memory, in a cgroup at its
// limit, that must be for freeing it, for the limit to be what held them up. Below
// it they mostly read back what others of the cgroup had pushed out.
const limitHolds = 0.3

// limits is which victims' cgroups were at their memory limit, and in which of
// them the limit itself is what they waited for.
type limits struct {
	groups map[int]*control // by pid
	holds  map[string]bool  // by the cgroup's name
}

// decide tells whether a process's waits are its cgroup's limit's.
func (l *limits) decide(pid int) bool {
	c := l.groups[pid]
	return c != nil && l.holds[c.name]
}

type limitsKey struct{}

func limitsOf(w freezeframe.Window) *limits {
	return freezeframe.Once(w, limitsKey{}, func() *limits {
		l := &limits{groups: map[int]*control{}, holds: map[string]bool{}}
		ms := roots(w, func(m *moment) bool { return onLimit(m) || onFileFault(m) })
		if len(ms) == 0 {
			return l
		}
		s := around(ms.hull())
		ps, cs := processesIn(w, s), cgroupsIn(w, s)
		for _, pid := range ms.pids() {
			l.groups[pid] = cs.of(ps.byPID[pid], "memory", atLimit)
		}
		for _, b := range split(ms, func(m *moment) string {
			if c := l.groups[m.who.PID]; c != nil {
				return c.name
			}
			return ""
		}) {
			back := one(w, "vmstat", core(b.spans()), 0, "workingset_refault_file")
			l.holds[b.key] = b.share(onLimit) >= limitHolds || back.sum < refaults
		}
		return l
	})
}
