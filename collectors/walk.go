package collectors

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	// fullEvery is how often every thread is told of, news or not: what changes
	// without the thread running (its nice value, its memory) is at most so old.
	fullEvery   = 30 * time.Second
	fullStalled = 10 * stalledSweep
	// sameReading: two collectors that are due at the same tick share a pass.
	sameReading = 20 * time.Millisecond
	// mostThreads are known at a time; what is beyond is dropped and counted.
	mostThreads = 1 << 16
	// linkReads bounds the paths of files that are asked for in one pass.
	linkReads = 64
	// mostPIDs is PID_MAX_LIMIT (linux/threads.h).
	mostPIDs = 4 << 20
	// One part in so many of a CPU may go into sweeps while a stall is open, and
	// into those that tell of everybody: on a machine with 20,000 processes they
	// take 10 and 30 ms, with 1,100 half a millisecond and 1.
	wideShare = 50
	fullShare = 100
	// leastActive is the CPU time that makes a process active.
	leastActive = time.Millisecond
)

// passes is a bpf.Tasks.
type passes interface {
	Pass(flags uint32, v bpf.TasksVisitor) error
	Watch(pids, fresh []int32)
}

// walk keeps the census by passes of a BPF iterator over all threads, in place
// of sweeps over /proc. What a pass does not tell has not changed, so that each
// costs what there is news of. Links, descriptors in use, command lines and
// cgroups are still read from /proc, of processes that are new or ran.
type walk struct {
	*census
	source passes
	named  bool // the kernel's functions have names

	at, fullAt freezeframe.Instant // of the last pass, and of the last full one
	took       time.Duration       // CPU time of the last one that was not wide
	wideTook   time.Duration       // likewise, of the last wide one that was not full
	fullTook   time.Duration       // of the last full one
	passes     uint32
	wide       bool // the pass under way
	first      bool
	stalled    bool
	pids       []int32 // watched
	fresh      []int32
	news       []int32 // slots of threads that have news for tasks
	told       []int32 // slots of the processes told of in this pass
	beyond     uint64  // threads for which there was no room
	links      int

	clocks  []clockAhead // by CPU
	lastCPU int
	boot    int64 // offsets of our time namespace, ns
	mono    int64

	allowed [16]allowedText
	stacks  [512]stackText
}

// clockAhead is by how much CLOCK_MONOTONIC is ahead of a CPU's run queue
// (rq->clock), as the last passes found it. Each of them errs by the time
// between two system calls, upwards, so that the least is the best.
type clockAhead struct {
	ahead [4]int64
	n     int
	at    freezeframe.Instant
}

func (c *clockAhead) least() int64 { return slices.Min(c.ahead[:min(c.n, len(c.ahead))]) }

// allowedText is the text of a set of CPUs.
type allowedText struct{ hash, text uint64 }

// stackText is the text of a kernel stack, and of its wait channel.
type stackText struct{ hash, stack, wchan uint64 }

// sums is what a thread has used so far, and a process by its threads.
type sums struct {
	utime, stime, run                       uint64 // ns
	minflt, majflt                          uint64
	syscw, readBytes, writeBytes, cancelled uint64
}

func (s *sums) add(x *sums) {
	s.utime += x.utime
	s.stime += x.stime
	s.run += x.run
	s.minflt += x.minflt
	s.majflt += x.majflt
	s.syscw += x.syscw
	s.readBytes += x.readBytes
	s.writeBytes += x.writeBytes
	s.cancelled += x.cancelled
}

func (s *sums) sub(x *sums) {
	s.utime -= x.utime
	s.stime -= x.stime
	s.run -= x.run
	s.minflt -= x.minflt
	s.majflt -= x.majflt
	s.syscw -= x.syscw
	s.readBytes -= x.readBytes
	s.writeBytes -= x.writeBytes
	s.cancelled -= x.cancelled
}

// walked is what a walk keeps of a process.
type walked struct {
	live, dead              sums   // of its living threads, and of those that have ended
	told                    uint32 // the pass that told of the dead first
	hasRecord               bool
	exec, groups            uint64
	shownUtime, shownStime  uint64 // ns, by /proc
	aside                   bool   // the iterator leaves it out: it is read from /proc
	runNS, utimeNS, stimeNS uint64
}

