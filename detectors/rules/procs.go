package rules

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe"
)

// The scheduling policies that stand above every ordinary thread (sched(7)).
const (
	schedFIFO     = 1
	schedRR       = 2
	schedDeadline = 6
)

// kernelThreads is the parent of every thread of the kernel.
const kernelThreads = 2

// A process is what the procs source says of one over a span.
type process struct {
	key                              freezeframe.Key
	pid, ppid                        int
	comm, cmdline, cgroup, allowed   string
	first, last                      freezeframe.Instant // readings that have it
	born                             bool                // it was not there when the span began
	cpu, system, children            growth              // µs
	read, written, faults, majfaults growth
	rssFirst, rss, rssMost           uint64
	swap, fds, fdsMax, threads       uint64
	threadsMost, processesMax        uint64
	maps, vsize                      uint64 // at most
	uid                              int
	tracer                           int
	dumping                          bool
}

// moved is how much it read from and wrote to devices.
func (p *process) moved() uint64 { return p.read.sum + p.written.sum }

// grown is by how much its memory grew; one that began in the span gained all
// it has.
func (p *process) grown() uint64 {
	if p.born {
		return p.rssMost
	}
	if p.rssMost > p.rssFirst {
		return p.rssMost - p.rssFirst
	}
	return 0
}

func (p *process) kernel() bool { return p.pid == kernelThreads || p.ppid == kernelThreads }

// user is which share of its CPU time was in user space.
func (p *process) user() float64 {
	return 1 - ratio(float64(p.system.sum), float64(p.cpu.sum))
}

// culprit blames a process; what else is known of it is added by the report.
func (p *process) culprit() freezeframe.Culprit {
	return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: p.pid, Comm: p.comm}
}

func (p *process) String() string { return named(p.comm, p.pid) }

type processes struct {
	list  []*process // in the order of first appearance
	byPID map[int]*process
}

type (
	processesOver freezeframe.Span
	threadsOver   freezeframe.Span
)

// processesIn reads the procs source over a span. The lists are the caller's,
// the processes in them are not.
func processesIn(w freezeframe.Window, s freezeframe.Span) *processes {
	ps := freezeframe.Once(w, processesOver(s), func() *processes { return readProcesses(w, s) })
	return &processes{list: slices.Clone(ps.list), byPID: maps.Clone(ps.byPID)}
}

func readProcesses(w freezeframe.Window, s freezeframe.Span) *processes {
	ps := &processes{byPID: map[int]*process{}}
	series := w.Between("procs", s)
	columns := []string{
		"ppid", "comm", "cmdline", "cgroup", "utime_us", "stime_us", "cutime_us", "cstime_us", "read_bytes", "write_bytes",
		"minflt", "majflt", "rss_bytes", "swap_bytes", "fds", "fds_max", "threads", "tracer_pid", "coredumping", "allowed_cpus", "syscw",
		"uid", "processes_max", "maps", "vsize_bytes", "started_ns",
	}
	began := s.Start // or, where the readings reach less far back, the first of them
	if len(series.Tables) > 0 {
		began = max(began, series.Tables[0].At)
	}
	byKey := map[freezeframe.Key]*process{}
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		p := byKey[key]
		if p == nil {
			p = &process{key: key, pid: key.TID(), first: at, rssFirst: v[12]}
			// One of very many that do nothing is read only when it runs again.
			p.born = at > began.Add(sweep) && (v[25] == 0 || freezeframe.Instant(v[25]) > began.Add(-sweep))
			byKey[key] = p
			ps.list = append(ps.list, p)
			ps.byPID[p.pid] = p // a pid used again: the later one
		}
		p.ppid, p.last = int(v[0]), at
		setText(w, &p.comm, v[1])
		setText(w, &p.cmdline, v[2])
		setText(w, &p.cgroup, v[3])
		p.cpu.add(at, v[4]+v[5])
		p.system.add(at, v[5])
		p.children.add(at, v[6]+v[7])
		// What a process moved is read of the active ones and of the others in
		// turn. Until then all of it is 0; but one that has written a line to a
		// pipe and never touched a disk is known to have moved nothing, and what
		// it moves later is all its own.
		known := v[20] != 0
		moved(&p.read, at, v[8], known, p.born)
		moved(&p.written, at, v[9], known, p.born)
		p.faults.add(at, v[10])
		p.majfaults.add(at, v[11])
		p.rss, p.rssMost = v[12], max(p.rssMost, v[12])
		p.swap, p.fds, p.fdsMax, p.threads = v[13], max(p.fds, v[14]), v[15], v[16]
		p.threadsMost, p.maps, p.vsize = max(p.threadsMost, v[16]), max(p.maps, v[23]), max(p.vsize, v[24])
		p.uid, p.processesMax = int(v[21]), v[22]
		if v[17] != 0 {
			p.tracer = int(v[17])
		}
		p.dumping = p.dumping || v[18] != 0
		setText(w, &p.allowed, v[19])
	})
	// A parent that waits for a dead child inherits what it had moved
	// (task_io_accounting): that is not the parent's doing.
	for _, p := range ps.list {
		if parent := ps.byPID[p.ppid]; parent != nil && p.last < parent.last {
			parent.read.sum -= min(parent.read.sum, p.read.value)
			parent.written.sum -= min(parent.written.sum, p.written.value)
		}
	}
	return ps
}

