package faults

import (
	"fmt"
	"os"
	"strings"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuRTStarvation = []lab.Fault{
	{
		Name:      "cpu.rt_starvation/one-cpu",
		Cause:     "cpu.rt_starvation",
		About:     "a SCHED_FIFO thread takes the CPU that a Go service is pinned to",
		MissAbout: "it takes it for 5 ms of every 50 ms",
		Needs:     needs(root, rtAllowed),
		Run:       func(s *lab.Scene) { realtime(s, []int{1}, "1") },
		Miss:      func(s *lab.Scene) { realtime(s, []int{1}, "1", "5ms", "50ms") },
	},
	{
		Name:      "cpu.rt_starvation/all-cpus",
		Cause:     "cpu.rt_starvation",
		About:     "SCHED_FIFO threads on both CPUs; only real-time throttling leaves 5 %",
		MissAbout: "they run 5 ms of every 50 ms",
		Needs:     needs(root, rtAllowed),
		Run:       func(s *lab.Scene) { realtime(s, nil, "2") },
		Miss:      func(s *lab.Scene) { realtime(s, nil, "2", "5ms", "50ms") },
	},
	{
		Name:      "cpu.rt_starvation/shell",
		Cause:     "cpu.rt_starvation",
		About:     "a shell script that loops under chrt and taskset takes the CPU that a Node service is pinned to",
		MissAbout: "it does a little every 50 ms",
		Needs:     needs(root, rtAllowed, program("node", "chrt", "taskset")),
		Run:       func(s *lab.Scene) { realtimeScript(s, "while :; do :; done") },
		Miss: func(s *lab.Scene) {
			realtimeScript(s, "while :; do i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; sleep 0.05; done")
		},
	},
}

func realtime(s *lab.Scene, cpus []int, spin ...string) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:500us"}}, lab.Place{CPUs: cpus})
	// Above a victim, below the users, who have machines of their own.
	hog := s.Start(lab.Cmd{Name: "audiod", Role: "spin", Args: spin, Place: lab.Place{CPUs: cpus, FIFO: 20}})
	s.BlameGroup(hog)
	s.Watch(svc)
	s.Break(saying(s, "go", hog), killing(s, hog))
}

func realtimeScript(s *lab.Scene, script string) {
	svc := serveNode(s, lab.Place{CPUs: []int{0}}, "compute:1")
	hog := s.Start(shell("exec taskset -c 0 chrt -f 60 sh -c '" + script + "'"))
	s.BlameGroup(hog)
	s.Watch(svc)
	s.Break(saying(s, "go", hog), killing(s, hog))
}

// rtAllowed needs real-time scheduling that the kernel bounds: a run without
// the bound would take the whole machine.
func rtAllowed() error {
	b, err := os.ReadFile("/proc/sys/kernel/sched_rt_runtime_us")
	if err != nil {
		return err
	}
	if v := strings.TrimSpace(string(b)); v == "-1" || v == "0" {
		return fmt.Errorf("needs bounded real-time scheduling, sched_rt_runtime_us is %s", v)
	}
	return nil
}
