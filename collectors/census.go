package collectors

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

// none is the index of no slot.
const none = int32(-1)

const (
	maxDescriptors = 4096 // kept open at most, and at most a quarter of the limit
	maxThreads     = 2048 // threads known at a time
	maxListed      = 512  // threads of one process known at a time
	newPerSweep    = 256  // processes looked at closer in one sweep
	newStalled     = 64   // the same while a stall is open
	newAtFirst     = 4096 // the same in the first
	manyThreads    = 256  // from here on /proc/PID/stat is slow: it adds up the threads
	threadsBudget  = 20000
	rotation       = 10 // sweeps in which every process has its extras read once
)

// process is what is known of one process.
type process struct {
	pid, used int32 // used 0: the slot is free
	fd        int32 // /proc/PID/stat, none when it is not kept open
	schedFD   int32 // /proc/PID/schedstat, as fd
	run       uint64
	slices    uint64
	round     uint32
	key       freezeframe.Key
	started   freezeframe.Instant
	stat      taskStat
	comm      uint64 // Texts id
	commHash  uint64

	cpu     uint64              // ticks used, at the last sweep
	active  bool                // it used CPU between the last two sweeps
	ranAt   freezeframe.Instant // the last sweep that found it so; without a walk
	unread  bool                // it may have run since its descriptors and I/O were read
	watched bool
	kthread bool
	shown   bool // its counters were read once; before, a row would show jumps
	settled bool // its static facts are those of the program it runs
	renamed bool // its name changed, which a program does by itself or by exec
	wants   uint64
	askedAt freezeframe.Instant // when its facts were last asked for
	quiet   bool                // left out; without a walk
	stirred bool                // it ran, if only for less than a tick, by its schedstat
	// settledNow is the round in which its extras were read with its facts.
	settledNow uint32
	java       bool
	jvmTries   int32

	exe, cmdline, cgroup, allowed uint64 // Texts ids
	uid, tracer, coredumping      uint64
	nspid, netns, swap            uint64
	fds, fdsMax                   uint64
	processesMax, maps            uint64
	readBytes, writeBytes         uint64
	cancelledWriteBytes, syscw    uint64

	tick     uint32 // the reading of tasks that has its threads
	threads  int32  // first known thread, none
	listed   int32  // how many threads were in the last listing
	listedAt freezeframe.Instant
	scanFrom int32 // where the next search of a huge process begins

	utimeUS, stimeUS, cutimeUS, cstimeUS uint64

	walked
}

// thread is what is known of one thread.
type thread struct {
	tid, used int32
	process   int32 // slot
	next      int32 // of the same process, none
	listing   uint32
	key       freezeframe.Key
	fds       [threadFiles]int32
	denied    uint8 // bit a file: not allowed

	stat                  taskStat
	comm, commHash        uint64
	run, wait, timeslices uint64
	ran                   bool // since the reading before
	stuck                 bool // in D, T or t
	sampled, victim       bool // in the reading that is being taken
	sampledAt             freezeframe.Instant

	deep               bool // the next four are those of this sleep
	wchan, file, stack uint64
	syscall            int64

	statusAt, delaysAt freezeframe.Instant
	voluntary, allowed uint64
	delays             kernel.Delays

	// Of a walk only.
	pass                        uint32 // the last one that met it
	shown                       uint32 // the reading of tasks that has its row
	news                        bool   // for tasks
	since                       freezeframe.Instant
	involuntary                 uint64
	spent                       sums
	allowedHash                 uint64
	fileInode, fileFD, fileText uint64
	fileDevice                  uint32
}

// The files of a thread that are kept open.
const (
	fileStat = iota
	fileSchedstat
	fileWchan
	fileSyscall
	fileStack
	threadFiles
)

var threadFileNames = [threadFiles]string{"stat", "schedstat", "wchan", "syscall", "stack"}

// Whose need is which.
const (
	needProcesses = iota
	needThreads
	needKinds
)

