package collectors

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

// crowded is a machine of very many processes, as the iterator tells of them.
type crowded struct {
	now     freezeframe.Instant
	tasks   []bpf.Task
	shared  []bpf.Process
	ran     map[int]bool // since the pass before
	watched []int32
}

const firstOfCrowd = 1 << 20 // its pids are nobody's

// newCrowded has n processes that have slept for half of the time that the machine
// is up.
func newCrowded(n int, now freezeframe.Instant) *crowded {
	m := &crowded{now: now, ran: map[int]bool{}}
	for i := range n {
		pid := uint32(firstOfCrowd + i)
		began := uint64(now / 2)
		r := bpf.Task{TID: pid, TGID: pid, StartBoottime: began, Run: 5e6, Timeslices: 3, State: 'S', Arrived: began, Left: began + 5e6}
		copy(r.CommBytes[:], "sleeper")
		m.tasks = append(m.tasks, r)
		m.shared = append(m.shared, bpf.Process{TGID: pid, PPID: 1, StartBoottime: began, Threads: 1, RSSPages: 100, FilesMax: 1024})
	}
	return m
}

// run gives a process some of a CPU.
func (m *crowded) run(i int) {
	t := &m.tasks[i]
	t.Run += 20e6
	t.Timeslices++
	t.Arrived, t.Left = uint64(m.now)-30e6, uint64(m.now)-10e6
	m.ran[i] = true
}

func (m *crowded) Watch(pids, _ []int32) { m.watched = append(m.watched[:0], pids...) }

func (m *crowded) Pass(flags uint32, v bpf.TasksVisitor) error {
	v.Clock(0, 0)
	for i := range m.tasks {
		t := &m.tasks[i]
		marked := t.State != 'S'
		for _, pid := range m.watched {
			marked = marked || uint32(pid) == t.TGID
		}
		switch {
		case flags&bpf.TasksFull != 0 || m.ran[i] || marked && flags&bpf.TasksWide != 0:
			if flags&bpf.TasksWide != 0 || marked {
				v.Process(&m.shared[i])
			}
			v.Task(t)
		case flags&bpf.TasksAlive != 0 || marked:
			v.Lives(int32(t.TID))
		}
	}
	if flags&bpf.TasksWide != 0 {
		clear(m.ran)
	}
	return nil
}

// amongMany opens procs among so many processes.
func amongMany(t *testing.T, n int) (*procs, *crowded, func() *freezeframe.Table) {
	t.Helper()
	c := newCensus()
	p := &procs{census: c}
	if err := p.Open(hostAt("testdata/processes")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, p) })
	m := newCrowded(n, kernel.Now())
	c.walk, c.patience = newWalk(c, m), 40*time.Second
	var table freezeframe.Table
	return p, m, func() *freezeframe.Table {
		t.Helper()
		m.now = m.now.Add(time.Second)
		table.Reset()
		table.At = m.now
		if err := p.Collect(&table); err != nil {
			t.Fatal(err)
		}
		return &table
	}
}

// Whatever is beyond some thousands of processes takes no memory and no row, and
// is told; who does anything is there.
func TestVeryManyProcesses(t *testing.T) {
	taken := map[int]int{}
	for _, n := range []int{1000, 5000, 20000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p, m, read := amongMany(t, n)
			c := p.census
			m.shared[n-2].RSSPages = large / c.page // large
			m.tasks[n-3].State = 'D'                // stuck
			m.shared[n-4].Threads = 2               // of several threads
			table := read()
			rows := func(i int) map[string]uint64 { return byName(t, p, table, firstOfCrowd+i) }
			for what, i := range map[string]int{"large": n - 2, "stuck": n - 3, "of several threads": n - 4} {
				if rows(i) == nil {
					t.Errorf("one that is %s has no row", what)
				}
			}
			if n <= mostKept {
				if len(table.Keys) < n || p.Missing() != nil {
					t.Errorf("%d rows of %d, missing %v", len(table.Keys), n, p.Missing())
				}
			} else {
				if rows(n-1) != nil || len(table.Keys) > mostKept+100 {
					t.Errorf("%d rows of %d", len(table.Keys), n)
				}
				if c.left < n-mostKept-100 || len(p.Missing()) != 1 {
					t.Errorf("%d left out, missing %v", c.left, p.Missing())
				}
			}
			m.run(n - 1)
			before := c.left
			if table = read(); before > 0 && c.left != before-1 || rows(n-1) == nil || rows(n - 1)["utime_us"]+rows(n - 1)["stime_us"] < 20e3 {
				t.Errorf("one that ran: %v; %d left out of %d", rows(n-1), c.left, before)
			}
			if began := freezeframe.Instant(rows(n - 1)["started_ns"]); began == 0 || m.now.Sub(began) < time.Duration(m.now/3) {
				t.Errorf("it began %v ago", m.now.Sub(began))
			}
			left := c.left
			for range 31 { // and is there when all are told of again
				table = read()
			}
			if rows(n-1) == nil || c.left < left || c.left > left+10 {
				t.Errorf("%d left out, %d before", c.left, left)
			}
			m.watched = nil
			c.host.Focus.Watch([]int32{firstOfCrowd + int32(n) - 5})
			if table = read(); rows(n-5) == nil {
				t.Error("one that is watched has no row")
			}
			c.host.Focus.Watch(nil)
			consistent(t, c)
			noAllocations(t, p)
			taken[n] = len(c.processes)*int(unsafe.Sizeof(process{})) + len(c.threads)*int(unsafe.Sizeof(thread{})) +
				8*(cap(table.Vals)+cap(table.Keys)) + 8*len(c.byPID.keys) + 8*len(c.byTID.keys)
			t.Logf("%d rows, %d KiB", len(table.Keys), taken[n]>>10)
		})
	}
	if taken[20000] > taken[5000] || taken[5000] > 4*taken[1000] {
		t.Errorf("bytes taken by so many processes: %v", taken)
	}
}

