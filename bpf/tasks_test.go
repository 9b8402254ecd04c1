package bpf

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seen collects what a pass tells.
type seen struct {
	tasks     map[uint32]Task
	processes map[uint32]Process
	places    map[uint32]Place
	lives     map[int32]bool
	cpu       int
	ahead     int64
}

func newSeen() *seen {
	return &seen{tasks: map[uint32]Task{}, processes: map[uint32]Process{}, places: map[uint32]Place{}, lives: map[int32]bool{}}
}

func (s *seen) Clock(cpu int, ahead int64) { s.cpu, s.ahead = cpu, ahead }
func (s *seen) Process(p *Process)         { s.processes[p.TGID] = *p }
func (s *seen) Task(t *Task)               { s.tasks[t.TID] = *t }
func (s *seen) Place(p *Place)             { s.places[p.TID] = *p }
func (s *seen) Lives(tid int32)            { s.lives[tid] = true }

func pass(t *testing.T, ts *Tasks, flags uint32) *seen {
	t.Helper()
	s := newSeen()
	if err := ts.Pass(flags, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func sleeper(t *testing.T) uint32 {
	t.Helper()
	c := exec.Command("sleep", "300")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return uint32(c.Process.Pid)
}

// TestTasksTellNews: a pass tells of who ran since the one before, and that
// the others live; a wide one looks back to the last wide one.
func TestTasksTellNews(t *testing.T) {
	ts := load(t).Tasks
	pid := sleeper(t)
	in, cat := catOn(t)
	deadline := time.Now().Add(10 * time.Second)
	for asleep := false; !asleep; time.Sleep(20 * time.Millisecond) {
		s := pass(t, ts, TasksFull|TasksWide)
		asleep = s.tasks[pid].State == 'S' && s.tasks[cat].State == 'S'
		if time.Now().After(deadline) {
			t.Fatalf("never asleep: %c, %c", s.tasks[pid].State, s.tasks[cat].State)
		}
	}
	pass(t, ts, TasksWide|TasksAlive)
	s := pass(t, ts, TasksAlive)
	for _, p := range []uint32{pid, cat} {
		if _, told := s.tasks[p]; told || !s.lives[int32(p)] {
			t.Errorf("%d slept: told %v, lives %v", p, told, s.lives[int32(p)])
		}
	}
	before := s
	if _, err := in.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s = pass(t, ts, TasksAlive)
		if th, told := s.tasks[cat]; told && th.State == 'S' {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("cat was written to, and is not told of")
		}
	}
	if _, told := pass(t, ts, 0).tasks[cat]; told {
		t.Error("told twice")
	}
	s = pass(t, ts, TasksWide)
	if _, told := s.tasks[cat]; !told {
		t.Error("not told since the last wide pass")
	}
	if s.processes[cat].TGID != cat || len(before.processes) != 0 {
		t.Error("a wide pass tells of processes, another does not")
	}
	if s.processes[cat].PPID != uint32(os.Getpid()) || s.tasks[cat].CommBytes != [16]byte{'c', 'a', 't'} {
		t.Errorf("%+v %+v", s.processes[cat], s.tasks[cat])
	}
	// Watched, it is told of in every pass, and where it sleeps at first.
	ts.Watch([]int32{int32(cat)}, []int32{int32(cat)})
	s = pass(t, ts, 0)
	if p, ok := s.places[cat]; !ok || p.Syscall != unix.SYS_READ || p.First != 0 || !IsPipe(p.Mode) || len(p.Stack()) < 4 {
		t.Errorf("place of cat: %v %+v", ok, p)
	}
	ts.Watch([]int32{int32(cat)}, nil)
	s = pass(t, ts, 0)
	if _, told := s.tasks[cat]; told || !s.lives[int32(cat)] {
		t.Errorf("watched and asleep: told %v, lives %v", told, s.lives[int32(cat)])
	}
	// Stuck, it is told of whether watched or not.
	ts.Watch(nil, nil)
	if err := unix.Kill(int(cat), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); pass(t, ts, 0).tasks[cat].State != 'T'; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was stopped, and is not told of")
		}
	}
	// It may be told as news for a few passes yet: that it ran is told with a margin.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s = pass(t, ts, 0)
		if s.lives[int32(cat)] {
			break
		}
		if _, told := s.tasks[cat]; !told {
			t.Fatal("stopped, it is told of once only")
		}
		if time.Now().After(deadline) {
			t.Fatal("stopped, it is told as news for ever")
		}
	}
	_ = unix.Kill(int(cat), unix.SIGCONT)
}

