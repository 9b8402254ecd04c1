package probes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

// waited has a thread told to have waited.
func (w *exactWorld) waited(tid int, kind uint64, state byte, began, ended freezeframe.Instant) {
	src, t := table(waitColumns, map[freezeframe.Key]map[string]uint64{
		freezeframe.TaskKey(tid, 77): {"kind": kind, "state": uint64(state), "began_ns": uint64(began), "ended_ns": uint64(ended)},
	}, w.now.Add(time.Millisecond))
	src.Name = "waits"
	w.p.Observe(src, t)
	w.step(50 * time.Millisecond)
}

// One request that took 800 ms beside others that were answered: whether it
// counts depends on what its thread waited in.
func TestHeldUp(t *testing.T) {
	const tid = 4330 // as in wait
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range []struct {
		name  string
		tid   int
		kind  uint64
		state byte
		waits [][2]int // in the request, ms
		want  bool
	}{
		{"a journal's commit", tid, kindSlept, 'D', [][2]int{{50, 700}}, true},
		{"three writes", tid, kindSlept, 'D', [][2]int{{50, 200}, {250, 400}, {450, 620}}, true},
		{"in line for a CPU", tid, kindQueued, 'R', [][2]int{{0, 300}, {310, 500}}, true},
		{"asleep by itself", tid, kindSlept, 'S', [][2]int{{1, 799}}, false},
		{"another thread", tid + 1, kindSlept, 'D', [][2]int{{50, 700}}, false},
		{"before and after", tid, kindSlept, 'D', [][2]int{{-2000, 100}, {700, 3000}}, false},
		{"short reads", tid, kindSlept, 'D', [][2]int{{0, 40}, {50, 95}, {100, 145}, {150, 195}, {200, 245}, {250, 295}, {300, 345}, {350, 395}, {400, 445}, {450, 495}, {500, 545}}, false},
		{"a third of it", tid, kindSlept, 'D', [][2]int{{50, 320}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newExactWorld(t)
			w.quick(40, ms(2))
			w.step(4 * time.Second)
			began := w.now.Add(-ms(805))
			for _, span := range c.waits {
				w.waited(c.tid, c.kind, c.state, began.Add(ms(span[0])), began.Add(ms(span[1])))
			}
			w.end(w.wait(5, waitAnswer, began, map[string]uint64{"answered_at": uint64(began.Add(ms(790)))}), bpf.ToldDone, began.Add(ms(800)))
			w.step(ms(50))
			if q := w.best(waitAnswer); q >= 0.5 {
				t.Fatalf("before its waits were told: quality %v", q)
			}
			w.waited(9, kindSlept, 'D', w.now.Add(-ms(60)), w.now)
			if q := w.best(waitAnswer); (q >= 0.5) != c.want {
				t.Errorf("quality %v, counts: %v, want %v", q, q >= 0.5, c.want)
			}
			if last := w.reports[len(w.reports)-1]; c.want && (!last.sure || last.tid != tid) {
				t.Errorf("the thread is not named: %+v", last)
			}
		})
	}
}

func TestHeldAllocatesNothing(t *testing.T) {
	w := newExactWorld(t)
	rows := map[freezeframe.Key]map[string]uint64{}
	for i := range 500 {
		rows[freezeframe.TaskKey(i+1, 1)] = map[string]uint64{"kind": kindSlept, "state": 'D', "began_ns": uint64(w.now), "ended_ns": uint64(w.now.Add(time.Second))}
	}
	src, table := table(waitColumns, rows, w.now.Add(time.Minute))
	src.Name = "waits"
	w.p.Observe(src, table)
	if n := testing.AllocsPerRun(100, func() {
		for range 100 {
			w.p.held.ask(report{kind: waitAnswer, tid: 7, began: w.now, done: w.now.Add(time.Second)})
		}
		w.p.Observe(src, table)
		for len(w.p.out) > 0 {
			<-w.p.out
		}
	}); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
}

// A thread that stands in one uninterruptible sleep: vfork's parent does while
// its child has neither ended nor become another program.
func TestStandingInOneSleep(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "v.c")
	if err := os.WriteFile(source, []byte("#include <unistd.h>\nint main(void){if(!vfork()){sleep(20);_exit(0);}return 0;}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "v")
	if out, err := exec.Command("cc", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	c := exec.Command(program)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		children, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.Process.Pid), "task", strconv.Itoa(c.Process.Pid), "children"))
		_ = c.Process.Kill()
		if pid, err := strconv.Atoi(strings.TrimSpace(string(children))); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		_ = c.Wait()
	}()
	pid := uint64(c.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, ok := uninterruptible(pid, pid); ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the parent is not in uninterruptible sleep")
		}
	}
	var s standing
	at := func(age time.Duration) report {
		return report{kind: waitAnswer, quality: lonely, pid: pid, tid: pid, began: 1, seen: freezeframe.Instant(1).Add(age)}
	}
	for _, c := range []struct {
		age  time.Duration
		want bool
	}{{120 * time.Millisecond, false}, {210 * time.Millisecond, false}, {300 * time.Millisecond, true}} {
		r := at(c.age)
		s.look(&r)
		if (r.quality >= 0.5) != c.want {
			t.Errorf("at %s: quality %v, want it to count: %v", c.age, r.quality, c.want)
		}
	}
	own := at(time.Second)
	own.pid, own.tid = uint64(os.Getpid()), uint64(os.Getpid())
	for range 3 {
		if s.look(&own); own.quality >= 0.5 {
			t.Error("a thread that sleeps by itself counts")
		}
		own.seen = own.seen.Add(time.Second)
	}
}
