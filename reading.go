package freezeframe

import (
	"slices"
	"sync/atomic"
	"time"
)

// Kind says how the values of a column are to be read.
type Kind uint8

const (
	// Counter only grows until its key is reused; readers take differences.
	Counter Kind = iota
	// Gauge is a level at the moment of the reading. A negative level is
	// stored as its two's complement.
	Gauge
	// Text is the id of a string in the recording's dictionary (Texts); 0 is
	// the empty string.
	Text
)

// Column is one measured quantity. Name is the kernel's own word where it has
// one, in lower case, and ends with the unit: wait_ns, dirty_bytes. A name
// without a unit is a plain count.
type Column struct {
	Name string
	Kind Kind
}

// Lane is the thread on which a collector is read, so that a source that can
// be held up by the very thing that stalls the machine delays only its lane.
type Lane uint8

const (
	// Fast is for files that take no lock a stalled task could hold.
	Fast Lane = iota
	// Tasks is for per-process, per-thread and socket reads.
	Tasks
	// Slow is for what can hang: control-plane locks, mounts, command lines.
	Slow
	// Lanes is how many lanes there are.
	Lanes
)

// String returns the lane's name as it stands in a recording.
func (l Lane) String() string {
	switch l {
	case Fast:
		return "fast"
	case Tasks:
		return "tasks"
	case Slow:
		return "slow"
	}
	return "unknown"
}

// Source describes what one collector yields: a table of fixed columns with
// one row a key.
type Source struct {
	Name string // also the name in Rule.Reads, in charts and in recordings
	From string // the kernel files or calls it is read from
	Key  string // what a key is: "" (one row), cpu, task, socket, text, issuer (device<<32 | pid), interrupt (cpu<<32 | softirq<<31 | number), record (a number of its own) …

	Every   time.Duration // between two readings, while nothing is wrong
	Stalled time.Duration // while a stall is open or suspected; 0: as Every
	Lane    Lane
	Columns []Column
	Needs   []Need // what could not be had when it was opened
}

