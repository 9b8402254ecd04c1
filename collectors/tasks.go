package collectors

import (
	"path/filepath"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	tasksPID = iota
	tasksComm
	tasksState
	tasksRun
	tasksWait
	tasksTimeslices
	tasksMajflt
	tasksMinflt
	tasksBlkio
	tasksCPU
	tasksPolicy
	tasksRTPriority
	tasksNice
	tasksWchan
	tasksSyscall
	tasksFile
	tasksStack
	tasksVoluntary
	tasksAllowed
	tasksCPUDelay
	tasksBlkioDelay
	tasksSwapinDelay
	tasksFreepagesDelay
	tasksThrashingDelay
	tasksCompactDelay
	tasksWPCopyDelay
	tasksDropped
	tasksSince
	tasksInvoluntary
	tasksWidth
)

// What one reading may cost at most.
const (
	maxTaskRows = 512 // threads in a reading
	deepQuiet   = 32  // stuck threads looked into while nothing is wrong
	scanQuiet   = 16  // threads searched for stuck ones in a second while nothing is wrong
	scanStalled = 128 // the same in a reading while a stall is open
	statusReads = 64
)

// tasks reads /proc/PID/task/TID: a row a thread. While a stall is open these
// are the threads of the watched processes, our own, every thread that is
// stuck (D, T, t) and those of the processes that used CPU in the last second,
// in this order, up to maxTaskRows; dropped counts what found no place. Where the
// last would take more than a tenth of a CPU they are read less often. While
// nothing is wrong only threads that ran since the reading before or are stuck
// have a row, and the watched and our own once a second, so that a stall's
// first reading has a predecessor.
//
// Stuck threads elsewhere are found by the sweep of procs, as far as they lead
// their process, and by a search that goes on a little with each reading.
//
// A thread that did not run since the last reading still sleeps where it
// slept: wait channel, system call and stack are read once a sleep.
type tasks struct {
	census *census
	needs  []freezeframe.Need
	stats  *kernel.Taskstats // nil when it is refused or off

	now       freezeframe.Instant
	stalled   bool
	tick      uint32
	dropped   uint64
	baseAt    freezeframe.Instant // when the watched were last read
	busyAt    freezeframe.Instant // when those of all busy processes were, without BPF
	busyTook  time.Duration       // CPU time of that
	deepLeft  int
	statusMax int
	cursor    int // where in census.order the search goes on

	sample, last []int32 // thread slots of this reading, and of the one before

	tids   [kernel.TaskstatsBatch]int32
	slots  [kernel.TaskstatsBatch]int32
	delays [kernel.TaskstatsBatch]kernel.Delays
	ok     [kernel.TaskstatsBatch]bool
}

func (c *tasks) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	from, every := "/proc/PID/task/TID/{stat,schedstat,status,wchan,syscall,stack}, taskstats", 250*time.Millisecond
	if c.census.walk != nil {
		// A row says since when a thread sleeps, however late it is read.
		from, every = "BPF iter/task", 500*time.Millisecond
	}
	return freezeframe.Source{
		Name: "tasks", From: from, Key: "task",
		Every: every, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Needs: c.needs,
		Columns: []freezeframe.Column{
			tasksPID:            {Name: "pid", Kind: gauge},
			tasksComm:           {Name: "comm", Kind: text},
			tasksState:          {Name: "state", Kind: gauge},
			tasksRun:            {Name: "run_ns"},
			tasksWait:           {Name: "wait_ns"},
			tasksTimeslices:     {Name: "timeslices"},
			tasksMajflt:         {Name: "majflt"},
			tasksMinflt:         {Name: "minflt"},
			tasksBlkio:          {Name: "blkio_us"},
			tasksCPU:            {Name: "cpu", Kind: gauge},
			tasksPolicy:         {Name: "policy", Kind: gauge},
			tasksRTPriority:     {Name: "rt_priority", Kind: gauge},
			tasksNice:           {Name: "nice", Kind: gauge},
			tasksWchan:          {Name: "wchan", Kind: text},
			tasksSyscall:        {Name: "syscall", Kind: gauge},
			tasksFile:           {Name: "file", Kind: text},
			tasksStack:          {Name: "stack", Kind: text},
			tasksVoluntary:      {Name: "voluntary_ctxt"},
			tasksAllowed:        {Name: "allowed_cpus", Kind: text},
			tasksCPUDelay:       {Name: "cpu_delay_ns"},
			tasksBlkioDelay:     {Name: "blkio_delay_ns"},
			tasksSwapinDelay:    {Name: "swapin_delay_ns"},
			tasksFreepagesDelay: {Name: "freepages_delay_ns"},
			tasksThrashingDelay: {Name: "thrashing_delay_ns"},
			tasksCompactDelay:   {Name: "compact_delay_ns"},
			tasksWPCopyDelay:    {Name: "wpcopy_delay_ns"},
			tasksDropped:        {Name: "dropped", Kind: gauge},
			tasksSince:          {Name: "since_ns", Kind: gauge}, // CLOCK_MONOTONIC; 0 without BPF, and while it runs
			tasksInvoluntary:    {Name: "involuntary_ctxt"},
		},
	}
}

