package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

// shape is one kind of server.
type shape struct {
	name  string
	about string
	kind  string
	fresh bool // it closes each connection
	ms    bool // it is told times as plain milliseconds
	// alone is the path of a request that takes 200 ms while others are
	// answered; empty where one request holds up all others.
	alone    string
	parallel bool // it computes on as many CPUs as there are
	// heap says that a collection of its heap stops it.
	heap bool
	// cannot says which stalls make no sense at it, and why.
	cannot map[string]string
}

const (
	noCollector = "its collector hardly stops it"
	oneThread   = "its only thread neither accepts nor reads when it is busy: see sleep and compute"
)

// shapes are the servers, in order: threads per connection, pools, event loops.
var shapes = []shape{
	{name: "threads", kind: victim.Threads, about: "Python, a thread per connection", alone: "/sleep/0.2", heap: true},
	{name: "goroutines", kind: victim.Go, about: "Go net/http, a goroutine per connection", parallel: true, alone: "/wait/200ms",
		cannot: map[string]string{"gc": noCollector}},
	{name: "prefork", kind: victim.Pool, about: "Python, six pre-forked workers, a connection at a time", parallel: true, alone: "/sleep/0.2", fresh: true,
		cannot: map[string]string{"gc": "each worker has a heap of its own", "mutex": "its workers share no memory: see flock"}},
	{name: "javapool", kind: victim.Workers, about: "Java, a pool of 16 threads", parallel: true, alone: "/wait/200", heap: true, ms: true},
	{name: "asyncio", kind: victim.Loop, about: "Python asyncio, one thread", heap: true,
		cannot: map[string]string{"accept": oneThread}},
	{name: "node", kind: victim.Node, about: "Node, one thread and its pool", alone: "/wait/200", heap: true, ms: true,
		cannot: map[string]string{"accept": oneThread, "flock": "Node has no such call", "deadlock": "it takes two threads that run JavaScript: see mutex"}},
	{name: "epoll", kind: victim.Epoll, about: "Go, one thread around epoll_wait as in C",
		cannot: map[string]string{"gc": noCollector}},
}

var families = []string{"tcp", "unix"}

// stall is one way to stall a server. begin is called at its beginning, from a
// real-time thread; what it returns ends it.
type stall struct {
	name  string
	about string
	begin func(b *batch, length time.Duration) (end func())
	// atLeast is how long it must be for a client to wait: whoever already
	// waits for a connection takes one more.
	atLeast time.Duration
}

// itself tells the server to do something for so long, which ends by itself.
func itself(what string) func(*batch, time.Duration) func() {
	return func(b *batch, length time.Duration) func() {
		arg := length.String()
		if b.shape.ms {
			arg = strconv.FormatInt(length.Milliseconds(), 10)
		}
		b.scene.Check(b.server.Say(what + " " + arg))
		return func() {}
	}
}

var stalls = []stall{
	{name: "stopped", about: "SIGSTOP, and SIGCONT", begin: func(b *batch, _ time.Duration) func() {
		b.scene.Check(unix.Kill(-b.server.PID, unix.SIGSTOP))
		return func() { b.scene.Check(unix.Kill(-b.server.PID, unix.SIGCONT)) }
	}},
	{name: "sleep", about: "every handler sleeps until the end of it", begin: itself("sleep")},
	{name: "fsync", about: "the filesystem of the record that each request syncs is frozen", begin: func(b *batch, _ time.Duration) func() {
		return b.scene.Freeze(b.disk.Mount)
	}},
	{name: "mutex", about: "a thread of the server sleeps holding the lock that each request takes", begin: itself("hold")},
	{name: "flock", about: "another process holds the file lock that each request takes", begin: func(b *batch, _ time.Duration) func() {
		got, err := b.locker.Ask("take", 10*time.Second)
		b.scene.Check(err)
		if got != "taken" {
			b.scene.Fail("locker: %s", got)
		}
		return func() { b.scene.Check(b.locker.Say("release")) }
	}},
	{name: "compute", about: "every handler computes until the end of it", begin: itself("compute")},
	{name: "stolen", about: "the server is pinned to one CPU, and a real-time thread takes that", begin: func(b *batch, _ time.Duration) func() {
		last := runtime.NumCPU() - 1
		b.pin(last)
		b.scene.Check(b.hog.Say("go"))
		return func() {
			b.scene.Check(b.hog.Kill())
			b.pin(-1)
		}
	}},
	{name: "gc", about: "a collection of its whole heap stops the server", begin: func(b *batch, _ time.Duration) func() {
		b.scene.Check(b.server.Say("gc"))
		return func() {}
	}},
	{name: "pipe", about: "the reader of the pipe that each request logs to is stopped", begin: func(b *batch, _ time.Duration) func() {
		b.scene.Check(b.reader.Signal(syscall.SIGSTOP))
		return func() { b.scene.Check(b.reader.Signal(syscall.SIGCONT)) }
	}},
	{name: "upstream", about: "another service that each request asks sleeps", begin: func(b *batch, length time.Duration) func() {
		b.scene.Check(b.upstream.Say("sleep " + length.String()))
		return func() {}
	}},
	{name: "accept", about: "the thread that accepts (each worker, before it does) is busy with something else", begin: itself("accept"), atLeast: 500 * time.Millisecond},
	{name: "deadlock", about: "a thread holds one lock and wants the other, a request the other way round; the thread gives up in the end", begin: itself("deadlock")},
}