// startWalk begins to keep the census by passes; nil without BPF.
func startWalk(c *census, source *bpf.Tasks) *walk {
	if source == nil || c.host.Proc != "/proc" {
		return nil
	}
	w := newWalk(c, source)
	if err := w.pass(kernel.Now(), true); err != nil {
		source.Failed(err)
		return nil
	}
	// A process may have been born between the pass and the listing.
	if err := w.pass(kernel.Now(), true); err == nil {
		hidden, name := 0, ""
		for _, slot := range c.order {
			if p := &c.processes[slot]; p.aside {
				if hidden++; hidden == 1 {
					name = strconv.Itoa(int(p.pid))
				}
			}
		}
		if hidden > 0 {
			c.needs[needThreads] = append(c.needs[needThreads], freezeframe.Need{
				What: "see every process by BPF (iter/task)",
				Lost: "stuck threads of those that are left out, unless they are watched: they are read from /proc",
				Err:  fmt.Sprintf("%d left out, process %s first", hidden, name),
			})
		}
	}
	w.first, w.fullAt = true, 0 // readings begin with news of nobody
	if err := c.names.open(c.host.Proc); err != nil {
		c.needs[needThreads] = append(c.needs[needThreads], freezeframe.Need{
			What: "name kernel functions (" + c.host.Proc + "/kallsyms)", Lost: "where sleepers sleep is read one by one, from /proc/PID/{wchan,stack}",
			Fix: "run as root with CAP_SYSLOG, and kernel.kptr_restrict at most 1", Err: err.Error(),
		})
	} else {
		w.named = true
	}
	return w
}

func newWalk(c *census, source passes) *walk {
	w := &walk{census: c, source: source, first: true, lastCPU: -1}
	w.boot, w.mono = kernel.TimeNamespace()
	w.news = make([]int32, 0, maxThreads)
	w.pids, w.fresh = make([]int32, 0, 256), make([]int32, 0, 256)
	w.clocks = make([]clockAhead, kernel.PossibleCPUs())
	if c.out == nil {
		c.out = kernel.Slots[uint64](c, mostPIDs/64)
	}
	w.recount()
	return w
}

// pass brings the census up to date. A wide one also finds out who is gone,
// and the values of processes.
func (w *walk) pass(now freezeframe.Instant, wide bool) error {
	if !wide && w.at != 0 && now.Sub(w.at) < sameReading {
		return nil // procs has just made one
	}
	stalled := w.host.Focus.Stalled(now)
	flags := uint32(0)
	age := now.Sub(w.fullAt)
	if w.first || age >= fullEvery || stalled && (!w.stalled || age >= max(fullStalled, fullShare*w.fullTook)) {
		flags |= bpf.TasksFull | bpf.TasksPlacesAll
		w.fullAt = now
		wide = true
		w.recount()
	}
	w.later = bpf.Process{}
	if wide {
		flags |= bpf.TasksWide | bpf.TasksAlive | bpf.TasksOwn
	}
	if stalled {
		flags |= bpf.TasksPlaces | bpf.TasksOwn
	}
	w.focus()
	w.stalled, w.wide = stalled, wide
	w.passes++
	w.at = now
	w.beyond, w.links = 0, linkReads
	w.told = w.told[:0]
	cpu, began := kernel.ThreadCPU(), kernel.Now()
	if err := w.source.Pass(flags, w); err != nil {
		return err
	}
	w.fresh = w.fresh[:0]
	if wide {
		w.reap()
		if flags&bpf.TasksFull != 0 {
			w.lookAside()
		}
	} else {
		for _, pid := range w.pids {
			if slot := w.byPID.get(pid); slot != none {
				w.reapThreadsOf(slot)
			}
		}
	}
	w.settleSums()
	w.first = false
	switch took := usedSince(cpu, began); {
	case flags&bpf.TasksFull != 0:
		w.fullTook = took
	case wide:
		w.wideTook = took
	default:
		w.took = took
	}
	return nil
}

// dear tells whether another pass now would take more than a hundredth of a
// CPU, or a twentieth while a stall is open.
func (w *walk) dear(now freezeframe.Instant, stalled bool) bool {
	share := time.Duration(100)
	if stalled {
		share = 20
	}
	return now.Sub(w.at) >= sameReading && now.Sub(w.at) < share*w.took
}