func (c *tasks) Open(h freezeframe.Host) error {
	if err := c.census.open(h); err != nil {
		return err
	}
	c.needs = c.census.needsOf(needThreads)
	c.openTaskstats(h) // with BPF too: it may have to be done without
	c.tick, c.baseAt, c.cursor = 0, 0, 0
	if c.sample == nil {
		c.sample, c.last = make([]int32, 0, maxTaskRows), make([]int32, 0, maxTaskRows)
	}
	c.sample, c.last = c.sample[:0], c.last[:0]
	return nil
}

func (c *tasks) openTaskstats(h freezeframe.Host) {
	lost := "how long threads waited for swap-in, reclaim, compaction, copies and block devices, each apart"
	sysctl := filepath.Join(h.Proc, "sys/kernel/task_delayacct")
	// Before Linux 5.14 there was no switch, and accounting was on.
	if n, err := kernel.ReadAt(kernel.AtCWD, append([]byte(sysctl), 0), c.census.buf[:]); err == nil {
		if v, _ := kernel.Uint(c.census.buf[:min(n, 1)]); v == 0 {
			c.needs = append(c.needs, freezeframe.Need{
				What: "delay accounting", Lost: lost,
				Fix: "sysctl kernel.task_delayacct=1 (it counts for processes that start afterwards)",
				Err: sysctl + " is 0",
			})
			return
		}
	}
	if h.Proc != "/proc" {
		return // a captured tree: netlink would tell of this machine
	}
	stats, err := kernel.OpenTaskstats()
	if err != nil {
		need := freezeframe.Need{What: "taskstats netlink", Lost: lost, Err: err.Error()}
		if kernel.IsForbidden(err) {
			need.Fix = "run as root, or with CAP_NET_ADMIN"
		} else {
			need.Fix = "a kernel with CONFIG_TASKSTATS and CONFIG_TASK_DELAY_ACCT"
		}
		c.needs = append(c.needs, need)
		return
	}
	c.stats = stats
}

func (c *tasks) Close() error {
	err := c.stats.Close()
	c.stats = nil
	c.census.close()
	return err
}

