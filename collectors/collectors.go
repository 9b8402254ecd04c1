package collectors

import "freezeframe"

// All returns every collector, closed. A new one is one file and one line here.
// The conformance tests range over this list.
func All() []freezeframe.Collector {
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

		// Control groups, sockets, file locks, mounts.
	}
}
