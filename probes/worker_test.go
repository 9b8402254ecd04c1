package probes

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

const ms = int64(time.Millisecond)

func TestSettle(t *testing.T) {
	for _, tc := range []struct {
		name       string
		plan       plan
		due, began int64
		now        int64
		errno      uintptr
		post       bool
		next       int64
	}{
		{"in time", plan{every: 50 * ms, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1000 * ms, 1001 * ms, 0, false, 1050 * ms},
		{"late", plan{every: 50 * ms, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1045 * ms, 1045 * ms, 0, true, 1050 * ms},
		{"ticks that were missed are one lateness", plan{every: 50 * ms, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 2310 * ms, 2310 * ms, 0, true, 2350 * ms},
		{"done exactly when the next is due", plan{every: 50 * ms, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1050 * ms, 1050 * ms, 0, true, 1100 * ms},
		{"a load is backed off from", plan{every: 100 * ms, backoff: 20, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1000 * ms, 1015 * ms, 0, false, 1315 * ms},
		{"a stall is not", plan{every: 500 * ms, backoff: 20, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1000 * ms, 4100 * ms, 0, true, 4600 * ms},
		{"a late start is no load", plan{every: 500 * ms, backoff: 20, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1700 * ms, 1701 * ms, 0, true, 2000 * ms},
		{"refused", plan{every: 500 * ms, floor: 100 * ms, tell: 40 * ms}, 1000 * ms, 1000 * ms, 1001 * ms, uintptr(unix.ENOSPC), true, 1500 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := worker{plan: tc.plan, due: tc.due, began: tc.began}
			if post := w.settle(tc.now, tc.errno); post != tc.post {
				t.Errorf("post %v", post)
			}
			if w.due != tc.next {
				t.Errorf("next due %d ms, want %d", w.due/ms, tc.next/ms)
			}
		})
	}
}

// What always takes long is done seldom.
func TestBackoffFromWorkThatIsSlow(t *testing.T) {
	w := worker{plan: plan{every: 500 * ms, backoff: 20, floor: 100 * ms, tell: 40 * ms}, due: 1000 * ms}
	var gap int64
	for range 40 {
		w.began = w.due
		done := w.due + 120*ms
		w.settle(done, 0)
		gap = w.due - done
	}
	if gap < 20*120*ms {
		t.Errorf("rests %d ms after work of 120 ms", gap/ms)
	}
}

func TestRefusedOnceAndThenOnceASecond(t *testing.T) {
	w := worker{plan: plan{every: 100 * ms, floor: 100 * ms, tell: 40 * ms}, due: 1000 * ms}
	told := 0
	for range 30 {
		w.began = w.due
		if w.settle(w.due+ms, uintptr(unix.ENOSPC)) {
			told++
		}
	}
	if told != 3 {
		t.Errorf("told %d times in 3 s, want 3", told)
	}
	if w.since != 1000*ms {
		t.Errorf("it fails since %d ms, want 1000", w.since/ms)
	}
	changed := w.due
	w.settle(w.due+ms, uintptr(unix.EROFS))
	if w.since != changed || w.due < changed+restAtMost {
		t.Errorf("read-only since %d ms, tried again at %d: want %d, and 5 s later", w.since/ms, w.due/ms, changed/ms)
	}
	if !w.settle(w.due+ms, 0) || w.note.kind != noteDone {
		t.Error("that it works again was not told")
	}
}

// Work that is usually slow is not worth a note each time.
func TestUsuallySlowWorkIsNotTold(t *testing.T) {
	w := worker{plan: plan{every: 500 * ms, floor: 100 * ms, tell: 40 * ms}, due: 1000 * ms}
	told := 0
	for range 60 {
		w.began = w.due
		if w.settle(w.due+150*ms, 0) {
			told++
		}
	}
	if told == 0 || told > 2*oneIn {
		t.Errorf("told %d times of 60", told)
	}
}

func TestBaseline(t *testing.T) {
	for d := int64(1); d < int64(2*time.Hour); d = d*5/4 + 1 {
		bin := baselineBin(d)
		if edge := baselineEdge(bin); bin < baselineBins-1 && (edge < d || d > 1<<18 && edge > d*5/4+1) {
			t.Fatalf("%v is in bin %d, whose edge is %v", time.Duration(d), bin, time.Duration(edge))
		}
	}
	var b baseline
	if b.p99() != 0 || b.ordinary() != 0 {
		t.Error("nothing is known, and yet p99 is", b.p99())
	}
	for i := range int64(100) {
		b.add(10*ms + (i%12+1)/12*90*ms) // eight of them 100 ms
	}
	if p, o := b.p99(), b.ordinary(); p < 100*ms || o > 13e6 {
		t.Errorf("of a hundred eight were slow: p99 %v, ordinary %v, want 100 ms and 10 ms", time.Duration(p), o)
	}
	for i := range int64(1800) {
		b.add(10*ms + (i%12+1)/12*90*ms)
	}
	if o := b.ordinary(); o < 100e6 {
		t.Errorf("of two thousand one in twelve was slow: ordinary %v, want 100 ms", o)
	}
	b = baseline{}
	for range 990 {
		b.learn(10*ms, 100*ms)
	}
	b.learn(5000*ms, 100*ms) // a stall
	if p := b.p99(); p < 10*ms || p > 13*ms {
		t.Errorf("p99 %v after one stall, want 10 ms", time.Duration(p))
	}
	for range 3000 {
		b.learn(300*ms, 100*ms)
	}
	if p := b.p99(); p < 300*ms || p > 380*ms {
		t.Errorf("p99 %v of work that has become slow, want 300 ms", time.Duration(p))
	}
	for range 9 * baselineMemory {
		b.learn(10*ms, 100*ms)
	}
	if p := b.p99(); p > 13*ms {
		t.Errorf("p99 %v long after it became fast again", time.Duration(p))
	}
}

// collect runs a probe for a while and returns what it reported.
type collected struct {
	sync.Mutex
	late   []freezeframe.Lateness
	events []freezeframe.Event
}

func (c *collected) add(l freezeframe.Lateness) {
	c.Lock()
	defer c.Unlock()
	c.late = append(c.late, l)
}

func (c *collected) event(e freezeframe.Event) {
	c.Lock()
	defer c.Unlock()
	c.events = append(c.events, e)
}

// until waits for a report that fits, and fails the test when none comes.
func (c *collected) until(t *testing.T, what string, fits func(freezeframe.Lateness) bool) freezeframe.Lateness {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		c.Lock()
		for _, l := range c.late {
			if fits(l) {
				c.Unlock()
				return l
			}
		}
		c.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	c.Lock()
	defer c.Unlock()
	t.Fatalf("no report: %s; there were %+v, events %+v", what, c.late, c.events)
	return freezeframe.Lateness{}
}

// hang is work that hangs in the kernel until its pipe is written to.
func hang(w *worker, fd int, b *byte) {
	entersyscallblock()
	for w.wait() {
		if b != nil {
			unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(b)), 1)
			b = nil
		}
		w.finish(0)
	}
	exitsyscall()
}

func TestWorkInFlightCountsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var c collected
	focus := &freezeframe.Focus{}
	h := newHub(Options{Focus: focus})
	go (&heartbeat{hub: h}).Run(ctx, func(freezeframe.Lateness) {}) // the watcher
	j := &job{hub: h, probe: "hang", target: "here", loop: func(w *worker) { hang(w, pipe[0], new(byte)) }}
	if err := j.start(ctx, plan{every: 20 * ms, floor: 100 * ms}, c.add); err != nil {
		t.Fatal(err)
	}
	in := c.until(t, "in flight", func(l freezeframe.Lateness) bool { return l.Done == 0 && l.Late() > 200*time.Millisecond })
	if in.Probe != "hang" || in.Target != "here" || len(in.Victims) != 1 || in.Victims[0].TID == 0 || in.Victims[0].TID == in.Victims[0].PID {
		t.Errorf("%+v", in)
	}
	if !focus.Stalled(kernel.Now()) {
		t.Error("the full rate was not asked for")
	}
	runtime.GC() // must not wait for the thread
	unix.Write(pipe[1], []byte{1})
	done := c.until(t, "done", func(l freezeframe.Lateness) bool { return l.Done != 0 && l.Late() > 200*time.Millisecond })
	if done.Began != in.Began {
		t.Errorf("began %v, in flight it was %v: not the same work", done.Began, in.Began)
	}
}

// A thread that never comes back keeps its slot, and nothing waits for it.
func TestRunEndsWithAThreadThatDoesNot(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var c collected
	h := newHub(Options{})
	beats := make(chan error)
	go func() { beats <- (&heartbeat{hub: h}).Run(ctx, func(freezeframe.Lateness) {}) }()
	j := &job{hub: h, probe: "hang", loop: func(w *worker) { hang(w, pipe[0], new(byte)) }}
	if err := j.start(ctx, plan{every: 20 * ms, floor: 100 * ms}, c.add); err != nil {
		t.Fatal(err)
	}
	c.until(t, "in flight", func(l freezeframe.Lateness) bool { return l.Done == 0 })
	cancel()
	if err := <-beats; err != nil {
		t.Fatal(err)
	}
	unix.Write(pipe[1], []byte{1})
	// Now both threads end, and their slots are free again.
	for i := 0; used(h) > 0; i++ {
		if i > 1000 {
			t.Fatalf("%d slots still taken", used(h))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

//go:norace
func used(h *hub) (n int) {
	for i := range h.workers {
		if h.workers[i].state != workerFree {
			n++
		}
	}
	return n
}

func TestEverySlotTaken(t *testing.T) {
	h := newHub(Options{})
	for range h.workers {
		if _, _, err := h.take(plan{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.take(plan{}); err == nil {
		t.Error("one more was taken")
	}
}

func TestClocks(t *testing.T) {
	const hour = int64(time.Hour)
	var c clocks
	at := hour
	read := func(wall, boot int64) (step, slept int64) {
		at += 50 * ms
		step, slept, since := c.moved(at, at+wall, at+boot)
		if since != 0 && since != at-50*ms {
			t.Errorf("since %d", at-since)
		}
		return step, slept
	}
	if step, slept := read(9*hour, 0); step != 0 || slept != 0 {
		t.Errorf("the first reading: %d %d", step, slept)
	}
	for i := range int64(100) { // slewed by the kernel
		if step, slept := read(9*hour+i*5*ms, 0); step != 0 || slept != 0 {
			t.Fatalf("slewing: %d %d", step, slept)
		}
	}
	if step, _ := read(9*hour-495*ms, 0); step != -990*ms {
		t.Errorf("stepped back: %d ms", step/ms)
	}
	if step, slept := read(10*hour-495*ms, hour); step != 0 || slept != hour {
		t.Errorf("an hour asleep: step %d, slept %d", step, slept)
	}
	if step, _ := read(11*hour, hour); step != hour+495*ms {
		t.Errorf("stepped forward: %d", step)
	}
}

func TestOurProbesRunHere(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var c collected
	for _, p := range All(Options{Events: c.event, FsyncSkip: []string{"/"}}) {
		go func() {
			err := p.Run(ctx, c.add)
			if err != nil && unix.Geteuid() == 0 {
				t.Errorf("%s: %v", p.Name(), err)
			}
		}()
	}
	time.Sleep(time.Second)
}