func (c *tasks) Collect(t *freezeframe.Table) error {
	s := c.census
	c.now = at(t)
	if s.walk != nil {
		if err := c.walk(t); err == nil {
			return nil
		} else {
			s.endWalk(err) // and go on without
		}
		c.sample, c.last = c.sample[:0], c.last[:0]
	}
	if err := s.refresh(c.now); err != nil {
		return err
	}
	c.tick++
	c.stalled = s.host.Focus.Stalled(c.now)
	c.dropped = 0
	c.deepLeft, c.statusMax = deepQuiet, statusReads
	if c.stalled {
		c.deepLeft = maxTaskRows
	}
	c.sample, c.last = c.last[:0], c.sample

	base := c.stalled || c.now.Sub(c.baseAt) >= time.Second
	if base {
		c.baseAt = c.now
		for _, pid := range s.host.Focus.PIDs() {
			if slot := s.lookup(pid, c.now); slot != none {
				c.process(slot, true)
			}
		}
		if slot := s.byPID.get(s.self); slot != none {
			c.process(slot, true)
		}
	}
	for _, i := range c.last {
		if th := &s.threads[i]; th.used != 0 && th.stuck {
			c.take(i, false)
		}
	}
	for _, slot := range s.order {
		if p := &s.processes[slot]; p.used != 0 && isStuck(p.stat.state) && p.tick != c.tick {
			c.leader(slot)
		}
	}
	if !c.stalled || c.now.Sub(c.busyAt) >= sweepPartStalled*c.busyTook {
		c.busy(base)
	}
	if c.stats != nil {
		c.readDelays()
	}
	for _, i := range c.sample {
		// A slot that was freed and taken again stands twice in the list.
		if th := &s.threads[i]; th.used != 0 && th.sampled {
			th.sampled = false
			if c.stalled || th.victim || th.stuck || th.ran {
				c.row(t, th)
			}
		}
	}
	return nil
}

// busy samples the threads of the processes that used CPU, and searches for
// stuck ones.
func (c *tasks) busy(base bool) {
	s := c.census
	cpu, began := kernel.ThreadCPU(), kernel.Now()
	for _, slot := range s.order {
		// We always run, and while nothing is wrong nobody asks how.
		if p := &s.processes[slot]; p.used != 0 && p.active && (base || p.pid != s.self) {
			c.process(slot, false)
		}
	}
	if base {
		c.search()
	}
	c.busyAt, c.busyTook = c.now, usedSince(cpu, began)
}

// walk is Collect where BPF tells of threads.
func (c *tasks) walk(t *freezeframe.Table) error {
	s := c.census
	w := s.walk
	c.stalled = s.host.Focus.Stalled(c.now)
	if w.dear(c.now, c.stalled) {
		return nil // a reading of nobody claims nothing
	}
	if !s.swept || c.now.Sub(s.sweptAt) >= 1500*time.Millisecond { // procs is not read
		if err := w.sweep(c.now); err != nil {
			return err
		}
	} else if err := w.pass(c.now, false); err != nil {
		return err
	}
	c.tick++
	c.dropped = w.beyond
	c.deepLeft = deepQuiet
	if c.stalled {
		c.deepLeft = maxTaskRows
	}
	base := c.stalled || c.now.Sub(c.baseAt) >= time.Second
	if base {
		c.baseAt = c.now
		for _, pid := range s.host.Focus.PIDs() {
			c.allOf(t, s.byPID.get(pid))
		}
		c.allOf(t, s.byPID.get(s.self))
	}
	for _, stuck := range [...]bool{true, false} {
		for _, i := range w.news {
			th := &s.threads[i]
			// We always run, and while nothing is wrong nobody asks how.
			if th.used != 0 && th.news && th.stuck == stuck && (base || stuck || s.processes[th.process].pid != s.self) {
				c.emit(t, i)
			}
		}
	}
	for _, i := range w.news {
		s.threads[i].news = false
	}
	w.news = w.news[:0]
	if c.stalled {
		for _, slot := range s.order {
			if s.processes[slot].active {
				c.allOf(t, slot)
			}
		}
	}
	if c.dropped > 0 {
		for i := range t.Keys {
			t.Values(i, tasksWidth)[tasksDropped] = c.dropped
		}
	}
	return nil
}

// allOf emits every thread of a process that has no row yet.
func (c *tasks) allOf(t *freezeframe.Table, slot int32) {
	s := c.census
	if slot == none || s.processes[slot].tick == c.tick {
		return
	}
	if s.processes[slot].aside {
		c.process(slot, true)
		for _, i := range c.sample {
			s.threads[i].sampled = false
			c.emit(t, i)
		}
		c.sample = c.sample[:0]
		return
	}
	p := &s.processes[slot]
	p.tick = c.tick
	if p.stat.threads > maxListed/8 {
		// There may not be room for all: those that do something come first.
		for i := p.threads; i != none; i = s.threads[i].next {
			if th := &s.threads[i]; th.news || th.stuck {
				c.emit(t, i)
			}
		}
	}
	for i := p.threads; i != none; i = s.threads[i].next {
		c.emit(t, i)
	}
}

