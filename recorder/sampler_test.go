package recorder

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// fake is a collector whose readings a test makes.
type fake struct {
	src     freezeframe.Source
	open    func() error
	collect func(n int, t *freezeframe.Table) error
	opens   atomic.Int64
	closes  atomic.Int64
	n       atomic.Int64
}

func (f *fake) Source() freezeframe.Source { return f.src }

func (f *fake) Open(h freezeframe.Host) error {
	f.opens.Add(1)
	if h.Texts == nil {
		return errors.New("opened without a dictionary")
	}
	if f.open != nil {
		return f.open()
	}
	return nil
}

func (f *fake) Collect(t *freezeframe.Table) error {
	n := f.n.Add(1)
	if f.collect != nil {
		return f.collect(int(n), t)
	}
	t.Row(0, len(f.src.Columns))
	return nil
}

func (f *fake) Close() error { f.closes.Add(1); return nil }

func fakeSource(name string, lane freezeframe.Lane, every, stalled time.Duration) *fake {
	src := testSource(name, "", lane, freezeframe.Counter)
	src.Every, src.Stalled = every, stalled
	return &fake{src: src}
}

func start(t *testing.T, r *Ring, focus *freezeframe.Focus, cs []freezeframe.Collector, obs ...Observer) *Sampler {
	t.Helper()
	s := NewSampler(r, freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: r.Texts(), Focus: focus}, cs, obs...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// eventually waits for a condition that does come, however slow the machine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func missed(t *testing.T, r *Ring) []freezeframe.Event {
	var out []freezeframe.Event
	for _, e := range pinAll(t, r).Events {
		if e.Kind == freezeframe.EventMissed {
			out = append(out, e)
		}
	}
	return out
}

type watcher struct {
	name string
	n    atomic.Int64
	rows atomic.Int64
}

func (w *watcher) Observes() []string { return []string{w.name} }
func (w *watcher) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	w.n.Add(1)
	w.rows.Add(int64(len(t.Keys)))
}

func TestSamplerReadsOnTheGrid(t *testing.T) {
	r := testRing(MinBytes)
	var cs []freezeframe.Collector
	for lane := range freezeframe.Lanes {
		cs = append(cs, fakeSource(lane.String(), lane, Tick, 0), fakeSource(lane.String()+" rare", lane, 4*Tick, 0))
	}
	w := &watcher{name: "tasks"}
	s := start(t, r, nil, cs, w)
	eventually(t, "ten readings", func() bool { return w.n.Load() > 10 })
	s.Stop()
	rec := pinAll(t, r)
	for lane := range freezeframe.Lanes {
		tables := rec.Series(lane.String(), freezeframe.Span{End: 1 << 62}).Tables
		if len(tables) == 0 {
			t.Fatalf("nothing of the %s lane", lane)
		}
		for i, table := range tables {
			if table.Due%freezeframe.Instant(Tick) != 0 || table.At < table.Due {
				t.Errorf("%s: due %d, read %d", lane, table.Due, table.At)
			}
			if i > 0 && table.Due <= tables[i-1].Due {
				t.Errorf("%s: due %d after %d", lane, table.Due, tables[i-1].Due)
			}
		}
		rare := rec.Series(lane.String()+" rare", freezeframe.Span{End: 1 << 62}).Tables
		if len(rare) == 0 || len(rare) > len(tables)/4+2 {
			t.Errorf("%s: %d rare readings beside %d", lane, len(rare), len(tables))
		}
	}
	if w.rows.Load() != w.n.Load() {
		t.Error("the observer did not see the rows")
	}
	for _, c := range cs {
		if c.(*fake).closes.Load() != 1 {
			t.Errorf("%s was closed %d times", c.Source().Name, c.(*fake).closes.Load())
		}
	}
	st := s.Stats()
	if st.Readings == 0 || st.CPU == 0 {
		t.Errorf("stats: %+v", st)
	}
	if err := s.Start(); err == nil {
		t.Error("started twice")
	}
}

