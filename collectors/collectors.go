package collectors

import "freezeframe"

// All returns every collector, closed. A new one is one file and one line here.
// The conformance tests range over this list.
func All() []freezeframe.Collector {
	// The table of processes, which three collectors share.
	processes := newCensus()
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