// batch is the stalls of one server, with everything that they need.
type batch struct {
	shape  *shape
	family string
	stalls []stall
	place  lab.Place

	scene    *lab.Scene
	server   *lab.Service
	upstream *lab.Service
	reader   *lab.Proc // of the pipe
	locker   *lab.Proc
	hog      *lab.Proc
	disk     *lab.LoopFS
	every    unix.CPUSet // the CPUs that the server may use
}

// batches returns what matches, a batch for each server.
func batches(match *regexp.Regexp, realtime bool) []*batch {
	place := lab.Place{Nice: serverNice}
	if realtime {
		place = lab.Place{RR: serverPriority}
	}
	var all []*batch
	for i := range shapes {
		for _, family := range families {
			b := &batch{shape: &shapes[i], family: family, place: place}
			for _, s := range stalls {
				if realtime && s.name == "compute" && b.shape.parallel {
					continue // it would take every CPU, from everybody
				}
				if match.MatchString(b.name(s.name)) && b.shape.why(s.name) == "" {
					b.stalls = append(b.stalls, s)
				}
			}
			if len(b.stalls) > 0 {
				all = append(all, b)
			}
		}
	}
	return all
}

// keep keeps the stalls that are wanted.
func (b *batch) keep(wanted func(stall) bool) {
	b.stalls = slices.DeleteFunc(b.stalls, func(s stall) bool { return !wanted(s) })
}

func (b *batch) name(stall string) string { return b.shape.name + "/" + b.family + "/" + stall }

// why says why a stall makes no sense at a server; "" where it does.
func (s *shape) why(stall string) string { return s.cannot[stall] }

func listStalls(w io.Writer, match *regexp.Regexp) {
	made := 0
	for i := range shapes {
		s := &shapes[i]
		fmt.Fprintf(w, "%s: %s\n", s.name, s.about)
		for _, st := range stalls {
			for _, family := range families {
				name := s.name + "/" + family + "/" + st.name
				if !match.MatchString(name) {
					continue
				}
				if why := s.why(st.name); why != "" {
					fmt.Fprintf(w, "  %-28s no: %s\n", name, why)
					continue
				}
				made++
				fmt.Fprintf(w, "  %-28s %s\n", name, st.about)
			}
		}
	}
	fmt.Fprintf(w, "%d combinations\n", made)
}

// A stall lasts between shortest and longest, and is followed by quiet.
const (
	shortest = 150 * time.Millisecond
	longest  = 2 * time.Second
	history  = 4 * time.Second // of ordinary use before the first stall
	quietFor = 3200 * time.Millisecond
	// A collection takes as long as the heap is large, so it is as long each
	// time, and its memory is bounded.
	longestGC = 600 * time.Millisecond
)

// serverNice puts the servers and what they need before ordinary programs, so
// that what else runs on the machine makes no stalls beside those that are made.
const serverNice = -15

// serverPriority does so against any number of them (-realtime): above ordinary
// programs, below what the stalls need, freezeframe and the clients.
const serverPriority = 10

