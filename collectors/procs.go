package collectors

import (
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	procsPID = iota
	procsPPID
	procsComm
	procsExe
	procsCmdline
	procsCgroup
	procsUID
	procsState
	procsTTY
	procsUtime
	procsStime
	procsCutime
	procsCstime
	procsMajflt
	procsMinflt
	procsThreads
	procsRSS
	procsVsize
	procsSwap
	procsFDs
	procsFDsMax
	procsReadBytes
	procsWriteBytes
	procsCancelledWriteBytes
	procsSyscw
	procsPolicy
	procsRTPriority
	procsNice
	procsNetns
	procsAllowed
	procsCoredumping
	procsTracer
	procsNSpid
	procsProcessesMax
	procsMaps
	procsStarted
	procsWidth
)

// procs reads /proc/PID: a row a process. While nothing is wrong each reading
// is a sweep over all of them; while a stall is open it sweeps four times a second,
// and the readings between have the watched processes alone.
//
// What costs more than stat is read of fewer: descriptors and I/O of the
// processes that used CPU since the sweep before, everything of the watched,
// and status (swap, tracer, allowed CPUs), which can change while a process
// sleeps, of a tenth of the others. Rows repeat the last values.
type procs struct {
	census *census
	needs  []freezeframe.Need
}

func (c *procs) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	from := "/proc/PID/{stat,status,io,limits,fd,exe,cmdline,cgroup,ns/net}"
	if c.census.walk != nil {
		from = "BPF iter/task, /proc/PID/{fd,exe,cmdline,cgroup}"
	}
	return freezeframe.Source{
		Name: "procs", From: from, Key: "task",
		Every: time.Second, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Needs: c.needs,
		Columns: []freezeframe.Column{
			procsPID:                 {Name: "pid", Kind: gauge},
			procsPPID:                {Name: "ppid", Kind: gauge},
			procsComm:                {Name: "comm", Kind: text},
			procsExe:                 {Name: "exe", Kind: text},
			procsCmdline:             {Name: "cmdline", Kind: text},
			procsCgroup:              {Name: "cgroup", Kind: text},
			procsUID:                 {Name: "uid", Kind: gauge},
			procsState:               {Name: "state", Kind: gauge},
			procsTTY:                 {Name: "tty", Kind: gauge},
			procsUtime:               {Name: "utime_us"},
			procsStime:               {Name: "stime_us"},
			procsCutime:              {Name: "cutime_us"},
			procsCstime:              {Name: "cstime_us"},
			procsMajflt:              {Name: "majflt"},
			procsMinflt:              {Name: "minflt"},
			procsThreads:             {Name: "threads", Kind: gauge},
			procsRSS:                 {Name: "rss_bytes", Kind: gauge},
			procsVsize:               {Name: "vsize_bytes", Kind: gauge},
			procsSwap:                {Name: "swap_bytes", Kind: gauge},
			procsFDs:                 {Name: "fds", Kind: gauge},
			procsFDsMax:              {Name: "fds_max", Kind: gauge},
			procsReadBytes:           {Name: "read_bytes"},
			procsWriteBytes:          {Name: "write_bytes"},
			procsCancelledWriteBytes: {Name: "cancelled_write_bytes"},
			procsSyscw:               {Name: "syscw"},
			procsPolicy:              {Name: "policy", Kind: gauge},
			procsRTPriority:          {Name: "rt_priority", Kind: gauge},
			procsNice:                {Name: "nice", Kind: gauge},
			procsNetns:               {Name: "netns", Kind: gauge},
			procsAllowed:             {Name: "allowed_cpus", Kind: text},
			procsCoredumping:         {Name: "coredumping", Kind: gauge},
			procsTracer:              {Name: "tracer_pid", Kind: gauge},
			procsNSpid:               {Name: "nspid", Kind: gauge},
			procsProcessesMax:        {Name: "processes_max", Kind: gauge}, // of its user (RLIMIT_NPROC); 0: unlimited
			procsMaps:                {Name: "maps", Kind: gauge},          // of its memory; 0 where BPF does not tell: listing them takes its mmap_lock
			procsStarted:             {Name: "started_ns", Kind: gauge},    // CLOCK_MONOTONIC, to 10 ms
		},
	}
}

// stalledSweep is how often all processes are read while a stall is open or
// suspected: whoever began to use the CPUs with it must be found at once.
const stalledSweep = 240 * time.Millisecond

func (c *procs) Open(h freezeframe.Host) error {
	if err := c.census.open(h); err != nil {
		return err
	}
	c.needs = c.census.needsOf(needProcesses)
	return nil
}

func (c *procs) Close() error {
	c.census.close()
	return nil
}

