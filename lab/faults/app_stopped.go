package faults

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var appStopped = []lab.Fault{
	{
		Name:      "app.stopped/sigstop",
		Cause:     "app.stopped",
		About:     "a Go service gets SIGSTOP and later SIGCONT",
		MissAbout: "a process that serves nobody is stopped",
		Run: func(s *lab.Scene) {
			svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, lab.Place{})
			s.BlameGroup(svc.Proc)
			s.BlameLab() // it sent the signal
			s.Watch(svc)
			s.Break(func() { s.Check(svc.Signal(syscall.SIGSTOP)) }, func() { s.Check(svc.Signal(syscall.SIGCONT)) })
		},
		Miss: func(s *lab.Scene) {
			svc := s.Serve(victim.Spec{Name: "orders", Kind: victim.Go}, lab.Place{})
			idle := s.Start(lab.Cmd{Name: "editor", Role: "spin", Args: []string{"1"}})
			s.Watch(svc)
			s.Break(func() { s.Check(idle.Signal(syscall.SIGSTOP)) }, func() { s.Check(idle.Signal(syscall.SIGCONT)) })
		},
	},
	{
		Name:      "app.stopped/upstream",
		Cause:     "app.stopped",
		About:     "the upstream that a threaded Python service calls for each request, a Go service, gets SIGSTOP and later SIGCONT",
		MissAbout: "and SIGCONT after 10 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { stoppedUpstream(s, s.Length) },
		Miss:      func(s *lab.Scene) { stoppedUpstream(s, 10*time.Millisecond) },
	},
	{
		Name:      "app.stopped/ptrace",
		Cause:     "app.stopped",
		About:     "a debugger attaches to every thread of a Node service and holds them",
		MissAbout: "it holds them for 10 ms",
		Needs:     program("node"),
		Run:       func(s *lab.Scene) { traced(s, s.Length) },
		Miss:      func(s *lab.Scene) { traced(s, 10*time.Millisecond) },
		Roles:     map[string]func([]string){"tracer": tracer},
	},
	{
		Name:      "app.stopped/job-control",
		Cause:     "app.stopped",
		About:     "SIGTSTP stops the whole process group of a pre-forked Python service, master and workers, as ^Z does",
		MissAbout: "and continues it at once",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { suspend(s, false) },
		Miss:      func(s *lab.Scene) { suspend(s, true) },
	},
}

func traced(s *lab.Scene, length time.Duration) {
	svc := s.Serve(victim.Spec{Name: "api", Kind: victim.Node}, lab.Place{})
	debugger := s.Start(lab.Cmd{Name: "debugger", Role: "tracer", Args: []string{strconv.Itoa(svc.PID)}})
	s.BlameGroup(debugger, svc.Proc)
	s.Watch(svc)
	s.Length = length
	answer := func(say string) func() {
		return func() {
			got, err := debugger.Ask(say, 5*time.Second)
			s.Check(err)
			if got != "done" {
				s.Fail("debugger: %s", got)
			}
		}
	}
	s.Break(answer("attach"), answer("detach"))
}

func suspend(s *lab.Scene, briefly bool) {
	svc := s.Serve(victim.Spec{Kind: victim.Pool, Workers: 4, Fresh: true}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.BlameLab() // it sent the signal
	stop := func() { s.Check(unix.Kill(-svc.PID, unix.SIGTSTP)) }
	resume := func() { s.Check(unix.Kill(-svc.PID, unix.SIGCONT)) }
	s.Watch(svc)
	if briefly {
		s.Break(func() { stop(); time.Sleep(10 * time.Millisecond); resume() }, nil)
		return
	}
	s.Break(stop, resume)
}

// tracer holds all threads of a process between "attach" and "detach".
func tracer(args []string) {
	pid, _ := strconv.Atoi(args[0])
	runtime.LockOSThread() // tracing belongs to a thread
	var held []int
	lab.Listen("", func(line string) {
		var err error
		if line == "attach" {
			entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			for _, e := range entries {
				tid, _ := strconv.Atoi(e.Name())
				if err = unix.PtraceSeize(tid); err != nil {
					break
				}
				held = append(held, tid)
				if err = unix.PtraceInterrupt(tid); err != nil {
					break
				}
				var status unix.WaitStatus
				if _, err = unix.Wait4(tid, &status, unix.WALL, nil); err != nil {
					break
				}
			}
		} else {
			for _, tid := range held {
				if e := unix.PtraceDetach(tid); e != nil {
					err = e
				}
			}
		}
		if err != nil {
			fmt.Println(line, err)
			return
		}
		fmt.Println("done")
	})
}

func stoppedUpstream(s *lab.Scene, length time.Duration) {
	up := s.Serve(victim.Spec{Name: "inventory", Kind: victim.Go}, lab.Place{})
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"call:" + up.Address}}, lab.Place{})
	s.BlameGroup(up.Proc)
	s.BlameLab()
	s.Watch(svc)
	s.Length = length
	s.Break(func() { s.Check(up.Signal(syscall.SIGSTOP)) }, func() { s.Check(up.Signal(syscall.SIGCONT)) })
}
