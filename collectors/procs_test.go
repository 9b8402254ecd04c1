package collectors

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/procfs"
)

// processCollectors opens the three that share the table of processes.
func processCollectors(t testing.TB, h freezeframe.Host) (*procs, *tasks, *jvm) {
	t.Helper()
	c := newCensus()
	p, ts, j := &procs{census: c}, &tasks{census: c}, &jvm{census: c}
	for _, x := range []freezeframe.Collector{p, ts, j} {
		if err := x.Open(h); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close() })
	}
	return p, ts, j
}

// byName returns one row of a reading by column name.
func byName(t testing.TB, c freezeframe.Collector, table *freezeframe.Table, pid int) map[string]uint64 {
	t.Helper()
	columns := c.Source().Columns
	for i, k := range table.Keys {
		if k.TID() == pid {
			m := map[string]uint64{}
			for n, v := range table.Values(i, len(columns)) {
				m[columns[n].Name] = v
			}
			return m
		}
	}
	return nil
}

// eventually reads until ok, which must come: command lines are read by others.
func eventually(t testing.TB, c freezeframe.Collector, table *freezeframe.Table, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		table.Reset()
		if err := c.Collect(table); err != nil {
			t.Fatal(err)
		}
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func stall(h freezeframe.Host, pids ...int32) {
	h.Focus.Suspect(kernel.Now().Add(time.Hour))
	h.Focus.Watch(pids)
}

func TestProcessesGolden(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the tree's system call numbers are those of amd64")
	}
	const tree = "testdata/processes"
	h := hostAt(tree)
	p, ts, _ := processCollectors(t, h)
	var table freezeframe.Table
	eventually(t, p, &table, "the last command line", func() bool {
		return byName(t, p, &table, 200)["cmdline"] != 0 && byName(t, p, &table, 100)["cmdline"] != 0 && byName(t, p, &table, 1)["cmdline"] != 0 && byName(t, p, &table, 400)["cgroup"] != 0 && byName(t, p, &table, 9)["cgroup"] != 0
	})
	compare := func(name, got string) {
		golden := filepath.Join(tree, "golden", name+".txt")
		if *update {
			os.MkdirAll(filepath.Dir(golden), 0o755)
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatalf("%v (write it with -update, and read it)", err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	// What the filesystem says of a directory's size is not the tree's.
	p.census.fdsBySize = false
	for i := range p.census.processes {
		p.census.processes[i].fds = 0
	}
	table.Reset()
	if err := p.Collect(&table); err != nil {
		t.Fatal(err)
	}
	sortRows(&table, len(p.Source().Columns))
	compare("procs", render(p.Source(), &table, h.Texts))
	table.Reset()
	if err := ts.Collect(&table); err != nil {
		t.Fatal(err)
	}
	sortRows(&table, len(ts.Source().Columns))
	compare("tasks", render(ts.Source(), &table, h.Texts))
	stall(h, 100)
	table.Reset()
	if err := ts.Collect(&table); err != nil {
		t.Fatal(err)
	}
	sortRows(&table, len(ts.Source().Columns))
	compare("tasks-stalled", render(ts.Source(), &table, h.Texts))
}

// sortRows orders a table by key: a directory on disk is listed in any order.
func sortRows(table *freezeframe.Table, width int) {
	order := make([]int, len(table.Keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(int64(table.Keys[a]) - int64(table.Keys[b])) })
	var sorted freezeframe.Table
	for _, i := range order {
		copy(sorted.Row(table.Keys[i], width), table.Values(i, width))
	}
	*table = sorted
}

// What is read of this machine's processes is what prometheus/procfs reads.
func TestProcessesAgree(t *testing.T) {
	h := live()
	// Processes that sleep all the time, so that nothing changes in between.
	var sleepers []int
	for range 3 {
		cmd := exec.Command("sleep", "300")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		sleepers = append(sleepers, cmd.Process.Pid)
	}
	p, ts, _ := processCollectors(t, h)
	var table, threads freezeframe.Table
	eventually(t, p, &table, "the sleepers' command lines", func() bool {
		for _, pid := range sleepers {
			r := byName(t, p, &table, pid)
			if r == nil || h.Texts.(dictionary)[r["cmdline"]] != "sleep 300" || r["cgroup"] == 0 {
				return false
			}
		}
		return true
	})
	stall(h, int32(sleepers[0]), int32(sleepers[1]), int32(sleepers[2]))
	if err := collect(t, ts, &threads); err != nil {
		t.Fatal(err)
	}
	words := h.Texts.(dictionary)
	fs, err := procfs.NewFS("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range sleepers {
		got, task := byName(t, p, &table, pid), byName(t, ts, &threads, pid)
		if task == nil {
			t.Fatalf("no row for thread %d", pid)
		}
		pr, err := fs.Proc(pid)
		if err != nil {
			t.Fatal(err)
		}
		stat, err := pr.Stat()
		if err != nil {
			t.Fatal(err)
		}
		status, _ := pr.NewStatus()
		io, _ := pr.IO()
		sched, _ := pr.Schedstat()
		limits, _ := pr.Limits()
		exe, _ := pr.Executable()
		fds, _ := pr.FileDescriptorsLen()
		wchan, _ := pr.Wchan()
		type pair struct{ got, want any }
		for name, c := range map[string]pair{
			"ppid":        {got["ppid"], uint64(stat.PPID)},
			"comm":        {words[got["comm"]], stat.Comm},
			"state":       {string(rune(got["state"])), stat.State},
			"tty":         {int64(got["tty"]), int64(stat.TTY)},
			"utime":       {got["utime_us"], uint64(stat.UTime) * 10_000},
			"stime":       {got["stime_us"], uint64(stat.STime) * 10_000},
			"cutime":      {got["cutime_us"], uint64(stat.CUTime) * 10_000},
			"minflt":      {got["minflt"], uint64(stat.MinFlt)},
			"majflt":      {got["majflt"], uint64(stat.MajFlt)},
			"threads":     {got["threads"], uint64(stat.NumThreads)},
			"rss":         {got["rss_bytes"], uint64(stat.ResidentMemory())},
			"vsize":       {got["vsize_bytes"], uint64(stat.VirtualMemory())},
			"nice":        {int64(got["nice"]), int64(stat.Nice)},
			"policy":      {got["policy"], uint64(stat.Policy)},
			"rt_priority": {got["rt_priority"], uint64(stat.RTPriority)},
			"uid":         {got["uid"], status.UIDs[1]},
			"swap":        {got["swap_bytes"], status.VmSwap},
			"nspid":       {got["nspid"], status.NSpids[len(status.NSpids)-1]},
			"read":        {got["read_bytes"], io.ReadBytes},
			"write":       {got["write_bytes"], io.WriteBytes},
			"syscw":       {got["syscw"], io.SyscW},
			"fds_max":     {got["fds_max"], limits.OpenFiles},
			"processes":   {got["processes_max"], softLimit(limits.Processes)},
			"fds":         {got["fds"], uint64(fds)},
			"exe":         {words[got["exe"]], exe},
			"run":         {task["run_ns"], sched.RunningNanoseconds},
			"wait":        {task["wait_ns"], sched.WaitingNanoseconds},
			"timeslices":  {task["timeslices"], sched.RunTimeslices},
			"wchan":       {words[task["wchan"]], wchan},
			"voluntary":   {task["voluntary_ctxt"], status.VoluntaryCtxtSwitches},
			"start":       {uint64(freezeframe.TaskKey(pid, stat.Starttime)), keyOf(&table, pid)},
		} {
			if fmt.Sprint(c.got) != fmt.Sprint(c.want) {
				t.Errorf("%d: %s is %v, procfs says %v", pid, name, c.got, c.want)
			}
		}
	}
}

func keyOf(table *freezeframe.Table, pid int) uint64 {
	for _, k := range table.Keys {
		if k.TID() == pid {
			return uint64(k)
		}
	}
	return 0
}

// Where a thread is stuck is said by state, wait channel, system call, file
// and stack.
func TestStuckThreads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	reader := exec.Command("cat")
	reader.Stdin = r
	stopped := exec.Command("sleep", "300")
	for _, c := range []*exec.Cmd{reader, stopped} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	r.Close()
	h := live()
	p, ts, _ := processCollectors(t, h)
	var table freezeframe.Table
	words := h.Texts.(dictionary)
	if err := stopped.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// While nothing is wrong, the stopped one is seen and the sleeping one not.
	eventually(t, ts, &table, "a row of the stopped process", func() bool {
		var sweep freezeframe.Table
		collect(t, p, &sweep)
		row := byName(t, ts, &table, stopped.Process.Pid)
		return row != nil && row["state"] == 'T'
	})
	row := byName(t, ts, &table, stopped.Process.Pid)
	if got := words[row["wchan"]]; got != "do_signal_stop" {
		t.Errorf("wchan %q of a stopped process", got)
	}
	stall(h, int32(reader.Process.Pid))
	eventually(t, ts, &table, "cat waiting in read", func() bool {
		row = byName(t, ts, &table, reader.Process.Pid)
		return row != nil && kernel.Syscall(int64(row["syscall"])) == "read"
	})
	if file := words[row["file"]]; !strings.HasPrefix(file, "pipe:[") {
		t.Errorf("file %q, want a pipe", file)
	}
	if os.Geteuid() == 0 {
		stack := words[row["stack"]]
		if !strings.Contains(stack, "pipe_read<-") || strings.ContainsAny(stack, "+[ \n") {
			t.Errorf("stack %q", stack)
		}
	}
	if row["state"] != 'S' || row["wchan"] == 0 || row["allowed_cpus"] == 0 {
		t.Errorf("%v", row)
	}
	// It sleeps on: the same sleep is not read again, and is still told.
	census := p.census
	i := census.byTID.get(int32(reader.Process.Pid))
	census.threads[i].stack = 0
	collect(t, ts, &table)
	if got := byName(t, ts, &table, reader.Process.Pid); got["stack"] != 0 || got["wchan"] != row["wchan"] {
		t.Error("a thread that did not run was looked into again")
	}
	w.Write([]byte("x"))
	eventually(t, ts, &table, "the stack of a new sleep", func() bool {
		return byName(t, ts, &table, reader.Process.Pid)["stack"] != 0 || os.Geteuid() != 0
	})
}

// This process, started with the variable set, loses its first thread while
// others live.
func init() {
	if os.Getenv("FREEZEFRAME_TEST_ZOMBIE_LEADER") == "" {
		return
	}
	go func() {
		time.Sleep(time.Minute)
		os.Exit(0)
	}()
	time.Sleep(50 * time.Millisecond)
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0) // init runs on the first thread
}

func TestZombieLeader(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FREEZEFRAME_TEST_ZOMBIE_LEADER=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h := live()
	p, ts, _ := processCollectors(t, h)
	var table freezeframe.Table
	pid := cmd.Process.Pid
	eventually(t, p, &table, "a zombie that leads live threads", func() bool {
		row := byName(t, p, &table, pid)
		return row != nil && row["state"] == 'Z' && row["threads"] > 1
	})
	stall(h, int32(pid))
	if err := collect(t, ts, &table); err != nil {
		t.Fatal(err)
	}
	alive := 0
	for i := range table.Keys {
		row := table.Values(i, tasksWidth)
		if row[tasksPID] == uint64(pid) && row[tasksState] != 'Z' {
			alive++
		}
	}
	if alive == 0 {
		t.Error("the threads of a zombie leader have no rows")
	}
}

// Processes that come and go leave nothing behind, and cost no allocation.
func TestProcessChurn(t *testing.T) {
	dir := t.TempDir()
	stat, err := os.ReadFile("testdata/processes/proc/1/stat")
	if err != nil {
		t.Fatal(err)
	}
	put := func(pid int, start uint64) {
		d := filepath.Join(dir, "proc", strconv.Itoa(pid))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		b := bytes.Replace(stat, []byte("1 (init)"), []byte(fmt.Sprintf("%d (p%d)", pid, pid)), 1)
		b = bytes.Replace(b, []byte(" 0 5 10000000"), []byte(fmt.Sprintf(" 0 %d 10000000", start)), 1)
		if err := os.WriteFile(filepath.Join(d, "stat"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 1)
	p, ts, _ := processCollectors(t, hostAt(dir))
	c := p.census
	// On disk a descriptor outlives its file: read by name, as beyond the limit.
	c.mostDescriptors = 0
	var table freezeframe.Table
	for round := range 40 {
		for pid := 2; pid < 60; pid++ {
			d := filepath.Join(dir, "proc", strconv.Itoa(pid))
			switch (pid + round) % 3 {
			case 0:
				put(pid, uint64(round+2)) // new, or another process with its pid
			case 1:
				os.RemoveAll(d)
			}
		}
		if err := collect(t, p, &table); err != nil {
			t.Fatal(err)
		}
		entries, _ := os.ReadDir(filepath.Join(dir, "proc"))
		if len(table.Keys) != len(entries) {
			t.Fatalf("round %d: %d rows for %d processes", round, len(table.Keys), len(entries))
		}
		for _, e := range entries {
			pid, _ := strconv.Atoi(e.Name())
			b, _ := os.ReadFile(filepath.Join(dir, "proc", e.Name(), "stat"))
			var s taskStat
			parseTaskStat(b, &s)
			if keyOf(&table, pid) != uint64(freezeframe.TaskKey(pid, s.start)) {
				t.Fatalf("round %d: pid %d has the key of another process", round, pid)
			}
		}
		collect(t, ts, &table)
		if got := len(c.free) + len(c.order); got != len(c.processes) {
			t.Fatalf("round %d: %d slots free and %d in use of %d", round, len(c.free), len(c.order), len(c.processes))
		}
	}
	if n := testing.AllocsPerRun(50, func() { table.Reset(); p.Collect(&table) }); n != 0 {
		t.Errorf("%v allocations a sweep", n)
	}
	for pid := 1; pid < 60; pid++ {
		os.RemoveAll(filepath.Join(dir, "proc", strconv.Itoa(pid)))
	}
	if err := collect(t, p, &table); err != nil || len(table.Keys) != 0 {
		t.Errorf("%v, %d rows of no processes", err, len(table.Keys))
	}
	if len(c.freeThreads)+c.byTID.used != maxThreads {
		t.Errorf("%d threads free, %d known, of %d", len(c.freeThreads), c.byTID.used, maxThreads)
	}
	if c.descriptors != 0 {
		t.Errorf("%d descriptors kept", c.descriptors)
	}
}

// Two command lines that cannot be read hold up nobody else's.
func TestFactsHang(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/processes")); err != nil {
		t.Fatal(err)
	}
	var held []string
	for _, pid := range []string{"1", "100"} {
		path := filepath.Join(dir, "proc", pid, "cmdline")
		os.Remove(path)
		if err := syscall.Mkfifo(path, 0o644); err != nil {
			t.Fatal(err)
		}
		held = append(held, path)
	}
	t.Cleanup(func() { // let the readers go
		for _, path := range held {
			if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				f.Close()
			}
		}
	})
	h := hostAt(dir)
	p, _, _ := processCollectors(t, h)
	var table freezeframe.Table
	read := func() bool { return h.Texts.(dictionary)[byName(t, p, &table, 200)["cmdline"]] == "evil\x1b[2J" }
	eventually(t, p, &table, "the command line of 200", read)
	// Once more, behind those that hang, in whatever order they were met.
	again := &p.census.processes[p.census.byPID.get(200)]
	again.cmdline, again.wants = 0, askCmdline
	eventually(t, p, &table, "the command line of 200 after those that hang", read)
	if byName(t, p, &table, 1)["cmdline"] != 0 {
		t.Error("a command line that hangs was read")
	}
}

// While a stall is open nobody's command line is read.
func TestFactsDuringStall(t *testing.T) {
	h := hostAt("testdata/processes")
	p, _, _ := processCollectors(t, h)
	h.Focus.Suspect(kernel.Now().Add(time.Hour))
	var table freezeframe.Table
	now := kernel.Now()
	for i := range 50 {
		table.Reset()
		table.At = now.Add(time.Duration(i) * time.Second)
		if err := p.Collect(&table); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	row := byName(t, p, &table, 100)
	if row["cmdline"] != 0 || row["cgroup"] == 0 {
		t.Errorf("cmdline %d, cgroup %d", row["cmdline"], row["cgroup"])
	}
	table.At = now.Add(2 * time.Hour) // it is over
	eventually(t, p, &table, "the command line after the stall", func() bool { return byName(t, p, &table, 100)["cmdline"] != 0 })
}

// Of a process that has more threads than there is room for, the watched come
// first, and what found no place is counted.
func TestTasksBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/processes")); err != nil {
		t.Fatal(err)
	}
	stat, _ := os.ReadFile(filepath.Join(dir, "proc/100/stat"))
	many := bytes.Replace(stat, []byte(" 0 3 0 5000 "), []byte(" 0 700 0 5000 "), 1)
	if bytes.Equal(many, stat) {
		t.Fatal("the fixture has changed")
	}
	os.WriteFile(filepath.Join(dir, "proc/100/stat"), many, 0o644)
	for tid := 10_000; tid < 10_700; tid++ {
		d := filepath.Join(dir, "proc/100/task", strconv.Itoa(tid))
		os.MkdirAll(d, 0o755)
		os.WriteFile(filepath.Join(d, "stat"), bytes.Replace(many, []byte("100 ("), []byte(strconv.Itoa(tid)+" ("), 1), 0o644)
		os.WriteFile(filepath.Join(d, "schedstat"), []byte("1 2 3\n"), 0o644)
	}
	h := hostAt(dir)
	_, ts, _ := processCollectors(t, h)
	stall(h, 400, 100)
	var table freezeframe.Table
	if err := collect(t, ts, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Keys) != maxTaskRows || table.Keys[0].TID() != 400 {
		t.Errorf("%d rows, the first of %d", len(table.Keys), table.Keys[0].TID())
	}
	if dropped := table.Values(0, tasksWidth)[tasksDropped]; dropped < 700-maxListed {
		t.Errorf("dropped %d", dropped)
	}
	noAllocations(t, ts)
}

