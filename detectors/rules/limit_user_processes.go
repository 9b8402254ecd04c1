package rules

import (
	"fmt"

	"freezeframe"
)

func limitUserProcesses() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.user_processes",
		Title: "a user at its limit of processes",
		Means: "All processes and threads of one user, in every service and session of it, are counted together (RLIMIT_NPROC). They were as many as the limit of the one that wanted another, so it was refused.",
		Proof: "Starting a process or thread failed with EAGAIN in a process that has a limit and is not root's, its user has about as many, and neither its cgroup nor the machine was at a limit.",
		Remedy: []string{
			"Now: `ps -L -u USER | wc -l`; `prlimit --pid PID --nproc=16384` for the service that is refused.",
			"So that it does not come back: LimitNPROC= in the unit or /etc/security/limits.d; a user of its own for each service; a bound for the pool that grew.",
		},
		Reads: []string{
			sourceLedger, sourceSymptoms, "failures.failures", "failures.errno", "procs.uid", "procs.threads", "procs.processes_max", "procs.ppid",
			"cgroups.pids_max_events", "limits.threads", "limits.threads_max", "limits.pid_max",
		},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "cpu.fork_storm"},
		Judge:    judgeUserProcesses,
	}
}

// userFull is how many of the processes that it may have a user must have: they
// come and go between two sweeps.
const userFull = 0.9

func judgeUserProcesses(w freezeframe.Window) []freezeframe.Finding {
	s := around(w.Stall().Span)
	ps := processesIn(w, s)
	if machineOutOfPIDs(w, s) {
		return nil
	}
	groups := cgroupsIn(w, s)
	// at tells whether the limit of its user is what may stop a process.
	at := func(p *process) bool {
		return p != nil && p.uid != 0 && p.processesMax > 0 &&
			groups.of(p, "pids", func(c *control) bool { return c.grew("pids_max_events") > 0 }) == nil
	}
	var out []freezeframe.Finding
	done := map[int]bool{}
	list := refusedIn(w, s, "EAGAIN", starting...)
	for i := range list {
		p := ps.byPID[list[i].pid]
		if !at(p) || done[p.uid] {
			continue
		}
		done[p.uid] = true
		var mine []refused
		for _, r := range list {
			if q := ps.byPID[r.pid]; at(q) && q.uid == p.uid {
				mine = append(mine, r)
			}
		}
		claim := worth(w, lateOf(w, ps, mine))
		if claim == nil {
			continue
		}
		f, full := blameUser(ps, p)
		f.Explains, f.Confidence = claim, counted
		if full {
			f.Confidence = proven
		}
		f.Evidence = append(refusals(mine), f.Evidence...)
		out = append(out, f)
	}
	if len(out) > 0 || counting(w, s) {
		return out
	}
	// Without the refusals: a victim that sleeps while its user is at the limit.
	for _, p := range ps.list {
		if !at(p) || done[p.uid] {
			continue
		}
		f, full := blameUser(ps, p)
		if !full {
			continue
		}
		if claim := worth(w, retrying(w, p.pid)); claim != nil {
			done[p.uid] = true
			f.Explains, f.Confidence = claim, counted
			out = append(out, f)
		}
	}
	return out
}

// machineOutOfPIDs tells whether nobody could start anything.
func machineOutOfPIDs(w freezeframe.Window, s freezeframe.Span) bool {
	series := w.Between("limits", s)
	used := float64(series.Max(0, "threads"))
	for _, column := range []string{"threads_max", "pid_max"} {
		if most := series.Max(0, column); most > 0 && used >= nearLimit*float64(most) {
			return true
		}
	}
	return false
}

// blameUser tells who has most of what the user of a process has, and whether
// that is as many as it may.
func blameUser(ps *processes, p *process) (f freezeframe.Finding, full bool) {
	sums, first, parents := map[string]uint64{}, map[string]*process{}, map[string]int{}
	many := map[string]int{}
	var all uint64
	for _, q := range ps.list {
		if q.uid != p.uid || ps.byPID[q.pid] != q {
			continue
		}
		all += q.threadsMost
		sums[q.comm] += q.threadsMost
		many[q.comm]++
		if f := first[q.comm]; f == nil || q.threadsMost > f.threadsMost {
			first[q.comm] = q
		}
		if n, ok := parents[q.comm]; ok && n != q.ppid {
			parents[q.comm] = 0 // of several
		} else if !ok {
			parents[q.comm] = q.ppid
		}
	}
	most := ""
	for comm := range sorted(sums) {
		if most == "" || sums[comm] > sums[most] {
			most = comm
		}
	}
	who := first[most]
	f.Culprit = who.culprit()
	if many[most] > 1 {
		f.Culprit.Count = many[most]
		// Many alike are their parent's doing, unless that starts all of a session.
		if parent := ps.byPID[parents[most]]; parent != nil && parent.uid == p.uid {
			f.Culprit = parent.culprit()
		}
	}
	full = float64(all) >= userFull*float64(p.processesMax)
	f.Summary = fmt.Sprintf("User %d had %d processes and threads, and %s may have one more only while they are less than %d; %d of them are of %s.",
		p.uid, all, p, p.processesMax, sums[most], who)
	if many[most] > 1 {
		f.Summary = fmt.Sprintf("User %d had %d processes and threads, and %s may have one more only while they are less than %d; %d of them are of the %d processes named %s.",
			p.uid, all, p, p.processesMax, sums[most], many[most], most)
	}
	f.Evidence = []freezeframe.Evidence{
		evidence("procs", "threads", "user %d has %d processes and threads", p.uid, all),
		evidence("procs", "processes_max", "the limit of %s is %d", p, p.processesMax),
	}
	f.Remedy = []string{fmt.Sprintf("`prlimit --pid %d --nproc=%d`", p.pid, 4*p.processesMax)}
	return f, full
}