func TestSamplerHurriesWhileStalled(t *testing.T) {
	r := testRing(MinBytes)
	focus := new(freezeframe.Focus)
	rare := fakeSource("rare", freezeframe.Slow, time.Hour, Tick)
	never := fakeSource("never", freezeframe.Tasks, time.Hour, 0)
	start(t, r, focus, []freezeframe.Collector{rare, never})
	before := rare.n.Load()
	focus.Suspect(kernel.Now().Add(time.Hour))
	eventually(t, "the slow lane, asleep for an hour, reads at the full rate", func() bool { return rare.n.Load() > before+5 })
	if never.n.Load() > 1 {
		t.Error("a source without a rate for stalls was read more often too")
	}
	// Being read earlier than it was due does not count as late.
	for _, table := range pinAll(t, r).Series("rare", freezeframe.Span{End: 1 << 62}).Tables {
		if late := table.At.Sub(table.Due); late > time.Minute {
			t.Errorf("a reading claims to be %s late", late)
		}
	}
}

// A collector that hangs in the kernel holds up its own lane, and nothing
// else: not the other lanes, not the garbage collector; and it is told apart
// while it hangs.
// resting is a collector that has nothing to read after its first reading.
type resting struct {
	*fake
	dues []freezeframe.Instant
}

func (r *resting) Rest() time.Duration {
	if len(r.dues) == 2 {
		return 0
	}
	return 8 * Tick
}

// A collector that rests is read at the next moment of its longer period, the
// same for all that rest so long, and again at its own when it has rested.
func TestSamplerLetsRest(t *testing.T) {
	r := &resting{fake: fakeSource("resting", freezeframe.Tasks, Tick, 0)}
	r.collect = func(n int, table *freezeframe.Table) error {
		if len(r.dues) < 4 {
			r.dues = append(r.dues, table.Due)
		}
		return nil
	}
	start(t, NewRing(1<<20), &freezeframe.Focus{}, []freezeframe.Collector{r})
	eventually(t, "four readings", func() bool { return r.n.Load() > 4 })
	// A late reading leaves ticks out, so that more may have passed, not fewer.
	for i, period := range []time.Duration{8 * Tick, Tick, 8 * Tick} {
		if due := r.dues[i+1]; due <= r.dues[i] || time.Duration(due)%period != 0 {
			t.Errorf("reading %d was due at %v, want a multiple of %v after %v", i+1, due, period, r.dues[i])
		}
	}
}

// One that rests is read at once when something is suspected.
func TestSamplerHurriesWhoRests(t *testing.T) {
	r := &idle{fakeSource("idle", freezeframe.Tasks, Tick, 0)}
	focus := &freezeframe.Focus{}
	s := start(t, NewRing(1<<20), focus, []freezeframe.Collector{r})
	eventually(t, "a reading, and then calm", func() bool { return r.n.Load() > 0 && s.calm.Load() })
	before := r.n.Load()
	focus.Suspect(kernel.Now().Add(time.Hour))
	eventually(t, "one more, an hour early", func() bool { return r.n.Load() > before })
}

// idle is a collector that has nothing to read for an hour.
type idle struct{ *fake }

func (*idle) Rest() time.Duration { return time.Hour }

