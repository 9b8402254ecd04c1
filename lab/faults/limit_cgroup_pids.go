package faults

import (
	"os/exec"
	"strconv"
	"syscall"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var limitCgroupPids = []lab.Fault{
	{
		Name:      "limit.cgroup_pids/helpers",
		Cause:     "limit.cgroup_pids",
		About:     "helpers use up pids.max of the cgroup of a Python event loop that runs a program per request and tries until it can",
		MissAbout: "they leave it room",
		Needs:     needs(root, controller("pids")),
		Run:       func(s *lab.Scene) { pidsMax(s, 200) },
		Miss:      func(s *lab.Scene) { pidsMax(s, 5) },
		Roles:     map[string]func([]string){"sleepers": sleepers},
	},
}

func pidsMax(s *lab.Scene, helpers int) {
	group := s.Cgroup("pids")
	group.Set("pids.max", "60")
	place := lab.Place{Cgroups: []string{group.Dir}}
	// Not a Go service: its runtime ends the process when it gets no thread.
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"fork:/bin/true"}}, place)
	job := s.Start(lab.Cmd{Name: "cronjobs", Role: "sleepers", Args: []string{strconv.Itoa(helpers)}, Place: place})
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), saying(s, "stop", job))
}

// sleepers starts that many processes that sleep, as far as it may.
func sleepers(args []string) {
	n, _ := strconv.Atoi(args[0])
	var all []*exec.Cmd
	stop := make(chan struct{})
	lab.Listen("", func(line string) {
		if line == "stop" {
			close(stop)
			for _, c := range all {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
			return
		}
		for range n {
			c := exec.Command("/bin/sleep", "60")
			c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if c.Start() == nil {
				all = append(all, c)
			}
		}
	})
}
