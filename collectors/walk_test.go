package collectors

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
	"freezeframe/internal/symbols"

	"golang.org/x/sys/unix"
)

// walkCollectors opens procs and tasks on the iterator, or says why this
// machine cannot.
func walkCollectors(t testing.TB, h freezeframe.Host) (*procs, *tasks, *bpf.Programs) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	programs := bpf.Load(bpf.Options{Without: slices.DeleteFunc(bpf.Names(), func(n string) bool { return n == "tasks" })})
	t.Cleanup(programs.Close)
	if programs.Tasks == nil {
		t.Fatal(programs.Needs())
	}
	c := newCensus()
	c.iterator, c.names = programs.Tasks, &kernelNames{}
	p, ts := &procs{census: c}, &tasks{census: c}
	for _, x := range []freezeframe.Collector{p, ts} {
		if err := x.Open(h); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close() })
	}
	if c.walk == nil {
		t.Fatal("the census is not kept by the iterator")
	}
	if !c.walk.named {
		t.Fatal("the kernel's functions have no names")
	}
	return p, ts, programs
}

// role starts this test program in one of its roles; it says a word when it is
// set up.
func role(t testing.TB, name string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "FREEZEFRAME_TEST_ROLE="+name, "GOMAXPROCS=2")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, c)
	var word [1]byte
	if _, err := out.Read(word[:]); err != nil {
		t.Fatalf("role %s: %v", name, err)
	}
	return c
}

