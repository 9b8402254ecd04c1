package rules

import (
	"fmt"

	"freezeframe"
)

func limitInotify() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.inotify",
		Title: "a user out of inotify watches",
		Means: "Programs that want to be told of changes to files (servers that reload, log shippers, editors, file synchronisation) have a kernel table in common with all others of their user. It was full, so watching failed.",
		Proof: "inotify_add_watch failed with ENOSPC, or inotify_init with EMFILE in a process that had descriptors left. Told from fs.full by the system call.",
		Remedy: []string{
			"Now: `sysctl -w fs.inotify.max_user_watches=1048576 fs.inotify.max_user_instances=1024`.",
			"So that it does not come back: the same in /etc/sysctl.d; find who has most (`grep -c ^inotify /proc/*/fdinfo/* 2>/dev/null | sort -t: -k2 -n | tail`) and have it watch fewer directories.",
		},
		Reads:    []string{sourceSymptoms, "failures.failures", "failures.errno", "failures.syscall", "procs.uid", "procs.fds", "procs.fds_max", "procs.ppid"},
		Subsumes: []freezeframe.Cause{"app.busy_loop", "app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "limit.process_fds"},
		Judge:    judgeInotify,
	}
}

func judgeInotify(w freezeframe.Window) []freezeframe.Finding {
	s := around(w.Stall().Span)
	ps := processesIn(w, s)
	byUser := map[string][]refused{}
	add := func(r refused) { // by user, in the order of their ids
		name := fmt.Sprintf("%10d", r.uid)
		byUser[name] = append(byUser[name], r)
	}
	for _, r := range refusedIn(w, s, "ENOSPC", "inotify_add_watch") {
		add(r)
	}
	for _, r := range refusedIn(w, s, "EMFILE", "inotify_init", "inotify_init1") {
		if p := ps.byPID[r.pid]; p == nil || p.fdsMax == 0 || p.fds+1 < p.fdsMax {
			add(r)
		}
	}
	var out []freezeframe.Finding
	for _, list := range sorted(byUser) {
		claim := worth(w, lateOf(w, ps, list))
		if claim == nil {
			continue
		}
		what, setting := "watches", "max_user_watches"
		if list[0].errno == "EMFILE" {
			what, setting = "instances", "max_user_instances"
		}
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable, Device: "fs.inotify." + setting, User: fmt.Sprintf("uid %d", list[0].uid)}, Explains: claim, Confidence: proven,
			Summary:  fmt.Sprintf("User %d had as many inotify %s as it may; %s was refused more.", list[0].uid, what, &list[0]),
			Evidence: refusals(list),
		}
		// Who has them cannot be seen; where a user has one process, it is that.
		var owner *process
		alone := true
		for _, p := range ps.list {
			if p.uid == list[0].uid && ps.byPID[p.pid] == p {
				alone = alone && owner == nil
				owner = p
			}
		}
		if alone && owner != nil {
			f.Culprit = owner.culprit()
			f.Evidence = append(f.Evidence, evidence("procs", "uid", "%s is the only process of user %d", owner, owner.uid))
		}
		out = append(out, f)
	}
	return out
}
