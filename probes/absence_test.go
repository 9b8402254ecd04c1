package probes

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// absent is a row that tells of a service at which nobody listens.
func (w *exactWorld) absent(state int, began freezeframe.Instant, refused int) {
	row := w.wait(0, bpf.Absence, began, map[string]uint64{"unanswered": uint64(refused), "pid": 4321, "tid": 4321})
	w.end(row, state, w.now.Add(50*time.Millisecond))
}

// refusing tells of a client that is refused, each 50 ms, for d.
func (w *exactWorld) refusing(began freezeframe.Instant, from int, d time.Duration) (count int) {
	for count = from; d > 0; d -= 50 * time.Millisecond {
		count++
		w.absent(bpf.ToldRefused, began, count)
		w.step(50 * time.Millisecond)
	}
	return count
}

func TestServiceThatIsGone(t *testing.T) {
	const ms = time.Millisecond
	serving := func(t *testing.T) *exactWorld {
		w := newExactWorld(t)
		w.quick(40, 2*ms)
		w.step(4 * time.Second)
		return w
	}
	gone := func(w *exactWorld) freezeframe.Instant {
		began := w.now.Add(50 * ms)
		w.absent(bpf.ToldInFlight, began, 0)
		w.step(50 * ms)
		return began
	}
	last := func(w *exactWorld) (r report) {
		for i := range w.reports {
			if w.reports[i].kind == reportListen {
				r = w.reports[i]
			}
		}
		return r
	}
	t.Run("while it lasts and after", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		n := w.refusing(began, 0, 300*ms)
		if q := w.best(reportListen); q < 0.9 {
			t.Fatalf("while clients are refused: quality %v, want 0.9", q)
		}
		if !w.focus.Stalled(w.now) {
			t.Error("it is not suspected")
		}
		w.step(time.Second)
		if r := last(w); r.done != 0 || r.began != began || r.pid != 4321 {
			t.Errorf("1 s after the last refusal: %+v", r)
		}
		w.absent(bpf.ToldDone, began, n)
		w.step(50 * ms)
		if r := last(w); r.done != w.now || r.began != began || r.quality < 0.9 {
			t.Errorf("when somebody listens again: %+v", r)
		}
		w.reports = nil
		w.step(2 * time.Second)
		if len(w.reports) > 0 {
			t.Errorf("after it: %+v", w.reports)
		}
	})
	t.Run("nobody asks", func(t *testing.T) {
		w := serving(t)
		gone(w)
		w.step(3 * time.Second)
		if len(w.reports) > 0 {
			t.Errorf("%+v", w.reports)
		}
	})
	t.Run("the clients give up", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		w.refusing(began, 0, 400*ms)
		asked := w.now
		w.step(5 * time.Second)
		if r := last(w); r.done != asked {
			t.Errorf("it ended at %v, want %v, the last refusal", r.done, asked)
		}
		count := len(w.reports)
		w.step(5 * time.Second)
		if len(w.reports) != count {
			t.Errorf("it is told of for ever: %+v", last(w))
		}
	})
	t.Run("only one was refused", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		w.step(300 * ms)
		w.absent(bpf.ToldRefused, began, 1)
		w.step(time.Second)
		if q := w.best(reportListen); q >= 0.5 {
			t.Errorf("quality %v", q)
		}
	})
	t.Run("a restart that takes no time", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		w.refusing(began, 0, 50*ms)
		w.absent(bpf.ToldDone, began, 1)
		w.step(3 * time.Second)
		if q := w.best(reportListen); q >= 0.5 {
			t.Errorf("quality %v", q)
		}
	})
	t.Run("stopped for good, and a check of its health goes on", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		w.refusing(began, 0, 62*time.Second)
		w.reports = nil
		w.refusing(began, 5000, time.Second)
		if len(w.reports) > 0 {
			t.Errorf("%+v", w.reports)
		}
	})
	t.Run("asked again much later", func(t *testing.T) {
		w := serving(t)
		began := gone(w)
		n := w.refusing(began, 0, 100*ms)
		w.step(5 * time.Second)
		w.reports = nil
		from := w.now
		w.refusing(began, n, 300*ms)
		if r := last(w); r.began <= from || r.quality < 0.9 {
			t.Errorf("it is told to be late since %v, want since %v, when it was asked again: %+v", r.began, from, r)
		}
	})
	t.Run("one that had hardly answered", func(t *testing.T) {
		w := newExactWorld(t)
		w.quick(3, 2*ms)
		w.step(2 * time.Second)
		w.refusing(gone(w), 0, 500*ms)
		if len(w.reports) > 0 {
			t.Errorf("%+v", w.reports)
		}
	})
	t.Run("one that comes and goes", func(t *testing.T) {
		w := newExactWorld(t)
		w.second["far"] = 1 // it is not there yet
		w.step(5 * time.Second)
		w.second["far"] = 0
		w.quick(40, 2*ms)
		w.step(1500 * ms)
		w.refusing(gone(w), 0, 500*ms)
		if len(w.reports) > 0 {
			t.Errorf("%+v", w.reports)
		}
	})
	t.Run("one that was there when we came", func(t *testing.T) {
		w := newExactWorld(t)
		w.quick(40, 2*ms)
		w.step(1500 * ms)
		w.refusing(gone(w), 0, 500*ms)
		if q := w.best(reportListen); q < 0.9 {
			t.Errorf("quality %v, want 0.9", q)
		}
	})
}
