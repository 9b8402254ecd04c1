// Package faults holds the ways to freeze something, one cause per file, each
// with its near misses.
package faults

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"

	"freezeframe/lab"
)

// All lists every fault; a new one is a file and a line here.
func All() []lab.Fault {
	return slices.Concat(
		fsFrozen,
		fsFileLock,
		fsPipeFull,
		appStopped,
		appFrozen,
		cpuContention,
		cpuCgroupThrottled,
		cpuRTStarvation,
		cpuAffinityHotspot,
		cpuLowWeight,
		cpuForkStorm,
		kernelSoftirqStorm,
		kernelMmapLock,
		kernelLockContention,
		memCgroupHigh,
		memCgroupMax,
		memSwapThrash,
		memFileThrash,
		memCgroupOOMKill,
		memForkCOW,
		memTeardown,
		ioDeviceSaturated,
		ioDeviceHung,
		ioDeviceSlow,
		ioFlushStorm,
		ioCgroupThrottled,
		fsDirtyThrottled,
		fsJournalCommit,
		fsFuseUnresponsive,
		fsNFSUnresponsive,
		fsFull,
		limitProcessFDs,
		limitCgroupPids,
		limitUserProcesses,
		limitEphemeralPorts,
		limitConntrack,
		limitMemoryMaps,
		limitInotify,
		netAcceptQueueOverflow,
		netSYNFlood,
		netPacketLoss,
		runtimeJVMGC,
		depRemoteUnresponsive,
		timeStepped,
		virtPaused,
		appBusyLoop,
		appWorkerPoolExhausted,
		appLockContention,
		appDeadlock,
		appRestarted,
		appCrashLoop,
		netFirewallDrop,
		netReceiveBufferFull,
		depDNS,
		notMade,
	)
}

// List prints the faults and what cannot be made here.
func List(w io.Writer, match *regexp.Regexp) {
	for _, f := range All() {
		if !match.MatchString(f.Name) {
			continue
		}
		fmt.Fprintf(w, "%-40s %s\n", f.Name, f.About)
		if f.MissAbout != "" {
			fmt.Fprintf(w, "%-40s near miss: %s\n", "", f.MissAbout)
		}
		if f.Needs != nil {
			if why := f.Needs(); why != nil {
				fmt.Fprintf(w, "%-40s NOT MADE HERE: %v\n", "", why)
			}
		}
	}
}

// root is the need of nearly all faults.
func root() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root")
	}
	return nil
}

// needs joins needs: the first that is missing.
func needs(all ...func() error) func() error {
	return func() error {
		for _, need := range all {
			if err := need(); err != nil {
				return err
			}
		}
		return nil
	}
}

func program(names ...string) func() error {
	return func() error {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return fmt.Errorf("needs %s: %w", name, err)
			}
		}
		return nil
	}
}

// controller needs a cgroup controller, of version 1 or 2.
func controller(name string) func() error {
	return func() error { return lab.HasController(name) }
}

// units needs systemd and its cgroups.
func units() error { return lab.NeedsUnits() }

// mapper needs a target of the device mapper.
func mapper(target string) func() error {
	return func() error { return lab.NeedsMapper(target) }
}

// controllerV1 needs a version 1 cgroup controller.
func controllerV1(name string) func() error {
	return func() error { return lab.NeedsV1(name) }
}
