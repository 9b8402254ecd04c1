package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

// Lab is the place for runs: a scratch directory, the janitor, the launcher of
// programs. One run at a time.
type Lab struct {
	Bin  string        // freezeframe; empty: inject and measure only
	Wrap []string      // what freezeframe is started by: setpriv …
	For  time.Duration // how long freezeframe watches
	Out  string        // where JSON and .frz files are kept; empty: nowhere
	// The course of a run: Warm of ordinary use, the fault, After of ordinary use.
	Warm, After time.Duration

	dir     string
	exe     string
	launch  launcher
	janitor *janitor
}

// New makes a lab. Close it.
func New() (*Lab, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", Prefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	j, err := newJanitor(dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{For: 8 * time.Second, Warm: 2500 * time.Millisecond, After: 2 * time.Second, dir: dir, exe: exe, launch: newLauncher(), janitor: j}
	return l, os.Mkdir(filepath.Join(dir, "bin"), 0o755)
}

// Close undoes whatever is left and tells what could not be undone.
func (l *Lab) Close() error {
	close(l.launch)
	err := l.janitor.close()
	// A loop device that somebody else has open (udev, a daemon that probes
	// filesystems) goes with its last user.
	left := Leftovers()
	for until := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(until); left = Leftovers() {
		time.Sleep(50 * time.Millisecond)
	}
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
	}
	return err
}

// Scene is one run of one fault. Its methods end the run when they fail, like
// a test's Fatal, so that a fault reads as what it does.
type Scene struct {
	Length time.Duration // how long the fault should last
	Rand   *rand.Rand
	Dir    string // scratch directory, on the machine's own disk

	lab       *Lab
	bystander bool
	noUsers   bool // nobody waits for anything in this run
	names     int
	disks     string // directory of the files behind loop devices; "": Dir
	services  []*Service
	clients   []*Proc
	guilty    []*Proc // their whole process groups are
	truth     Truth
	askedMu   sync.Mutex
	asked     []victim.Wait // by the lab itself
	watchFrom int64
	diagnose  *exec.Cmd
	diagDone  chan error
	result    Result
}

type failure struct{ err error }

// Fail ends the run: the fault could not be made.
func (s *Scene) Fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// Check ends the run if err is not nil.
func (s *Scene) Check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// Run makes one run of f (or of its near miss) and measures it.
func (l *Lab) Run(f Fault, o RunOptions) (res Result) {
	begin := time.Now()
	s := &Scene{lab: l, bystander: o.Bystander, Length: o.Length, Rand: rand.New(rand.NewPCG(o.Seed, 1))}
	s.result = Result{Fault: f.Name, Miss: o.Miss, Bystander: o.Bystander, Seed: o.Seed, Length: o.Length}
	defer func() {
		if r := recover(); r != nil {
			fail, ok := r.(failure)
			if !ok {
				fail.err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
			}
			s.result.Err = fail.err.Error()
		}
		if s.result.Err != "" {
			s.result.Invalid = "not made: " + s.result.Err
		}
		if s.diagnose != nil && s.diagnose.ProcessState == nil {
			s.diagnose.Process.Kill()
		}
		if err := l.janitor.sweep(); err != nil {
			s.result.Invalid = strings.TrimSpace(s.result.Invalid + "\nnot cleaned up: " + err.Error())
		}
		s.result.Took = time.Since(begin)
		l.settle()
		res = s.result
	}()
	dir, err := os.MkdirTemp(l.dir, "run")
	s.Check(err)
	s.Dir = dir
	l.janitor.later("rm", dir)
	if o.Miss {
		f.Miss(s)
	} else {
		f.Run(s)
	}
	if s.truth.End == 0 {
		s.Fail("the fault never called Break")
	}
	s.finish()
	score(&s.result, f, s.truth)
	s.result.Waits = nil // scored; a lab makes hundreds of runs
	return s.result
}

// settle waits until the disk has taken back what a run gave up: deleting its
// files must not slow the next one.
func (l *Lab) settle() {
	if fd, err := unix.Open(l.dir, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Syncfs(fd)
		_ = unix.Close(fd)
	}
}

// RunOptions say which run to make.
type RunOptions struct {
	Miss, Bystander bool
	Length          time.Duration
	Seed            uint64
}