// census is what procs, tasks and jvm share: the table of the machine's
// processes, and of the threads that somebody looks at. All of it belongs to
// the tasks lane. It allocates only when there are more processes than ever
// before.
type census struct {
	crowd
	users int
	host  freezeframe.Host
	root  int // descriptor of host.Proc
	self  int32
	needs [needKinds][]freezeframe.Need
	facts *facts
	turn  uint32 // readings of the watched alone

	canStack, canSchedstat, fdsBySize bool

	iterator *bpf.Tasks // nil without BPF
	names    *kernelNames
	walk     *walk // nil while the census is kept by sweeps over /proc
	page     uint64

	processes     []process
	processesRoom kernel.Room
	free          []int32
	byPID         table
	order         []int32 // slots in the order of the last listing
	round         uint32
	sweptAt       freezeframe.Instant
	sweepTook     time.Duration // CPU time of the last sweep over /proc
	swept         bool

	threads     []thread
	threadsRoom kernel.Room
	freeThreads []int32
	listing     uint32
	byTID       table

	descriptors, mostDescriptors int
	answered                     func(slot int32, jvm int) // takes a JVM's descriptor; nil: nobody does

	entries, taskEntries kernel.Entries
	status               kernel.Status
	name                 []byte
	buf                  [8 << 10]byte
	text                 [2 << 10]byte
}

func newCensus() *census { return &census{crowd: crowd{most: mostKept, patience: asleepFor}} }

// open is called by each collector that shares the census.
func (c *census) open(h freezeframe.Host) error {
	if c.users > 0 {
		if c.host.Proc != h.Proc {
			return fmt.Errorf("read processes of %s: the process table is open on %s", h.Proc, c.host.Proc)
		}
		c.users++
		return nil
	}
	root, err := kernel.OpenDirAt(kernel.AtCWD, append([]byte(h.Proc), 0))
	if err != nil {
		return notHere(fmt.Errorf("open %s: %w", h.Proc, err))
	}
	c.entries.Rewind(root)
	if _, ok := c.entries.Next(); !ok {
		kernel.CloseFD(root)
		return fmt.Errorf("list %s: no processes: %w", h.Proc, freezeframe.ErrNotHere)
	}
	// The workers have a descriptor of their own: one that hangs outlives Close.
	factsRoot, err := kernel.OpenDirAt(kernel.AtCWD, append([]byte(h.Proc), 0))
	if err == nil {
		if c.facts, err = startFacts(h.Proc, factsRoot); err != nil {
			kernel.CloseFD(factsRoot)
		}
	}
	if err != nil {
		kernel.CloseFD(root)
		return fmt.Errorf("start reading command lines: %w", err)
	}
	c.host, c.root, c.users = h, root, 1
	c.descriptors = 0
	c.mostDescriptors = min(maxDescriptors, kernel.OpenFilesLimit()/4)
	if c.name == nil {
		c.name = make([]byte, 0, 64)
		c.threads = kernel.MoreSlots[thread](c, &c.threadsRoom, nil, maxThreads)
		c.freeThreads = make([]int32, 0, maxThreads)
		c.grow(1024)
	}
	c.page = uint64(os.Getpagesize())
	c.setBoot()
	c.forget()
	c.self = 0
	if n, err := kernel.ReadLinkAt(root, []byte("self\x00"), c.buf[:]); err == nil {
		if v, ok := kernel.Uint(c.buf[:n]); ok {
			c.self = int32(v)
		}
	}
	c.probe()
	c.walk = startWalk(c, c.iterator)
	return nil
}

// forget makes the census empty.
func (c *census) forget() {
	c.byPID.clear(2048)
	c.byTID.clear(2 * maxThreads)
	c.freeThreads = c.freeThreads[:0]
	for i := len(c.threads) - 1; i >= 0; i-- {
		if c.threads[i] != (thread{}) { // what was never used stays untouched
			c.threads[i] = thread{}
		}
		c.freeThreads = append(c.freeThreads, int32(i))
	}
	c.free = c.free[:0]
	for i := len(c.processes) - 1; i >= 0; i-- {
		if c.processes[i] != (process{}) {
			c.processes[i] = process{}
		}
		c.free = append(c.free, int32(i))
	}
	c.order = c.order[:0]
	c.swept, c.round = false, 0
	c.all, c.left = 0, 0
}