func start(t testing.TB, c *exec.Cmd) *exec.Cmd {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

const roleThreads = 5000

func init() {
	switch os.Getenv("FREEZEFRAME_TEST_ROLE") {
	case "threads":
		// Many threads that wait, of which some have used CPU.
		for i := range roleThreads {
			ready := make(chan bool)
			go func() {
				runtime.LockOSThread()
				if i%50 == 0 {
					burn(time.Millisecond)
				}
				ready <- true
				syscall.Pause()
			}()
			<-ready
		}
	case "dying":
		// One thread after the other uses CPU and ends.
		go func() {
			for {
				ended := make(chan bool)
				go func() {
					runtime.LockOSThread() // never unlocked: the thread ends
					burn(15 * time.Millisecond)
					close(ended)
				}()
				<-ended
				time.Sleep(20 * time.Millisecond)
			}
		}()
	default:
		return
	}
	os.Stdout.WriteString(".")
	time.Sleep(time.Minute)
	os.Exit(0)
}

func burn(d time.Duration) {
	for began := kernel.ThreadCPU(); kernel.ThreadCPU()-began < d; {
	}
}

// What the iterator tells of processes that do nothing is what /proc shows of
// them at the same moment, column by column.
func TestWalkAgreesWithProc(t *testing.T) {
	_, cat := startCat(t)
	stopped := start(t, exec.Command("sleep", "300"))
	busy := start(t, exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; (exit 3); kill -STOP $$"))
	nice := start(t, exec.Command("nice", "-n", "7", "sleep", "300"))
	zombie := start(t, exec.Command("true"))
	wrote := start(t, exec.Command("sh", "-c", "dd if=/dev/zero of="+filepath.Join(t.TempDir(), "f")+" bs=64k count=64 conv=fsync 2>/dev/null; kill -STOP $$"))
	pinned := start(t, exec.Command("taskset", "-c", "0", "sleep", "300"))
	if err := stopped.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pids := []int32{int32(cat)}
	for _, c := range []*exec.Cmd{stopped, busy, nice, zombie, wrote, pinned} {
		pids = append(pids, int32(c.Process.Pid))
	}
	states := map[int32]string{}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		settled := true
		for i, pid := range pids {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			state := string(b[bytes.LastIndexByte(b, ')')+2])
			states[pid] = state
			settled = settled && state == "STTSZTS"[i:i+1]
		}
		if settled {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never settled: %v", states)
		}
	}
	h := live()
	words := h.Texts.(dictionary)
	stall(h, pids...)
	byProc := newCensus()
	q, tq := &procs{census: byProc}, &tasks{census: byProc}
	for _, x := range []freezeframe.Collector{q, tq} {
		if err := x.Open(h); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close() })
	}
	p, ts, _ := walkCollectors(t, h)
	var pa, pb, ta, tb freezeframe.Table
	ready := func(c freezeframe.Collector, table *freezeframe.Table) {
		eventually(t, c, table, "the cgroup of each", func() bool {
			for _, pid := range pids {
				if row := byName(t, c, table, int(pid)); row == nil || row["cgroup"] == 0 {
					return false
				}
			}
			return true
		})
	}
	// The readings that count are sweeps over all.
	ready(q, &pb)
	ready(p, &pa)
	p.census.swept, q.census.swept = false, false
	if err := errors.Join(collect(t, q, &pb), collect(t, p, &pa), collect(t, tq, &tb), collect(t, ts, &ta)); err != nil {
		t.Fatal(err)
	}
	// What the two have by different rules, and by how much they may differ.
	const tick = 10_000 // µs: /proc counts in these
	within := map[string]uint64{"utime_us": tick, "stime_us": tick, "cutime_us": tick, "cstime_us": tick,
		// Counted by each CPU for itself, and summed up now and then
		// (percpu_counter): /proc may do the sum itself.
		"rss_bytes": uint64(runtime.NumCPU()) * 64 * p.census.page}
	// By netlink only when it ran; since when, /proc does not know; maps are
	// not listed by a lane.
	apart := map[string]bool{"maps": true, "cpu_delay_ns": true, "since_ns": true, "dropped": true}
	compare := func(c freezeframe.Collector, a, b *freezeframe.Table) {
		columns := c.Source().Columns
		for _, pid := range pids {
			i := slices.IndexFunc(a.Keys, func(k freezeframe.Key) bool { return k.TID() == int(pid) })
			j := slices.IndexFunc(b.Keys, func(k freezeframe.Key) bool { return k.TID() == int(pid) })
			if i < 0 || j < 0 || a.Keys[i] != b.Keys[j] {
				t.Fatalf("%s: %d: row %d by the iterator, %d by /proc", c.Source().Name, pid, i, j)
			}
			x, y := a.Values(i, len(columns)), b.Values(j, len(columns))
			for n, col := range columns {
				switch {
				case x[n] == y[n], apart[col.Name]:
				case col.Kind == freezeframe.Text:
					t.Errorf("%s: %d (%s): %s is %q, by /proc %q", c.Source().Name, pid, states[pid], col.Name, words[x[n]], words[y[n]])
				case max(x[n], y[n])-min(x[n], y[n]) > within[col.Name]:
					t.Errorf("%s: %d (%s): %s is %d, by /proc %d", c.Source().Name, pid, states[pid], col.Name, int64(x[n]), int64(y[n]))
				}
			}
		}
	}
	compare(p, &pa, &pb)
	for _, pid := range pids {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(bytes.Count(list, []byte("\n")) - bytes.Count(list, []byte("[vsyscall]"))) // which is the kernel's
		if row := byName(t, p, &pa, int(pid)); row["maps"] != want {
			t.Errorf("%d (%s): %d maps, %d lines in its maps", pid, states[pid], row["maps"], want)
		}
	}
	compare(ts, &ta, &tb)
	// Else it would agree by telling nothing.
	if r := byName(t, p, &pa, busy.Process.Pid); r["utime_us"]+r["stime_us"] < tick {
		t.Errorf("busy used %d and %d µs", r["utime_us"], r["stime_us"])
	}
	if r := byName(t, p, &pa, wrote.Process.Pid); r["cutime_us"]+r["cstime_us"] == 0 || r["write_bytes"] < 64*64<<10 {
		t.Errorf("of its child it has %d µs, %d bytes written", r["cutime_us"]+r["cstime_us"], r["write_bytes"])
	}
	if r := byName(t, ts, &ta, cat); kernel.Syscall(int64(r["syscall"])) != "read" || !strings.HasPrefix(words[r["file"]], "pipe:[") || !strings.Contains(words[r["stack"]], "pipe_read") {
		t.Errorf("cat: %v, %q, %q", r, words[r["file"]], words[r["stack"]])
	}
	if r := byName(t, ts, &ta, pinned.Process.Pid); words[r["allowed_cpus"]] != "0" {
		t.Errorf("pinned: may run on %q", words[r["allowed_cpus"]])
	}
}