// emit makes the row of a thread, if it has none yet.
func (c *tasks) emit(t *freezeframe.Table, i int32) {
	th := &c.census.threads[i]
	if th.shown == c.tick {
		return
	}
	th.shown = c.tick
	if len(t.Keys) == maxTaskRows {
		c.dropped++
		return
	}
	if !th.deep && (c.stalled || th.stuck) && c.deepLeft > 0 && !c.census.walk.named && th.stat.state != 'R' && th.stat.state != 'Z' {
		c.deepLeft--
		c.readDeep(th, c.census.processes[th.process].pid)
	}
	c.row(t, th)
}

func isStuck(state byte) bool { return state == 'D' || state == 'T' || state == 't' }

// process samples every known thread of a process.
func (c *tasks) process(slot int32, victim bool) {
	s := c.census
	p := &s.processes[slot]
	if p.tick == c.tick {
		return
	}
	p.tick = c.tick
	every := time.Second
	if c.stalled && victim {
		every = 200 * time.Millisecond
	}
	if p.threads == none || p.stat.threads <= 1 || c.now.Sub(p.listedAt) >= every {
		s.list(slot, c.now)
	}
	for i := p.threads; i != none; {
		next := s.threads[i].next
		c.take(i, victim)
		i = next
	}
	c.dropped += uint64(max(p.stat.threads-int64(p.listed), 0))
}

// leader samples the first thread of a process, whatever the others do.
func (c *tasks) leader(slot int32) {
	c.takeTID(slot, c.census.processes[slot].pid)
}

func (c *tasks) takeTID(slot, tid int32) {
	s := c.census
	i := s.byTID.get(tid)
	if i != none && s.threads[i].process != slot {
		s.evictThread(i)
		i = none
	}
	if i == none {
		i = s.admitThread(slot, tid)
	}
	if i == none {
		c.dropped++
		return
	}
	c.take(i, false)
}

// take reads a thread and puts it into the reading.
func (c *tasks) take(i int32, victim bool) {
	th := &c.census.threads[i]
	if th.sampled {
		return
	}
	if len(c.sample) == maxTaskRows {
		c.dropped++
		return
	}
	if !c.read(i) {
		return
	}
	th.sampled, th.victim, th.sampledAt = true, victim, c.now
	c.sample = append(c.sample, i)
}

// read brings a thread up to date; a thread that is gone is freed, and false.
func (c *tasks) read(i int32) bool {
	s := c.census
	th := &s.threads[i]
	pid := s.processes[th.process].pid
	first := th.key == 0
	th.ran = true
	if s.canSchedstat {
		n, err := s.read(&th.fds[fileSchedstat], s.threadPath(pid, th.tid, "schedstat"), s.mostDescriptors)
		run, wait, timeslices, ok := parseSchedstat(s.buf[:n])
		if err != nil && kernel.IsGone(err) {
			s.evictThread(i)
			return false
		}
		if err == nil && ok {
			th.ran = first || run != th.run || timeslices != th.timeslices
			th.run, th.wait, th.timeslices = run, wait, timeslices
		}
	}
	if th.ran {
		th.deep = false
	}
	// A thread that did not run is in the state it was in, unless it has been
	// woken and waits for a CPU; while a stall is open that is the question.
	if first || th.ran || c.stalled || th.stat.state == 'R' {
		n, err := s.read(&th.fds[fileStat], s.threadPath(pid, th.tid, "stat"), s.mostDescriptors)
		var stat taskStat
		comm, ok := parseTaskStat(s.buf[:n], &stat)
		if err != nil || !ok || stat.state == 'X' || stat.state == 'x' {
			s.evictThread(i)
			return false
		}
		key := freezeframe.TaskKey(int(th.tid), stat.start)
		if !first && key != th.key {
			s.evictThread(i) // another thread has its number now
			return false
		}
		th.key, th.stat = key, stat
		if h := hash(comm); h != th.commHash {
			th.commHash, th.comm = h, s.host.Texts.Intern(comm)
		}
	}
	th.stuck = isStuck(th.stat.state)
	if first || c.stalled && th.ran && c.statusMax > 0 && c.now.Sub(th.statusAt) > time.Second {
		c.statusMax--
		c.readStatus(th, pid)
	}
	switch th.stat.state {
	case 'R', 'Z':
		th.deep = false
		th.wchan, th.file, th.stack, th.syscall = 0, 0, 0, syscallRunning
	default:
		if !th.deep {
			th.wchan, th.file, th.stack, th.syscall = 0, 0, 0, syscallUnknown
			if (c.stalled || th.stuck) && c.deepLeft > 0 {
				c.deepLeft--
				c.readDeep(th, pid)
			}
		}
	}
	return true
}

