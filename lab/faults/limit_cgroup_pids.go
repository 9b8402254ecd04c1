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
	{
		Name:      "limit.cgroup_pids/threads",
		Cause:     "limit.cgroup_pids",
		About:     "a program that starts a thread per job uses up pids.max of the cgroup of a Python event loop that runs a program per request and tries until it can",
		MissAbout: "its threads leave it room",
		Needs:     needs(root, controller("pids"), program("python3")),
		Run:       func(s *lab.Scene) { threadsMax(s, 200) },
		Miss:      func(s *lab.Scene) { threadsMax(s, 5) },
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

func threadsMax(s *lab.Scene, n int) {
	group := s.Cgroup("pids")
	group.Set("pids.max", "80")
	place := lab.Place{Cgroups: []string{group.Dir}}
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"fork:/bin/true"}}, place)
	job := s.Start(threadPerJob(s, n, place))
	s.BlameGroup(job)
	s.Blame(lab.Guilty{Cgroups: []string{group.Path}})
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

// threadPerJob is a program that starts so many threads, as far as it may, and
// keeps trying for those that it did not get.
func threadPerJob(s *lab.Scene, n int, place lab.Place) lab.Cmd {
	python, err := victim.Python()
	s.Check(err)
	return lab.Cmd{Path: python, Args: []string{"-c", `
import sys, threading, time
n = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        if threading.active_count() <= n:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            continue
    except RuntimeError:
        pass
    time.sleep(0.01)
`, strconv.Itoa(n)}, Place: place}
}