// Every process of /proc has a row, with the same start.
func TestWalkSeesAll(t *testing.T) {
	h := live()
	p, _, _ := walkCollectors(t, h)
	q, _, _ := processCollectors(t, h)
	var before, a, after freezeframe.Table
	for range 3 { // one that was born meanwhile is no fault
		p.census.swept = false
		if err := errors.Join(collect(t, q, &before), collect(t, p, &a), collect(t, q, &after)); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range before.Keys {
		if slices.Contains(after.Keys, k) && !slices.Contains(a.Keys, k) {
			t.Errorf("no row of process %d", k.TID())
		}
	}
	for _, k := range a.Keys {
		if !slices.Contains(before.Keys, k) && !slices.Contains(after.Keys, k) {
			t.Errorf("a row of %d, which /proc does not have", k.TID())
		}
	}
}

// A sleep is told from its beginning.
func TestWalkTellsSinceWhen(t *testing.T) {
	h := live()
	p, ts, _ := walkCollectors(t, h)
	stall(h)
	held, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	waiter, err := os.Open(held.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer waiter.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for _, b := range []struct {
		name, where string
		block       func()
		release     func()
		before      time.Duration // what the call may do before it sleeps
	}{
		{"pipe", "pipe_read", func() { unix.Read(pipe[0], make([]byte, 1)) }, func() { unix.Write(pipe[1], []byte{1}) }, 0},
		{"flock", "flock", func() { unix.Flock(int(waiter.Fd()), unix.LOCK_EX) }, func() { unix.Flock(int(held.Fd()), unix.LOCK_UN) }, 0},
		{"vfork", "clone", vforkFor, func() {}, 2 * time.Millisecond}, // it makes a process
	} {
		sleep := func(t *testing.T) (after time.Duration) {
			tids, done := make(chan int), make(chan bool)
			var began freezeframe.Instant
			go func() {
				runtime.LockOSThread()
				tids <- unix.Gettid()
				time.Sleep(50 * time.Millisecond) // it is known by then
				began = kernel.Now()
				b.block()
				done <- true
			}()
			tid := <-tids
			var table freezeframe.Table
			var row map[string]uint64
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if err := errors.Join(collect(t, p, &table), collect(t, ts, &table)); err != nil {
					t.Fatal(err)
				}
				row = byName(t, ts, &table, tid)
				if row != nil && strings.Contains(h.Texts.(dictionary)[row["stack"]], b.where) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("never seen asleep: %v", row)
				}
			}
			// It sleeps on, and began when it began.
			time.Sleep(60 * time.Millisecond)
			collect(t, ts, &table)
			again := byName(t, ts, &table, tid)
			b.release()
			<-done
			if again["since_ns"] != row["since_ns"] {
				t.Errorf("of one sleep it said %d and then %d", row["since_ns"], again["since_ns"])
			}
			return freezeframe.Instant(row["since_ns"]).Sub(began)
		}
		t.Run(b.name, func(t *testing.T) {
			// What the call does before it sleeps, and whoever gets the CPU
			// meanwhile, only ever takes longer.
			after := sleep(t)
			for range 5 {
				if after <= b.before+time.Millisecond {
					break
				}
				after = min(after, sleep(t))
			}
			if after < -time.Millisecond || after > b.before+time.Millisecond {
				t.Errorf("said to sleep since %v after it began", after)
			}
		})
	}
}

// vforkFor sleeps as the parent of a vfork does, until its child has ended.
//
//go:noinline
func vforkFor() {
	ts := unix.Timespec{Nsec: 300e6}
	pid := vforkChild(&ts)
	if pid > 0 {
		unix.Wait4(int(pid), nil, 0, nil)
	}
}

// Processes come and go faster than they can be looked at.
func TestWalkForkStorm(t *testing.T) {
	h := live()
	p, ts, _ := walkCollectors(t, h)
	start(t, exec.Command("sh", "-c", "while :; do for i in 1 2 3 4 5 6 7 8; do /bin/true & done; wait; done"))
	var table, threads freezeframe.Table
	c := p.census
	most := 0
	for i := range 100 {
		if i == 50 {
			stall(h, int32(os.Getpid()))
		}
		c.swept = i%3 == 0 && c.swept
		if err := errors.Join(collect(t, p, &table), collect(t, ts, &threads)); err != nil {
			t.Fatal(err)
		}
		keys := slices.Clone(table.Keys)
		slices.Sort(keys)
		if len(slices.Compact(keys)) != len(table.Keys) {
			t.Fatal("a process has two rows")
		}
		most = max(most, len(table.Keys))
		if c.walk == nil {
			t.Fatal("the iterator was given up")
		}
		time.Sleep(10 * time.Millisecond)
	}
	consistent(t, c)
	t.Logf("%d processes at most, %d known at the end", most, c.byPID.used)
}

