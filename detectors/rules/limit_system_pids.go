package rules

import "freezeframe"

func limitSystemPIDs() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "limit.system_pids",
		Title: "a machine out of processes and threads",
		Means: "All processes and threads together were as many as the machine allows (kernel.pid_max, kernel.threads-max). Starting another one fails with EAGAIN everywhere: logins, cron jobs, workers.",
		Proof: "The number of threads (/proc/loadavg) stood at the smaller of the two limits while starting something failed with EAGAIN. Told from limit.cgroup_pids by the cgroup's own counter.",
		Remedy: []string{
			"Now: `sysctl -w kernel.pid_max=4194304 kernel.threads-max=1000000`; the largest holder is named here.",
			"So that it does not come back: TasksMax= for the unit that grew; look for zombies (`ps -eo ppid,stat | grep Z`) and for pools without a bound.",
		},
		Reads:    []string{sourceSymptoms, "limits.threads", "limits.threads_max", "limits.pid_max", "procs.threads", "procs.comm", "procs.ppid", "failures.failures", "failures.errno", freezeframe.EventKernelLog},
		Subsumes: []freezeframe.Cause{"app.worker_pool_exhausted", "net.accept_queue_overflow", "dep.remote_unresponsive", "cpu.fork_storm"},
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeSystemLimit(w, systemLimit{
				used: "threads", most: []string{"threads_max", "pid_max"}, errno: "EAGAIN", calls: starting, target: "threads",
				what: "processes and threads", holds: func(p *process) uint64 { return p.threads }, held: "threads", column: "threads",
			})
		},
	}
}
