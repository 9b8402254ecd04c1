package faults

import (
	"time"

	"freezeframe/lab"
)

var ioDeviceSlow = []lab.Fault{
	{
		Name:      "io.device_slow/reads",
		Cause:     "io.device_slow",
		AlsoOK:    behindDisk,
		About:     "each request of a disk (a loop device over a file of a FUSE daemon) suddenly takes 150 ms, under a Go service that reads 4 KiB per request as before",
		MissAbout: "it takes 8 ms",
		Needs:     needs(root, fuseDevice, program("losetup")),
		Shortest:  1200 * time.Millisecond,
		Run:       func(s *lab.Scene) { storeFault(s, "direct", "take 150ms", "take 0s") },
		Miss:      func(s *lab.Scene) { storeFault(s, "direct", "take 8ms", "take 0s") },
	},
}