// Column returns the index of the named column, or -1.
func (s *Source) Column(name string) int {
	for i := range s.Columns {
		if s.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// Need is something this machine did not give: it stands under "not seen".
type Need struct {
	What string // what was tried: "read /proc/pressure/io"
	Lost string // what cannot be told without it
	Fix  string // what an administrator can do about it; may be empty
	Err  string // the error, as the kernel gave it
}

// Key names a row: a CPU number, a TaskKey, a socket cookie, or the id of a
// text, as Source.Key says. AllCPUs is the row of the whole machine.
type Key uint64

// AllCPUs is the key of the row that sums up every CPU.
const AllCPUs = ^Key(0)

// TaskKey names a process or thread so that a reused pid is another key.
// startTicks is field 22 of /proc/PID/stat (proc(5)).
func TaskKey(tid int, startTicks uint64) Key {
	return Key(startTicks)<<32 | Key(uint32(tid))
}

// TID returns the thread (or process) id of a task's key.
func (k Key) TID() int { return int(uint32(k)) }

// Table is one reading of a source, row-major: row i of width len(Columns)
// belongs to Keys[i]. A collector's table is reused from reading to reading.
type Table struct {
	Due  Instant       // when the reading should have begun
	At   Instant       // when it began
	Took time.Duration // how long it took
	Keys []Key
	Vals []uint64
	// Rows stands in place of Vals in a table that was read back from a
	// recording: a row that is as it was is the earlier table's, and must not be
	// changed.
	Rows [][]uint64
}

// Reset empties the table and keeps its memory.
func (t *Table) Reset() { t.Keys, t.Vals = t.Keys[:0], t.Vals[:0] }

// Row appends a zeroed row of the given width and returns it. It allocates
// only when the table has never been so long before.
func (t *Table) Row(key Key, width int) []uint64 {
	t.Keys = append(t.Keys, key)
	n := len(t.Vals)
	if n+width <= cap(t.Vals) {
		t.Vals = t.Vals[:n+width]
		clear(t.Vals[n:])
	} else {
		t.Vals = append(t.Vals, make([]uint64, width)...)
	}
	return t.Vals[n : n+width : n+width]
}

// Values returns row i of a table whose source has the given width.
func (t *Table) Values(i, width int) []uint64 {
	if t.Rows != nil {
		return t.Rows[i]
	}
	return t.Vals[i*width : (i+1)*width]
}

// Texts is the dictionary of a recording. Intern returns the id of a string;
// the id is a hash of the bytes, so it is the same in every recording. It does
// not allocate and does not keep b.
type Texts interface {
	Intern(b []byte) uint64
}

// Host is what a collector is opened with: where the kernel's trees are (a
// test points them at captured ones), the dictionary, and the focus.
type Host struct {
	Proc  string // normally /proc
	Sys   string // normally /sys
	Texts Texts
	Focus *Focus
}

// Focus tells the collectors what deserves the full rate. Readers never wait;
// writers replace a list as a whole, and one that changes nothing allocates
// nothing.
type Focus struct {
	until   atomic.Int64
	victims atomic.Pointer[[]int32]
	holders atomic.Pointer[[]int32]
	merged  atomic.Pointer[[]int32]
	wake    atomic.Pointer[func()]
}

// Wakes has wake called whenever the time in which something is suspected gets
// longer, on the thread of whoever suspects: it must not block nor allocate.
func (f *Focus) Wakes(wake func()) { f.wake.Store(&wake) }

// Stalled tells whether a stall is open or suspected at the moment now.
func (f *Focus) Stalled(now Instant) bool {
	return f != nil && now < Instant(f.until.Load())
}

// Suspect makes Stalled true until the given moment; it never shortens it.
func (f *Focus) Suspect(until Instant) {
	for {
		old := f.until.Load()
		if int64(until) <= old {
			return
		}
		if f.until.CompareAndSwap(old, int64(until)) {
			if wake := f.wake.Load(); wake != nil {
				(*wake)()
			}
			return
		}
	}
}

// PIDs returns the processes whose threads are sampled at the full rate while
// a stall is open: those that suffer it and those that hold what they wait
// for, without repetition, victims first. The slice must not be changed.
func (f *Focus) PIDs() []int32 {
	if f == nil {
		return nil
	}
	return load(&f.merged)
}

// Watch replaces the processes that suffer.
func (f *Focus) Watch(pids []int32) { f.replace(&f.victims, pids) }

// Hold replaces the processes that hold what the others wait for.
func (f *Focus) Hold(pids []int32) { f.replace(&f.holders, pids) }

func (f *Focus) replace(list *atomic.Pointer[[]int32], pids []int32) {
	if slices.Equal(load(list), pids) {
		return
	}
	own := slices.Clone(pids)
	list.Store(&own)
	// Two writers at once may each merge; the later store has both lists,
	// since each stored its own before it merged.
	var merged []int32
	for _, pid := range load(&f.victims) {
		if !slices.Contains(merged, pid) {
			merged = append(merged, pid)
		}
	}
	for _, pid := range load(&f.holders) {
		if !slices.Contains(merged, pid) {
			merged = append(merged, pid)
		}
	}
	f.merged.Store(&merged)
}

func load(p *atomic.Pointer[[]int32]) []int32 {
	if s := p.Load(); s != nil {
		return *s
	}
	return nil
}

// Collector reads one kernel source. Open may be called again after Close.
// Collect fills the table it is given (already reset, with Due and At set) and
// neither allocates nor blocks longer than the kernel makes it.
type Collector interface {
	// Source is valid after Open; its Needs say what Open did not get.
	Source() Source
	// Open returns an error that wraps ErrNotHere when this machine does not
	// have the source at all.
	Open(Host) error
	Collect(*Table) error
	Close() error
}

// Misser is a Collector that finds out while it reads what it has to leave out.
// Missing may be called by any goroutine.
type Misser interface {
	Missing() []Need
}

// Rester is a Collector that has nothing to read at times. After each reading
// it is asked how often that is worth while now, in whole ticks; when that is
// longer than its period, the next reading is at the next such moment, or when
// something begins to stall. A lane that has nothing to do does not wake up,
// which is most of what a reading costs.
type Rester interface {
	Rest() time.Duration
}