func (c *tasks) readStatus(th *thread, pid int32) {
	s := c.census
	th.statusAt = c.now
	n, err := kernel.ReadAt(s.root, s.threadPath(pid, th.tid, "status"), s.buf[:])
	if err != nil {
		return
	}
	var status taskStatus
	parseTaskStatus(s.buf[:n], &status)
	th.voluntary, th.involuntary = status.voluntary, status.involuntary
	th.allowed = s.host.Texts.Intern(status.allowed)
}

// readDeep reads where a thread sleeps.
func (c *tasks) readDeep(th *thread, pid int32) {
	s := c.census
	th.deep = true
	if b := c.deepFile(th, pid, fileWchan); len(b) > 0 && string(b) != "0" {
		th.wchan = s.host.Texts.Intern(b)
	}
	if b := c.deepFile(th, pid, fileSyscall); len(b) > 0 {
		number, arg0 := parseSyscall(b)
		th.syscall = number
		if kernel.TakesDescriptor(number) && arg0 < 1<<31 {
			name := s.threadPath(pid, th.tid, "fd/")
			name = append(strconv.AppendInt(name[:len(name)-1], int64(arg0), 10), 0)
			s.name = name
			if n, err := kernel.ReadLinkAt(s.root, name, s.text[:]); err == nil {
				th.file = s.host.Texts.Intern(s.text[:n])
			}
		}
	}
	if s.canStack {
		if b := c.deepFile(th, pid, fileStack); len(b) > 0 {
			th.stack = s.host.Texts.Intern(parseStack(s.text[:0], b))
		}
	}
}

// deepFile reads one of a thread's files; nil when it cannot be had, and for
// good when it is not allowed.
func (c *tasks) deepFile(th *thread, pid int32, file int) []byte {
	s := c.census
	if th.denied&(1<<file) != 0 {
		return nil
	}
	n, err := s.read(&th.fds[file], s.threadPath(pid, th.tid, threadFileNames[file]), s.mostDescriptors)
	if err != nil {
		if kernel.IsForbidden(err) {
			th.denied |= 1 << file
			s.drop(&th.fds[file])
		}
		return nil
	}
	return s.buf[:n]
}

// search looks for stuck threads where nothing else leads to them.
func (c *tasks) search() {
	s := c.census
	left := scanQuiet
	if c.stalled {
		left = scanStalled
	}
	for range s.order {
		if left <= 0 {
			return
		}
		if c.cursor >= len(s.order) {
			c.cursor = 0
		}
		slot := s.order[c.cursor]
		p := &s.processes[slot]
		if p.used == 0 || p.tick == c.tick {
			c.cursor++
			continue
		}
		if p.stat.threads <= 1 {
			c.cursor++
			if !c.stalled {
				continue // the sweep has seen it
			}
			left--
			if !s.slept(p) && !s.readStat(slot, c.now) {
				s.evict(slot)
			} else if isStuck(p.stat.state) {
				c.leader(slot)
			}
			continue
		}
		reads, more := c.searchThreads(slot, left)
		if !more {
			c.cursor++
		}
		left -= reads
	}
}