// An ordinary user is told what is missing, once each, and reads the rest.
func TestUnprivileged(t *testing.T) {
	if os.Getenv("FREEZEFRAME_TEST_UNPRIVILEGED") != "" {
		unprivileged(t)
		return
	}
	if os.Geteuid() != 0 {
		unprivileged(t)
		return
	}
	exe := filepath.Join(t.TempDir(), "test")
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(exe); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	cmd := exec.Command(exe, "-test.run=^TestUnprivileged$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "FREEZEFRAME_TEST_UNPRIVILEGED="+filepath.Dir(exe))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnprivileged")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func unprivileged(t *testing.T) {
	hidden := ""
	if dir := os.Getenv("FREEZEFRAME_TEST_UNPRIVILEGED"); dir != "" && os.Geteuid() == 0 {
		hidden = filepath.Join(dir, "proc")
		if err := os.Mkdir(hidden, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("proc", hidden, "proc", 0, "hidepid=2"); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setgroups(nil); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setgid(65534); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setuid(65534); err != nil {
			t.Fatal(err)
		}
	}
	check := func(h freezeframe.Host, want ...string) {
		c := newCensus()
		p, ts := &procs{census: c}, &tasks{census: c}
		for _, x := range []freezeframe.Collector{p, ts} {
			if err := x.Open(h); err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			checkNeeds(t, x.Source())
		}
		stall(h, 1, int32(os.Getpid()))
		var table freezeframe.Table
		for range 3 {
			for _, x := range []freezeframe.Collector{p, ts} {
				if err := collect(t, x, &table); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(table.Keys) == 0 {
			t.Error("no threads at all")
		}
		var all []string
		for _, n := range append(p.Source().Needs, ts.Source().Needs...) {
			all = append(all, n.What)
		}
		text := strings.Join(all, "\n")
		for _, w := range want {
			if strings.Count(text, w) != 1 {
				t.Errorf("%s: %q stands %d times in the needs:\n%s", h.Proc, w, strings.Count(text, w), text)
			}
		}
	}
	check(live(), "PID/io", "PID/syscall", "PID/stack")
	if hidden != "" {
		h := live()
		h.Proc = hidden
		check(h, "see other users' processes")
	}
}

func TestTable(t *testing.T) {
	var tab table
	tab.clear(16)
	want := map[int32]int32{}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		key := int32(1 + r.IntN(300))
		if r.IntN(2) == 0 {
			tab.put(key, int32(i))
			want[key] = int32(i)
		} else {
			tab.delete(key)
			delete(want, key)
		}
		k := int32(1 + r.IntN(300))
		slot, ok := want[k]
		if !ok {
			slot = none
		}
		if got := tab.get(k); got != slot {
			t.Fatalf("step %d: %d is at %d, want %d", i, k, got, slot)
		}
	}
	if tab.used != len(want) || len(tab.keys) > 1024 {
		t.Errorf("%d used, want %d; %d slots", tab.used, len(want), len(tab.keys))
	}
}

func TestParseTaskFiles(t *testing.T) {
	var s taskStat
	b, err := os.ReadFile("testdata/processes/proc/200/stat")
	if err != nil {
		t.Fatal(err)
	}
	if comm, ok := parseTaskStat(b, &s); !ok || string(comm) != ") Z 1 (\n\xff)" || s.state != 'T' || s.nice != -5 || s.start != 6000 || s.blkio != 7 {
		t.Errorf("%q %v %+v", comm, ok, s)
	}
	for n := range b {
		if _, ok := parseTaskStat(b[:n], &s); ok {
			t.Errorf("cut to %d bytes and accepted", n)
		}
	}
	for in, want := range map[string][2]uint64{
		"running\n":          {1<<64 - 1, 0},
		"-1 0x7ffd 0x7f01\n": {1<<64 - 1, 0},
		"0 0x3 0x7f 0x10 0x0 0x0 0x0 0x7ffd 0x7f01\n": {0, 3},
		"1 0xFf 0x7f\n": {1, 255},
		"":              {1<<64 - 2, 0},
		"12":            {1<<64 - 2, 0},
		"-7 0x1":        {1<<64 - 2, 0},
	} {
		if nr, arg := parseSyscall([]byte(in)); uint64(nr) != want[0] || arg != want[1] {
			t.Errorf("%q: %d %d", in, nr, arg)
		}
	}
	stack := "[<0>] jbd2_log_wait_commit+0xd8/0x140 [jbd2]\n[<0>] ext4_sync_file.isra.0+0x1/0x2\n[<0>] 0xffffffffc0123456\n[<0>] entry_SYSCALL_64_after_hwframe+0x76/0x7e\n"
	if got := string(parseStack(nil, []byte(stack))); got != "jbd2_log_wait_commit<-ext4_sync_file<-entry_SYSCALL_64_after_hwframe" {
		t.Errorf("got %q", got)
	}
	if got := parseStack(nil, []byte(strings.Repeat("[<0>] f+0x1/0x2\n", 40))); strings.Count(string(got), "<-") != maxFrames-1 {
		t.Errorf("got %q", got)
	}
	if _, _, _, ok := parseSchedstat([]byte("1 2 3")); ok {
		t.Error("a schedstat that was cut was accepted")
	}
	files, processes := parseLimits([]byte("Max processes             unlimited            unlimited            processes \nMax open files            unlimited            unlimited            files     \n"))
	if files != 0 || processes != 0 {
		t.Error("unlimited is a number")
	}
	if files, processes := parseLimits([]byte("Max processes             60                   80                   processes \nMax open files            9")); files != 0 || processes != 60 {
		t.Errorf("%d files, %d processes", files, processes)
	}
}

func FuzzTaskFiles(f *testing.F) {
	for _, name := range []string{"stat", "status", "io", "limits", "syscall", "stack", "schedstat"} {
		if b, err := os.ReadFile("testdata/processes/proc/100/task/101/" + name); err == nil {
			f.Add(b)
		}
		if b, err := os.ReadFile("testdata/processes/proc/200/" + name); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s taskStat
		if comm, ok := parseTaskStat(b, &s); ok && !bytes.Contains(b, comm) {
			t.Fatal("a name from nowhere")
		}
		var status taskStatus
		parseTaskStatus(b, &status)
		var p process
		parseIO(b, &p)
		parseLimits(b)
		parseSyscall(b)
		parseSchedstat(b)
		if out := parseStack(nil, b); len(out) > 2*len(b) {
			t.Fatal("a stack longer than its text")
		}
		joinLines(make([]byte, 64), b)
	})
}

// startCat starts a process that sleeps until it is written to.
func startCat(t *testing.T) (in io.Writer, pid int) {
	t.Helper()
	cat := exec.Command("cat")
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Process.Kill(); cat.Wait() })
	return in, cat.Process.Pid
}

