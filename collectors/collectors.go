package collectors

import (
	"freezeframe"
	"freezeframe/bpf"
)

// All returns every collector, closed. A new one is one file and one line here.
// The conformance tests range over this list. What BPF tells comes on top, as
// far as programs has it; nil is a machine without.
func All(programs *bpf.Programs) []freezeframe.Collector {
	return append(plain(programs), known(programs)...)
}

// known lists what is read from BPF programs.
func known(programs *bpf.Programs) []freezeframe.Collector {
	var out []freezeframe.Collector
	if programs == nil {
		return out
	}
	return out
}

// plain lists what needs no BPF, though some of it costs less with it.
func plain(programs *bpf.Programs) []freezeframe.Collector {
	// The table of processes, which three collectors share.
	processes := newCensus()
	if programs != nil {
		processes.iterator = programs.Tasks
	}
	// What asks the kernel about sockets shares the answers.
	shared := socketsUser{shared: newSockets()}
	return []freezeframe.Collector{
		// The machine as a whole, one kernel source each.
		&stat{},
		&pressure{},
		&vmstat{},
		&meminfo{},
		&diskstats{},
		&interrupts{},
		&softirqs{},
		&softnet{},
		&netstat{},
		&sockstat{},
		&netdev{},
		&limits{},
		&self{},

		// Processes and threads.
		&procs{census: processes},
		&tasks{census: processes},
		&jvm{census: processes},

		// Control groups, sockets, file locks, mounts.
		&cgroups{},
		&listeners{socketsUser: shared},
		&connections{socketsUser: shared},
		&ports{socketsUser: shared},
		&locks{},
		&mounts{},
		&fuse{owners: shared.shared.owners},
	}
}