// growThreads makes room for twice as many threads.
func (c *census) growThreads() {
	n := len(c.threads)
	threads, free := kernel.MoreSlots(c, &c.threadsRoom, c.threads, 2*n), make([]int32, 0, 2*n)
	free = append(free, c.freeThreads...)
	for i := 2*n - 1; i >= n; i-- {
		free = append(free, int32(i))
	}
	c.threads, c.freeThreads = threads, free
}

// endWalk goes on by sweeps over /proc, after a pass has failed: the process
// table is made anew, and what comes of it is whole again.
func (c *census) endWalk(err error) {
	c.iterator.Failed(err)
	c.walk, c.iterator = nil, nil
	c.forget()
}

// close is called by each collector that opened it.
func (c *census) close() {
	if c.users == 0 {
		return
	}
	if c.users--; c.users > 0 {
		return
	}
	for i := range c.processes {
		if c.processes[i].used != 0 {
			c.evict(int32(i))
		}
	}
	c.facts.stop()
	kernel.CloseFD(c.root)
	c.facts, c.answered, c.walk = nil, nil, nil
}

// probe finds out what this kernel and these privileges allow.
func (c *census) probe() {
	c.needs = [needKinds][]freezeframe.Need{}
	need := func(kind int, n freezeframe.Need) { c.needs[kind] = append(c.needs[kind], n) }
	proc := c.host.Proc
	read := func(pid int32, file string) (int, error) {
		return kernel.ReadAt(c.root, c.path(pid, file), c.buf[:])
	}
	// Process 1 exists in every /proc; where it cannot be seen, others cannot.
	first := int32(1)
	if _, err := read(1, "/stat"); err != nil {
		need(needProcesses, freezeframe.Need{
			What: "see other users' processes in " + proc,
			Lost: "every process that is not our own: who used the CPU, the memory, the disk",
			Fix:  "run as root, or as a member of the group that the mount option gid= of " + proc + " names (it is mounted with hidepid=)",
			Err:  err.Error(),
		})
		first = c.self
	}
	if first == 0 {
		first = 1
	}
	for _, f := range []struct {
		kind       int
		file, lost string
	}{
		{needProcesses, "/io", "who read and wrote the disk, for processes of other users"},
		{needThreads, "/syscall", "which system call and file a stuck thread waits in, for processes of other users"},
	} {
		if err := c.foreign(f.file); err != nil {
			fix := "run as root, or with CAP_SYS_PTRACE"
			if kernel.IsGone(err) {
				fix = "a kernel with CONFIG_TASK_IO_ACCOUNTING and CONFIG_HAVE_ARCH_TRACEHOOK"
			}
			need(f.kind, freezeframe.Need{What: "read " + proc + "/PID" + f.file, Lost: f.lost, Fix: fix, Err: err.Error()})
		}
	}
	who := first
	if c.self != 0 {
		who = c.self
	}
	_, err := read(who, "/stack")
	c.canStack = err == nil
	if err != nil {
		need(needThreads, freezeframe.Need{
			What: "read " + proc + "/PID/stack",
			Lost: "where in the kernel a stuck thread waits (its wait channel alone remains)",
			Fix:  "run as root, or with CAP_SYS_ADMIN", Err: err.Error(),
		})
	}
	_, err = read(who, "/schedstat")
	c.canSchedstat = err == nil
	if err != nil {
		need(needThreads, freezeframe.Need{
			What: "read " + proc + "/PID/schedstat",
			Lost: "how long a thread waited for a CPU",
			Fix:  "a kernel with CONFIG_SCHED_INFO (CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT)", Err: err.Error(),
		})
	}
	c.fdsBySize = c.status.At(c.root, c.path(who, "/fd")) == nil && c.status.Size() > 0
}

// foreign tells whether a file of processes that are not ours can be read: nil
// when at least one can, or when there is none to try. Some single process may
// have more rights than we have, so one refusal proves nothing.
func (c *census) foreign(file string) error {
	var refused error
	tried := 0
	for c.entries.Rewind(c.root); tried < 64; {
		pid, ok := c.entries.Next()
		if !ok {
			break
		}
		if pid == c.self || c.status.At(c.root, c.path(pid, "")) != nil {
			continue
		}
		if me := os.Geteuid(); me != 0 && c.status.UID() == me {
			continue
		}
		tried++
		_, err := kernel.ReadAt(c.root, c.path(pid, file), c.buf[:])
		if err == nil {
			return nil
		}
		refused = err
	}
	return refused
}

