package collectors

import (
	"freezeframe"
	"freezeframe/bpf"
)

// All returns every collector, closed. A new one is one file and one line in
// plain or known. The conformance tests range over these lists. What BPF tells
// comes on top, as far as programs has it; nil is a machine without.
func All(programs *bpf.Programs) []freezeframe.Collector {
	out := plain()
	for _, k := range known(programs) {
		if k.here {
			out = append(out, k.Collector)
		}
	}
	return out
}

// Sources returns what every collector yields, those that need BPF among them,
// whatever this machine allows.
func Sources() []freezeframe.Source {
	var out []freezeframe.Source
	for _, c := range plain() {
		out = append(out, c.Source())
	}
	for _, k := range known(nil) {
		out = append(out, k.Source())
	}
	return out
}

// fromBPF is a collector that reads a family of BPF programs.
type fromBPF struct {
	freezeframe.Collector
	here bool // the family is loaded
}

// known lists what is read from BPF programs.
func known(p *bpf.Programs) []fromBPF {
	if p == nil {
		p = &bpf.Programs{}
	}
	names := &kernelNames{}
	return []fromBPF{
		{&waits{programs: p.Waits, names: names}, p.Waits != nil},
		{&profile{programs: p.Profile, names: names}, p.Profile != nil},
		{&block{from: p.Block}, p.Block != nil},
		{&blockIssuers{from: p.Block}, p.Block != nil},
		{&reclaim{from: p.Reclaim}, p.Reclaim != nil},
		{&reclaimIntervals{from: p.Reclaim}, p.Reclaim != nil},
		{&journal{from: p.Journal}, p.Journal != nil},
		{&journalCommits{from: p.Journal}, p.Journal != nil},
		{&journalUsers{from: p.Journal}, p.Journal != nil},
		{&teardown{from: p.Teardown}, p.Teardown != nil},
		{&contention{programs: p.Locks, names: names}, p.Locks != nil},
		{&timers{programs: p.Timers, names: names}, p.Timers != nil},
		{&packets{programs: p.Packets}, p.Packets != nil},
		{&signals{life: p.Life}, p.Life != nil},
		{&parents{life: p.Life}, p.Life != nil},
	}
}

// plain lists what needs no BPF.
func plain() []freezeframe.Collector {
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
		&udp{socketsUser: shared},
		&locks{},
		&mounts{},
		&fuse{owners: shared.shared.owners},
	}
}
