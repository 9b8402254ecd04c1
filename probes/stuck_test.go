package probes

import (
	"testing"
	"time"

	"freezeframe"
)

// stuckWorld is one process, 44, and time for it.
type stuckWorld struct {
	t       *testing.T
	p       *stuck
	now     freezeframe.Instant
	proc    map[string]uint64
	thread  map[string]uint64
	reports []stuckReport
}

func newStuckWorld(t *testing.T) *stuckWorld {
	w := &stuckWorld{t: t, now: freezeframe.Instant(time.Hour),
		proc:   map[string]uint64{"pid": 44, "ppid": 1, "state": 'S', "comm": 8},
		thread: map[string]uint64{"pid": 44, "state": 'S'}}
	w.p = newStuck(newHub(Options{Focus: &freezeframe.Focus{}, Texts: func(id uint64) string {
		return map[uint64]string{8: "worker", 100: "pipe_write", 101: "ep_poll"}[id]
	}}))
	return w
}

// step lets d pass in readings of 250 ms; busy tells whether the process works.
func (w *stuckWorld) step(d time.Duration, busy bool) {
	for end := w.now.Add(d); w.now < end; {
		w.now = w.now.Add(250 * time.Millisecond)
		if busy {
			w.thread["timeslices"]++
			w.proc["stime_us"] += 1000
		}
		tasks := map[freezeframe.Key]map[string]uint64{freezeframe.TaskKey(44, 5): w.thread}
		src, t := table(stuckTaskColumns, tasks, w.now)
		src.Name = "tasks"
		w.p.Observe(src, t)
		if w.now%freezeframe.Instant(time.Second) == 0 {
			src, t := table(stuckProcColumns, map[freezeframe.Key]map[string]uint64{freezeframe.TaskKey(44, 5): w.proc}, w.now)
			src.Name = "procs"
			w.p.Observe(src, t)
		}
		for len(w.p.out) > 0 {
			r := <-w.p.out
			if r.classify != 0 {
				w.p.classify(r.classify)
				continue
			}
			w.reports = append(w.reports, r)
		}
	}
}

func TestStuck(t *testing.T) {
	for _, tc := range []struct {
		name string
		prep func(*stuckWorld)
		busy time.Duration
		wait func(*stuckWorld)
		want bool
	}{
		{"in uninterruptible sleep", nil, 8 * time.Second, func(w *stuckWorld) { w.thread["state"] = 'D' }, true},
		{"in a full pipe", nil, 8 * time.Second, func(w *stuckWorld) { w.thread["wchan"] = 100 }, true},
		{"stopped", nil, 8 * time.Second, func(w *stuckWorld) { w.proc["state"], w.thread["state"] = 'T', 'T' }, true},
		{"stopped at a terminal", func(w *stuckWorld) { w.proc["tty"] = 34816 }, 8 * time.Second,
			func(w *stuckWorld) { w.proc["state"], w.thread["state"] = 'T', 'T' }, false},
		{"waiting for work", nil, 8 * time.Second, func(w *stuckWorld) { w.thread["wchan"] = 101 }, false},
		{"a kernel thread", func(w *stuckWorld) { w.proc["ppid"] = 2 }, 8 * time.Second,
			func(w *stuckWorld) { w.proc["state"], w.thread["state"] = 'D', 'D' }, false},
		{"known too short", nil, 2 * time.Second, func(w *stuckWorld) { w.thread["state"] = 'D' }, false},
		{"idle before", func(w *stuckWorld) { w.step(10*time.Second, false) }, time.Second, func(w *stuckWorld) { w.thread["state"] = 'D' }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newStuckWorld(t)
			w.step(time.Second, false)
			if tc.prep != nil {
				tc.prep(w)
			}
			w.step(tc.busy, true)
			began := w.now
			tc.wait(w)
			w.step(5*time.Second, false)
			if got := len(w.reports) > 0; got != tc.want {
				t.Fatalf("%d reports", len(w.reports))
			}
			if !tc.want {
				return
			}
			if r := w.reports[0]; r.began != began || r.seen.Sub(began) < stuckFloor || r.done != 0 || r.pid != 44 {
				t.Errorf("began %v off: %+v", r.began.Sub(began), r)
			}
			w.thread["state"], w.proc["state"], w.thread["wchan"] = 'S', 'S', 101
			w.step(time.Second, true)
			if r := w.reports[len(w.reports)-1]; r.done.Sub(began) != 5250*time.Millisecond {
				t.Errorf("done after %v", r.done.Sub(began))
			}
		})
	}
}

// A backup sits in disk sleep for seconds again and again: that is its work.
func TestStuckIsUsualForSome(t *testing.T) {
	w := newStuckWorld(t)
	w.step(8*time.Second, true)
	for range 5 {
		w.thread["state"] = 'D'
		w.step(2*time.Second, false)
		w.thread["state"] = 'S'
		w.step(5*time.Second, true)
	}
	before := len(w.reports)
	w.thread["state"] = 'D'
	w.step(4*time.Second, false)
	if before == 0 || len(w.reports) != before {
		t.Errorf("%d reports at first, %d more for the sixth wait", before, len(w.reports)-before)
	}
}

func TestStuckDoesNotAllocate(t *testing.T) {
	w := newStuckWorld(t)
	w.step(8*time.Second, true)
	procs, tasks := map[freezeframe.Key]map[string]uint64{}, map[freezeframe.Key]map[string]uint64{}
	for i := range uint64(maxStuck + 100) {
		key := freezeframe.TaskKey(int(i+100), 1)
		procs[key] = map[string]uint64{"pid": i + 100, "state": 'D'}
		tasks[key] = map[string]uint64{"pid": i + 100, "state": 'S', "wchan": i}
	}
	psrc, pt := table(stuckProcColumns, procs, w.now)
	tsrc, tt := table(stuckTaskColumns, tasks, w.now)
	psrc.Name, tsrc.Name = "procs", "tasks"
	if n := testing.AllocsPerRun(20, func() {
		pt.At, tt.At = pt.At.Add(time.Second), tt.At.Add(time.Second)
		w.p.Observe(psrc, pt)
		w.p.Observe(tsrc, tt)
		for len(w.p.out) > 0 {
			<-w.p.out
		}
	}); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}