// consistent checks that nothing was lost or kept twice.
func consistent(t *testing.T, c *census) {
	t.Helper()
	if n := len(c.free) + c.byPID.used; n != len(c.processes) || c.byPID.used != len(c.order) {
		t.Errorf("%d processes free, %d known, %d in order, of %d", len(c.free), c.byPID.used, len(c.order), len(c.processes))
	}
	if n := len(c.freeThreads) + c.byTID.used; n != len(c.threads) {
		t.Errorf("%d threads free, %d known, of %d", len(c.freeThreads), c.byTID.used, len(c.threads))
	}
	var all, listed int
	for i := range c.processes {
		p := &c.processes[i]
		if p.used == 0 {
			continue
		}
		var live sums
		for th := p.threads; th != none; th = c.threads[th].next {
			live.add(&c.threads[th].spent)
			listed++
		}
		if live != p.live {
			t.Errorf("process %d: its threads have used %+v, it says %+v", p.pid, live, p.live)
		}
	}
	for i := range c.threads {
		if c.threads[i].used != 0 {
			all++
		}
	}
	if all != listed {
		t.Errorf("%d threads, of which processes know %d", all, listed)
	}
}

// A process of 5,000 threads is known whole, and forgotten whole.
func TestWalkManyThreads(t *testing.T) {
	many := role(t, "threads")
	pid := many.Process.Pid
	h := live()
	p, ts, _ := walkCollectors(t, h)
	var table freezeframe.Table
	eventually(t, p, &table, "a row of the process", func() bool { p.census.swept = false; return byName(t, p, &table, pid) != nil })
	row := byName(t, p, &table, pid)
	if row["threads"] < roleThreads {
		t.Errorf("%d threads", row["threads"])
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var s taskStat
	if _, ok := parseTaskStat(b, &s); !ok {
		t.Fatal("stat")
	}
	if got, want := row["utime_us"]+row["stime_us"], (s.utime+s.stime)*tickUS; got+2*tickUS < want || got > want+2*tickUS || want == 0 {
		t.Errorf("its threads used %d µs, by /proc %d", got, want)
	}
	if row["minflt"] != s.minflt {
		t.Errorf("%d faults, by /proc %d", row["minflt"], s.minflt)
	}
	c := p.census
	known := 0
	for i := c.processes[c.byPID.get(int32(pid))].threads; i != none; i = c.threads[i].next {
		known++
	}
	if known != int(row["threads"]) {
		t.Errorf("%d threads known of %d", known, row["threads"])
	}
	stall(h, int32(pid))
	if err := collect(t, ts, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Keys) != maxTaskRows {
		t.Errorf("%d rows", len(table.Keys))
	}
	last := table.Values(len(table.Keys)-1, tasksWidth)
	if int(last[tasksPID]) != pid || table.Values(0, tasksWidth)[tasksDropped] < roleThreads-maxTaskRows {
		t.Errorf("the rows are not those of the watched: pid %d, dropped %d", last[tasksPID], table.Values(0, tasksWidth)[tasksDropped])
	}
	noAllocations(t, ts)
	consistent(t, c)
	many.Process.Kill()
	many.Wait()
	p.census.swept = false
	if err := collect(t, p, &table); err != nil {
		t.Fatal(err)
	}
	if byName(t, p, &table, pid) != nil || c.byTID.used > roleThreads {
		t.Errorf("%d threads are known after it ended", c.byTID.used)
	}
	consistent(t, c)
}

// What threads have used that have ended stays with their process, and no
// counter ever falls.
func TestWalkDyingThreads(t *testing.T) {
	dying := role(t, "dying")
	pid := dying.Process.Pid
	p, ts, _ := walkCollectors(t, live())
	var table, threads freezeframe.Table
	var last map[string]uint64
	for i := range 120 {
		p.census.swept = i%4 != 0 && p.census.swept
		if err := errors.Join(collect(t, p, &table), collect(t, ts, &threads)); err != nil {
			t.Fatal(err)
		}
		row := byName(t, p, &table, pid)
		for _, name := range []string{"utime_us", "stime_us", "minflt", "majflt", "syscw"} {
			if last != nil && row[name] < last[name] {
				t.Fatalf("%s fell from %d to %d", name, last[name], row[name])
			}
		}
		last = row
		time.Sleep(10 * time.Millisecond)
	}
	dying.Process.Signal(syscall.SIGSTOP)
	time.Sleep(100 * time.Millisecond)
	p.census.swept = false
	collect(t, p, &table)
	last = byName(t, p, &table, pid)
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	var s taskStat
	if _, ok := parseTaskStat(b, &s); !ok {
		t.Fatal("stat")
	}
	got, want := last["utime_us"]+last["stime_us"], (s.utime+s.stime)*tickUS
	if got+2*tickUS < want || got > want+2*tickUS || want < 10*tickUS {
		t.Errorf("its threads used %d µs, by /proc %d", got, want)
	}
	consistent(t, p.census)
}

func TestWalkAllocatesNothing(t *testing.T) {
	h := live()
	p, ts, _ := walkCollectors(t, h)
	noAllocations(t, p)
	noAllocations(t, ts)
	_, cat := startCat(t)
	stall(h, int32(cat), int32(os.Getpid()))
	noAllocations(t, p)
	noAllocations(t, ts)
}

// A program that calls exec is another, with another command line.
func TestWalkExec(t *testing.T) {
	sh := exec.Command("sh", "-c", "read x; exec sleep 301")
	in, err := sh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pid := start(t, sh).Process.Pid
	h := live()
	p, _, _ := walkCollectors(t, h)
	words := h.Texts.(dictionary)
	var table freezeframe.Table
	is := func(cmdline string) func() bool {
		return func() bool {
			p.census.swept = false
			return strings.HasPrefix(words[byName(t, p, &table, pid)["cmdline"]], cmdline)
		}
	}
	eventually(t, p, &table, "the command line of sh", is("sh -c"))
	if _, err := in.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, p, &table, "the command line of sleep", is("sleep 301"))
	if exe := words[byName(t, p, &table, pid)["exe"]]; !strings.Contains(exe, "sleep") && !strings.Contains(exe, "coreutils") {
		t.Errorf("exe %q", exe)
	}
}