func (c *procs) Collect(t *freezeframe.Table) error {
	now := at(t)
	s := c.census
	stalled := s.host.Focus.Stalled(now)
	s.watch()
	if s.walk != nil {
		if err := c.walk(t, now, stalled); err == nil {
			return nil
		} else {
			s.endWalk(err) // and go on without
		}
		s.watch()
	}
	if s.swept && now.Sub(s.sweptAt) < s.wait(stalled) {
		s.takeFacts()
		c.watched(t, now)
		s.facts.ring()
		return nil
	}
	cpu, began := kernel.ThreadCPU(), kernel.Now()
	if err := s.sweep(now); err != nil {
		return err
	}
	left, crowded := 0, s.all > s.most
	for i, slot := range s.order {
		p := &s.processes[slot]
		if !p.shown {
			continue
		}
		if crowded && s.quiet(p, now) {
			left++
			continue
		}
		turn := uint32(i)%rotation == s.round%rotation
		switch {
		case p.settledNow == s.round: // its extras are of this sweep
		case p.watched, p.active && turn:
			s.readExtras(slot)
		case p.active, stalled && p.unread:
			// One that reads a disk past the page cache uses next to no CPU: while
			// a stall is open the I/O of everybody who ran at all is looked at.
			s.readActivity(p)
		case turn && !p.kthread:
			s.readStatus(p)
		}
		c.row(t, p)
	}
	s.left = left
	s.noteLeft(s.all-left, now)
	s.sweepTook = usedSince(cpu, began)
	return nil
}

// walk is Collect where BPF tells of processes.
func (c *procs) walk(t *freezeframe.Table, now freezeframe.Instant, stalled bool) error {
	s := c.census
	if stalled && s.swept && now.Sub(s.sweptAt) < max(stalledSweep, wideShare*s.walk.wideTook) {
		s.takeFacts()
		if err := s.walk.pass(now, false); err != nil {
			return err
		}
		for i, pid := range s.host.Focus.PIDs() {
			slot := s.byPID.get(pid)
			if slot == none || s.processes[slot].key == 0 || !s.processes[slot].hasRecord {
				continue
			}
			p := &s.processes[slot]
			p.watched = true
			if !p.shown || !p.settled {
				s.walk.settle(p)
			} else if i < maxListed/4 {
				s.walk.readRan(p)
			}
			s.askFacts(p, now, true)
			c.row(t, p)
		}
		s.facts.ring()
		return nil
	}
	if err := s.walk.sweep(now); err != nil {
		return err
	}
	for i, slot := range s.order {
		p := &s.processes[slot]
		if !p.shown {
			continue
		}
		if p.watched || p.active || stalled || uint32(i)%rotation == s.round%rotation {
			s.walk.readRan(p)
		}
		c.row(t, p)
	}
	return nil
}

// watched emits the watched processes, read anew.
func (c *procs) watched(t *freezeframe.Table, now freezeframe.Instant) {
	s := c.census
	for i, pid := range s.host.Focus.PIDs() {
		slot := s.lookup(pid, now)
		if slot == none {
			continue
		}
		p := &s.processes[slot]
		p.watched = true
		switch {
		case !p.shown || !p.settled:
			s.settle(slot)
		case p.stat.threads < 4*manyThreads && !s.readStat(slot, now):
			s.evict(slot)
			continue
		case uint32(i)%4 == s.turn%4:
			s.readExtras(slot)
		case i < maxListed/4:
			s.readActivity(p)
		}
		s.askFacts(p, now, true)
		c.row(t, p)
	}
	s.turn++
}

func (c *procs) row(t *freezeframe.Table, p *process) {
	row := t.Row(p.key, procsWidth)
	row[procsPID] = uint64(p.pid)
	row[procsPPID] = uint64(p.stat.ppid)
	row[procsComm] = p.comm
	row[procsExe] = p.exe
	row[procsCmdline] = p.cmdline
	row[procsCgroup] = p.cgroup
	row[procsUID] = p.uid
	row[procsState] = uint64(p.stat.state)
	row[procsTTY] = uint64(p.stat.tty)
	row[procsUtime] = p.utimeUS
	row[procsStime] = p.stimeUS
	row[procsCutime] = p.cutimeUS
	row[procsCstime] = p.cstimeUS
	row[procsMajflt] = p.stat.majflt
	row[procsMinflt] = p.stat.minflt
	row[procsThreads] = uint64(p.stat.threads)
	row[procsRSS] = p.stat.rssPages * c.census.page
	row[procsVsize] = p.stat.vsizeBytes
	row[procsSwap] = p.swap
	row[procsFDs] = p.fds
	row[procsFDsMax] = p.fdsMax
	row[procsReadBytes] = p.readBytes
	row[procsWriteBytes] = p.writeBytes
	row[procsCancelledWriteBytes] = p.cancelledWriteBytes
	row[procsSyscw] = p.syscw
	row[procsPolicy] = p.stat.policy
	row[procsRTPriority] = p.stat.rtPriority
	row[procsNice] = uint64(p.stat.nice)
	row[procsNetns] = p.netns
	row[procsAllowed] = p.allowed
	row[procsCoredumping] = p.coredumping
	row[procsTracer] = p.tracer
	row[procsNSpid] = p.nspid
	row[procsProcessesMax] = p.processesMax
	row[procsMaps] = p.maps
	row[procsStarted] = uint64(p.started)
}

// Missing says that some processes have no row.
func (c *procs) Missing() []freezeframe.Need { return c.census.missing() }

// at is when a reading began; one that a test makes by hand begins now.
func at(t *freezeframe.Table) freezeframe.Instant {
	if t.At != 0 {
		return t.At
	}
	return kernel.Now()
}
