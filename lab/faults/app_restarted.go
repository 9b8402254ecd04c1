package faults

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

var appRestarted = []lab.Fault{
	{
		Name:      "app.restarted/killed",
		Cause:     "app.restarted",
		About:     "a Go service is killed; its supervisor starts another at once, which loads for long before it listens",
		MissAbout: "the supervisor hands the listening socket over to the next one, which is ready before the first is told to end",
		Run: func(s *lab.Scene) {
			keeper, svc := keep(s, "keepd")
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(saying(s, fmt.Sprintf("load %s\nkill", s.Length), keeper), func() {})
		},
		Miss: func(s *lab.Scene) {
			keeper, svc := keep(s, "keepd", "-hold")
			s.Watch(svc)
			s.Break(saying(s, "replace", keeper), func() {})
		},
		Roles: map[string]func([]string){"keeper": keeper, "kept": kept},
	},
	{
		Name:      "app.restarted/shell",
		Cause:     "app.restarted",
		About:     "a Python service that a shell loop starts again ends by itself, in order, and the loop sleeps before it goes on",
		MissAbout: "a Go service that starts a child for each request, which ends with an error",
		Needs:     program("python3", "bash"),
		Run: func(s *lab.Scene) {
			address, flag := freeAddress(s), filepath.Join(s.Dir, "restart")
			loop, svc := shellLoop(s, address, fmt.Sprintf("%.3f", s.Length.Seconds()), "ends "+flag)
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(func() { s.Check(os.WriteFile(flag, nil, 0o644)) }, func() {})
			s.BlameGroup(loop)
		},
		Miss: func(s *lab.Scene) {
			_, svc := keep(s, "keepd", "-child", "/bin/false")
			s.Watch(svc)
			s.Break(func() {}, func() {})
		},
	},
	{
		Name:      "app.restarted/inherited",
		Cause:     "app.restarted",
		About:     "the process behind a socket that its supervisor holds gets SIGTERM, and the next one loads for long while clients queue",
		MissAbout: "one that nobody asks is killed and loads as long",
		Run: func(s *lab.Scene) {
			keeper, svc := keep(s, "socketd", "-hold")
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(saying(s, fmt.Sprintf("load %s\nterm", s.Length), keeper), func() {})
		},
		Miss: func(s *lab.Scene) {
			svc := s.Serve(victim.Spec{Name: "web", Kind: victim.Go}, lab.Place{})
			idle, _ := keep(s, "socketd")
			s.Watch(svc)
			s.Break(saying(s, fmt.Sprintf("load %s\nkill", s.Length), idle), func() {})
		},
	},
	{
		Name:      "app.restarted/unit",
		Cause:     "app.restarted",
		About:     "the process of a Go service, a unit of systemd with Restart=always, is killed; systemd waits before it starts another",
		MissAbout: "a unit that nobody asks is killed, and systemd waits as long",
		Needs:     needs(root, units),
		Run: func(s *lab.Scene) {
			svc := keptUnit(s, "", "Restart=always", fmt.Sprintf("RestartSec=%s", s.Length))
			s.Watch(svc)
			s.CollectGuilty()
			s.Break(func() { s.Check(svc.Signal(syscall.SIGKILL)) }, func() {})
		},
		Miss: func(s *lab.Scene) {
			svc := s.Serve(victim.Spec{Name: "web", Kind: victim.Go}, lab.Place{})
			idle := keptUnit(s, "", "Restart=always", fmt.Sprintf("RestartSec=%s", s.Length))
			s.Watch(svc)
			s.Break(func() { s.Check(idle.Signal(syscall.SIGKILL)) }, func() {})
		},
	},
}

// keptUnit starts the service of a keeper as a unit of systemd. While the file
// broken is there it ends as soon as it is started.
func keptUnit(s *lab.Scene, broken string, properties ...string) *lab.Service {
	address := freeAddress(s)
	p := s.Start(lab.Cmd{Name: "orders", Role: "kept", Args: []string{"-address", address, "-broken", broken}, Place: s.Unit(properties...)})
	s.BlameGroup(p)
	s.Blame(lab.Guilty{Swarms: []string{"orders"}})
	return &lab.Service{Proc: p, Address: address, Spec: victim.Spec{Kind: victim.Go, Fresh: true}}
}

// keep starts a supervisor with a service "orders" below it.
func keep(s *lab.Scene, name string, more ...string) (*lab.Proc, *lab.Service) {
	address := freeAddress(s)
	p := s.Start(lab.Cmd{Name: name, Role: "keeper", Args: append([]string{"-dir", s.Dir, "-address", address}, more...)})
	s.BlameGroup(p)
	s.Blame(lab.Guilty{Swarms: []string{"orders"}})
	s.BlameLab() // it may have had the signal sent
	return p, &lab.Service{Proc: p, Address: address, Spec: victim.Spec{Kind: victim.Go, Fresh: len(more) > 0}}
}

