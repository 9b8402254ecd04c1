package faults

import (
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var virtPaused = []lab.Fault{
	{
		Name:      "virt.paused/host-frozen",
		Cause:     "virt.paused",
		AlsoOK:    []string{"virt.steal"}, // where the host tells of it
		About:     "the host does not run this virtual machine for a while; its clocks go on",
		MissAbout: "the host stops its clocks too: nobody inside can tell",
		Needs:     needs(root, units, lab.NeedsHost),
		Shortest:  900 * time.Millisecond,
		Run:       func(s *lab.Scene) { hostStops(s, "freeze "+s.Length.String()) },
		Miss:      func(s *lab.Scene) { hostStops(s, "pause "+s.Length.String()) },
	},
}

func hostStops(s *lab.Scene, how string) {
	s.Blame(lab.Guilty{Hypervisor: true})
	s.Watch(s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, s.Unit()))
	s.Break(func() {
		s.AskHost(how)
		time.Sleep(s.Length + time.Second) // it takes a moment to reach the host
	}, nil)
}