func (c *census) needsOf(kind int) []freezeframe.Need { return slices.Clone(c.needs[kind]) }

// watch marks the processes that the focus names.
func (c *census) watch() {
	for i := range c.order {
		c.processes[c.order[i]].watched = false
	}
	for _, pid := range c.host.Focus.PIDs() {
		if slot := c.byPID.get(pid); slot != none {
			c.processes[slot].watched = true
		}
	}
}

// path builds "PID/file" with its NUL byte; it is valid until the next call.
func (c *census) path(pid int32, file string) []byte {
	c.name = append(append(strconv.AppendInt(c.name[:0], int64(pid), 10), file...), 0)
	return c.name
}

func (c *census) threadPath(pid, tid int32, file string) []byte {
	b := append(strconv.AppendInt(c.name[:0], int64(pid), 10), "/task/"...)
	b = append(strconv.AppendInt(b, int64(tid), 10), '/')
	c.name = append(append(b, file...), 0)
	return c.name
}

// grow makes room for n processes.
func (c *census) grow(n int) {
	had := len(c.processes)
	more := kernel.MoreSlots(c, &c.processesRoom, c.processes, n)
	free := make([]int32, len(c.free), n)
	copy(free, c.free)
	for i := n - 1; i >= had; i-- {
		free = append(free, int32(i))
	}
	order := make([]int32, len(c.order), n)
	copy(order, c.order)
	c.processes, c.free, c.order = more, free, order
}

// keep opens a file to be kept, none when it cannot be had or too many are.
func (c *census) keep(name []byte) (int32, error) {
	fd, err := kernel.OpenAt(c.root, name)
	if err != nil {
		return none, err
	}
	c.descriptors++
	return int32(fd), nil
}

func (c *census) drop(fd *int32) {
	if *fd >= 0 {
		kernel.CloseFD(int(*fd))
		c.descriptors--
		*fd = none
	}
}

// read reads a file that is kept open while there is room, else opened anew.
// share is the part of the descriptors that this kind of file may take.
func (c *census) read(fd *int32, name []byte, share int) (int, error) {
	if *fd < 0 {
		if c.descriptors >= share {
			return kernel.ReadAt(c.root, name, c.buf[:])
		}
		var err error
		if *fd, err = c.keep(name); err != nil {
			return 0, err
		}
	}
	return kernel.Pread(int(*fd), c.buf[:], 0)
}

// lookup returns the slot of a process, admitting it when it is new; none when
// there is no such process.
func (c *census) lookup(pid int32, now freezeframe.Instant) int32 {
	if slot := c.byPID.get(pid); slot != none {
		return slot
	}
	slot := c.admit(pid)
	if !c.readStat(slot, now) {
		c.evict(slot)
		return none
	}
	return slot
}

