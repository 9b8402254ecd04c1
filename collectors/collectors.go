package collectors

import (
	"freezeframe"
	"freezeframe/bpf"
)

// All returns every collector, closed. A new one is one file and one line here.
// The conformance tests range over this list. What BPF tells comes on top, as
// far as programs has it; nil is a machine without.
func All(programs *bpf.Programs) []freezeframe.Collector {
	return append(plain(), known(programs)...)
}

// Sources returns what every collector yields, those that BPF programs are read
// for too, whether or not this machine takes them.
func Sources() []freezeframe.Source {
	var out []freezeframe.Source
	for _, c := range plain() {
		out = append(out, c.Source())
	}
	for _, k := range fromBPF(&bpf.Programs{}) {
		out = append(out, k.Source())
	}
	return out
}

// known lists what is read from the BPF programs that there are.
func known(programs *bpf.Programs) []freezeframe.Collector {
	var out []freezeframe.Collector
	if programs == nil {
		return out
	}
	for _, k := range fromBPF(programs) {
		if k.have {
			out = append(out, k.Collector)
		}
	}
	return out
}

type conditional struct {
	freezeframe.Collector
	have bool // its programs are loaded
}

// fromBPF lists every collector that reads BPF programs.
func fromBPF(p *bpf.Programs) []conditional {
	return []conditional{
		{&block{from: p.Block}, p.Block != nil},
		{&blockIssuers{from: p.Block}, p.Block != nil},
		{&reclaim{from: p.Reclaim}, p.Reclaim != nil},
		{&reclaimIntervals{from: p.Reclaim}, p.Reclaim != nil},
		{&journal{from: p.Journal}, p.Journal != nil},
		{&journalCommits{from: p.Journal}, p.Journal != nil},
		{&journalUsers{from: p.Journal}, p.Journal != nil},
		{&teardown{from: p.Teardown}, p.Teardown != nil},
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
		&locks{},
		&mounts{},
		&fuse{owners: shared.shared.owners},
	}
}