// focus tells the iterator of the processes in focus.
func (w *walk) focus() {
	pids := w.host.Focus.PIDs()
	if slices.Equal(pids, w.pids) && len(w.fresh) == 0 {
		return
	}
	for _, pid := range pids {
		if !slices.Contains(w.pids, pid) && len(w.fresh) < cap(w.fresh) {
			w.fresh = append(w.fresh, pid)
		}
	}
	w.pids = append(w.pids[:0], pids[:min(len(pids), cap(w.pids))]...)
	w.source.Watch(w.pids, w.fresh)
}

// Clock takes how far the clocks are apart.
func (w *walk) Clock(cpu int, ahead int64) {
	if cpu >= len(w.clocks) {
		return
	}
	c := &w.clocks[cpu]
	c.ahead[c.n%len(c.ahead)] = ahead
	if c.n++; c.n >= 1<<20 {
		c.n = len(c.ahead)
	}
	c.at, w.lastCPU = w.at, cpu
}

// monotonic turns a run queue's time into CLOCK_MONOTONIC; 0 when that is not
// known. Run queues follow one clock (kernel/sched/clock.c), so that of the CPU
// we are on will do where we have not been on the other lately.
func (w *walk) monotonic(cpu uint32, clock uint64) freezeframe.Instant {
	c := w.lastCPU
	if int(cpu) < len(w.clocks) && w.clocks[cpu].n > 0 && w.at.Sub(w.clocks[cpu].at) < 10*time.Second {
		c = int(cpu)
	}
	if c < 0 {
		return 0
	}
	return freezeframe.Instant(int64(clock) + w.clocks[c].least() + w.mono)
}

// Task takes a thread of which there is news.
func (w *walk) Task(r *bpf.Task) {
	if r.State == 'X' {
		return
	}
	tid := int32(r.TID)
	key := w.key(r.TID, r.StartBoottime)
	slot := w.byTID.get(tid)
	if slot != none && (w.threads[slot].key != key || w.processes[w.threads[slot].process].pid != int32(r.TGID)) {
		// Another thread has its number now, or it has called exec for its leader.
		w.endThread(slot)
		slot = none
	}
	first := slot == none
	if first {
		unknown := w.byPID.get(int32(r.TGID)) == none
		if unknown && w.dozes(r) {
			w.leave(tid)
			return
		}
		if slot = w.admitTask(int32(r.TGID), tid, key); slot == none {
			w.beyond++
			return
		}
		if unknown {
			w.takeBack(int32(r.TGID))
			if w.later.TGID == r.TGID {
				w.Process(&w.later)
			}
		}
	}
	th := &w.threads[slot]
	p := &w.processes[th.process]
	p.aside = false
	th.pass = w.passes
	th.key = key
	ran := first || r.Run != th.run || r.Timeslices != th.timeslices
	th.stuck = isStuck(r.State)
	if (ran && !(first && w.first) || th.stuck || r.State == 'R') && !th.news {
		th.news = true
		w.news = append(w.news, slot)
	}
	if ran || r.State == 'R' || r.State == 'Z' {
		th.deep = false
		th.wchan, th.file, th.stack = 0, 0, 0
		th.syscall = syscallUnknown
		if r.State == 'R' || r.State == 'Z' {
			th.syscall = syscallRunning
		}
	}
	if r.State == 'R' || r.State == 'Z' {
		th.since = 0
	} else if ran || th.since == 0 {
		th.since = w.sleptSince(r)
	}
	if ran {
		p.unread = true
	}
	th.run, th.wait, th.timeslices = r.Run, r.RunDelay, r.Timeslices
	th.voluntary, th.involuntary = r.Voluntary, r.Involuntary
	th.stat.state = r.State
	th.stat.majflt, th.stat.minflt = r.MajorFaults, r.MinorFaults
	th.stat.blkio = r.BlockIO / 1e7
	th.stat.cpu, th.stat.policy, th.stat.rtPriority, th.stat.nice = uint64(r.CPU), uint64(r.Policy), uint64(r.RTPriority), int64(r.Nice)
	th.delays = kernel.Delays{
		CPU: r.RunDelay, BlockIO: r.BlockIO, SwapIn: r.SwapIn, FreePages: r.FreePages,
		Thrashing: r.Thrashing, Compact: r.Compact, WriteProtectCopy: r.WPCopy,
	}
	if h := hash(r.Comm()); h != th.commHash {
		th.commHash, th.comm = h, w.host.Texts.Intern(r.Comm())
		first = true
	}
	if r.Flags&pfKthread != 0 && (first || r.Flags&pfWorker != 0 && ran && w.at.Sub(th.statusAt) >= time.Second) {
		w.readComm(th, tid)
	}
	if th.allowedHash != r.Allowed {
		th.allowedHash, th.allowed = r.Allowed, w.cpus(p.pid, tid, r.Allowed)
	}
	now := sums{
		utime: r.Utime, stime: r.Stime, run: r.Run, minflt: r.MinorFaults, majflt: r.MajorFaults,
		syscw: r.SyscW, readBytes: r.ReadBytes, writeBytes: r.WriteBytes, cancelled: r.CancelledWriteBytes,
	}
	if now != th.spent {
		p.live.add(&now)
		p.live.sub(&th.spent)
		th.spent = now
	}
	if tid == p.pid {
		w.leads(p, th, r)
	}
}