// A process that slept is not read again, and one that ran is.
func TestSleeperWakes(t *testing.T) {
	in, pid := startCat(t)
	p, ts, _ := processCollectors(t, live())
	c := p.census
	if !c.canSchedstat {
		t.Skip("this kernel has no schedstat")
	}
	var table freezeframe.Table
	eventually(t, p, &table, "cat asleep", func() bool {
		slot := c.byPID.get(int32(pid))
		return slot != none && c.processes[slot].settled && c.processes[slot].schedFD >= 0 && c.processes[slot].fd < 0 && !c.processes[slot].active
	})
	slot := c.byPID.get(int32(pid))
	before := byName(t, p, &table, pid)
	buf := make([]byte, 1<<20)
	fs, _ := procfs.NewFS("/proc")
	// Fed until it has used CPU for some ticks, and read by the search between.
	for {
		if _, err := in.Write(buf); err != nil {
			t.Fatal(err)
		}
		pr, _ := fs.Proc(pid)
		if stat, err := pr.Stat(); err != nil {
			t.Fatal(err)
		} else if stat.UTime+stat.STime >= uint(before["utime_us"]+before["stime_us"])/tickUS+3 {
			break
		}
	}
	for !c.slept(&c.processes[slot]) {
		c.readStat(slot, kernel.Now())
		time.Sleep(time.Millisecond)
	}
	c.round = uint32(slot) // not its turn to be read all the same
	collect(t, p, &table)
	after := byName(t, p, &table, pid)
	if after["utime_us"]+after["stime_us"] <= before["utime_us"]+before["stime_us"] {
		t.Errorf("used %d µs before it ran and %d after", before["utime_us"]+before["stime_us"], after["utime_us"]+after["stime_us"])
	}
	if !c.processes[slot].active {
		t.Error("a process that ran is not active")
	}
	if err := collect(t, ts, &table); err != nil || byName(t, ts, &table, pid) == nil {
		t.Error("an active process has no thread row")
	}
}