// Name returns a name of this run's own for something on the machine.
func (s *Scene) Name(what string) string {
	s.names++
	return fmt.Sprintf("%s%d-%s%d", Prefix, os.Getpid(), what, s.names)
}

// User returns a user id of this run's own, which nobody on the machine has.
func (s *Scene) User() int {
	s.names++
	return 600_000_000 + os.Getpid()*100 + s.names%100
}

// Start starts a program.
func (s *Scene) Start(c Cmd) *Proc {
	p, err := s.lab.start(c)
	s.Check(err)
	return p
}

// Serve starts a service. Its users come with Watch.
func (s *Scene) Serve(v victim.Spec, place Place) *Service {
	c := Cmd{Place: place, Name: v.Name}
	dir := filepath.Join(s.Dir, v.Kind+strconv.Itoa(len(s.services)))
	s.Check(os.MkdirAll(dir, 0o755))
	var err error
	c.Role, c.Path, c.Args, err = v.Command(dir)
	s.Check(err)
	p := s.Start(c)
	svc := &Service{Proc: p, Address: p.Ready, Spec: v, netns: place.Netns}
	s.services = append(s.services, svc)
	return svc
}

// Service is a running victim.
type Service struct {
	*Proc
	Spec    victim.Spec
	Address string // host:port it listens on
	netns   string
}

// UsersIn puts its users into a namespace other than its own: nil is the host.
func (svc *Service) UsersIn(n *Netns) {
	svc.netns = ""
	if n != nil {
		svc.netns = n.Name
	}
}

// Watch lets users use the services, starts freezeframe and the bystanders,
// and warms up. Everything slow (making filesystems, starting runtimes) has to
// be done before.
func (s *Scene) Watch(services ...*Service) {
	priority := 80 // users have CPUs of their own
	if os.Geteuid() != 0 {
		priority = 0 // then they cannot
	}
	for _, svc := range services {
		s.clients = append(s.clients, s.Start(Cmd{
			Name: "user", Role: "users",
			Args:  svc.Spec.Users(svc.Address),
			Place: Place{Netns: svc.netns, RR: priority},
		}))
	}
	if s.bystander {
		for _, b := range []struct {
			name string
			nice int
		}{{"thumbnailer", 10}, {"metricsd", 0}, {"chatd", 0}} {
			p := s.Start(Cmd{Name: b.name, Role: "bystander", Args: []string{b.name, s.Dir}, Place: Place{Nice: b.nice}})
			s.truth.Innocent = append(s.truth.Innocent, p.PID)
		}
	}
	s.startDiagnose()
	s.watchFrom = monotonic()
	for _, c := range s.clients {
		s.Check(c.Say("go"))
	}
	time.Sleep(s.lab.Warm)
}

// Break makes the fault: begin it, let it last, end it. Both edges are noted
// around the calls. A nil end: it ended by itself within begin.
func (s *Scene) Break(begin, end func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	normal := s.aboveAll()
	defer normal()
	s.truth.Start = monotonic()
	begin()
	if end != nil {
		// Once in the middle and at the end; of what comes and goes, more often.
		every := s.Length / 2
		if len(s.truth.Guilty.Swarms) > 0 {
			every = min(every, swarmEvery)
		}
		for at := every; at < s.Length; at += every {
			sleepThreadUntil(s.truth.Start + int64(at))
			s.truth.Guilty.add(s.guiltyNow())
		}
		sleepThreadUntil(s.truth.Start + int64(s.Length))
		s.truth.Guilty.add(s.guiltyNow())
		end()
	} else {
		s.truth.Guilty.add(s.guiltyNow())
	}
	s.truth.End = monotonic()
}

// swarmEvery is how often processes that come and go are looked for.
const swarmEvery = 150 * time.Millisecond

// aboveAll gives this thread real-time priority, if it may have it, so that a
// fault that starves everybody still ends when it should. It is only this
// thread: a Go process whose every thread is real-time can lock itself up.
func (s *Scene) aboveAll() (normal func()) {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 90}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return func() {} // unprivileged: so are the faults
	}
	return func() {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		s.Check(unix.SchedSetAttr(0, &attr, 0))
	}
}

