package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var cpuForkStorm = []lab.Fault{
	{
		Name:      "cpu.fork_storm/scripts",
		Cause:     "cpu.fork_storm",
		About:     "a supervisor whose 80 shell loops start one short-lived process after the other",
		MissAbout: "it starts 20 processes a second",
		Run:       func(s *lab.Scene) { forkStorm(s, "80") },
		Miss:      func(s *lab.Scene) { forkStorm(s, "0") },
		Roles:     map[string]func([]string){"forkstorm": forkStormer},
	},
	{
		Name:      "cpu.fork_storm/xargs",
		Cause:     "cpu.fork_storm",
		About:     "24 xargs -P 4 start a program for each line, against a Python event loop",
		MissAbout: "one xargs for 20 lines",
		Needs:     program("python3", "xargs", "yes"),
		Run:       func(s *lab.Scene) { forXargs(s, 24, "yes | exec xargs -P 4 -n 1 /bin/true") },
		Miss:      func(s *lab.Scene) { forXargs(s, 1, "seq 20 | xargs -n 1 /bin/true; sleep 60") },
	},
	{
		Name:      "cpu.fork_storm/make",
		Cause:     "cpu.fork_storm",
		About:     "six make -j 20, each with 5,000 recipes that do next to nothing, against a Go service",
		MissAbout: "make with twenty of them, one after the other",
		Needs:     program("make"),
		Run:       func(s *lab.Scene) { forRecipes(s, 6, 5000, 20) },
		Miss:      func(s *lab.Scene) { forRecipes(s, 1, 20, 1) },
	},
	{
		Name:      "cpu.fork_storm/subprocess",
		Cause:     "cpu.fork_storm",
		About:     "a Python script runs a program in each of 60 threads, again and again, against a Node service",
		MissAbout: "in one thread, ten times a second",
		Needs:     program("python3", "node"),
		Run:       func(s *lab.Scene) { forSubprocess(s, 60, "0") },
		Miss:      func(s *lab.Scene) { forSubprocess(s, 1, "0.1") },
	},
}

func forkStorm(s *lab.Scene, loops string) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:3ms"}}, lab.Place{})
	storm := s.Start(lab.Cmd{Name: "supervise", Role: "forkstorm", Args: []string{loops}})
	s.BlameGroup(storm)
	s.Watch(svc)
	s.Break(saying(s, "go", storm), func() {
		_, err := storm.Ask("stop", 5*time.Second)
		s.Check(err)
	})
}

// forkStormer starts processes between "go" and "stop".
func forkStormer(args []string) {
	loops, _ := strconv.Atoi(args[0])
	var shells []*exec.Cmd
	stop := make(chan struct{})
	var done sync.WaitGroup
	lab.Listen("", func(line string) {
		if line == "stop" {
			close(stop)
			for _, sh := range shells {
				_ = sh.Process.Kill()
			}
			done.Wait()
			fmt.Println("stopped")
			return
		}
		for range loops {
			// A shell per loop: forking from here would fork a Go runtime.
			sh := exec.Command("/bin/sh", "-c", "while :; do /bin/true; done")
			sh.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if sh.Start() == nil {
				shells = append(shells, sh)
				done.Go(func() { _ = sh.Wait() })
			}
		}
		if loops == 0 {
			done.Go(func() {
				for range time.Tick(50 * time.Millisecond) {
					select {
					case <-stop:
						return
					default:
						_ = exec.Command("/bin/true").Run()
					}
				}
			})
		}
	})
}

func forXargs(s *lab.Scene, n int, script string) {
	svc := s.Serve(victim.Spec{Kind: victim.Loop, Work: []string{"compute:3ms"}}, lab.Place{})
	jobs := shells(s, n, func(int) string { return script })
	s.BlameGroup(jobs...)
	s.Watch(svc)
	s.Break(saying(s, "go", jobs...), killing(s, jobs...))
}

func forRecipes(s *lab.Scene, many, n, jobs int) {
	svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go, Work: []string{"compute:3ms"}}, lab.Place{})
	file := filepath.Join(s.Dir, "Makefile")
	// With a ";" it takes a shell for each.
	s.Check(os.WriteFile(file, []byte("all: $(addprefix part,$(shell seq "+strconv.Itoa(n)+"))\npart%:\n\t@:; /bin/true\n"), 0o644))
	builds := shells(s, many, func(int) string { return "make -s -j " + strconv.Itoa(jobs) + " -f " + file + "; sleep 60" })
	s.BlameGroup(builds...)
	s.Blame(lab.Guilty{Swarms: []string{"sh", "make"}})
	s.Watch(svc)
	s.Break(saying(s, "go", builds...), killing(s, builds...))
}

func forSubprocess(s *lab.Scene, threads int, pause string) {
	svc := serveNode(s, lab.Place{}, "compute:3")
	python, err := victim.Python()
	s.Check(err)
	job := s.Start(lab.Cmd{Path: python, Args: []string{"-c", `
import subprocess, sys, threading, time
def run():
    while True:
        subprocess.run(["/bin/true"])
        time.sleep(float(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=run).start()
`, strconv.Itoa(threads), pause}})
	s.BlameGroup(job)
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}
