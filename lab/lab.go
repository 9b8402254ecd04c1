// Package lab makes a machine freeze in known ways and scores what a
// diagnosis says about it.
//
// It is a black box: nothing here uses the product's code, it runs the built
// binary beside a real fault. Every fault has a victim, a service with users
// of its own, and the users' view is measured by a process that knows nothing
// of the fault (victim.Client). A run in which the users did not wait is
// invalid, not passed; a near miss in which they did wait is invalid too.
package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// Fault is one way to freeze something, with its near miss: the same kind of
// load or event without anybody waiting for it.
type Fault struct {
	Name  string // cause/mechanism: "fs.file_lock/flock"
	Cause string // the id a report must give
	// AlsoOK lists ids that are equally true of this fault by the public list
	// of causes; it is not for near enough.
	AlsoOK []string
	About  string // what is done to whom
	// MissAbout says what the near miss does; empty when there is none.
	MissAbout string

	// Shortest and Longest bound the fault's length where the mechanism needs
	// it (a lost SYN is only sent again after a second). 0: the lab's own.
	Shortest, Longest time.Duration

	// Needs says why this machine cannot make the fault; nil when it can.
	Needs func() error
	// Run and Miss set up, call Scene.Watch once and Scene.Break once. A nil
	// Run is a fault that no code here makes: Needs must say why.
	Run, Miss func(*Scene)

	// Roles are programs of this fault's own (the load, a daemon): the lab
	// binary runs itself again in such a role, see Cmd.Role.
	Roles map[string]func(args []string)
}

// Roles returns the programs of the lab itself and of all faults, for Dispatch.
func Roles(faults []Fault) map[string]func(args []string) {
	all := builtinRoles()
	for _, f := range faults {
		for name, role := range f.Roles {
			if all[name] != nil {
				panic(fmt.Sprintf("lab: two programs are named %q", name))
			}
			all[name] = role
		}
	}
	return all
}

// Dispatch turns this process into one of the programs if it was started as
// one; it returns only in the lab itself. It has to be the first call of main
// (of TestMain, in tests).
func Dispatch(roles map[string]func(args []string)) {
	name := os.Getenv(envRole)
	if name == "" {
		return
	}
	role := roles[name]
	if role == nil {
		fmt.Fprintf(os.Stderr, "lab: no program named %q\n", name)
		os.Exit(2)
	}
	os.Unsetenv(envRole)
	role(os.Args[1:])
	os.Exit(0)
}

// Truth is what really happened in a run, on CLOCK_MONOTONIC nanoseconds.
type Truth struct {
	// Start and End enclose the fault itself.
	Start, End int64
	// Guilty lists whom a report may blame.
	Guilty Guilty
	// Innocent are the processes of the bystander load.
	Innocent []int
}

// Guilty is the set of culprits that are right. Each entry is acceptable on
// its own: a report names one.
type Guilty struct {
	PIDs       []int    `json:"pids,omitempty"`
	Swarms     []string `json:"swarms,omitempty"`  // "dd": of what comes and goes too fast to list, one and how many
	Cgroups    []string `json:"cgroups,omitempty"` // path below the controller's root: "/fflab-1-x"
	Units      []string `json:"units,omitempty"`   // of systemd: a process or cgroup that is blamed has to be named with one of them
	Mounts     []string `json:"mounts,omitempty"`
	Devices    []string `json:"devices,omitempty"`   // "loop3"
	Addresses  []string `json:"addresses,omitempty"` // "10.1.2.3:80", or an IP for any port of it
	Interfaces []string `json:"interfaces,omitempty"`
	Tables     bool     `json:"tables,omitempty"`     // a kernel table may be named
	Host       bool     `json:"host,omitempty"`       // nobody here can be blamed
	Hypervisor bool     `json:"hypervisor,omitempty"` // who runs this virtual machine may
}

func (g *Guilty) add(o Guilty) {
	for _, pid := range o.PIDs {
		if !slices.Contains(g.PIDs, pid) {
			g.PIDs = append(g.PIDs, pid)
		}
	}
	g.Swarms = append(g.Swarms, o.Swarms...)
	g.Cgroups = append(g.Cgroups, o.Cgroups...)
	g.Units = append(g.Units, o.Units...)
	g.Mounts = append(g.Mounts, o.Mounts...)
	g.Devices = append(g.Devices, o.Devices...)
	g.Addresses = append(g.Addresses, o.Addresses...)
	g.Interfaces = append(g.Interfaces, o.Interfaces...)
	g.Tables = g.Tables || o.Tables
	g.Host = g.Host || o.Host
	g.Hypervisor = g.Hypervisor || o.Hypervisor
}

// Length picks a length for one run.
func (f Fault) Length(r *rand.Rand) time.Duration {
	shortest, longest := 300*time.Millisecond, 3*time.Second
	if f.Shortest > 0 {
		shortest = f.Shortest
	}
	if f.Longest > 0 {
		longest = f.Longest
	}
	return shortest + time.Duration(r.Int64N(int64(longest-shortest)+1)).Round(time.Millisecond)
}
