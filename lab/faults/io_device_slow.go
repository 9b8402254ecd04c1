package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
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
	{
		Name:      "io.device_slow/dm-delay",
		Cause:     "io.device_slow",
		About:     "each request of a disk of the device mapper suddenly takes 150 ms, under a Go service, a unit of systemd, that reads 4 KiB per request as before",
		MissAbout: "it takes 8 ms",
		Needs:     needs(root, units, mapper("delay")),
		Shortest:  1200 * time.Millisecond,
		Run:       func(s *lab.Scene) { mapped(s, func(m *lab.Mapped) { m.Behave("delay %s 0 150") }, passOn) },
		Miss:      func(s *lab.Scene) { mapped(s, func(m *lab.Mapped) { m.Behave("delay %s 0 8") }, passOn) },
	},
}

// mapped does something to the disk of a service that reads from it.
func mapped(s *lab.Scene, begin, end func(*lab.Mapped)) {
	m := s.Mapped(32)
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"direct:" + m.Device}}, s.Unit())
	s.Blame(m.Blamed())
	s.Watch(svc)
	s.Break(func() { begin(m) }, func() { end(m) })
}

func passOn(m *lab.Mapped) { m.Behave("linear %s 0") }