func catOn(t *testing.T) (*os.File, uint32) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("cat")
	c.Stdin = r
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	t.Cleanup(func() { _ = w.Close(); _ = c.Process.Kill(); _ = c.Wait() })
	return w, uint32(c.Process.Pid)
}

// TestTasksOwn: our own threads are told of when asked for.
func TestTasksOwn(t *testing.T) {
	ts := load(t).Tasks
	own := uint32(os.Getpid())
	pass(t, ts, TasksWide)
	for _, th := range pass(t, ts, 0).tasks {
		if th.TGID == own {
			t.Errorf("told of our own thread %d", th.TID)
		}
	}
	told := false
	for _, th := range pass(t, ts, TasksOwn).tasks {
		told = told || th.TGID == own
	}
	if !told {
		t.Error("our own threads are not told of, although asked for")
	}
}

// TestRunQueuesFollowOneClock: what is found out on one CPU holds for others.
func TestRunQueuesFollowOneClock(t *testing.T) {
	ts := load(t).Tasks
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	var ahead []int64
	for cpu := range 1024 {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		least := int64(1 << 62)
		for range 20 {
			s := pass(t, ts, 0)
			if s.cpu != cpu {
				t.Fatalf("on CPU %d, told of %d", cpu, s.cpu)
			}
			least = min(least, s.ahead)
		}
		ahead = append(ahead, least)
	}
	if d := slices.Max(ahead) - slices.Min(ahead); d > int64(time.Millisecond) {
		t.Errorf("the clocks of the run queues differ by %v: %v", time.Duration(d), ahead)
	}
}

// TestTasksShed: taken out, it says so and does not read.
func TestTasksShed(t *testing.T) {
	p := load(t)
	p.Shed("tasks", "a test")
	if err := p.Tasks.Pass(0, newSeen()); err != ErrTasksShed {
		t.Errorf("%v, want %v", err, ErrTasksShed)
	}
}

func TestTasksAllocateNothing(t *testing.T) {
	ts := load(t).Tasks
	if n := testing.AllocsPerRun(20, func() {
		if err := ts.Pass(TasksFull|TasksWide|TasksPlaces|TasksPlacesAll, nobody{}); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a pass", n)
	}
}

// TestVisitCutRecords: what the kernel gives is cut anywhere.
func TestVisitCutRecords(t *testing.T) {
	var all []byte
	record := func(kind, id uint32, size int) {
		b := make([]byte, size)
		binary.NativeEndian.PutUint32(b, kind)
		binary.NativeEndian.PutUint32(b[4:], id)
		all = append(all, b...)
	}
	record(tasksHead, 1, 16)
	record(tasksProcess, 7, int(unsafe.Sizeof(Process{})))
	record(tasksTask, 7, int(unsafe.Sizeof(Task{})))
	record(tasksPlace, 7, int(unsafe.Sizeof(Place{})))
	record(tasksLives, 8, 8)
	for cut := range all {
		s := newSeen()
		s.cpu = -1
		used, ok := visit(all[:cut], s)
		rest, ok2 := visit(slices.Clone(all[used:]), s)
		if !ok || !ok2 || used > cut || used+rest != len(all) || s.cpu != 1 || len(s.tasks) != 1 || len(s.processes) != 1 || len(s.places) != 1 || !s.lives[8] {
			t.Fatalf("cut at %d: %v %v, %d and %d of %d, %+v", cut, ok, ok2, used, rest, len(all), s)
		}
	}
	if _, ok := visit(bytes.Repeat([]byte{9}, 64), nobody{}); ok {
		t.Error("a record of no kind was taken")
	}
}

func BenchmarkTasks(b *testing.B) {
	p := Load(Options{Without: slices.DeleteFunc(Names(), func(n string) bool { return n == "tasks" })})
	defer p.Close()
	if p.Tasks == nil {
		b.Skip(p.Needs())
	}
	for _, x := range []struct {
		name  string
		flags uint32
	}{{"full", TasksFull | TasksWide}, {"places", TasksFull | TasksWide | TasksPlaces | TasksPlacesAll}, {"wide", TasksWide | TasksAlive}, {"news", 0}} {
		b.Run(x.name, func(b *testing.B) {
			s := newSeen()
			_ = p.Tasks.Pass(TasksFull, s)
			for b.Loop() {
				_ = p.Tasks.Pass(x.flags, nobody{})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(s.tasks)), "ns/thread")
		})
	}
}