// searchThreads reads the state of up to most threads of one process; more
// tells that it goes on with the others the next time.
func (c *tasks) searchThreads(slot int32, most int) (reads int, more bool) {
	s := c.census
	p := &s.processes[slot]
	fd, err := kernel.OpenDirAt(s.root, s.path(p.pid, "/task"))
	if err != nil {
		return 1, false
	}
	s.taskEntries.Rewind(fd)
	for n := int32(0); ; n++ {
		tid, ok := s.taskEntries.Next()
		if !ok {
			break
		}
		if n < p.scanFrom {
			continue
		}
		if reads == most {
			more = true
			break
		}
		reads++
		got, err := kernel.ReadAt(s.root, s.threadPath(p.pid, tid, "stat"), s.buf[:])
		if err != nil {
			continue
		}
		var stat taskStat
		if _, ok := parseTaskStat(s.buf[:got], &stat); ok && isStuck(stat.state) {
			c.takeTID(slot, tid)
		}
	}
	kernel.CloseFD(fd)
	if more {
		p.scanFrom += int32(reads)
	} else {
		p.scanFrom = 0
	}
	return max(reads, 1), more
}

// readDelays asks for the delays of the threads that may have new ones: they
// are booked when a wait has ended, so a thread that did not run has none.
func (c *tasks) readDelays() {
	s := c.census
	n := 0
	for _, i := range c.sample {
		th := &s.threads[i]
		if th.used == 0 || !th.sampled || !th.ran {
			continue
		}
		if th.delaysAt != 0 && !(c.stalled && (th.victim || th.stuck)) && c.now.Sub(th.delaysAt) < time.Second {
			continue
		}
		c.tids[n], c.slots[n] = th.tid, i
		if n++; n == len(c.tids) {
			c.askDelays(n)
			n = 0
		}
	}
	if n > 0 {
		c.askDelays(n)
	}
}

func (c *tasks) askDelays(n int) {
	c.stats.Ask(c.tids[:n])
	// What is refused now was allowed at Open; the columns keep their values.
	_ = c.stats.Answers(c.delays[:n], c.ok[:n])
	for i := range n {
		if c.ok[i] {
			th := &c.census.threads[c.slots[i]]
			th.delays, th.delaysAt = c.delays[i], c.now
		}
	}
}

func (c *tasks) row(t *freezeframe.Table, th *thread) {
	row := t.Row(th.key, tasksWidth)
	row[tasksPID] = uint64(c.census.processes[th.process].pid)
	row[tasksComm] = th.comm
	row[tasksState] = uint64(th.stat.state)
	row[tasksRun] = th.run
	row[tasksWait] = th.wait
	row[tasksTimeslices] = th.timeslices
	row[tasksMajflt] = th.stat.majflt
	row[tasksMinflt] = th.stat.minflt
	row[tasksBlkio] = th.stat.blkio * tickUS
	row[tasksCPU] = th.stat.cpu
	row[tasksPolicy] = th.stat.policy
	row[tasksRTPriority] = th.stat.rtPriority
	row[tasksNice] = uint64(th.stat.nice)
	row[tasksWchan] = th.wchan
	row[tasksSyscall] = uint64(th.syscall)
	row[tasksFile] = th.file
	row[tasksStack] = th.stack
	row[tasksVoluntary] = th.voluntary
	if c.stalled {
		row[tasksAllowed] = th.allowed
	}
	row[tasksCPUDelay] = th.delays.CPU
	row[tasksBlkioDelay] = th.delays.BlockIO
	row[tasksSwapinDelay] = th.delays.SwapIn
	row[tasksFreepagesDelay] = th.delays.FreePages
	row[tasksThrashingDelay] = th.delays.Thrashing
	row[tasksCompactDelay] = th.delays.Compact
	row[tasksWPCopyDelay] = th.delays.WriteProtectCopy
	row[tasksDropped] = c.dropped
	row[tasksSince] = uint64(th.since)
	row[tasksInvoluntary] = th.involuntary
}