// Delays come by netlink for the threads that have rows; that of the CPU is
// what schedstat says, whether the others are counted or not.
func TestTaskDelays(t *testing.T) {
	stats, err := kernel.OpenTaskstats()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("taskstats needs CAP_NET_ADMIN: %v", err)
	}
	h := live()
	_, ts, _ := processCollectors(t, h)
	ts.stats.Close()
	ts.stats = stats // also where kernel.task_delayacct is 0
	var pids []int32
	for range 70 { // more than one batch
		cmd := exec.Command("sleep", "300")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		pids = append(pids, int32(cmd.Process.Pid))
	}
	stall(h, pids...)
	var table freezeframe.Table
	eventually(t, ts, &table, "every sleeper's CPU delay", func() bool {
		waited := 0
		for _, pid := range pids {
			row := byName(t, ts, &table, int(pid))
			if row == nil || row["state"] != 'S' || row["cpu_delay_ns"] != row["wait_ns"] {
				return false
			}
			if row["wait_ns"] > 0 {
				waited++
			}
		}
		return waited > 0
	})
	noAllocations(t, ts)
}

// A process that moved data without using a tick of CPU is read once a stall
// opens, and not again while it sleeps.
func TestStalledSweepReadsWhoRan(t *testing.T) {
	h := live()
	in, pid := startCat(t)
	p, _, _ := processCollectors(t, h)
	c := p.census
	if !c.canSchedstat {
		t.Skip("this kernel has no schedstat")
	}
	var table freezeframe.Table
	eventually(t, p, &table, "cat asleep", func() bool {
		slot := c.byPID.get(int32(pid))
		return slot != none && c.processes[slot].settled && c.processes[slot].schedFD >= 0 && !c.processes[slot].active
	})
	slot := c.byPID.get(int32(pid))
	q := &c.processes[slot]
	sweep := func() map[string]uint64 {
		c.swept = false // it is time for one
		if c.round%rotation == uint32(slot-1)%rotation {
			c.round++ // but not this process's turn for more
		}
		collect(t, p, &table)
		return byName(t, p, &table, pid)
	}
	stall(h)
	before := sweep()
	if q.unread {
		t.Error("unread after a sweep that reads everybody who ran")
	}
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	// The search of tasks is the first to see that it ran.
	for deadline := time.Now().Add(5 * time.Second); c.slept(q); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was written to and did not run")
		}
	}
	for !c.slept(q) {
		time.Sleep(time.Millisecond)
	}
	if after := sweep(); after["syscw"] <= before["syscw"] {
		t.Errorf("it wrote, but syscw is %d and was %d", after["syscw"], before["syscw"])
	}
	for attempt := 1; ; attempt++ { // on a busy machine it may go to sleep late
		q.syscw = 0 // only a reading puts it back
		after := sweep()
		if after["syscw"] == 0 {
			break
		}
		if attempt == 20 {
			t.Fatalf("read although it slept: syscw %d", after["syscw"])
		}
	}
}

