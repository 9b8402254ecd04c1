package probes

import (
	"context"
	"math/bits"
	"strings"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// stuck watches processes that are at work nearly all the time, and reports
// one that sits in a wait that is not a wait for work: in uninterruptible
// sleep, stopped, or blocked on a full pipe, a file lock, a FUSE daemon, the
// freezer or dirty-page throttling. Users feel whatever that process did for
// them stop, without any request being late that could be seen: a queue that
// is not worked off, a log that is not written.
//
// A process that is often in such waits is not reported, and neither are
// kernel threads, nor a job that somebody stopped at a terminal.
type stuck struct {
	hub     *hub
	out     chan stuckReport
	procs   columns
	tasks   columns
	rows    []stuckProcess
	index   []int16
	classes [256]wchanClass
	threads [2048]threadSlices
	swept   freezeframe.Instant
}

// threadSlices is how often a thread had got a CPU at the last reading. Two
// threads that fall into one place forget each other: evidence is lost, never
// made up.
type threadSlices struct {
	key    freezeframe.Key
	slices uint64
}

const (
	stuckFloor = time.Second
	// stuckHistory is how many seconds a process must be known, and of those
	// three in five it must have done something, to count as regularly active.
	stuckHistory = 4
	// stuckOften is how many such waits of half a second make one usual.
	stuckOften = 3
	maxStuck   = 4096
)

// abnormal are parts of the names of kernel functions in which a thread does
// not wait for work.
var abnormal = []string{
	"pipe_write", "flock_lock", "locks_lock", "posix_lock", "fcntl_setlk", "do_lock_file",
	"fuse_", "request_wait_answer", "rwsem", "balance_dirty", "refrigerator", "freezer_trap",
	"percpu_rwsem", "jbd2_log_wait", "wait_transaction", "rpc_wait_bit", "unix_wait_for_peer", "sock_alloc_send",
}

type stuckReport struct {
	classify uint64 // a wait channel to be looked up; the rest is empty then
	pid      uint64
	comm     uint64
	began    freezeframe.Instant
	done     freezeframe.Instant
	seen     freezeframe.Instant
}

// wchanClass is what Run found out about a wait channel: the sampling thread
// may not look at strings.
type wchanClass struct {
	id    atomic.Uint64
	class atomic.Uint32 // 0 not known yet, else wchanNormal or wchanAbnormal
}

const (
	wchanNormal = iota + 1
	wchanAbnormal
)

// stuckProcess is a process as it was lately.
type stuckProcess struct {
	key      freezeframe.Key
	seen     freezeframe.Instant
	progress freezeframe.Instant // the last time it got anywhere
	shifted  freezeframe.Instant // when history was last moved on
	waited   freezeframe.Instant // the last reading that saw it in an abnormal wait
	told     freezeframe.Instant // when it was last reported, 0 never
	asked    freezeframe.Instant // when its threads were last asked for
	cpu      uint64
	comm     uint64
	history  uint32 // a bit a second: did something
	known    uint32 // seconds
	often    uint8
	regular  bool
	kernel   bool
	active   bool // did something in this second
}

var (
	stuckProcColumns = []string{"pid", "ppid", "comm", "state", "tty", "utime_us", "stime_us"}
	stuckTaskColumns = []string{"pid", "state", "timeslices", "wchan"}
)

func newStuck(h *hub) *stuck {
	p := &stuck{hub: h, out: make(chan stuckReport, 256), index: make([]int16, 2*maxStuck)}
	p.rows = kernel.Slots[stuckProcess](p, maxStuck)[:0]
	return p
}

func (p *stuck) Name() string { return "stuck" }

// Observes names the sources whose readings Observe must get.
func (p *stuck) Observes() []string { return []string{"procs", "tasks"} }

// Run passes on what Observe finds until ctx ends.
func (p *stuck) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-p.out:
			if r.classify != 0 {
				p.classify(r.classify)
				continue
			}
			comm := p.hub.text(r.comm)
			late(freezeframe.Lateness{Probe: p.Name(), Target: comm, Began: r.began, Done: r.done, Seen: r.seen,
				Floor: stuckFloor, Quality: 0.6,
				Victims: []freezeframe.Victim{{PID: int(r.pid), Comm: comm}}})
		}
	}
}

func isAbnormal(wchan string) bool {
	for _, part := range abnormal {
		if strings.Contains(wchan, part) {
			return true
		}
	}
	return false
}

func (p *stuck) classify(id uint64) {
	class := uint32(wchanNormal)
	if isAbnormal(p.hub.text(id)) {
		class = wchanAbnormal
	}
	for i := range p.classes {
		if p.classes[i].id.Load() == id {
			p.classes[i].class.Store(class)
		}
	}
}

// isAbnormalID is isAbnormal for the sampling thread; what is not known yet is
// asked of Run, and is normal until then.
func (p *stuck) isAbnormalID(id uint64) bool {
	if id == 0 {
		return false
	}
	at := int(id>>32^id) % len(p.classes)
	if at < 0 {
		at = -at
	}
	for i := range 8 {
		c := &p.classes[(at+i)%len(p.classes)]
		switch c.id.Load() {
		case id:
			return c.class.Load() == wchanAbnormal
		case 0:
			c.id.Store(id)
			p.send(stuckReport{classify: id})
			return false
		}
	}
	return false
}

func (p *stuck) send(r stuckReport) {
	select {
	case p.out <- r:
	default:
	}
}

// Observe takes one reading, on the thread that took it.
func (p *stuck) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	switch src.Name {
	case "procs":
		if p.procs.of(src, stuckProcColumns) {
			p.observeProcs(t)
		}
	case "tasks":
		if p.tasks.of(src, stuckTaskColumns) {
			p.observeTasks(t)
		}
	}
	p.sweep(t.At)
}

