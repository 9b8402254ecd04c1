package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

const (
	// stormForks is how many new processes and threads a second make a storm:
	// a parallel build starts some tens.
	stormForks = 250
	// shortStorm is how many are enough when each lives as briefly as shortLife
	// (of CPU time) and together they use half of the machine: an interpreter
	// that is started for each line of a file takes 20 ms, a compiler far more.
	shortStorm = 100
	shortLife  = 0.02
	shortCPU   = 0.5
	// swarmForks is how many are enough where BPF counts them by their parent,
	// and none of them uses more than briefRun on average: on a machine that is
	// full of them each start takes long.
	swarmForks = 40
	briefRun   = 30 * time.Millisecond
	// stormTimes is how many times more than before they must be, unless the
	// children's CPU time is counted.
	stormTimes = 3
	// stormCPU is the share of all CPUs that short-lived children must have
	// used for them to be what the others waited for.
	stormCPU = 0.25
	// longLife is how long the children of a storm live at most, on average.
	longLife = 2 * time.Second
)

func cpuForkStorm() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "cpu.fork_storm",
		Title: "a swarm of short-lived processes",
		Means: "Something started processes by the hundred each second. Each lives too short to be seen by top, and together they take the CPUs.",
		Proof: "The fork counter of /proc/stat ran far faster than before, and the CPU time that no living process accounts for, or the parent's counter of its dead children's time, covers what the victims waited for. With BPF every process is counted by its parent, also those that nobody saw alive.",
		Remedy: []string{
			"Now: stop the parent (`kill -STOP PID`), look at its children with `pstree -p PID`, then end it.",
			"So that it does not come back: look for a loop that runs a command per line, a crash loop (`systemctl status`), or a health check gone wild; TasksMax= and StartLimitBurst= in the unit bound it.",
		},
		Reads:    []string{sourceLedger, "stat.processes", "stat.idle_us", "procs.cutime_us", "procs.cstime_us", "procs.ppid", "tasks.run_ns", "parents.forks", "parents.exits", "parents.run_ns", "parents.lived_ns"},
		Subsumes: bringsAbout("cpu.contention", "runtime.jvm_gc"),
		Judge:    judgeForkStorm,
	}
}

func judgeForkStorm(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, inClass(freezeframe.Runnable))
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	forks := one(w, "stat", s, freezeframe.AllCPUs, "processes")
	was := one(w, "stat", before(w), freezeframe.AllCPUs, "processes")
	if forks.rate() < swarmForks {
		return nil
	}
	more := was.any && forks.rate() >= stormTimes*was.rate()
	total, n := machine(cpus(w, s))
	wide := around(s)
	ps := processesIn(w, wide)
	// Once a second is too seldom for a short storm: what the counter grew by
	// in the readings around it, it grew by in the storm.
	load := func(p *process) float64 {
		g := one(w, "procs", wide, p.key, "cutime_us")
		h := one(w, "procs", wide, p.key, "cstime_us")
		return min(ratio(float64(g.sum+h.sum)/1e6, s.Length().Seconds()), float64(n))
	}
	var living float64
	users := crowds(w, s, nil)
	for _, c := range users {
		living += c.used
	}
	lost := max(0, total.busy*float64(n)-living)
	parent, used, children := forkParent(ps, wide, load)
	// The kernel's own count by parent (BPF) knows those that nobody saw.
	var exact *breeder
	if bred := breeders(w, wide); len(bred) > 0 {
		var ended uint64
		for _, b := range bred {
			ended += b.ended.sum
		}
		lost = max(lost, min(ratio(float64(ended)/1e9, s.Length().Seconds()), float64(n)))
		// Of those who started many that lived briefly, whose used most.
		for _, b := range bred {
			if b.forks.sum >= uint64(swarmForks*s.Length().Seconds()/4) && b.life() <= longLife {
				exact = b
				used = max(used, min(ratio(float64(b.ended.sum)/1e9, s.Length().Seconds()), float64(n)))
				break
			}
		}
	}
	// Counted by parent, they need no other measure than the others on the CPUs:
	// each was brief, and together they used more than anybody who stayed.
	swarm := exact != nil && exact.ran() <= briefRun && float64(exact.exits.sum) >= swarmForks*s.Length().Seconds()
	for i := range users {
		c := &users[i]
		swarm = swarm && (c.used <= used || c.comm == exact.exec || c.comm == exact.comm)
	}
	spent := max(lost, used)
	// The counter of a parent whose one long-lived child has ended jumps too; of
	// children that live briefly most CPU time is nobody's.
	brief := more && forks.rate() >= shortStorm && spent >= shortCPU*float64(n) && spent <= shortLife*forks.rate() && lost >= spent/2
	if spent < stormCPU*float64(n) || forks.rate() < stormForks && !brief && !swarm {
		return nil
	}
	f := freezeframe.Finding{
		Explains: claim, Confidence: counted, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Evidence: []freezeframe.Evidence{
			{Text: "new processes and threads a second", Source: "stat", Column: "processes", Before: fmt.Sprintf("%.0f", was.rate()), During: fmt.Sprintf("%.0f", forks.rate())},
			evidence("stat", "idle_us", "%s in use that no living process accounts for", cpusWorth(lost, n)),
		},
	}
	what := "something"
	if exact != nil {
		f.Culprit, what = exact.culprit(), exact.String()
		f.Confidence = proven
		if !more {
			f.Confidence = seen
		}
		f.Evidence = append(f.Evidence, evidence("parents", "forks", "%s started %d processes, the last of them %s; %d ended, after %s on average, and had used %s",
			what, exact.forks.sum, orElse(exact.exec, exact.comm), exact.exits.sum, length(exact.life()), cpusWorth(used, n)))
	} else if parent != nil {
		f.Culprit, what = parent.culprit(), parent.String()
		f.Confidence = seen
		if more && used >= stormCPU*float64(n) {
			f.Confidence = proven
		}
		f.Evidence = append(f.Evidence, evidence("procs", "cutime_us", "the ended children of %s used %s; %d of its children were seen to come and go", parent, cpusWorth(used, n), children))
	}
	f.Summary = fmt.Sprintf("%s started processes at %.0f a second; the work waited for a CPU for %s.", what, forks.rate(), length(claim.Length()))
	return []freezeframe.Finding{f}
}

// forkParent returns who started the short-lived processes: whose ended
// children used most CPU time (in CPUs), or, where nobody waited for them, of
// whom most children came and went.
func forkParent(ps *processes, s freezeframe.Span, load func(*process) float64) (parent *process, used float64, children int) {
	born := map[int]int{}
	settled := s.Start.Add(500e6)
	for _, p := range ps.list {
		if p.first < settled {
			continue // it was there before
		}
		up := ps.byPID[p.ppid]
		for range 8 { // a script's subshells are as short-lived as its commands
			if up == nil || up.first < settled {
				break
			}
			up = ps.byPID[up.ppid]
		}
		if up != nil && up.pid > 1 && !up.kernel() {
			born[up.pid]++
		}
	}
	best := 0.0
	for _, p := range ps.list {
		if p.pid <= 1 || p.kernel() || ps.byPID[p.pid] != p || p.children.sum == 0 && born[p.pid] == 0 {
			continue
		}
		// A child that came and went counts as little as it can have used.
		l := load(p)
		if score := l + 0.01*float64(born[p.pid]); score > best && (l >= 0.05 || born[p.pid] >= 3) {
			best, parent, used, children = score, p, l, born[p.pid]
		}
	}
	return parent, used, children
}