// A crowd that has just begun does not make the tables large either, and those
// that come to rest are left out by and by.
func TestCrowdBegins(t *testing.T) {
	const n = 20000
	p, m, read := amongMany(t, 500)
	c := p.census
	read()
	more := newCrowded(n, m.now)
	for i := 500; i < n; i++ {
		r := more.tasks[i]
		r.StartBoottime, r.Run = uint64(m.now), 2e6
		r.Arrived, r.Left = uint64(m.now), uint64(m.now)+2e6
		m.ran[i] = true
		m.tasks, m.shared = append(m.tasks, r), append(m.shared, more.shared[i])
		m.shared[i].StartBoottime = r.StartBoottime
	}
	table := read()
	if len(table.Keys) > 2*mostKept+100 || len(c.processes) > 4*mostKept || len(c.threads) > 4*mostKept {
		t.Errorf("%d rows, room for %d processes and %d threads", len(table.Keys), len(c.processes), len(c.threads))
	}
	for range 50 {
		table = read()
	}
	if len(table.Keys) > mostKept+100 {
		t.Errorf("%d rows when all have slept for so long", len(table.Keys))
	}
	consistent(t, c)
	// They end, and nothing is left of them.
	m.tasks, m.shared = m.tasks[:500], m.shared[:500]
	for range 32 {
		table = read()
	}
	if len(table.Keys) < 500 || len(table.Keys) > 600 || c.left != 0 {
		t.Errorf("%d rows and %d left out of 500", len(table.Keys), c.left)
	}
	consistent(t, c)
}

// While a stall is open processes are swept as often as what a sweep takes
// allows, and so are those that tell of everybody.
func TestSweepsAreRationed(t *testing.T) {
	p, m, _ := amongMany(t, 100)
	c := p.census
	c.host.Focus.Suspect(1 << 62)
	var table freezeframe.Table
	read := func(after time.Duration) {
		t.Helper()
		m.now = m.now.Add(after)
		table.Reset()
		table.At = m.now
		if err := p.Collect(&table); err != nil {
			t.Fatal(err)
		}
	}
	read(0)
	for _, x := range []struct {
		wide, full, after time.Duration
		swept, told       bool
	}{
		{after: stalledSweep, swept: true},
		{after: stalledSweep / 2},
		{after: stalledSweep / 2, swept: true},
		{wide: 10 * time.Millisecond, after: stalledSweep},
		{wide: 10 * time.Millisecond, after: stalledSweep},
		{wide: 10 * time.Millisecond, after: 20 * time.Millisecond, swept: true},
		{after: fullStalled, swept: true, told: true},
		{full: 30 * time.Millisecond, after: fullStalled, swept: true},
		{full: 30 * time.Millisecond, after: fullStalled, swept: true, told: true},
	} {
		c.walk.wideTook, c.walk.fullTook = x.wide, x.full
		round, full := c.round, c.walk.fullAt
		read(x.after)
		if swept, told := c.round > round, c.walk.fullAt > full; swept != x.swept || told != x.told {
			t.Errorf("%+v: swept %v, told of everybody %v", x, swept, told)
		}
	}
}

// Those that are left out of a real machine's are there as soon as they do
// something, with the iterator and without.
func TestSleepersLeftOut(t *testing.T) {
	for _, with := range []string{"walk", "proc"} {
		t.Run(with, func(t *testing.T) {
			var ins []io.Writer
			var pids []int
			for range 8 {
				in, pid := startCat(t)
				ins, pids = append(ins, in), append(pids, pid)
			}
			h := live()
			var p *procs
			if with == "walk" {
				p, _, _ = walkCollectors(t, h)
			} else {
				p, _, _ = processCollectors(t, h)
			}
			c := p.census
			c.most, c.patience = 4, 300*time.Millisecond
			var table freezeframe.Table
			row := func(i int) map[string]uint64 { return byName(t, p, &table, pids[i]) }
			none := func() bool {
				for i := range pids {
					if row(i) != nil {
						return false
					}
				}
				return true
			}
			for range 3 { // without the iterator it takes two to know who runs
				c.swept = false
				collect(t, p, &table)
			}
			eventually(t, p, &table, "no row of a sleeper", func() bool { c.swept = false; return none() })
			if len(p.Missing()) != 1 {
				t.Errorf("missing %v", p.Missing())
			}
			if row(0) != nil {
				t.Fatal("not left out")
			}
			io.WriteString(ins[0], "wake up\n")
			eventually(t, p, &table, "a row of one that ran", func() bool { c.swept = false; return row(0) != nil })
			if err := syscall.Kill(pids[1], syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			eventually(t, p, &table, "a row of one that was stopped", func() bool { c.swept = false; return row(1) != nil && row(1)["state"] == 'T' })
			for range 20 {
				c.swept = false
				collect(t, p, &table)
				time.Sleep(20 * time.Millisecond)
			}
			if row(1) == nil {
				t.Error("one that is stopped is left out")
			}
			stall(h, int32(pids[2]), int32(os.Getpid()))
			eventually(t, p, &table, "a row of one that is watched", func() bool { c.swept = false; return row(2) != nil })
			if row(3) != nil {
				t.Error("one that sleeps has a row")
			}
			if with == "walk" {
				consistent(t, c)
			}
		})
	}
}