// moved counts what a process moved. The first reading is only where counting
// begins, unless the process is younger than the span: then it moved that much
// within it.
func moved(g *growth, at freezeframe.Instant, v uint64, known, born bool) {
	if v == 0 && !known && !g.any {
		return
	}
	if !g.any && born {
		g.sum = v
	}
	g.add(at, v)
}

func setText(w freezeframe.Window, to *string, id uint64) {
	if id != 0 {
		*to = w.Text(id)
	}
}

// sweep is how long after the start of a span every process that was there
// has been read once.
const sweep = 1500 * time.Millisecond

// sweepMargin is a little more than the time between two sweeps over all
// processes while a stall is open.
const sweepMargin = 400 * time.Millisecond

// around is a span with enough on both sides for what is read in sweeps to
// have a reading of every process before and after it. More would dilute a
// short stall with what went on around it.
func around(s freezeframe.Span) freezeframe.Span {
	return freezeframe.Span{Start: s.Start.Add(-sweepMargin), End: s.End.Add(sweepMargin)}
}

// name returns what a pid is called, "" when it was never read.
func (ps *processes) name(pid int) string {
	if p := ps.byPID[pid]; p != nil {
		return p.comm
	}
	return ""
}

// blame names a pid as culprit, with a comm even when procs does not know it.
func (ps *processes) blame(p freezeframe.Party) freezeframe.Culprit {
	return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: p.PID, Comm: orElse(p.Comm, ps.name(p.PID))}
}

// ranked returns the processes for which value is not 0, most first.
func (ps *processes) ranked(value func(*process) uint64) []*process {
	var out []*process
	for _, p := range ps.list {
		if value(p) > 0 {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b *process) int { return cmp.Compare(value(b), value(a)) })
	return out
}

// A thread is what the tasks source says of one over a span.
type thread struct {
	tid, pid  int
	comm      string
	policy    uint64
	run, wait growth                     // ns
	byCPU     map[freezeframe.Key]uint64 // run ns by the CPU it was last seen on
	allowed   string
	seen      int            // readings
	stuck     int            // of them in D
	stacks    map[uint64]int // how often which stack was seen
	swapIn    growth         // ns, by delay accounting
}

// threadsIn reads the tasks source over a span. The list is the caller's, the
// threads in it are not.
func threadsIn(w freezeframe.Window, s freezeframe.Span) []*thread {
	return slices.Clone(freezeframe.Once(w, threadsOver(s), func() []*thread { return readThreads(w, s) }))
}

