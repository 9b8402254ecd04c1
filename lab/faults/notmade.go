package faults

import (
	"errors"

	"freezeframe/lab"
)

// notMade are the causes of the list that no fault here makes, and why.
var notMade = []lab.Fault{
	notHere("mem.oom_kill", "the kernel's choice of a victim would be free: it takes filling all memory of a machine that others use"),
	notHere("mem.direct_reclaim", "reclaim outside a cgroup takes filling all memory of the machine; mem.cgroup_max makes it inside one"),
	notHere("mem.compaction", "memory in pieces takes filling all memory of the machine, and moving it is felt by everybody"),
	notHere("mem.overcommit_refused", "vm.overcommit_memory is the machine's: whoever allocates while it is 2 is refused, too"),
	notHere("limit.tcp_memory", "net.ipv4.tcp_mem is the machine's, in every network namespace: all its connections would stall"),
	notHere("kernel.irq_storm", "it takes a device that interrupts without end, or a handler that does not"),
	notHere("kernel.hung_task", "every wait in D state that can be made here (frozen or throttled disk, inode lock, FUSE) has a better name"),
}

func notHere(cause, why string) lab.Fault {
	return lab.Fault{Name: cause, Cause: cause, About: "not made", Needs: func() error { return errors.New(why) }}
}