// While nothing is wrong our own threads have rows once a second only.
func TestOwnThreadsWhileCalm(t *testing.T) {
	p, ts, _ := processCollectors(t, live())
	var table freezeframe.Table
	collect(t, p, &table)
	runtime.LockOSThread() // its CPU time is measured
	defer runtime.UnlockOSThread()
	for began := kernel.ThreadCPU(); kernel.ThreadCPU()-began < 50*time.Millisecond; {
		os.Getpid()
	}
	collect(t, p, &table)
	if slot := p.census.byPID.get(p.census.self); !p.census.processes[slot].active {
		t.Fatal("we ran and are not active")
	}
	if collect(t, ts, &table); byName(t, ts, &table, os.Getpid()) == nil {
		t.Error("no row of our own in the first reading")
	}
	slot := p.census.byPID.get(p.census.self)
	before := p.census.processes[slot].tick
	if collect(t, ts, &table); p.census.processes[slot].tick != before {
		t.Error("our own threads were read again within a second")
	}
}

// Without BPF sweeps that take long become rare, and those of the threads of
// whoever is busy; the watched are read as ever.
func TestSweepsThatTakeLongAreRare(t *testing.T) {
	h := live()
	p, ts, _ := processCollectors(t, h)
	if p.census.walk != nil {
		t.Fatal("BPF is in use")
	}
	var table freezeframe.Table
	rows := func(c freezeframe.Collector, in time.Duration) int {
		table.At = kernel.Now().Add(in)
		collect(t, c, &table)
		table.At = 0
		return len(table.Keys)
	}
	all := rows(p, 0)
	if all < 3 {
		t.Fatalf("%d processes", all)
	}
	p.census.sweepTook = time.Second
	if n := rows(p, 25*time.Second); n != 0 {
		t.Errorf("calm: %d rows within thirty times of what a sweep took", n)
	}
	if n := rows(p, 31*time.Second); n < all/2 {
		t.Errorf("calm: %d rows of %d after it", n, all)
	}

	_, pid := startCat(t)
	stall(h, int32(pid))
	p.census.sweepTook, p.census.sweptAt = 100*time.Millisecond, kernel.Now()
	if n := rows(p, 500*time.Millisecond); n != 1 || byName(t, p, &table, pid) == nil {
		t.Errorf("stalled: %d rows, want the watched process alone", n)
	}
	if n := rows(p, 1100*time.Millisecond); n < all/2 {
		t.Errorf("stalled: %d rows of %d after ten times of what a sweep took", n, all)
	}

	self := p.census.byPID.get(p.census.self)
	for i := range p.census.processes {
		p.census.processes[i].active = p.census.processes[i].used != 0
	}
	rows(ts, 1200*time.Millisecond)
	busy := len(table.Keys)
	ts.busyAt, ts.busyTook = kernel.Now().Add(1200*time.Millisecond), 20*time.Millisecond
	rows(ts, 1300*time.Millisecond)
	if p.census.processes[self].tick != ts.tick || byName(t, ts, &table, pid) == nil {
		t.Error("stalled: the watched and our own have no row")
	}
	if len(table.Keys) >= busy {
		t.Errorf("stalled: %d threads read soon after %d", len(table.Keys), busy)
	}
}
