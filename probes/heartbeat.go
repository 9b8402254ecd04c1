package probes

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"freezeframe"

	"golang.org/x/sys/unix"
)

const (
	tick = 50 * time.Millisecond
	// An ordinary thread on a busy but healthy machine is up to 30 ms late, a
	// real-time one up to 8 ms.
	heartbeatFloor   = 100 * time.Millisecond
	heartbeatRTFloor = 50 * time.Millisecond
	// heartbeatPriority leaves only the kernel's own stop and watchdog threads
	// above, so that a late beat means that the CPU itself was gone.
	heartbeatPriority = 90
	// clockStep is how far the wall clock must jump within one tick; slewing
	// moves it by at most 5 ms a tick (adjtimex(2)).
	clockStep = 100 * time.Millisecond
)

// heartbeat is a thread that does nothing but wake up every 50 ms.
//
// The ordinary one (Probe "heartbeat") is late when an ordinary thread does
// not get a CPU: users feel everything on the host drag. The real-time one
// ("heartbeat_rt") is late when no thread at all runs: users see the whole
// host stand still, pings included. Ordinary late and real-time on time means
// that everybody waits for a CPU; both late that the CPU itself was gone.
//
// The ordinary one also reports Probe "clock" with Err "stepped" when the wall
// clock jumps: users see sessions expire and timers fire early or not at all.
type heartbeat struct {
	hub      *hub
	realtime bool
}

func (p *heartbeat) Name() string {
	if p.realtime {
		return "heartbeat_rt"
	}
	return "heartbeat"
}

// Run beats until ctx ends. The real-time one returns an error where the
// kernel does not allow real-time threads.
func (p *heartbeat) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	j := &job{hub: p.hub, probe: p.Name()}
	floor := heartbeatFloor
	clocks := &clocks{}
	if p.realtime {
		floor = heartbeatRTFloor
		j.setup = setRealtime
		clocks = nil
	}
	j.loop = func(w *worker) { beat(w, p.hub, clocks) }
	j.other = p.clock
	if err := j.start(ctx, plan{every: int64(tick), floor: int64(floor)}, late); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

//go:nosplit
//go:norace
func beat(w *worker, h *hub, c *clocks) {
	entersyscallblock()
	for w.wait() {
		due := w.due
		now := w.finish(0)
		h.watch(w, now)
		if c != nil {
			w.check(c, due, now)
		}
	}
	exitsyscall()
}

// clocks is how far the other clocks are ahead of CLOCK_MONOTONIC.
type clocks struct {
	at         int64
	wall, boot int64
}

// check reads the clocks, and posts a note when one has moved against
// CLOCK_MONOTONIC. A reading that was interrupted proves nothing and is
// dropped: the next tick compares with the one before.
//
//go:nosplit
//go:norace
func (w *worker) check(c *clocks, due, before int64) {
	wall := w.rawClock(unix.CLOCK_REALTIME)
	boot := w.rawClock(unix.CLOCK_BOOTTIME)
	after := w.rawNow()
	if after-before > 1e6 {
		return
	}
	step, slept, since := c.moved(after, wall, boot)
	if slept != 0 {
		w.warning.kind = noteSlept
		w.post(&w.warning, since, after, after, slept)
	}
	if step != 0 {
		w.warning.kind = noteStep
		w.post(&w.warning, since, after, after, step)
	}
}

// moved compares the clocks with the time before and returns how far the wall
// clock jumped, how long the machine slept (which is no jump), and when the
// clocks were last seen in order.
//
//go:nosplit
//go:norace
func (c *clocks) moved(now, wall, boot int64) (step, slept, since int64) {
	wall -= now
	boot -= now
	if c.at != 0 {
		slept = boot - c.boot
		step = wall - c.wall - slept
		if slept < int64(clockStep) {
			slept = 0
		}
		if step < int64(clockStep) && step > -int64(clockStep) {
			step = 0
		}
	}
	since = c.at
	c.at, c.wall, c.boot = now, wall, boot
	return step, slept, since
}

func (p *heartbeat) clock(n note, late func(freezeframe.Lateness)) {
	span := freezeframe.Span{Start: freezeframe.Instant(n.due), End: freezeframe.Instant(n.done)}
	ns := strconv.FormatInt(n.value, 10)
	if n.kind == noteSlept {
		p.hub.event(freezeframe.Event{Kind: EventSuspended, At: span.End,
			Text:  fmt.Sprintf("the machine slept for %v", time.Duration(n.value)),
			Attrs: []freezeframe.Attr{{Name: "suspended_ns", Value: ns}}})
		return
	}
	p.hub.event(freezeframe.Event{Kind: freezeframe.EventClockStepped, At: span.End,
		Text:  fmt.Sprintf("the wall clock jumped by %v", time.Duration(n.value)),
		Attrs: []freezeframe.Attr{{Name: "step_ns", Value: ns}}})
	p.hub.suspect(span.End)
	late(freezeframe.Lateness{Probe: "clock", Began: span.Start, Done: span.End, Seen: span.End,
		Floor: clockStep, Quality: 1, Err: "stepped"})
}

// setRealtime puts the calling thread above every ordinary one.
func setRealtime() error {
	attr := unix.SchedAttr{
		Size:     unix.SizeofSchedAttr,
		Policy:   unix.SCHED_FIFO,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK,
		Priority: heartbeatPriority,
	}
	err := unix.SchedSetAttr(0, &attr, 0)
	var limit unix.Rlimit
	if errors.Is(err, unix.EPERM) && unix.Getrlimit(unix.RLIMIT_RTPRIO, &limit) == nil && limit.Cur > 0 {
		attr.Priority = uint32(min(limit.Cur, heartbeatPriority))
		err = unix.SchedSetAttr(0, &attr, 0)
	}
	if err != nil {
		return fmt.Errorf("set real-time priority %d: %w (needs CAP_SYS_NICE or LimitRTPRIO=, and cpu.rt_runtime_us above 0 in its cgroup v1)", heartbeatPriority, err)
	}
	return nil
}
