package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"freezeframe"
)

func limitCgroupPIDs() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.cgroup_pids",
		Title: "a cgroup at its limit of processes",
		Means: "The cgroup (the unit or container) had as many processes and threads as it may, so starting another one was refused.",
		Proof: "The pids counter of the cgroup's refused forks grew, its count stood at its limit, and starting something failed with EAGAIN; the kernel's line \"fork rejected by pids controller\".",
		Remedy: []string{
			"Now: `systemctl set-property UNIT TasksMax=8192`, `docker update --pids-limit 2048 NAME`.",
			"So that it does not come back: look for what does not end (`systemd-cgls UNIT`, zombies that nobody waits for) or for a pool without a bound.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "cgroups.pids", "cgroups.pids_max", "cgroups.pids_max_events", "procs.cgroup", "failures.failures", "failures.errno", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "cpu.fork_storm"},
		Judge:    judgeCgroupPIDs,
	}
}

func judgeCgroupPIDs(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	s := around(stall.Span)
	ps := processesIn(w, s)
	series := w.Between("cgroups", s)
	var out []freezeframe.Finding
	keys := textKeys(w, &series)
	for name, key := range sorted(keys) {
		refusedForks, limit, most := series.Delta(key, "pids_max_events"), series.Max(key, "pids_max"), series.Max(key, "pids")
		if refusedForks == 0 || limit == 0 {
			continue
		}
		// How many there are is read once a second; what was refused is counted:
		// by older kernels in the cgroup that forked, whoever's limit it was, and
		// by newer ones in all above the one whose limit it was, too.
		full := fullOfPIDs(&series, key)
		if !full && slices.ContainsFunc(slices.Collect(maps.Keys(keys)), func(other string) bool {
			k := keys[other]
			return descends(name, other) && fullOfPIDs(&series, k) ||
				descends(other, name) && series.Delta(k, "pids_max_events") > 0 && series.Max(k, "pids_max") > 0
		}) {
			continue
		}
		told := logged(w, stall.Length(), "fork rejected by pids controller")
		if told != nil && !strings.Contains(told.Text, cgroupPath(name)) {
			told = nil
		}
		// Those in the cgroup, or below it, whose work did not get done, and the
		// refusals that the limits probe counted in it.
		claim := worth(w, symptoms(w, func(sy *freezeframe.Symptom) bool {
			for _, v := range sy.Victims {
				if p := ps.byPID[v.PID]; p != nil && p.within("pids", name) {
					return sy.Err == "" || refusal(sy, "EAGAIN")
				}
			}
			return refusal(sy, "EAGAIN") && strings.HasSuffix(sy.Target, " "+name) || told != nil && refusal(sy, "fork rejected")
		}))
		if claim == nil {
			continue
		}
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: cgroupPath(name)}, Explains: claim, Confidence: seen,
			Summary:  fmt.Sprintf("%s had %d processes and threads, as many as it may; %d more were refused.", cgroupPath(name), limit, refusedForks),
			Evidence: []freezeframe.Evidence{evidence("cgroups", "pids_max_events", "%d forks refused; at most %d of %d seen in use", refusedForks, most, limit)},
		}
		if !full {
			f.Confidence = counted
		}
		if told != nil {
			f.Confidence = proven
			f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(told.Text)))
		}
		f.Evidence = append(f.Evidence, refusals(slices.DeleteFunc(refusedIn(w, s, "EAGAIN", starting...), func(r refused) bool {
			p := ps.byPID[r.pid]
			return p == nil || !p.within("pids", name)
		}))...)
		if biggest := ps.ranked(func(p *process) uint64 {
			if p.within("pids", name) {
				return p.threads
			}
			return 0
		}); len(biggest) > 0 {
			f.Evidence = append(f.Evidence, evidence("procs", "threads", "the largest in it is %s with %d threads", biggest[0], biggest[0].threads))
		}
		out = append(out, f)
	}
	return out
}

// descends tells whether a cgroup is below another one.
func descends(name, above string) bool {
	return name != above && strings.HasPrefix(name, strings.TrimSuffix(above, "/")+"/")
}

// fullOfPIDs tells whether a cgroup was seen at its limit of processes.
func fullOfPIDs(series *freezeframe.Series, key freezeframe.Key) bool {
	limit := series.Max(key, "pids_max")
	return limit > 0 && series.Max(key, "pids") >= limit-limit/50
}
