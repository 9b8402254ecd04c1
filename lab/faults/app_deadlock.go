package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

var appDeadlock = []lab.Fault{
	{
		Name:      "app.deadlock/flock",
		Cause:     "app.deadlock",
		About:     "a report job holds one file lock and wants a second, which a threaded Python service holds for a request that wants the first; the job is ended",
		MissAbout: "the job takes the two in the service's order, one after the other, for 10 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { crossLocks(s, "stock", "orders", time.Minute) },
		Miss:      func(s *lab.Scene) { crossLocks(s, "orders", "stock", 10*time.Millisecond) },
		Roles:     map[string]func([]string){"twolocks": twoLocks},
	},
	{
		Name:      "app.deadlock/mutexes",
		Cause:     "app.deadlock",
		About:     "a thread of a threaded Python service owns one mutex of the C library and waits for another, which a request owns that waits for the first; a third thread lets go of it",
		MissAbout: "it takes the two in the requests' order, and owns them for 10 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { heldBy(s, "mutexes", fmt.Sprintf("/cross/%.3f", s.Length.Seconds())) },
		Miss:      func(s *lab.Scene) { heldBy(s, "mutexes", "/both/0.010") },
	},
}

func crossLocks(s *lab.Scene, first, second string, hold time.Duration) {
	file := func(name string) string { return filepath.Join(s.Dir, name+".lock") }
	svc := s.Serve(victim.Spec{Kind: victim.Threads, Work: []string{"nested:" + file("orders") + "," + file("stock")}}, lab.Place{})
	job := s.Start(lab.Cmd{Name: "report", Role: "twolocks", Args: []string{file(first), file(second), hold.String()}})
	s.BlameGroup(job, svc.Proc)
	s.Watch(svc)
	s.Break(saying(s, "go", job), killing(s, job))
}

// twoLocks takes one lock, lets others come by for 50 ms at most, and takes the
// other; it holds both for so long.
func twoLocks(args []string) {
	hold, err := time.ParseDuration(args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(string) {
		go func() {
			var held []*os.File
			for i, name := range args[:2] {
				f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				_ = unix.Flock(int(f.Fd()), unix.LOCK_EX)
				held = append(held, f)
				if i == 0 {
					time.Sleep(min(hold, 50*time.Millisecond))
				}
			}
			time.Sleep(hold)
			for _, f := range held {
				_ = f.Close()
			}
		}()
	})
}