// shellLoop starts a Python service in a loop of a shell that sleeps between.
func shellLoop(s *lab.Scene, address, sleep, mood string) (*lab.Proc, *lab.Service) {
	python, err := victim.Python()
	s.Check(err)
	script := filepath.Join(s.Dir, "app.py")
	s.Check(os.WriteFile(script, []byte(restartable), 0o644))
	what, arg, _ := strings.Cut(mood, " ")
	loop := s.Start(lab.Cmd{Path: "bash", Args: []string{"-c", `
"$0" "$1" "$2" "$3" "$4" & wait $!
while sleep "$5"; do "$0" "$1" "$2" "$3" "$4" >/dev/null & wait $!; done`, python, script, address, what, arg, sleep}})
	s.BlameGroup(loop)
	s.Blame(lab.Guilty{Swarms: []string{"python3", filepath.Base(python)}})
	return loop, &lab.Service{Proc: loop, Address: address, Spec: victim.Spec{Kind: victim.Threads, Fresh: true}}
}

// restartable is a service that ends: ADDRESS ends|crashes FILE.
const restartable = `
import http.server, os, signal, sys, threading, time
host, port = sys.argv[1].rsplit(":", 1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
server = Server((host, int(port)), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
what, flag = sys.argv[2:4]
if what == "crashes":
    while not os.path.exists(flag): time.sleep(0.02)
    time.sleep(0.2)
    if os.path.exists(flag): os.kill(os.getpid(), signal.SIGSEGV)
while not os.path.exists(flag): time.sleep(0.02)
os.remove(flag)
`

// freeAddress is one of this host on which nothing listens, with a port that no
// client gets.
func freeAddress(s *lab.Scene) string {
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000)))
		l, err := net.Listen("tcp", address)
		if err == nil {
			s.Check(l.Close())
			return address
		}
	}
	s.Fail("no port is free")
	return ""
}

// keeper is a supervisor: it starts its service again when that ends. It is told
// "load TIME" (how long the next ones take to start), "fail" and "heal" (whether
// they end with an error instead), "kill" and "term" (the one that is there), and
// "replace" (start another, and end this one when that is ready).
func keeper(args []string) {
	flags := flag.NewFlagSet("keeper", flag.ExitOnError)
	dir := flags.String("dir", "", "")
	address := flags.String("address", "", "")
	hold := flags.Bool("hold", false, "")
	child := flags.String("child", "", "")
	_ = flags.Parse(args)
	k := &supervisor{program: filepath.Join(*dir, "orders"), args: []string{"-address", *address, "-child", *child}}
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	self, err := os.Executable()
	check(err)
	if err := os.Symlink(self, k.program); !errors.Is(err, os.ErrExist) {
		check(err)
	}
	if *hold {
		l, err := net.Listen("tcp", *address)
		check(err)
		k.socket, err = l.(*net.TCPListener).File()
		check(err)
	}
	check(k.start())
	lab.Listen(*address, k.tell)
}

type supervisor struct {
	program string
	args    []string
	socket  *os.File // that the service inherits

	mu   sync.Mutex
	now  *exec.Cmd
	load string
	fail bool
}

// start starts the service and waits until it is ready; when it ends, another is.
func (k *supervisor) start() error {
	k.mu.Lock()
	cmd := exec.Command(k.program, k.args...)
	cmd.Args = append(cmd.Args, "-load", cmp.Or(k.load, "0s"), "-fail="+strconv.FormatBool(k.fail))
	cmd.Env = append(os.Environ(), lab.As("kept"))
	cmd.Stderr = os.Stderr
	if k.socket != nil {
		cmd.ExtraFiles = []*os.File{k.socket}
		cmd.Args = append(cmd.Args, "-inherited")
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		k.mu.Unlock()
		return err
	}
	k.now = cmd
	k.mu.Unlock()
	_, err = bufio.NewReader(out).ReadString('\n')
	go func() {
		_ = cmd.Wait()
		k.mu.Lock()
		gone := k.now == cmd
		failing := k.fail
		k.mu.Unlock()
		if failing {
			time.Sleep(100 * time.Millisecond)
		}
		if gone {
			_ = k.start() // it may be told to fail
		}
	}()
	return err
}

func (k *supervisor) tell(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	what, arg, _ := strings.Cut(line, " ")
	switch what {
	case "load":
		k.load = arg
	case "fail":
		k.fail = true
	case "heal":
		k.fail = false
	case "kill":
		_ = k.now.Process.Kill()
	case "term":
		_ = k.now.Process.Signal(syscall.SIGTERM)
	case "replace":
		old := k.now
		go func() {
			if k.start() == nil {
				_ = old.Process.Signal(syscall.SIGTERM)
			}
		}()
	}
}

// kept is the service of a keeper. Told to end it takes no more connections,
// serves those it has, and ends.
func kept(args []string) {
	flags := flag.NewFlagSet("kept", flag.ExitOnError)
	address := flags.String("address", "", "")
	load := flags.Duration("load", 0, "")
	fail := flags.Bool("fail", false, "")
	inherited := flags.Bool("inherited", false, "")
	child := flags.String("child", "", "")
	broken := flags.String("broken", "", "")
	_ = flags.Parse(args)
	time.Sleep(*load)
	if _, err := os.Stat(*broken); *fail || err == nil {
		os.Exit(3)
	}
	var l net.Listener
	var err error
	if *inherited {
		l, err = net.FileListener(os.NewFile(3, "socket"))
	} else {
		l, err = net.Listen("tcp", *address)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var serving atomic.Int32
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		serving.Add(1)
		defer serving.Add(-1)
		if *child != "" {
			_ = exec.Command(*child).Run() // it ends with an error, as it should
		}
		_, _ = io.WriteString(w, "ok\n")
	})}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		os.Exit(0)
	}()
	fmt.Println("ready")
	_ = server.Serve(l)
	select {} // until it has shut down
}