// pfWorker is PF_WQ_WORKER.
const pfWorker = 0x20

// readComm reads the whole name of a kernel thread, which for one of a work
// queue ends with what it works on.
func (w *walk) readComm(th *thread, tid int32) {
	th.statusAt = w.at
	if n, err := kernel.ReadAt(w.root, w.path(tid, "/comm"), w.buf[:]); err == nil && n > 1 {
		th.comm = w.host.Texts.Intern(w.buf[:n-1])
	}
}

// leads takes over what /proc shows of a process that is its first thread's.
func (w *walk) leads(p *process, th *thread, r *bpf.Task) {
	if p.key == 0 {
		w.begin(p, th.key, r.StartBoottime)
	}
	if p.kthread = r.Flags&pfKthread != 0; p.kthread {
		p.wants &^= askCmdline
		p.fdsMax, p.processesMax = 0, 0
	}
	p.stat.state = r.State
	p.stat.policy, p.stat.rtPriority, p.stat.nice = th.stat.policy, th.stat.rtPriority, th.stat.nice
	p.comm, p.allowed = th.comm, th.allowed
}

// begin is for a process that is new.
func (w *walk) begin(p *process, key freezeframe.Key, startBoottime uint64) {
	p.key, p.started = key, w.started(uint64(int64(startBoottime)+w.boot)/1e7)
	p.wants = askCgroup | askCmdline
}

// key names a task as /proc does.
func (w *walk) key(tid uint32, startBoottime uint64) freezeframe.Key {
	return freezeframe.TaskKey(int(tid), uint64(int64(startBoottime)+w.boot)/1e7)
}

// sleptSince is when a thread that sleeps left its CPU.
func (w *walk) sleptSince(r *bpf.Task) freezeframe.Instant {
	since := w.monotonic(r.CPU, r.Left)
	if since == 0 {
		return 0
	}
	// Not every class of scheduling keeps what this is computed from.
	if earliest := w.monotonic(r.CPU, r.Arrived); since < earliest {
		since = earliest
	}
	return min(since, kernel.Now())
}

