package collectors

import (
	"fmt"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

const (
	// mostKept is from how many processes on those that do nothing are left out:
	// a row of each of 20,000, four times a second, is more than the ring is to
	// hold, and what nobody asks for.
	mostKept = 2048
	// asleepFor is how long one must have slept for that: longer than a stall's
	// recording reaches back, so that none comes and goes in it.
	asleepFor = 2 * time.Minute
	// asleepBrief is the same when those that sleep no longer are twice too many.
	asleepBrief = 3 * time.Second
	// brief is the CPU time of one that has hardly begun.
	brief = 10 * time.Millisecond
	// large is the memory from which on a process is kept whatever it does.
	large = 32 << 20
	// manyDescriptors is the same of descriptors; without BPF.
	manyDescriptors = 512
	// quietReads is how many of those that do nothing are read in one sweep over
	// /proc, in turns.
	quietReads = 1024
	// leftFor is how long it is told that some were left out.
	leftFor = 2 * time.Minute
)

// crowd is what a census knows of the processes that it leaves out: there are
// very many, and they do nothing. Those that ran, are stuck, watched or large
// are never among them, nor those of several threads.
type crowd struct {
	most     int           // processes, up to which all are kept
	patience time.Duration // asleepFor
	left     int           // processes without a row
	was      bool          // some were left out by the pass over all before
	all      int           // processes, by the last sweep over /proc

	told  atomic.Uint64
	known atomic.Uint64
	at    atomic.Int64

	ahead time.Duration // CLOCK_BOOTTIME, in which the kernel says when a process began, of CLOCK_MONOTONIC

	// Of a walk: who is left out, a bit a pid; and the process told of last that
	// is not known.
	out   []uint64
	high  int // words of it that may have a bit
	later bpf.Process
}

// missing says that processes are left out, if that was lately so.
func (c *crowd) missing() []freezeframe.Need {
	n := c.told.Load()
	if n == 0 || kernel.Now().Sub(freezeframe.Instant(c.at.Load())) > leftFor {
		return nil
	}
	return []freezeframe.Need{{
		What: fmt.Sprintf("keep every process: there are %d", n+c.known.Load()),
		Lost: fmt.Sprintf("%d small processes of one thread that have not run for a while: what they are, and in what is counted of all processes of a user or a cgroup; they are there as soon as they run or get stuck", n),
	}}
}

// noteLeft keeps how many are left out for whoever asks.
func (c *crowd) noteLeft(known int, now freezeframe.Instant) {
	if c.left > 0 {
		c.told.Store(uint64(c.left))
		c.known.Store(uint64(known))
		c.at.Store(int64(now))
	}
}

// setBoot follows the clock that counts on while the machine sleeps. What two
// readings differ by is no sleep.
func (c *census) setBoot() {
	if c.host.Proc != "/proc" {
		return // a captured tree has no clock
	}
	if now := kernel.Boottime() - time.Duration(kernel.Now()); max(now-c.ahead, c.ahead-now) > 10*time.Millisecond {
		c.ahead = now
	}
}

// started is when a process began that says so in ticks since the machine did.
func (c *census) started(ticks uint64) freezeframe.Instant {
	return max(freezeframe.Instant(int64(ticks)*1e7-int64(c.ahead)), 1)
}

// turns is over how many sweeps the processes that do nothing are read, while
// there are too many of them.
func (c *census) turns() uint32 {
	if c.all > c.most {
		return uint32(1 + c.all/quietReads)
	}
	return 1
}

// quiet tells whether a process, of too many, is left out when it is read from
// /proc. The first sweep finds everybody new.
func (c *census) quiet(p *process, now freezeframe.Instant) bool {
	p.quiet = (!p.active || c.round == 1) && !p.watched && (p.stat.state == 'S' || p.stat.state == 'I') && p.stat.threads == 1 && p.pid != c.self &&
		p.stat.rssPages*c.page+p.swap < large && p.fds < manyDescriptors && (p.quiet || now.Sub(p.ranAt) >= c.sleep(c.all-c.left))
	return p.quiet
}

// sleep is how long a process must have slept to be left out where so many are
// kept.
func (c *crowd) sleep(kept int) time.Duration {
	if kept >= 2*c.most {
		return min(asleepBrief, c.patience)
	}
	return c.patience
}

// dozes tells whether a thread that is not known need not be: it has slept for
// long, or hardly begun among very many.
func (w *walk) dozes(r *bpf.Task) bool {
	room := w.most
	if w.was || w.left > 0 {
		room /= 2 // they do not come back by and by as others end
	}
	if w.byPID.used < room || r.State != 'S' && r.State != 'I' || r.TID != r.TGID {
		return false
	}
	if w.later.TGID != r.TGID {
		// It ran since the pass before, and what it shares with others was not
		// told: this is not a pass over all.
		return w.young(r)
	}
	if w.later.Threads != 1 || w.later.RSSPages*w.page+w.later.SwapPages*w.page >= large || w.follows(int32(r.TGID)) {
		return false
	}
	if w.young(r) {
		return true
	}
	since := w.sleptSince(r)
	return since != 0 && w.at.Sub(since) >= w.sleep(w.byPID.used)
}

// young tells whether a thread is one of very many that have just begun and done
// next to nothing.
func (w *walk) young(r *bpf.Task) bool {
	return w.byPID.used >= 2*w.most && r.Run < uint64(brief) && w.at.Sub(w.started(uint64(int64(r.StartBoottime)+w.boot)/1e7)) < w.patience
}

// idles is dozes of a process that is known.
func (w *walk) idles(p *process) bool {
	if p.aside || p.watched || !p.hasRecord || p.active || p.stat.threads != 1 || p.pid == w.self || p.threads == none ||
		p.stat.rssPages*w.page+p.swap >= large || w.follows(p.pid) {
		return false
	}
	th := &w.threads[p.threads]
	return (th.stat.state == 'S' || th.stat.state == 'I') && th.since != 0 && w.at.Sub(th.since) >= w.sleep(w.byPID.used)
}

// follows tells whether a process is in focus.
func (w *walk) follows(pid int32) bool {
	for _, watched := range w.pids {
		if watched == pid {
			return true
		}
	}
	return false
}

// leave leaves a process out.
func (w *walk) leave(pid int32) {
	i := int(pid) / 64
	if i >= len(w.out) {
		return // no pid is so high (PID_MAX_LIMIT)
	}
	if bit := uint64(1) << (pid % 64); w.out[i]&bit == 0 {
		w.out[i] |= bit
		w.high = max(w.high, i+1)
		w.left++
	}
}

// isLeft tells whether a process is left out.
func (w *walk) isLeft(pid int32) bool {
	i := int(pid) / 64
	return i < w.high && w.out[i]>>(pid%64)&1 != 0
}

// takeBack is for a process that is left out no more.
func (w *walk) takeBack(pid int32) {
	if w.isLeft(pid) {
		w.out[pid/64] &^= 1 << (pid % 64)
		w.left--
	}
}

// recount begins to leave out anew: a pass over all tells who there is.
func (w *walk) recount() {
	clear(w.out[:w.high])
	w.was = w.left > 0
	w.high, w.left = 0, 0
}