func (c *census) admit(pid int32) int32 {
	if len(c.free) == 0 {
		c.grow(2 * len(c.processes))
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.processes[slot] = process{pid: pid, used: 1, fd: none, schedFD: none, threads: none}
	c.byPID.put(pid, slot)
	return slot
}

func (c *census) evict(slot int32) {
	p := &c.processes[slot]
	for p.threads != none {
		c.evictThread(p.threads)
	}
	c.drop(&p.fd)
	c.drop(&p.schedFD)
	c.byPID.delete(p.pid)
	p.used = 0
	c.free = append(c.free, slot)
}

// readStat reads /proc/PID/stat of a slot; false when the process is gone. A
// pid that was reused is another process in the same slot.
func (c *census) readStat(slot int32, now freezeframe.Instant) bool {
	p := &c.processes[slot]
	n, err := c.read(&p.fd, c.path(p.pid, "/stat"), c.mostDescriptors/2)
	if err != nil && p.fd >= 0 {
		// The descriptor still means the process that had this pid before.
		c.drop(&p.fd)
		n, err = c.read(&p.fd, c.path(p.pid, "/stat"), c.mostDescriptors/2)
	}
	if err != nil {
		return false
	}
	var s taskStat
	comm, ok := parseTaskStat(c.buf[:n], &s)
	if !ok || s.state == 'X' || s.state == 'x' {
		return false
	}
	key := freezeframe.TaskKey(int(p.pid), s.start)
	if p.key != key {
		if p.key != 0 {
			for p.threads != none {
				c.evictThread(p.threads)
			}
			*p = process{pid: p.pid, used: 1, fd: p.fd, schedFD: p.schedFD, threads: none}
		}
		p.key = key
		p.started = c.started(s.start)
		p.kthread = s.flags&pfKthread != 0
		p.wants = askCgroup | askCmdline
		if p.kthread {
			p.wants = askCgroup
		}
	} else if p.stat.startStack != s.startStack || p.renamed && now.Sub(p.askedAt) > 5*time.Second {
		// It has called exec. Where the stack's address is not shown to us, its
		// new name tells, but one that keeps renaming itself is not asked again
		// and again.
		p.settled, p.renamed, p.jvmTries, p.java = false, false, 0, false
		if !p.kthread {
			p.wants = askCgroup | askCmdline
		}
	}
	p.stat = s
	p.utimeUS, p.stimeUS, p.cutimeUS, p.cstimeUS = s.utime*tickUS, s.stime*tickUS, s.cutime*tickUS, s.cstime*tickUS
	if h := hash(comm); h != p.commHash {
		p.renamed = p.commHash != 0
		p.commHash, p.comm = h, c.host.Texts.Intern(comm)
	}
	return true
}

// slept tells that a process of one thread has not run since its stat was read,
// so that stat can only say the same: its schedstat, at a fifth of the cost,
// has not changed. (Not quite the same: its priority may have been changed and
// its memory taken away, so sweep reads it all the same now and then.)
func (c *census) slept(p *process) bool {
	if !c.canSchedstat || p.stat.threads != 1 || p.stat.state == 'R' {
		return false
	}
	n, err := c.read(&p.schedFD, c.path(p.pid, "/schedstat"), c.mostDescriptors/2)
	run, _, slices, ok := parseSchedstat(c.buf[:n])
	if err != nil || !ok {
		c.drop(&p.schedFD)
		p.run = 0
		return false
	}
	same := run == p.run && slices == p.slices
	p.stirred = p.stirred || !same && p.run != 0
	p.run, p.slices = run, slices
	p.unread = p.unread || !same
	if same {
		c.drop(&p.fd) // two descriptors for each would be too many
	}
	return same
}

// sweep walks /proc and reads every process's stat.
func (c *census) sweep(now freezeframe.Instant) error {
	if c.walk != nil {
		err := c.walk.sweep(now)
		if err == nil {
			return nil
		}
		c.endWalk(err)
	}
	cpu, began := kernel.ThreadCPU(), kernel.Now()
	c.entries.Rewind(c.root)
	c.round++
	turns := c.turns()
	c.order = c.order[:0]
	c.takeFacts()
	stalled := c.host.Focus.Stalled(now)
	c.setBoot()
	budget := threadsBudget
	fresh := newPerSweep
	switch {
	case !c.swept:
		fresh = newAtFirst
	case stalled:
		fresh = newStalled
	}
	for {
		pid, ok := c.entries.Next()
		if !ok {
			break
		}
		slot := c.byPID.get(pid)
		if slot == none {
			slot = c.admit(pid)
		}
		p := &c.processes[slot]
		if p.round == c.round {
			continue
		}
		known := p.key
		// A process with very many threads is read while the budget lasts, so
		// that one of them cannot hold up the lane.
		if known != 0 && turns > 1 && uint32(slot)%turns != c.round%turns && c.quiet(p, now) {
			p.active = false // as far as its turn has shown
		} else if many := int(p.stat.threads); known != 0 && uint32(slot)%rotation != c.round%rotation && c.slept(p) {
			// The search of tasks may have read it since the sweep before.
			cpu := p.stat.utime + p.stat.stime
			p.active, p.cpu = cpu != p.cpu, cpu
		} else if known == 0 || many < manyThreads || budget > 0 {
			if known != 0 && many >= manyThreads {
				budget -= many
			}
			if !c.readStat(slot, now) {
				c.evict(slot)
				continue
			}
			cpu := p.stat.utime + p.stat.stime
			p.active = known != p.key || cpu != p.cpu
			p.cpu, p.unread = cpu, true
		}
		if (p.active || p.stirred) && c.round > 1 { // the first finds everybody new
			p.ranAt, p.quiet, p.stirred = now, false, false
		}
		p.round = c.round
		if len(c.order) == cap(c.order) {
			c.order = append(make([]int32, 0, 2*cap(c.order)), c.order...)
		}
		c.order = append(c.order, slot)
		if !p.settled {
			if fresh > 0 {
				fresh--
				c.settle(slot)
			}
		} else if p.active && now.Sub(p.askedAt) > 5*time.Second || now.Sub(p.askedAt) > time.Minute {
			// It may have been moved to another cgroup.
			p.wants |= askCgroup
		}
		// A JVM's counters appear some time after it has started.
		if p.java && p.jvmTries < 10 && c.answered != nil {
			p.wants |= askJVM
		}
		c.askFacts(p, now, stalled)
	}
	if err := c.entries.Err(); err != nil {
		return fmt.Errorf("list %s: %w", c.host.Proc, err)
	}
	for i := range c.processes {
		if p := &c.processes[i]; p.used != 0 && p.round != c.round {
			c.evict(int32(i))
		}
	}
	c.reapThreads(now)
	c.all = len(c.order)
	c.swept, c.sweptAt = true, now
	c.sweepTook = usedSince(cpu, began)
	c.facts.ring()
	return nil
}

// What sweeps over /proc, and looks at the threads of whoever is busy, may take
// of a CPU: one part in so many. They run before all others' work, and where
// processes come and go by the thousand each costs more.
const (
	sweepPartCalm    = 30
	sweepPartStalled = 10
)

// wait is how long after a sweep the next one is due.
func (c *census) wait(stalled bool) time.Duration {
	if stalled {
		return max(stalledSweep, sweepPartStalled*c.sweepTook)
	}
	if d := sweepPartCalm * c.sweepTook; d > time.Second {
		return d
	}
	return 0 // each reading sweeps
}

// refresh sweeps for a collector that is read without procs.
func (c *census) refresh(now freezeframe.Instant) error {
	if c.swept && now.Sub(c.sweptAt) < max(1500*time.Millisecond, 2*c.wait(c.host.Focus.Stalled(now))) {
		c.takeFacts()
		c.facts.ring()
		return nil
	}
	return c.sweep(now)
}

func (c *census) askFacts(p *process, now freezeframe.Instant, stalled bool) {
	if p.wants == 0 {
		return
	}
	what := p.wants
	if stalled {
		// The process may be what holds its own mmap_lock.
		what &^= askCmdline | askJVM
	}
	if what != 0 && c.facts.ask(p.key, what) {
		p.wants &^= what
		p.askedAt = now
	}
}

// takeFacts takes over what the workers have finished.
func (c *census) takeFacts() {
	for range factWorkers * factAnswers {
		a, w := c.facts.take()
		if a == nil {
			return
		}
		slot := c.byPID.get(int32(a.ask & pidMask))
		known := slot != none && uint64(c.processes[slot].key)>>32 == a.ask>>32
		if known {
			p := &c.processes[slot]
			if a.cgroup > 0 {
				p.cgroup = c.host.Texts.Intern(a.text[:a.cgroup])
			}
			if a.ask&askCmdline != 0 {
				p.cmdline = c.host.Texts.Intern(a.text[a.cgroup : a.cgroup+a.cmdline])
			}
			if a.ask&askJVM != 0 {
				p.jvmTries++
			}
		}
		if a.jvm >= 0 {
			if known && c.answered != nil {
				c.answered(slot, a.jvm)
			} else {
				kernel.CloseFD(a.jvm)
			}
		}
		w.done()
	}
}

// settle reads the static facts that cannot hang: links and status.
func (c *census) settle(slot int32) {
	p := &c.processes[slot]
	if !p.kthread {
		exe := c.link(p.pid, "/exe")
		p.exe = c.host.Texts.Intern(exe)
		p.java = isJava(exe)
	}
	p.netns = 0
	if link := c.link(p.pid, "/ns/net"); len(link) > len("net:[]") && string(link[:5]) == "net:[" {
		p.netns, _ = kernel.Uint(link[5 : len(link)-1])
	}
	c.readExtras(slot)
	p.settled, p.shown, p.settledNow = true, true, c.round
}

// link reads a symbolic link of a process; the target is valid until the next
// reading, empty when there is none.
func (c *census) link(pid int32, file string) []byte {
	n, err := kernel.ReadLinkAt(c.root, c.path(pid, file), c.text[:])
	if err != nil {
		return nil
	}
	return c.text[:n]
}

// readExtras reads what is too expensive for every process at every sweep.
func (c *census) readExtras(slot int32) {
	p := &c.processes[slot]
	c.readStatus(p)
	if p.kthread {
		return
	}
	if n, err := kernel.ReadAt(c.root, c.path(p.pid, "/limits"), c.buf[:]); err == nil {
		p.fdsMax, p.processesMax = parseLimits(c.buf[:n])
	}
	c.readActivity(p)
}

// readStatus reads what can change while a process sleeps.
func (c *census) readStatus(p *process) {
	n, err := kernel.ReadAt(c.root, c.path(p.pid, "/status"), c.buf[:])
	if err != nil {
		return
	}
	var s taskStatus
	parseTaskStatus(c.buf[:n], &s)
	p.uid, p.tracer, p.coredumping = s.uid, s.tracer, s.coredumping
	p.swap, p.nspid = s.swapBytes, s.nspid
	p.allowed = c.host.Texts.Intern(s.allowed)
}

// readActivity reads the descriptors in use and the I/O of a process.
func (c *census) readActivity(p *process) {
	p.unread = false
	if p.kthread {
		return
	}
	c.readDescriptors(p)
	if n, err := kernel.ReadAt(c.root, c.path(p.pid, "/io"), c.buf[:]); err == nil {
		parseIO(c.buf[:n], p)
	}
}

// readDescriptors reads how many descriptors a process has in use.
func (c *census) readDescriptors(p *process) {
	if c.fdsBySize {
		if c.status.At(c.root, c.path(p.pid, "/fd")) == nil {
			p.fds = uint64(c.status.Size())
		}
	} else if p.watched {
		c.countFDs(p)
	}
}

// countFDs counts descriptors by listing them, up to 8,192: before Linux 6.2
// there is no cheaper way.
func (c *census) countFDs(p *process) {
	fd, err := kernel.OpenDirAt(c.root, c.path(p.pid, "/fd"))
	if err != nil {
		return
	}
	c.taskEntries.Rewind(fd)
	// The descriptor 0 is no number to Entries, which lists pids.
	count := uint64(0)
	for ; count < 8192; count++ {
		if _, ok := c.taskEntries.Next(); !ok {
			break
		}
	}
	if c.taskEntries.Err() == nil {
		p.fds = count + 1
	}
	kernel.CloseFD(fd)
}

// list brings the known threads of a process up to date.
func (c *census) list(slot int32, now freezeframe.Instant) {
	p := &c.processes[slot]
	if p.stat.threads <= 1 {
		// The leader alone, which needs no listing.
		if p.threads == none || c.threads[p.threads].tid != p.pid || c.threads[p.threads].next != none {
			for p.threads != none {
				c.evictThread(p.threads)
			}
			c.admitThread(slot, p.pid)
		}
		p.listed, p.listedAt = 1, now
		return
	}
	fd, err := kernel.OpenDirAt(c.root, c.path(p.pid, "/task"))
	if err != nil {
		return
	}
	c.listing++ // threads not met in this listing are gone
	c.taskEntries.Rewind(fd)
	p.listed = 0
	for p.listed < maxListed {
		tid, ok := c.taskEntries.Next()
		if !ok {
			break
		}
		th := c.byTID.get(tid)
		if th != none && c.threads[th].process != slot {
			c.evictThread(th)
			th = none
		}
		if th == none {
			th = c.admitThread(slot, tid)
		}
		if th == none {
			break
		}
		c.threads[th].listing = c.listing
		p.listed++
	}
	kernel.CloseFD(fd)
	for i := p.threads; i != none; {
		th := &c.threads[i]
		next := th.next
		// One found stuck beyond the first maxListed is kept while it is.
		if th.listing != c.listing && !th.stuck {
			c.evictThread(i)
		}
		i = next
	}
	p.listedAt = now
}

// admitThread returns the slot of a new thread, none when all are in use.
func (c *census) admitThread(process, tid int32) int32 {
	if len(c.freeThreads) == 0 {
		return none
	}
	slot := c.freeThreads[len(c.freeThreads)-1]
	c.freeThreads = c.freeThreads[:len(c.freeThreads)-1]
	p := &c.processes[process]
	c.threads[slot] = thread{
		tid: tid, used: 1, process: process, next: p.threads, syscall: syscallUnknown,
		fds: [threadFiles]int32{none, none, none, none, none},
	}
	p.threads = slot
	c.byTID.put(tid, slot)
	return slot
}

func (c *census) evictThread(slot int32) {
	th := &c.threads[slot]
	p := &c.processes[th.process]
	if p.threads == slot {
		p.threads = th.next
	} else {
		for i := p.threads; i != none; i = c.threads[i].next {
			if c.threads[i].next == slot {
				c.threads[i].next = th.next
				break
			}
		}
	}
	for i := range th.fds {
		c.drop(&th.fds[i])
	}
	c.byTID.delete(th.tid)
	th.used = 0
	c.freeThreads = append(c.freeThreads, slot)
}

// reapThreads frees threads that nobody has looked at for a while.
func (c *census) reapThreads(now freezeframe.Instant) {
	for i := range c.threads {
		if th := &c.threads[i]; th.used != 0 && now.Sub(th.sampledAt) > 5*time.Second {
			c.evictThread(int32(i))
		}
	}
}

// isJava tells whether an executable is a Java launcher.
func isJava(exe []byte) bool {
	base := exe[bytes.LastIndexByte(exe, '/')+1:]
	return bytes.HasPrefix(base, []byte("java")) || string(base) == "jsvc" ||
		bytes.Contains(exe, []byte("/jvm/")) || bytes.Contains(exe, []byte("/jre")) || bytes.Contains(exe, []byte("/jdk"))
}

// hash tells one comm from another without keeping it.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// table maps a pid to a slot, with open addressing: like a map, but deleting
// and inserting for ever never allocates.
type table struct {
	keys  []int32 // 0: free
	slots []int32
	used  int
}

func (t *table) clear(size int) {
	if len(t.keys) < size {
		t.keys, t.slots = make([]int32, size), make([]int32, size)
	}
	clear(t.keys)
	t.used = 0
}

func (t *table) at(key int32) int {
	return int(uint32(key)*2654435769) & (len(t.keys) - 1)
}

func (t *table) get(key int32) int32 {
	for i := t.at(key); t.keys[i] != 0; i = (i + 1) & (len(t.keys) - 1) {
		if t.keys[i] == key {
			return t.slots[i]
		}
	}
	return none
}

func (t *table) put(key, slot int32) {
	if 2*(t.used+1) > len(t.keys) {
		old := *t
		t.keys, t.slots, t.used = make([]int32, 2*len(old.keys)), make([]int32, 2*len(old.keys)), 0
		for i, k := range old.keys {
			if k != 0 {
				t.put(k, old.slots[i])
			}
		}
	}
	i := t.at(key)
	for t.keys[i] != 0 && t.keys[i] != key {
		i = (i + 1) & (len(t.keys) - 1)
	}
	if t.keys[i] == 0 {
		t.used++
	}
	t.keys[i], t.slots[i] = key, slot
}

func (t *table) delete(key int32) {
	mask := len(t.keys) - 1
	i := t.at(key)
	for t.keys[i] != key {
		if t.keys[i] == 0 {
			return
		}
		i = (i + 1) & mask
	}
	t.used--
	// Move back what was pushed on by the one that goes.
	for j := i; ; {
		t.keys[i] = 0
		for {
			j = (j + 1) & mask
			if t.keys[j] == 0 {
				return
			}
			home := t.at(t.keys[j])
			if (j-home)&mask >= (j-i)&mask {
				break
			}
		}
		t.keys[i], t.slots[i] = t.keys[j], t.slots[j]
		i = j
	}
}