// Process takes what the threads of a process share.
func (w *walk) Process(r *bpf.Process) {
	slot := w.byPID.get(int32(r.TGID))
	key := w.key(r.TGID, r.StartBoottime)
	if slot != none && w.processes[slot].key != 0 && w.processes[slot].key != key {
		w.endProcess(slot) // another process has its number now
		slot = none
	}
	if slot == none {
		w.later = *r // its thread, which comes next, decides whether it is kept
		return
	}
	p := &w.processes[slot]
	if p.key == 0 {
		w.begin(p, key, r.StartBoottime)
	}
	if p.told == w.passes || !w.wide && !p.watched && !slices.Contains(w.pids, p.pid) {
		return // told before, or told because it is one of a hash
	}
	p.told = w.passes
	w.told = append(w.told, slot)
	p.dead = sums{
		utime: r.Utime, stime: r.Stime, run: r.Run, minflt: r.MinorFaults, majflt: r.MajorFaults,
		syscw: r.SyscW, readBytes: r.ReadBytes, writeBytes: r.WriteBytes, cancelled: r.CancelledWriteBytes,
	}
	if p.hasRecord && p.exec != r.ExecID {
		p.settled, p.jvmTries, p.java = false, 0, false
		if !p.kthread {
			p.wants = askCgroup | askCmdline
		}
	} else if p.hasRecord && p.groups != r.Groups {
		p.wants |= askCgroup
	}
	p.exec, p.groups, p.hasRecord = r.ExecID, r.Groups, true
	s := &p.stat
	s.ppid, s.tty, s.threads = int64(r.PPID), int64(r.TTY), int64(r.Threads)
	s.rssPages, s.vsizeBytes = r.RSSPages, r.VMPages*w.page
	p.shownUtime, p.shownStime = r.ShownUtime, r.ShownStime
	p.cutimeUS, p.cstimeUS = r.Cutime/1e3, r.Cstime/1e3
	p.uid, p.tracer, p.coredumping, p.nspid = uint64(r.UID), uint64(r.Tracer), uint64(r.Coredumping), uint64(r.NSPID)
	p.swap = r.SwapPages * w.page
	if r.NetNS != 0 {
		p.netns = uint64(r.NetNS)
	}
	p.fdsMax, p.processesMax, p.maps = softLimit(r.FilesMax), softLimit(r.ProcessesMax), r.Maps
	if p.kthread {
		p.fdsMax, p.processesMax = 0, 0 // it has none
	}
}

// softLimit is a limit as the collectors show it: 0 for none.
func softLimit(limit uint64) uint64 {
	if limit == ^uint64(0) {
		return 0
	}
	return limit
}

// Place takes where the thread that was told of last sleeps.
func (w *walk) Place(r *bpf.Place) {
	slot := w.byTID.get(int32(r.TID))
	if slot == none {
		return
	}
	th := &w.threads[slot]
	p := &w.processes[th.process]
	if !w.named {
		return // tasks reads it from /proc
	}
	th.deep = true
	th.syscall = int64(r.Syscall)
	th.wchan, th.stack = w.frames(r.Stack())
	th.file = w.fileOf(p, th, r)
}

// frames returns the texts of a wait channel and a stack. Threads sleep in few
// places.
func (w *walk) frames(ips []uint64) (wchan, stack uint64) {
	h := uint64(14695981039346656037)
	for _, ip := range ips {
		h = (h ^ ip) * 1099511628211
	}
	at := &w.stacks[(h^h>>32)%uint64(len(w.stacks))]
	if at.hash != h || at.stack == 0 {
		*at = stackText{hash: h, stack: w.host.Texts.Intern(w.names.appendStack(w.text[:0], ips))}
		at.wchan = w.host.Texts.Intern(w.names.appendWchan(w.text[:0], ips))
	}
	return at.wchan, at.stack
}

// fileOf returns the text of the file that a system call waits for.
func (w *walk) fileOf(p *process, th *thread, r *bpf.Place) uint64 {
	if r.Inode == 0 || !kernel.TakesDescriptor(int64(r.Syscall)) {
		return 0
	}
	if bpf.IsSocket(r.Mode) || bpf.IsPipe(r.Mode) && len(r.Name()) == 0 {
		kind := "pipe:["
		if bpf.IsSocket(r.Mode) {
			kind = "socket:["
		}
		text := append(w.text[:0], kind...)
		text = append(strconv.AppendUint(text, r.Inode, 10), ']')
		return w.host.Texts.Intern(text)
	}
	if th.fileInode == r.Inode && th.fileDevice == r.Device && th.fileFD == r.First {
		return th.fileText
	}
	if w.links == 0 {
		return 0
	}
	w.links--
	name := w.threadPath(p.pid, th.tid, "fd/")
	name = append(strconv.AppendUint(name[:len(name)-1], r.First, 10), 0)
	w.name = name
	n, err := kernel.ReadLinkAt(w.root, name, w.text[:])
	if err != nil {
		return 0
	}
	th.fileInode, th.fileDevice, th.fileFD = r.Inode, r.Device, r.First
	th.fileText = w.host.Texts.Intern(w.text[:n])
	return th.fileText
}