// Whoever suspects something wakes the fast lane, which wakes the others: once,
// and not again while they are awake.
func TestSuspicionWakesTheFastLane(t *testing.T) {
	focus := &freezeframe.Focus{}
	s := NewSampler(NewRing(1<<20), freezeframe.Host{Focus: focus}, nil)
	word := &s.lanes[freezeframe.Fast].word
	s.calm.Store(true) // as the lane leaves it
	for i, want := range []uint32{1, 1, 1} {
		if i == 2 {
			focus.Suspect(1) // shorter than what is suspected already
		} else {
			focus.Suspect(freezeframe.Instant(i+2) * 1e9)
		}
		if got := word.Load(); got != want {
			t.Fatalf("after %d suspicions it was woken %d times, want %d", i+1, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		s.calm.Store(true)
		focus.Suspect(kernel.Now().Add(time.Hour))
	}); n != 0 {
		t.Errorf("a suspicion allocates %v times", n)
	}
}

func TestHungCollector(t *testing.T) {
	for _, lane := range []freezeframe.Lane{freezeframe.Tasks, freezeframe.Slow} {
		t.Run(lane.String(), func(t *testing.T) {
			r := testRing(MinBytes)
			pipe, err := newPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer pipe.close()
			hung := fakeSource("hung", lane, Tick, 0)
			hung.collect = func(n int, table *freezeframe.Table) error {
				table.Row(0, 1)[0] = uint64(n)
				if n == 3 {
					return pipe.wait()
				}
				return nil
			}
			fast := fakeSource("fast", freezeframe.Fast, Tick, 0)
			start(t, r, nil, []freezeframe.Collector{hung, fast})
			eventually(t, "the collector hangs", func() bool { return hung.n.Load() == 3 })
			for range 5 {
				runtime.GC() // returns only when the world could be stopped
			}
			before := fast.n.Load()
			eventually(t, "the fast lane goes on", func() bool { return fast.n.Load() > before+5 })

			var found freezeframe.Event
			eventually(t, "the hung lane is noticed", func() bool {
				for _, e := range missed(t, r) {
					if e.Attr("source") == "hung" {
						found = e
						return true
					}
				}
				return false
			})
			if found.Attr("lane") != lane.String() || found.End != 0 || found.At == 0 || !strings.Contains(found.Text, "has been reading hung for") {
				t.Errorf("event %+v", found)
			}
			if wchan, stack := found.Attr("wchan"), found.Attr("stack"); !strings.Contains(wchan+stack, "pipe_read") {
				t.Errorf("it waits in wchan %q, stack %q; want pipe_read", wchan, stack)
			}
			if found.Attr("syscall") != fmt.Sprint(syscall.SYS_READ) {
				t.Errorf("system call %q", found.Attr("syscall"))
			}
			// What the lane had read before is there while it hangs.
			if got := pinAll(t, r).Series("hung", freezeframe.Span{End: 1 << 62}).Tables; len(got) != 2 {
				t.Errorf("%d readings from before it hung", len(got))
			}

			pipe.release()
			eventually(t, "the lane comes back", func() bool { return hung.n.Load() > 5 })
			eventually(t, "its lateness is recorded", func() bool {
				return slices.ContainsFunc(missed(t, r), func(e freezeframe.Event) bool {
					return e.Attr("source") == "hung" && e.End.Sub(e.At) > stuckAfter && strings.Contains(e.Attr("wchan")+e.Attr("stack"), "pipe_read")
				})
			})
		})
	}
}

// The events of a lane that is late again and again are bounded.
func TestLateTicksAreCountedNotHidden(t *testing.T) {
	r := testRing(MinBytes)
	slow := fakeSource("slow", freezeframe.Slow, Tick, 0)
	slow.collect = func(n int, table *freezeframe.Table) error {
		time.Sleep(3 * Tick)
		table.Row(0, 1)
		return nil
	}
	s := start(t, r, nil, []freezeframe.Collector{slow})
	eventually(t, "five readings", func() bool { return slow.n.Load() >= 5 })
	s.Stop()
	if st := s.Stats(); st.LateReadings < 4 || st.WorstLate < Tick {
		t.Errorf("stats: %+v", st)
	}
	events := missed(t, r)
	if len(events) < 2 {
		t.Fatalf("%d events for a lane that is always late", len(events))
	}
	for _, e := range events {
		if e.End == 0 {
			continue
		}
		if e.End.Sub(e.At) <= Tick || e.Attr("source") != "slow" || e.Attr("late_us") == "" {
			t.Errorf("event %+v", e)
		}
	}
}

func TestFailingCollectors(t *testing.T) {
	r := testRing(MinBytes)
	failing := fakeSource("failing", freezeframe.Fast, Tick, 0)
	failing.collect = func(n int, table *freezeframe.Table) error { return errors.New("read /proc/x: input/output error") }
	absent := fakeSource("absent", freezeframe.Fast, Tick, 0)
	absent.open = func() error { return fmt.Errorf("/proc/pressure: %w", freezeframe.ErrNotHere) }
	defect := fakeSource("defect", freezeframe.Fast, Tick, 0)
	defect.collect = func(n int, table *freezeframe.Table) error { panic("index out of range") }
	flaky := fakeSource("flaky", freezeframe.Fast, Tick, 0)
	flaky.collect = func(n int, table *freezeframe.Table) error {
		if n == 2 {
			return errors.New("once")
		}
		table.Row(0, 1)
		return nil
	}
	good := fakeSource("good", freezeframe.Fast, Tick, 0)
	s := start(t, r, nil, []freezeframe.Collector{failing, absent, defect, flaky, good})
	eventually(t, "the good and the flaky one go on", func() bool { return good.n.Load() > 20 && flaky.n.Load() > 5 })
	if n := failing.n.Load(); n > good.n.Load()/2 {
		t.Errorf("a failing source was read %d times, a good one %d times: it is not put off", n, good.n.Load())
	}
	if absent.n.Load() != 0 || absent.opens.Load() != 1 {
		t.Errorf("a source that is not here was opened %d times and read %d times", absent.opens.Load(), absent.n.Load())
	}
	for name, want := range map[string]string{"failing": "input/output error", "absent": "not on this machine", "defect": "index out of range", "flaky": "once"} {
		n := 0
		for _, need := range s.Missing() {
			if strings.Contains(need.What, name) {
				n++
				if !strings.Contains(need.Err, want) {
					t.Errorf("%s: %+v", name, need)
				}
			}
		}
		if n != 1 {
			t.Errorf("%s stands %d times under missing", name, n)
		}
	}
	if tables := pinAll(t, r).Series("failing", freezeframe.Span{End: 1 << 62}).Tables; len(tables) != 0 {
		t.Errorf("%d readings that failed are in the ring", len(tables))
	}
}

func TestSelfIsFilledIn(t *testing.T) {
	r := testRing(MinBytes)
	src := fakeSource("self", freezeframe.Fast, Tick, 0)
	src.src.Columns = []freezeframe.Column{{Name: "late_readings"}, {Name: "readings"}}
	start(t, r, nil, []freezeframe.Collector{src})
	eventually(t, "five readings", func() bool { return src.n.Load() > 5 })
	s := pinAll(t, r).Series("self", freezeframe.Span{End: 1 << 62})
	if v, ok := s.Last(0, "readings"); !ok || v < 4 {
		t.Errorf("readings: %d", v)
	}
}

// The sampling path neither allocates nor leaves garbage: reading, storing and
// observing together.
func TestReadingDoesNotAllocate(t *testing.T) {
	r := testRing(MinBytes)
	c := fakeSource("s", freezeframe.Fast, time.Hour, 0)
	c.collect = func(n int, table *freezeframe.Table) error {
		for i := range 50 {
			table.Row(freezeframe.Key(i), 1)[0] = uint64(n * i)
		}
		return nil
	}
	s := NewSampler(r, freezeframe.Host{}, []freezeframe.Collector{c}, &watcher{name: "s"})
	l := &s.lanes[freezeframe.Fast]
	l.openReader(l.readers[0], 1)
	if allocs := testing.AllocsPerRun(1000, func() {
		l.readers[0].due = 1
		l.tick(2)
	}); allocs != 0 {
		t.Errorf("%v allocations a tick", allocs)
	}
	if c.n.Load() < 1000 {
		t.Error("it was not read")
	}
}

func TestFrames(t *testing.T) {
	got := frames("[<0>] pipe_read+0x1b/0x2c0\n[<0>] vfs_read+0x2/0x3\n[<0>] 0xffffffff\n\n")
	if got != "pipe_read<-vfs_read<-0xffffffff" {
		t.Errorf("got %q", got)
	}
	if got := frames(strings.Repeat("[<0>] f+0x1/0x2\n", 100)); strings.Count(got, "f") != 12 {
		t.Errorf("%d frames", strings.Count(got, "f"))
	}
	if w := look(os.Getpid()); w.syscall == "" {
		t.Log("this kernel does not show /proc/self/syscall") // no CONFIG_HAVE_ARCH_TRACEHOOK
	}
}

// blocker is a pipe on which a thread can hang in the kernel.
type blocker struct{ r, w int }

func newPipe() (*blocker, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	return &blocker{fds[0], fds[1]}, nil
}

// wait blocks the thread in read(2), as a collector of a source that may hang
// does: by a system call that the scheduler knows of.
func (b *blocker) wait() error {
	var buf [1]byte
	for {
		_, err := syscall.Read(b.r, buf[:])
		if err != syscall.EINTR {
			return err
		}
	}
}

func (b *blocker) release() { syscall.Write(b.w, []byte{1}) }

func (b *blocker) close() { b.release(); syscall.Close(b.w); syscall.Close(b.r) }
