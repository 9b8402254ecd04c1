package collectors

import (
	"freezeframe"
	"freezeframe/bpf"
)

// All returns every collector, closed. A new one is one file and one line in
// plain or known. The conformance tests range over these lists. What BPF tells
// comes on top, as far as programs has it; nil is a machine without.
func All(programs *bpf.Programs) []freezeframe.Collector {
	if programs == nil {
		programs = &bpf.Programs{}
	}
	names := &kernelNames{}
	out := plain(programs, names)
	for _, k := range known(programs, names) {
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
	programs, names := &bpf.Programs{}, &kernelNames{}
	for _, c := range plain(programs, names) {
		out = append(out, c.Source())
	}
	for _, k := range known(programs, names) {
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
func known(p *bpf.Programs, names *kernelNames) []fromBPF {
	sockets := newServed(p.Requests)
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
		{&interruptTime{from: p.Interrupts}, p.Interrupts != nil},
		{&packets{programs: p.Packets}, p.Packets != nil},
		{&failures{programs: p.Failures}, p.Failures != nil},
		{&signals{life: p.Life}, p.Life != nil},
		{&parents{life: p.Life}, p.Life != nil},
		{&requests{served: sockets}, p.Requests != nil},
		{&services{served: sockets}, p.Requests != nil},
	}
}

// plain lists what needs no BPF, though some of it costs less with it: threads
// are passed over in the kernel, and where it tells of requests, the tables of
// sockets are read less often while nothing is wrong.
func plain(p *bpf.Programs, names *kernelNames) []freezeframe.Collector {
	// The table of processes, which three collectors share.
	processes := newCensus()
	processes.iterator, processes.names = p.Tasks, names
	// What asks the kernel about sockets shares the answers.
	shared := socketsUser{shared: newSockets()}
	shared.shared.requests, shared.shared.packets = p.Requests, p.Packets
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
		&futexes{census: processes},

		// Control groups, sockets, file locks, mounts.
		&cgroups{},
		&listeners{socketsUser: shared},
		&connections{socketsUser: shared},
		&ports{socketsUser: shared},
		&udp{socketsUser: shared},
		&locks{},
		&mounts{},
		&fuse{owners: shared.shared.owners},
		&mapper{},
	}
}
