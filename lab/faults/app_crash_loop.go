package faults

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

// The shortest of these lasts for several ends and starts.
const fewLoops = 1500 * time.Millisecond

var appCrashLoop = []lab.Fault{
	{
		Name:      "app.crash_loop/exit-status",
		Cause:     "app.crash_loop",
		About:     "a supervisor starts its Go service again and again, which ends with status 3 before it listens, as with a broken configuration",
		MissAbout: "a job that nobody waits for ends with an error ten times a second",
		Shortest:  fewLoops,
		Run: func(s *lab.Scene) {
			keeper, svc := keep(s, "keepd")
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(saying(s, "load 50ms\nfail\nkill", keeper), saying(s, "heal", keeper))
		},
		Miss: func(s *lab.Scene) {
			_, svc := keep(s, "keepd")
			job := s.Start(lab.Cmd{Path: "bash", Args: []string{"-c", "echo ready; read; while sleep 0.1; do sh -c 'exit 3'; done"}})
			s.Watch(svc)
			s.Break(saying(s, "go", job), killing(s, job))
		},
	},
	{
		Name:      "app.crash_loop/workers",
		Cause:     "app.crash_loop",
		About:     "the workers of a pre-forked Python service die at once, each time its master forks them anew",
		MissAbout: "one of four workers after the other ends in order and is replaced, as with a limit of requests",
		Needs:     program("python3"),
		Shortest:  fewLoops,
		Run:       func(s *lab.Scene) { dyingWorkers(s, "break") },
		Miss:      func(s *lab.Scene) { dyingWorkers(s, "recycle") },
	},
	{
		Name:      "app.crash_loop/segfault",
		Cause:     "app.crash_loop",
		About:     "a Python service in a shell loop serves for 200 ms and gets a segmentation fault, each time",
		MissAbout: "what crashes again and again is a helper that the service starts and does not wait for",
		Needs:     program("python3", "bash"),
		Shortest:  fewLoops,
		Run: func(s *lab.Scene) {
			address, flag := freeAddress(s), filepath.Join(s.Dir, "crash")
			_, svc := shellLoop(s, address, "0.3", "crashes "+flag)
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(func() { s.Check(os.WriteFile(flag, nil, 0o644)) }, func() { s.Check(os.Remove(flag)) })
		},
		Miss: func(s *lab.Scene) { dyingWorkers(s, "helper") },
	},
	{
		Name:      "app.crash_loop/unit",
		Cause:     "app.crash_loop",
		About:     "a Go service, a unit of systemd with Restart=always, is killed and ends with status 3 each time that systemd starts it anew",
		MissAbout: "another unit that nobody asks does so",
		Needs:     needs(root, units),
		Shortest:  fewLoops,
		Run: func(s *lab.Scene) {
			broken := filepath.Join(s.Dir, "broken")
			svc := keptUnit(s, broken, "Restart=always", "RestartSec=100ms", "StartLimitIntervalSec=0")
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(func() {
				s.Check(os.WriteFile(broken, nil, 0o644))
				s.Check(svc.Signal(syscall.SIGKILL))
			}, func() { s.Check(os.Remove(broken)) })
		},
		Miss: func(s *lab.Scene) {
			broken := filepath.Join(s.Dir, "broken")
			svc := s.Serve(victim.Spec{Name: "web", Kind: victim.Go}, lab.Place{})
			idle := keptUnit(s, broken, "Restart=always", "RestartSec=100ms", "StartLimitIntervalSec=0")
			s.Watch(svc)
			s.Break(func() {
				s.Check(os.WriteFile(broken, nil, 0o644))
				s.Check(idle.Signal(syscall.SIGKILL))
			}, func() { s.Check(os.Remove(broken)) })
		},
	},
}

func dyingWorkers(s *lab.Scene, mood string) {
	python, err := victim.Python()
	s.Check(err)
	address, flag := freeAddress(s), filepath.Join(s.Dir, "mood")
	_, port, _ := strings.Cut(address, ":")
	master := s.Start(lab.Cmd{Path: python, Args: []string{"-c", preforked, port, flag, strconv.Itoa(4)}})
	s.BlameGroup(master)
	s.Blame(lab.Guilty{Swarms: []string{filepath.Base(python), "python3"}})
	svc := &lab.Service{Proc: master, Address: address, Spec: victim.Spec{Kind: victim.Pool, Fresh: true}}
	s.Watch(svc)
	s.CollectGuilty()
	s.Break(func() { s.Check(os.WriteFile(flag, []byte(mood), 0o644)) }, func() { s.Check(os.Remove(flag)) })
}

// preforked is a master with workers that take one connection at a time. It forks
// another for each that ends. While FILE says so they die at once ("break"), end
// one after the other ("recycle"), or one of them has a helper that crashes.
const preforked = `
import os, select, signal, socket, sys, time
port, flag, workers = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", port))
l.listen(128)
l.setblocking(False)
def mood():
    try: return open(flag).read()
    except FileNotFoundError: return ""
def work(number):
    born = time.monotonic()
    helper = born
    while True:
        now, m = time.monotonic(), mood()
        if m == "break": os._exit(4)
        if m == "recycle" and now - born > 0.2 + 0.2 * number: os._exit(0)
        if m == "helper" and number == 0 and now - helper > 0.1:
            helper = now
            if os.fork() == 0: os.kill(os.getpid(), signal.SIGSEGV)
        if number == 0:
            try: os.waitpid(-1, os.WNOHANG)
            except ChildProcessError: pass
        if not select.select([l], [], [], 0.02)[0]: continue
        try: c, _ = l.accept()
        except BlockingIOError: continue
        c.setblocking(True)
        c.recv(4096)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        c.close()
def start(number):
    pid = os.fork()
    if pid == 0: work(number)
    return pid
have = {start(n): n for n in range(workers)}
print("ready", flush=True)
while True:
    pid, _ = os.wait()
    if mood() == "break": time.sleep(0.05)
    n = have.pop(pid)
    have[start(n)] = n
`
