// Package rules holds one cause in each file: how it is recognised in a
// window, and what to tell about it.
//
// The ledger is the backbone: a rule claims the moments in which victims were
// in a wait that fits its cause, by class and by where in the kernel they
// slept, and looks at the resource side for the culprit and for how sure it
// may be. Work that was refused has no waits; it is claimed by its symptom.
package rules

import (
	"slices"

	"freezeframe"
)

// All returns every rule, in the order of the public list of causes.
func All() []freezeframe.Rule {
	return []freezeframe.Rule{
		cpuContention(),
		cpuCgroupThrottled(),
		cpuRTStarvation(),
		cpuAffinityHotspot(),
		cpuLowWeight(),
		cpuForkStorm(),

		kernelSoftirqStorm(),
		kernelIRQStorm(),
		kernelMmapLock(),
		kernelLockContention(),
		kernelHungTask(),
		kernelIRQsOff(),
		kernelSoftLockup(),
		kernelRCUStall(),
		kernelOops(),

		virtSteal(),
		virtPaused(),
		timeSuspended(),
		timeStepped(),

		memDirectReclaim(),
		memSwapThrash(),
		memFileThrash(),
		memCgroupHigh(),
		memCgroupMax(),
		memOOMKill(),
		memCgroupOOMKill(),
		memCompaction(),
		memForkCOW(),
		memTeardown(),
		memOvercommitRefused(),

		ioDeviceSaturated(),
		ioDeviceSlow(),
		ioDeviceHung(),
		ioFlushStorm(),
		ioCgroupThrottled(),
		ioDeviceError(),

		fsDirtyThrottled(),
		fsJournalCommit(),
		fsFrozen(),
		fsFUSEUnresponsive(),
		fsNFSUnresponsive(),
		fsFull(),
		fsInodesFull(),
		fsReadonly(),
		fsFileLock(),
		fsPipeFull(),
		fsLogSocketBlocked(),

		limitProcessFDs(),
		limitSystemFDs(),
		limitCgroupPIDs(),
		limitSystemPIDs(),
		limitUserProcesses(),
		limitEphemeralPorts(),
		limitConntrack(),
		limitNeighbourTable(),
		limitTCPMemory(),
		limitMemoryMaps(),
		limitInotify(),

		netAcceptQueueOverflow(),
		netSYNFlood(),
		netPacketFlood(),
		netPacketLoss(),
		netFirewallDrop(),
		netReceiveBufferFull(),

		runtimeJVMGC(),
		appStopped(),
		appFrozen(),
		appCoreDump(),
		appBusyLoop(),
		appDeadlock(),
		appLockContention(),
		appWorkerPoolExhausted(),
		appRestarted(),
		appCrashLoop(),
		depRemoteUnresponsive(),
		depDNS(),
	}
}

// carried are the causes that pass a wait on: behind each may stand any other,
// which then is the one to name.
var carried = [...]freezeframe.Cause{
	"fs.file_lock", "fs.pipe_full", "fs.log_socket_blocked", "kernel.mmap_lock", "kernel.lock_contention", "kernel.hung_task",
	"app.deadlock", "app.lock_contention", "net.receive_buffer_full", "dep.dns", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow",
}

// bringsAbout returns what a cause subsumes that is not itself one of the
// carried: all of those, and more of its own.
func bringsAbout(more ...freezeframe.Cause) []freezeframe.Cause {
	return append(slices.Clone(carried[:]), more...)
}

const (
	sourceLedger   = "ledger"   // in Rule.Reads: the time ledger
	sourceSymptoms = "symptoms" // in Rule.Reads: the stall's symptoms
)

// core is where most of a claim lies: claimed spans that are less than a
// reading of the slow sources apart count as one, and the fullest wins. The
// resource side is read over it, so that hours of quiet do not dilute it.
func core(claim freezeframe.Spans) freezeframe.Span {
	var best, cluster freezeframe.Span
	var most, sum int64
	for i, s := range claim {
		if i == 0 || s.Start.Sub(cluster.End) > clusterGap {
			cluster, sum = s, 0
		}
		cluster.End = s.End
		if sum += int64(s.Length()); sum > most {
			most, best = sum, cluster
		}
	}
	return best
}

const clusterGap = 300e6 // ns