// Lives takes a thread that has not run.
func (w *walk) Lives(tid int32) {
	slot := w.byTID.get(tid)
	if slot == none {
		return
	}
	th := &w.threads[slot]
	th.pass = w.passes
	if th.stuck && !th.news {
		th.news = true
		w.news = append(w.news, slot)
	}
}

// cpus returns the text of a set of CPUs, which /proc/PID/status has.
func (w *walk) cpus(pid, tid int32, h uint64) uint64 {
	for i := range w.allowed {
		if a := &w.allowed[i]; a.hash == h && a.text != 0 {
			return a.text
		}
	}
	n, err := kernel.ReadAt(w.root, w.threadPath(pid, tid, "status"), w.buf[:])
	if err != nil {
		return 0
	}
	var s taskStatus
	parseTaskStatus(w.buf[:n], &s)
	text := w.host.Texts.Intern(s.allowed)
	copy(w.allowed[1:], w.allowed[:])
	w.allowed[0] = allowedText{h, text}
	return text
}

// admitTask returns the slot of a thread that is new, none when there is no
// room.
func (w *walk) admitTask(pid, tid int32, key freezeframe.Key) int32 {
	slot := w.byPID.get(pid)
	if slot != none && pid == tid && w.processes[slot].key != 0 && w.processes[slot].key != key {
		w.endProcess(slot)
		slot = none
	}
	if slot == none {
		slot = w.admit(pid)
		w.list(slot)
	}
	if len(w.freeThreads) == 0 && len(w.threads) < mostThreads {
		w.growThreads()
	}
	return w.admitThread(slot, tid)
}

// list puts a process behind the others.
func (w *walk) list(slot int32) { w.order = append(w.order, slot) }

// endThread is for a thread that has ended. What it has used is among the sums
// of the dead when its process is told of next, and not before: the values stay
// as they are until then.
func (w *walk) endThread(slot int32) {
	th := &w.threads[slot]
	w.processes[th.process].live.sub(&th.spent)
	w.evictThread(slot)
}

func (w *walk) endProcess(slot int32) {
	w.evict(slot)
	if i := slices.Index(w.order, slot); i >= 0 {
		w.order = slices.Delete(w.order, i, i+1)
	}
}

// reap frees what this pass did not meet.
func (w *walk) reap() {
	for i := range w.threads {
		th := &w.threads[i]
		switch {
		case th.used == 0 || th.pass == w.passes:
		case !w.processes[th.process].aside:
			w.endThread(int32(i))
		case w.at.Sub(th.sampledAt) > 5*time.Second:
			w.evictThread(int32(i))
		}
	}
	kept := w.order[:0]
	for _, slot := range w.order {
		p := &w.processes[slot]
		switch {
		case !(p.aside && w.readAside(slot) || !p.aside && p.threads != none):
			w.evict(slot)
		case w.byPID.used > w.most && w.idles(p):
			w.leave(p.pid)
			w.endThread(p.threads)
			w.evict(slot)
		default:
			kept = append(kept, slot)
		}
	}
	w.order = kept
}

// lookAside finds the processes that the iterator leaves out. None should be,
// but some hosts hide their first process from BPF though not from /proc.
func (w *walk) lookAside() (n int) {
	w.entries.Rewind(w.root)
	for {
		pid, ok := w.entries.Next()
		if !ok {
			return n
		}
		slot := w.byPID.get(pid)
		if slot != none {
			if w.processes[slot].aside {
				n++
			}
			continue
		}
		if w.isLeft(pid) {
			continue
		}
		slot = w.admit(pid)
		w.processes[slot].aside = true
		if !w.readAside(slot) {
			w.evict(slot)
			continue
		}
		w.list(slot)
		n++
	}
}

// readAside reads a process that the iterator leaves out; false when it is
// gone.
func (w *walk) readAside(slot int32) bool {
	p := &w.processes[slot]
	cpu := p.stat.utime + p.stat.stime
	if !w.readStat(slot, w.at) {
		return false
	}
	p.aside, p.hasRecord = true, true // a pid that was used again begins anew
	p.active = p.stat.utime+p.stat.stime != cpu
	p.unread = p.unread || p.active
	return true
}