func (p *stuck) observeProcs(t *freezeframe.Table) {
	now, c := t.At, &p.procs
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		r := p.find(c.get(row, 0), key)
		if r == nil {
			continue
		}
		fresh := r.seen == 0
		r.seen = now
		r.comm = c.get(row, 2)
		const kthreadd = 2
		r.kernel = c.get(row, 0) == kthreadd || c.get(row, 1) == kthreadd
		cpu := c.get(row, 5) + c.get(row, 6)
		if fresh {
			r.progress, r.shifted = now, now
		} else if cpu > r.cpu {
			p.progressed(r, now)
		}
		r.cpu = cpu
		switch c.get(row, 3) {
		case 'D':
			r.waited = now
		case 'T', 't':
			if c.get(row, 4) == 0 {
				r.waited = now
			}
		case 'Z', 'X':
			r.regular = false
		}
		p.judge(r, now)
	}
}

// observeTasks looks at threads: those that are active or in an
// uninterruptible sleep, and while a stall is suspected also others.
func (p *stuck) observeTasks(t *freezeframe.Table) {
	now, c := t.At, &p.tasks
	for i, key := range t.Keys {
		row := t.Values(i, c.width)
		r := p.find(c.get(row, 0), 0)
		if r == nil || r.kernel {
			continue
		}
		last := &p.threads[uint64(key)*0x9e3779b97f4a7c15>>32%uint64(len(p.threads))]
		if slices := c.get(row, 2); last.key == key && slices > last.slices {
			p.progressed(r, now)
		}
		*last = threadSlices{key, c.get(row, 2)}
		if state := c.get(row, 1); state == 'D' || state == 'S' && p.isAbnormalID(c.get(row, 3)) {
			r.waited = now
		}
	}
	for i := range p.rows {
		if r := &p.rows[i]; r.waited == now || r.told != 0 {
			p.judge(r, now)
		}
	}
}

// progressed is called when a process got somewhere.
func (p *stuck) progressed(r *stuckProcess, now freezeframe.Instant) {
	if r.told != 0 {
		p.tell(r, now, now)
	}
	if now.Sub(r.progress) >= stuckFloor/2 && r.waited > r.progress {
		// It was in such a wait and came out of it by itself. One that was
		// reported must not make the next one usual at once.
		if r.often < 255 {
			r.often++
		}
	}
	r.told = 0
	r.progress = now
	r.active = true
	p.shift(r, now)
}

// shift moves the history on.
func (p *stuck) shift(r *stuckProcess, now freezeframe.Instant) {
	if now.Sub(r.shifted) < 900*time.Millisecond {
		return
	}
	for gap := now.Sub(r.shifted); gap >= 900*time.Millisecond; gap -= time.Second {
		r.history <<= 1
		if r.active {
			r.history |= 1
		}
		r.active = false
		r.known = min(r.known+1, 32)
	}
	r.shifted = now
	span := min(r.known, 10)
	r.regular = span >= stuckHistory && bits.OnesCount32(r.history&(1<<span-1))*5 >= int(span)*3
}

func (p *stuck) judge(r *stuckProcess, now freezeframe.Instant) {
	if r.kernel {
		return
	}
	age := now.Sub(r.progress)
	if r.waited <= r.progress || now.Sub(r.waited) > 1500*time.Millisecond {
		if r.told != 0 {
			p.tell(r, now, now)
			r.told = 0
		}
		if age >= time.Second && r.regular && now.Sub(r.asked) >= time.Minute {
			// It has fallen silent: have a look at what its threads wait for.
			r.asked = now
			p.hub.suspect(now)
		}
		p.shift(r, now)
		return
	}
	if !r.regular || r.often >= stuckOften || age < stuckFloor/2 {
		return
	}
	p.hub.suspect(now)
	if age >= stuckFloor && now.Sub(r.told) >= again {
		r.told = now
		p.tell(r, 0, now)
	}
}

func (p *stuck) tell(r *stuckProcess, done, now freezeframe.Instant) {
	p.send(stuckReport{pid: uint64(r.key.TID()), comm: r.comm, began: r.progress, done: done, seen: now})
}

// find returns the process with a pid. With its key it is entered when it is
// new, and replaced when the pid is another process now.
func (p *stuck) find(pid uint64, key freezeframe.Key) *stuckProcess {
	x := slotIndex(p.index)
	i := x.probe(freezeframe.Key(pid))
	for ; x[i] != 0; i = x.next(i) {
		r := &p.rows[x[i]-1]
		if uint64(r.key.TID()) == pid {
			if key != 0 && r.key != key {
				*r = stuckProcess{key: key}
			}
			return r
		}
	}
	if key == 0 || len(p.rows) == cap(p.rows) {
		return nil
	}
	p.rows = append(p.rows, stuckProcess{key: key})
	x[i] = int16(len(p.rows))
	return &p.rows[len(p.rows)-1]
}

func (p *stuck) sweep(now freezeframe.Instant) {
	if now.Sub(p.swept) < 3*time.Second {
		return
	}
	p.swept = now
	kept := p.rows[:0]
	for _, r := range p.rows {
		if now.Sub(r.seen) < 5*time.Second {
			kept = append(kept, r)
		}
	}
	if len(kept) == len(p.rows) {
		return
	}
	p.rows = kept
	clear(p.index)
	x := slotIndex(p.index)
	for slot := range p.rows {
		i := x.probe(freezeframe.Key(p.rows[slot].key.TID()))
		for x[i] != 0 {
			i = x.next(i)
		}
		x[i] = int16(slot + 1)
	}
}