// When a pass fails, the reading is taken from /proc, all the same and at
// once, and it is said what is lost.
func TestWalkFails(t *testing.T) {
	for name, fail := range map[string]func(*bpf.Programs){
		"shed":   func(p *bpf.Programs) { p.Shed("tasks", "it costs too much") },
		"broken": func(p *bpf.Programs) { p.Tasks.Break() },
	} {
		t.Run(name, func(t *testing.T) {
			_, pid := startCat(t)
			h := live()
			p, ts, programs := walkCollectors(t, h)
			var table, threads freezeframe.Table
			stall(h, int32(pid))
			if err := errors.Join(collect(t, p, &table), collect(t, ts, &threads)); err != nil {
				t.Fatal(err)
			}
			rows := len(table.Keys)
			if len(programs.Needs()) != len(bpf.Names())-1 {
				t.Fatal(programs.Needs())
			}
			fail(programs)
			p.census.swept = name == "shed" && p.census.swept // once tasks meets it first, once procs
			if err := errors.Join(collect(t, ts, &threads), collect(t, p, &table)); err != nil {
				t.Fatal(err)
			}
			if row := byName(t, ts, &threads, pid); row == nil || row["state"] != 'S' || row["wchan"] == 0 {
				t.Errorf("the thread of cat: %v", row)
			}
			p.census.swept = false
			collect(t, p, &table)
			if len(table.Keys) < rows/2 || byName(t, p, &table, pid) == nil {
				t.Errorf("%d rows of processes, %d before", len(table.Keys), rows)
			}
			needs := programs.Needs()
			if n := needs[len(needs)-1]; !strings.Contains(n.What, "tasks") || n.Lost == "" || n.Err == "" {
				t.Errorf("needs: %+v", needs)
			}
			noAllocations(t, ts)
			noAllocations(t, p)
		})
	}
}