// setUp starts everything but the clients.
func (b *batch) setUp(s *lab.Scene, gc time.Duration) {
	b.scene = s
	// In memory: what else uses the machine's disk must not delay a request.
	s.DisksIn("/dev/shm")
	s.Prefer(serverNice)
	b.disk = s.LoopFS(32)
	fifo := s.Fifo("log.fifo")
	lock := filepath.Join(s.Dir, "lock")
	b.reader = s.Start(lab.Cmd{Name: "logshipper", Role: "drain", Args: []string{fifo}, Place: b.place})
	b.locker = s.Start(lab.Cmd{Name: "backup", Role: "locker", Args: []string{lock}, Place: b.place})
	b.upstream = s.Serve(victim.Spec{Name: "prices", Kind: victim.Go, Work: []string{"till"}}, b.place)
	works := map[string][]string{ // what makes a stall felt
		"sleep": {"till"}, "compute": {"till"}, "mutex": {"lock"}, "deadlock": {"pair"},
		"flock": {"flock:" + lock}, "fsync": {"fsync:" + b.disk.Path("records")},
		"pipe": {"pipe:" + fifo}, "upstream": {"call:" + b.upstream.Address},
	}
	if b.place.RR > 0 {
		// The threads of the loop device are ordinary ones, that others delay;
		// a write waits for a frozen filesystem as well.
		works["fsync"] = []string{"append:" + b.disk.Path("records")}
	}
	if b.shape.kind == victim.Pool {
		works["deadlock"] = []string{"pair:" + filepath.Join(s.Dir, "pair")}
	}
	spec := victim.Spec{Name: "orders", Kind: b.shape.kind, Workers: 6, Fresh: b.shape.fresh}
	if b.shape.kind == victim.Workers {
		spec.Workers, spec.JVM = 16, []string{"-XX:+UseSerialGC", "-Xms2g", "-Xmx2g"}
	}
	if b.family == "unix" {
		spec.Host = "unix:" + filepath.Join(s.Dir, "orders.sock")
	}
	for _, st := range stalls { // all of them, so that a server is the same whatever is made
		if b.shape.why(st.name) == "" {
			for _, w := range works[st.name] {
				if !slices.Contains(spec.Work, w) {
					spec.Work = append(spec.Work, w)
				}
			}
		}
	}
	if b.shape.heap && slices.ContainsFunc(b.stalls, func(s stall) bool { return s.name == "gc" }) {
		arg := gc.String()
		if b.shape.ms {
			arg = strconv.FormatInt(gc.Milliseconds(), 10)
		}
		spec.Work = append(spec.Work, "heap:"+arg)
	}
	b.server = s.Serve(spec, b.place)
	s.Check(unix.SchedGetaffinity(b.server.PID, &b.every))
}

// prepare starts what a stall needs beside it, so that its beginning is quick.
func (b *batch) prepare(st stall, length time.Duration) {
	if st.name == "stolen" {
		last := runtime.NumCPU() - 1
		b.hog = b.scene.Start(lab.Cmd{Name: "audiod", Role: "spin", Args: []string{"1", length.String(), "1h"},
			Place: lab.Place{CPUs: []int{last}, FIFO: 20}})
	}
}

// pin puts every thread of the server on one CPU, or back where it was (-1).
func (b *batch) pin(cpu int) {
	set := b.every
	if cpu >= 0 {
		set.Zero()
		set.Set(cpu)
	}
	for _, pid := range b.server.PIDs() {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			b.scene.Check(err)
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				b.scene.Fail("pin thread %d: %w", tid, err)
			}
		}
	}
}

// drain reads a pipe that holds one line.
func drain(args []string) {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() { _, _ = io.Copy(io.Discard, f) }()
	lab.Listen("", nil)
}

// locker holds a file's locks, of both kinds, between "take" and "release".
func locker(args []string) {
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lab.Listen("", func(line string) {
		whole := unix.Flock_t{Type: unix.F_WRLCK}
		if line == "release" {
			whole.Type = unix.F_UNLCK
			_ = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &whole)
			_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
			return
		}
		err := errors.Join(retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }),
			retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &whole) }))
		if err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		fmt.Println("taken")
	})
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