// Blame adds to who may be blamed.
func (s *Scene) Blame(g Guilty) { s.truth.Guilty.add(g) }

// BlameGroup makes a program with all that it starts, and each cgroup that the
// lab put it in, acceptable culprits.
func (s *Scene) BlameGroup(ps ...*Proc) { s.guilty = append(s.guilty, ps...) }

// CollectGuilty notes now whom BlameGroup means, for processes that will not
// be there in the middle of the fault, when Break does so.
func (s *Scene) CollectGuilty() { s.truth.Guilty.add(s.guiltyNow()) }

func (s *Scene) guiltyNow() Guilty {
	var g Guilty
	if len(s.guilty) == 0 {
		return g
	}
	for _, p := range s.guilty {
		g.PIDs = append(g.PIDs, p.PID)
		g.PIDs = append(g.PIDs, processGroup(p.PID)...)
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID)); err == nil {
			g.Cgroups = append(g.Cgroups, ownGroups(string(b))...)
		}
	}
	return g
}

// finish lets things calm down, collects the users' view and the diagnosis.
// Asks is called when the lab itself sends a request to a service, to make the
// fault, and what it returns when that is answered: whoever sent it waits as any
// user does. In a near miss it is by design.
func (s *Scene) Asks() (answered func()) {
	sent := monotonic()
	return func() {
		if s.result.Miss {
			return
		}
		s.askedMu.Lock()
		defer s.askedMu.Unlock()
		s.asked = append(s.asked, victim.Wait{Intended: sent, Sent: sent, Done: monotonic(), Fresh: true})
	}
}

func (s *Scene) finish() {
	until := s.truth.End + int64(s.lab.After)
	if s.diagnose != nil {
		// A diagnosis has to be able to see the end of what users felt.
		until = max(until, s.watchFrom+int64(s.lab.For)-int64(300*time.Millisecond))
	}
	sleepUntil(until)
	if s.diagnose != nil {
		select {
		case err := <-s.diagDone:
			s.result.DiagnoseErr = errText(err)
		case <-time.After(15 * time.Second):
			s.result.DiagnoseErr = "diagnose did not end within 15 s of its time"
			s.diagnose.Process.Kill()
			<-s.diagDone
		}
	}
	for _, svc := range s.services {
		if how, dead := svc.Dead(); dead {
			// What its users feel from then on is not the fault that was meant.
			first, _, _ := strings.Cut(how, "\n")
			s.result.Err = "the service ended by itself: " + first
		}
	}
	s.result.WatchFrom, s.result.WatchTo = s.watchFrom, monotonic()
	s.result.WallOffset = wallOffset()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range s.clients {
		wg.Go(func() {
			waits, err := collect(c)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && s.result.Err == "" {
				s.result.Err = "users: " + err.Error()
			}
			s.result.Waits = append(s.result.Waits, waits...)
		})
	}
	wg.Wait()
	s.askedMu.Lock()
	s.result.Asked = s.asked
	s.askedMu.Unlock()
	if s.result.Err == "" && len(s.result.Waits) == 0 && !s.noUsers {
		s.result.Err = "users: nobody asked for anything"
	}
}

func collect(c *Proc) ([]victim.Wait, error) {
	if err := c.Say("report"); err != nil {
		return nil, err
	}
	line, err := c.line(20 * time.Second)
	if err != nil {
		return nil, err
	}
	var waits []victim.Wait
	return waits, json.Unmarshal([]byte(line), &waits)
}

func (s *Scene) startDiagnose() {
	if s.lab.Bin == "" {
		return
	}
	dir := s.Dir
	if s.lab.Out != "" {
		kind := "fault"
		if s.result.Miss {
			kind = "miss"
		}
		dir = filepath.Join(s.lab.Out, fmt.Sprintf("%s.%s.%d", strings.ReplaceAll(s.result.Fault, "/", "."), kind, s.result.Seed))
	}
	w := s.Diagnose(s.lab.For, dir, s.lab.Out != "")
	s.result.Diagnosis, s.diagnose, s.diagDone = w.Document, w.cmd, w.done
	time.Sleep(400 * time.Millisecond) // its own start is not part of the test
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