func readThreads(w freezeframe.Window, s freezeframe.Span) []*thread {
	series := w.Between("tasks", s)
	columns := []string{"pid", "comm", "policy", "run_ns", "wait_ns", "cpu", "allowed_cpus", "state", "stack", "swapin_delay_ns"}
	byKey := map[freezeframe.Key]*thread{}
	var out []*thread
	series.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		t := byKey[key]
		if t == nil {
			t = &thread{tid: key.TID(), pid: int(v[0]), byCPU: map[freezeframe.Key]uint64{}, stacks: map[uint64]int{}}
			byKey[key] = t
			out = append(out, t)
		}
		setText(w, &t.comm, v[1])
		t.policy = v[2]
		had := t.run.sum
		t.run.add(at, v[3])
		t.wait.add(at, v[4])
		t.byCPU[freezeframe.Key(v[5])] += t.run.sum - had
		setText(w, &t.allowed, v[6])
		t.seen++
		if v[7] == 'D' {
			t.stuck++
		}
		if v[8] != 0 {
			t.stacks[v[8]]++
		}
		t.swapIn.add(at, v[9])
	})
	return out
}

// realtime tells whether the thread stands above ordinary ones.
func (t *thread) realtime() bool {
	return t.policy == schedFIFO || t.policy == schedRR || t.policy == schedDeadline
}

// load is which share of one CPU it used.
func (t *thread) load() float64 { return t.run.rate() / 1e9 }

// stackIn returns how many of its readings lay in one of the functions.
func (t *thread) stackIn(w freezeframe.Window, names ...string) int {
	n := 0
	for id, count := range t.stacks {
		if inFrames(w.Text(id), names...) {
			n += count
		}
	}
	return n
}

// mayRunOn tells whether a list like "0-3,8" (cpuset(7)) has a CPU; a list
// that was not read allows all.
func mayRunOn(list string, c freezeframe.Key) bool {
	if list == "" {
		return true
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.ParseUint(from, 10, 32)
		if err != nil {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.ParseUint(to, 10, 32); err != nil {
				continue
			}
		}
		if uint64(c) >= a && uint64(c) <= b {
			return true
		}
	}
	return false
}

// A crowd is processes alike: one command in one cgroup.
type crowd struct {
	comm, cgroup string
	members      []*process // most CPU first
	used         float64    // CPUs' worth
}

func (c *crowd) culprit() freezeframe.Culprit {
	out := c.members[0].culprit()
	if len(c.members) > 1 {
		out.Count = len(c.members)
	}
	return out
}

// crowds returns who used the CPUs over a span, in CPUs, most first. Threads
// are sampled more often than processes, so where a process's threads were
// sampled they decide. Those for which skip is true are left out.
func crowds(w freezeframe.Window, s freezeframe.Span, skip func(*process) bool) []crowd {
	used := map[int]float64{}
	comm := map[int]string{}
	for _, t := range threadsIn(w, s) {
		used[t.pid] += min(t.load(), ratio(float64(t.run.sum), float64(s.Length())))
		if t.tid == t.pid || comm[t.pid] == "" {
			comm[t.pid] = t.comm
		}
	}
	ps := processesIn(w, around(s))
	for _, p := range ps.list {
		// One that came or went used it for a part of the time only.
		used[p.pid] = max(used[p.pid], min(p.cpu.rate(), ratio(float64(p.cpu.sum), s.Length().Seconds()))/1e6)
	}
	for pid := range used {
		if ps.byPID[pid] == nil {
			p := &process{pid: pid, comm: comm[pid]}
			ps.byPID[pid] = p
			ps.list = append(ps.list, p)
		}
	}
	slices.SortStableFunc(ps.list, func(a, b *process) int {
		return cmp.Or(cmp.Compare(used[b.pid], used[a.pid]), cmp.Compare(a.pid, b.pid))
	})
	type id struct{ comm, cgroup string }
	at := map[id]int{}
	var out []crowd
	for _, p := range ps.list {
		if used[p.pid] < leastLoad || ps.byPID[p.pid] != p || skip != nil && skip(p) {
			continue
		}
		k := id{p.comm, p.cgroup}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, crowd{comm: p.comm, cgroup: p.cgroup})
		}
		out[i].members = append(out[i].members, p)
		out[i].used += used[p.pid]
	}
	slices.SortStableFunc(out, func(a, b crowd) int { return cmp.Compare(b.used, a.used) })
	return out
}

// leastLoad is the share of a CPU below which a process does not count among
// those that used it.
const leastLoad = 0.01