// reapThreadsOf frees the threads of a process whose threads are all told.
func (w *walk) reapThreadsOf(slot int32) {
	for i := w.processes[slot].threads; i != none; {
		next := w.threads[i].next
		if w.threads[i].pass != w.passes {
			w.endThread(i)
		}
		i = next
	}
}

// settleSums makes the values of the processes that were told of.
func (w *walk) settleSums() {
	if w.wide {
		for _, slot := range w.order {
			if p := &w.processes[slot]; !p.aside {
				p.active = false
			}
		}
	}
	for _, slot := range w.told {
		p := &w.processes[slot]
		if p.used == 0 || p.told != w.passes {
			continue
		}
		all := p.live
		all.add(&p.dead)
		// As in /proc, of which a counter never falls: a thread that ended while
		// the pass was under way may be missing once.
		p.utimeNS, p.stimeNS = adjusted(all.utime, all.stime, all.run, max(p.utimeNS, p.shownUtime), max(p.stimeNS, p.shownStime))
		p.utimeUS, p.stimeUS = p.utimeNS/1e3, p.stimeNS/1e3
		p.stat.minflt, p.stat.majflt = max(p.stat.minflt, all.minflt), max(p.stat.majflt, all.majflt)
		if !p.kthread {
			p.syscw = max(p.syscw, all.syscw)
			p.readBytes, p.writeBytes = max(p.readBytes, all.readBytes), max(p.writeBytes, all.writeBytes)
			p.cancelledWriteBytes = max(p.cancelledWriteBytes, all.cancelled)
		}
		if w.wide {
			p.active = all.run >= p.runNS+uint64(leastActive)
			p.runNS = max(p.runNS, all.run)
		}
	}
}

// adjusted divides the time that a process ran into user and system time by
// the ticks that met it in each (cputime_adjust in kernel/sched/cputime.c).
// Neither falls below what it was.
func adjusted(utime, stime, run, wasUser, wasSystem uint64) (user, system uint64) {
	if wasUser+wasSystem >= run {
		return wasUser, wasSystem
	}
	switch {
	case stime == 0:
		system = 0
	case utime == 0:
		system = run
	default:
		high, low := bits.Mul64(stime, run)
		system, _ = bits.Div64(high, low, stime+utime)
	}
	system = max(system, wasSystem)
	user = run - system
	if user < wasUser {
		user = wasUser
		system = run - user
	}
	return user, system
}

// sweep is census.sweep by a pass.
func (w *walk) sweep(now freezeframe.Instant) error {
	w.takeFacts()
	w.round++
	w.setBoot()
	if err := w.pass(now, true); err != nil {
		return err
	}
	fresh := newPerSweep
	if !w.swept {
		fresh = newAtFirst
	}
	stalled := w.host.Focus.Stalled(now)
	for _, slot := range w.order {
		p := &w.processes[slot]
		if p.key == 0 || !p.hasRecord {
			continue
		}
		if !p.settled {
			if fresh > 0 {
				fresh--
				w.settle(p)
			}
		} else if now.Sub(p.askedAt) > 10*time.Minute {
			p.wants |= askCgroup // the mark of its cgroups may have been used again
		}
		if p.java && p.jvmTries < 10 && w.answered != nil {
			p.wants |= askJVM
		}
		w.askFacts(p, now, stalled)
	}
	w.swept, w.sweptAt = true, now
	w.noteLeft(w.byPID.used, now)
	w.facts.ring()
	return nil
}

// settle reads the static facts that cannot hang and that no pass tells.
func (w *walk) settle(p *process) {
	if p.aside {
		w.census.settle(w.byPID.get(p.pid))
		return
	}
	if !p.kthread {
		exe := w.link(p.pid, "/exe")
		p.exe = w.host.Texts.Intern(exe)
		p.java = isJava(exe)
		w.readDescriptors(p)
	}
	p.settled, p.shown, p.settledNow = true, true, w.round
}

// readRan reads what no pass tells of a process that ran since it was read.
func (w *walk) readRan(p *process) {
	if !p.unread || p.kthread {
		return
	}
	if p.aside {
		w.readActivity(p)
		return
	}
	p.unread = false
	w.readDescriptors(p)
}