func TestAdjustedTimes(t *testing.T) {
	for _, c := range []struct{ utime, stime, run, wasUser, wasSystem, user, system uint64 }{
		{0, 0, 100, 0, 0, 100, 0},    // no tick met it
		{0, 5, 100, 0, 0, 0, 100},    // only in the kernel
		{30, 10, 100, 0, 0, 75, 25},  // by the ticks
		{30, 10, 100, 80, 0, 80, 20}, // what was shown does not fall
		{10, 30, 100, 0, 0, 25, 75},
		{10, 30, 100, 0, 90, 10, 90},
		{10, 30, 100, 60, 50, 60, 50}, // and neither does the sum
		{1 << 62, 1 << 62, 1 << 63, 0, 0, 1 << 62, 1 << 62},
	} {
		if u, s := adjusted(c.utime, c.stime, c.run, c.wasUser, c.wasSystem); u != c.user || s != c.system {
			t.Errorf("%+v: %d and %d", c, u, s)
		}
	}
}

func TestStacksAsInProc(t *testing.T) {
	table := "ffffffff81000000 T _text\nffffffff81000100 t first\n" +
		"ffffffff81000200 T __sched_text_start\nffffffff81000200 T schedule\nffffffff81000300 T __sched_text_end\n" +
		"ffffffff81000300 T pipe_read\nffffffff81000400 t ksys_read.isra.0\nffffffff81000500 T __lock_text_start\nffffffff81000500 T _raw_spin_lock\nffffffff81000600 T __lock_text_end\n" +
		"ffffffffc0000000 t ext4_sync\t[ext4]\nffffffffc0000100 D data\n"
	k, err := symbols.ReadKernel(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	n := &kernelNames{table: k}
	// The first two are left out; the third returns to the byte behind its function.
	ips := []uint64{0xffffffff81000220, 0xffffffff81000510, 0xffffffff81000400, 0xffffffff81000410, 0xffffffffc0000010, 0xffffffff81000150, 5}
	if got, want := string(n.appendStack(nil, ips)), "pipe_read<-ksys_read<-ext4_sync<-first"; got != want {
		t.Errorf("stack %q, want %q", got, want)
	}
	if got := string(n.appendWchan(nil, ips)); got != "ksys_read.isra.0" {
		t.Errorf("wait channel %q", got)
	}
	if n := testing.AllocsPerRun(100, func() { var b [512]byte; n.appendStack(b[:0], ips) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkProcesses compares a pass with a sweep over /proc, with as many
// sleeping processes beside.
func BenchmarkProcesses(b *testing.B) {
	for _, n := range []int{300, 1100, 5000} {
		entries, _ := filepath.Glob("/proc/[0-9]*")
		var idle []*exec.Cmd
		for i := len(entries); i < n; i++ {
			c := exec.Command("sleep", "3600")
			if err := c.Start(); err != nil {
				b.Fatal(err)
			}
			idle = append(idle, c)
		}
		h := live()
		p, ts, _ := walkCollectors(b, h)
		q, tq, _ := processCollectors(b, h)
		run := func(name string, c freezeframe.Collector, prepare func()) {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var table freezeframe.Table
				for range 12 { // every command line asked for, every file open
					prepare()
					table.Reset()
					if err := c.Collect(&table); err != nil {
						b.Fatal(err)
					}
				}
				began := kernel.ThreadCPU()
				for b.Loop() {
					prepare()
					table.Reset()
					c.Collect(&table)
				}
				b.ReportMetric(float64((kernel.ThreadCPU()-began).Nanoseconds())/float64(b.N)/float64(n), "cpu-ns/process")
			})
		}
		run("sweep-proc", q, func() { q.census.swept = false })
		run("sweep-walk", p, func() { p.census.swept = false; p.census.walk.at = 0 })
		run("sweep-walk-full", p, func() { p.census.swept = false; p.census.walk.fullAt = 0 })
		run("tasks-proc", tq, func() {})
		run("tasks-walk", ts, func() { p.census.walk.at = 1 })
		for _, c := range idle {
			c.Process.Kill()
		}
		for _, c := range idle {
			c.Wait()
		}
	}
}
