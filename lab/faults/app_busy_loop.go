package faults

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appBusyLoop = []lab.Fault{
	{
		Name:      "app.busy_loop/python-regex",
		Cause:     "app.busy_loop",
		AlsoOK:    []string{"runtime.event_loop_blocked"}, // it computes on the loop's only thread
		About:     "a request makes a Python event loop match a regular expression that backtracks",
		MissAbout: "the same expression on a short text",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { backtrack(s, victim.Loop, 27) },
		Miss:      func(s *lab.Scene) { backtrack(s, victim.Loop, 15) },
	},
	{
		Name:      "app.busy_loop/node-json",
		Cause:     "app.busy_loop",
		AlsoOK:    []string{"runtime.event_loop_blocked"},
		About:     "a request makes Node build a huge report in one go",
		MissAbout: "a report that takes 20 ms",
		Needs:     program("node"),
		Run:       func(s *lab.Scene) { bigReport(s, s.Length) },
		Miss:      func(s *lab.Scene) { bigReport(s, 20*time.Millisecond) },
	},
	{
		Name:      "app.busy_loop/python-gil",
		Cause:     "app.busy_loop",
		AlsoOK:    []string{"runtime.python_gil"}, // the thread on the CPU holds the lock its siblings wait for
		About:     "a request makes a thread of a threaded Python service add up numbers in a single call, which keeps the interpreter's lock",
		MissAbout: "numbers enough for 15 ms",
		Needs:     program("python3"),
		Run:       func(s *lab.Scene) { addUp(s, s.Length) },
		Miss:      func(s *lab.Scene) { addUp(s, 15*time.Millisecond) },
	},
}

func backtrack(s *lab.Scene, kind string, n int) {
	svc := s.Serve(victim.Spec{Kind: kind}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, "/regex/"+strconv.Itoa(n)) }, nil)
}

func bigReport(s *lab.Scene, length time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Node}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, "/json/"+strconv.FormatInt(length.Milliseconds(), 10)) }, nil)
}

func addUp(s *lab.Scene, length time.Duration) {
	svc := s.Serve(victim.Spec{Kind: victim.Threads}, lab.Place{})
	s.BlameGroup(svc.Proc)
	s.Watch(svc)
	s.Break(func() { get(s, svc, fmt.Sprintf("/total/%.3f", length.Seconds())) }, nil)
}

// get makes one request and waits for its answer.
func get(s *lab.Scene, svc *lab.Service, path string) { s.Check(request(s, svc, path)) }

// request is one of a user as well: he waits for its answer.
func request(s *lab.Scene, svc *lab.Service, path string) error {
	defer s.Asks()()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + svc.Address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
