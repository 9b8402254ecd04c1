package recorder

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// Tick is the grid on which readings begin.
	Tick = 50 * time.Millisecond
	// calmTick is how often the fast lane wakes up while nothing is suspected;
	// whatever is wakes it at once.
	calmTick = 2 * Tick
	// stuckAfter is how late a lane is before another one has its thread looked
	// at.
	stuckAfter = 100 * time.Millisecond
	// reopenAfter is the pause before a source that failed is opened again; it
	// doubles up to reopenAtMost.
	reopenAfter  = 10 * time.Second
	reopenAtMost = 5 * time.Minute
	// failuresToReopen is after how many failed readings in a row a source is
	// closed and opened anew.
	failuresToReopen = 5
)

// Observer watches readings as they are made. Observe is called on the lane's
// thread right after the reading: it must not allocate, lock, wait or do I/O,
// nor keep the table. An observer of sources on several lanes is called from
// several threads.
type Observer interface {
	Observes() []string // names of sources
	Observe(src *freezeframe.Source, t *freezeframe.Table)
}

// Sampler drives the collectors: one goroutine a lane, locked to its thread,
// on a fixed grid of ticks. A reading that begins late says so (Due, At), and a
// lane that ran more than a tick late leaves an EventMissed with what it waited
// in; the grid never drifts and no missed reading is passed over in silence.
//
// A lane reads by raw system calls, of which the Go scheduler knows nothing,
// but must neither sleep nor hang in one: the world cannot be stopped while a
// thread is in a raw call, so that a garbage collection would wait for it and
// everybody for the garbage collection. It sleeps by kernel.WaitUntil, and
// collectors that may hang read by kernel.SlowReadAt, File.SlowRead and the
// like.
type Sampler struct {
	ring  *Ring
	focus *freezeframe.Focus
	lanes [freezeframe.Lanes]lane

	started  atomic.Bool
	stopping atomic.Bool
	calm     atomic.Bool // nothing is suspected, as far as the lanes know
	opened   sync.WaitGroup
	ended    sync.WaitGroup
	wake     chan struct{} // for the inspector
	done     chan struct{}
	draining sync.Mutex // of what takes the lanes' late ticks, never a lane
}

// lane is one thread and its collectors. The atomics are for the others.
type lane struct {
	name     freezeframe.Lane
	sampler  *Sampler
	host     freezeframe.Host
	readers  []*reader
	stalled  bool
	word     atomic.Uint32 // kernel.Wake: the focus changed, or it is time to stop
	tid      atomic.Int32
	expected atomic.Int64 // when it should have begun, or began, what it does now
	current  atomic.Int32 // index of the reader it is in; -1: none
	reported atomic.Bool  // somebody noticed that it is late
	seen     atomic.Pointer[waiting]

	late     [64]lateTick // the inspector takes them from here
	lateHead atomic.Uint32
	lateTail atomic.Uint32

	ticked   atomic.Int64 // when it last came round
	sampled  atomic.Bool  // each of its sources has been read once
	readings atomic.Uint64
	lateN    atomic.Uint64
	worst    atomic.Int64
	cpu      atomic.Int64
}

// lateTick is a tick that began late, until the inspector makes an event of
// it.
type lateTick struct {
	due, ran freezeframe.Instant
	source   int32 // reader in which the lane was; -1: in none
	missed   uint64
}

// reader is one collector with its schedule.
type reader struct {
	c         freezeframe.Collector
	name      string // src.Name, for other goroutines
	src       freezeframe.Source
	w         *Writer
	table     freezeframe.Table
	observers []Observer
	phase     time.Duration
	due       freezeframe.Instant
	took      time.Duration
	open      bool
	fill      bool // it is self: the sampler knows the rest
	read      bool // it has been read once, well or not
	failures  int  // in a row: of readings, or of opening
}

// SamplerStats is what the sampler has done so far.
type SamplerStats struct {
	Readings     uint64
	LateReadings uint64 // begun more than their period late, or left out
	WorstLate    time.Duration
	LaneCPU      [freezeframe.Lanes]time.Duration // of the lanes' threads
	CPU          time.Duration                    // of the whole process
}

// NewSampler returns a sampler of the given collectors. Each is opened, on its
// lane's thread, with host, except that host.Texts is the lane's part of the
// ring's dictionary. A collector's Source must give name and lane before it is
// opened too.
func NewSampler(ring *Ring, host freezeframe.Host, cs []freezeframe.Collector, obs ...Observer) *Sampler {
	s := &Sampler{ring: ring, focus: host.Focus, wake: make(chan struct{}, 1), done: make(chan struct{})}
	for i := range s.lanes {
		l := &s.lanes[i]
		l.name, l.sampler, l.host = freezeframe.Lane(i), s, host
		l.host.Texts = ring.Texts().Lane(l.name)
		l.current.Store(-1)
	}
	for _, c := range cs {
		src := c.Source()
		r := &reader{c: c, name: src.Name, src: src}
		for _, o := range obs {
			for _, name := range o.Observes() {
				if name == src.Name {
					r.observers = append(r.observers, o)
				}
			}
		}
		l := &s.lanes[min(src.Lane, freezeframe.Slow)]
		if l.name == freezeframe.Fast {
			// It wakes up on every tick: sources of the same period begin on
			// different ones. The others sleep from one that has something to
			// read to the next, and a wake-up costs more than most readings.
			r.phase = time.Duration(len(l.readers)*7) * calmTick
		}
		l.readers = append(l.readers, r)
	}
	if s.focus != nil {
		s.focus.Wakes(s.suspected)
	}
	ring.taken(s)
	return s
}

// suspected has the lanes read at the full rate at once: the fast one wakes the
// others.
func (s *Sampler) suspected() {
	if s.calm.Load() && s.calm.Swap(false) {
		kernel.Wake(&s.lanes[freezeframe.Fast].word)
	}
}

// Start opens the collectors and begins to read. It waits until they are open,
// though not for one that hangs; what could not be opened is in Missing.
func (s *Sampler) Start() error {
	if !s.started.CompareAndSwap(false, true) {
		return errors.New("start the sampler: it was started before")
	}
	// A lane in a raw system call keeps its P: with two more than lanes nobody
	// else waits for one meanwhile.
	if n := int(freezeframe.Lanes) + 2; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	go s.inspect()
	opened := make(chan struct{})
	for i := range s.lanes {
		s.opened.Add(1)
		s.ended.Add(1)
		go s.lanes[i].run()
	}
	go func() { s.opened.Wait(); close(opened) }()
	select {
	case <-opened:
	case <-time.After(2 * time.Second):
	}
	return nil
}

// Stop ends the readings and closes the collectors. A lane that hangs in the
// kernel is left behind after a second; Stop tells whether none was, so that the
// ring may be given to another sampler.
func (s *Sampler) Stop() bool {
	if !s.started.Load() || !s.stopping.CompareAndSwap(false, true) {
		return false
	}
	all := true
	for i := range s.lanes {
		kernel.Wake(&s.lanes[i].word)
	}
	ended := make(chan struct{})
	go func() { s.ended.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Second):
		all = false
	}
	close(s.done)
	s.drainLate()
	s.ring.left(s)
	return all
}

// Pulse is how a lane is doing, as the lane itself has left it in memory: what
// says so stopped when the lane did.
type Pulse struct {
	Lane    freezeframe.Lane
	Ticked  freezeframe.Instant // when it last came round; 0: never
	Late    time.Duration       // by how much it is behind now; below 0 it sleeps until then
	Sampled bool                // each of its sources has been read at least once
	// Reading is the source it is in now, "" when in none. The slow lane may be
	// in one for as long as a server of files is gone.
	Reading string
}

// Pulse returns how each lane is doing.
func (s *Sampler) Pulse() [freezeframe.Lanes]Pulse {
	now := kernel.Now()
	var out [freezeframe.Lanes]Pulse
	for i := range s.lanes {
		l := &s.lanes[i]
		out[i] = Pulse{
			Lane: l.name, Ticked: freezeframe.Instant(l.ticked.Load()), Sampled: l.sampled.Load(),
			Late: now.Sub(freezeframe.Instant(l.expected.Load())), Reading: l.sourceName(l.current.Load()),
		}
	}
	return out
}

// Missing says what could not be opened or read.
func (s *Sampler) Missing() []freezeframe.Need {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	out := append([]freezeframe.Need(nil), s.ring.needs...)
	for i := range s.ring.sources {
		out = append(out, s.ring.sources[i].Needs...)
	}
	for i := range s.lanes {
		for _, r := range s.lanes[i].readers {
			if m, ok := r.c.(freezeframe.Misser); ok {
				out = append(out, m.Missing()...)
			}
		}
	}
	return out
}

// Stats returns what has been done so far.
func (s *Sampler) Stats() SamplerStats {
	st := SamplerStats{CPU: kernel.ProcessCPU()}
	for i := range s.lanes {
		l := &s.lanes[i]
		st.Readings += l.readings.Load()
		st.LateReadings += l.lateN.Load()
		st.WorstLate = max(st.WorstLate, time.Duration(l.worst.Load()))
		st.LaneCPU[i] = time.Duration(l.cpu.Load())
	}
	return st
}

// Threads returns the ids of the lanes' threads.
func (s *Sampler) Threads() []int {
	var tids []int
	for i := range s.lanes {
		tids = append(tids, int(s.lanes[i].tid.Load()))
	}
	return tids
}

// run is a lane's thread, from its start to its end. It is never unlocked, so
// that the thread ends with it.
func (l *lane) run() {
	runtime.LockOSThread()
	defer l.sampler.ended.Done()
	l.tid.Store(int32(kernel.TID()))
	l.expected.Store(int64(kernel.Now()))
	for i, r := range l.readers {
		l.current.Store(int32(i))
		l.openReader(r, kernel.Now())
	}
	l.current.Store(-1)
	begin := (kernel.Now()/freezeframe.Instant(Tick) + 1) * freezeframe.Instant(Tick)
	for _, r := range l.readers {
		if r.open && r.src.Every > 0 {
			r.due = r.after(begin-1, min(r.src.Every, time.Second))
		}
	}
	l.sampler.opened.Done()

	next := begin
	second := begin
	for !l.sampler.stopping.Load() {
		seen := l.word.Load()
		now := kernel.Now()
		if now < next {
			l.expected.Store(int64(next))
			kernel.WaitUntil(&l.word, seen, next)
			now = kernel.Now()
		}
		if l.sampler.stopping.Load() {
			break
		}
		if now.Sub(next) > Tick {
			l.noteLate(next, now)
		}
		l.reported.Store(false)
		next = l.tick(now)
		if now >= second {
			second = now.Add(time.Second)
			l.cpu.Store(int64(kernel.ThreadCPU()))
		}
	}
	for _, r := range l.readers {
		if r.open {
			_ = r.c.Close() // the process is done with it
		}
	}
}

// tick reads what is due, and returns when the lane has to do so again.
func (l *lane) tick(now freezeframe.Instant) freezeframe.Instant {
	s := l.sampler
	if stalled := s.focus.Stalled(now); stalled != l.stalled {
		l.stalled = stalled
		if stalled {
			l.hurry(now)
		}
		if l.name == freezeframe.Fast {
			// The other lanes may be asleep for much longer than a tick.
			for i := range s.lanes {
				if other := &s.lanes[i]; other != l {
					kernel.Wake(&other.word)
				}
			}
		}
	}
	next := freezeframe.Instant(math.MaxInt64)
	for i, r := range l.readers {
		if r.due != 0 && r.due <= now {
			l.current.Store(int32(i))
			l.read(r)
			l.current.Store(-1)
		}
		if r.due != 0 {
			next = min(next, r.due)
		}
	}
	switch l.name {
	case freezeframe.Fast:
		s.watch(&s.lanes[freezeframe.Tasks])
		s.watch(&s.lanes[freezeframe.Slow])
	case freezeframe.Tasks:
		s.watch(&s.lanes[freezeframe.Fast])
	}
	l.ticked.Store(int64(now))
	if !l.sampled.Load() {
		l.sampled.Store(!slices.ContainsFunc(l.readers, func(r *reader) bool { return r.open && !r.read }))
	}
	// The lane that watches has a tick even when it has nothing to read.
	if l.name == freezeframe.Fast {
		tick := freezeframe.Instant(Tick)
		if !l.stalled {
			tick = freezeframe.Instant(calmTick)
		}
		next = min(next, (now/tick+1)*tick)
		s.calm.Store(!l.stalled && !s.focus.Stalled(now))
	}
	return min(next, now.Add(10*time.Second))
}

// hurry brings forward what is read more often during a stall, or was put off.
func (l *lane) hurry(now freezeframe.Instant) {
	grid := now / freezeframe.Instant(Tick) * freezeframe.Instant(Tick)
	for _, r := range l.readers {
		if p := r.period(true); r.open && r.failures == 0 && p > 0 && r.due.Sub(now) > p {
			r.due = r.after(grid-1, p)
		}
	}
}

// after returns the first moment after at in which a source that is read once
// in every is due: on one grid for all, so that those of a lane still meet
// after a stall, in which they are read more often.
func (r *reader) after(at freezeframe.Instant, every time.Duration) freezeframe.Instant {
	phase, step := freezeframe.Instant(r.phase%every), freezeframe.Instant(every)
	return ((at-phase)/step+1)*step + phase
}

// period returns the time between two readings now.
func (r *reader) period(stalled bool) time.Duration {
	if stalled && r.src.Stalled > 0 {
		return r.src.Stalled
	}
	return r.src.Every
}

// read makes one reading, or opens a source that failed again.
func (l *lane) read(r *reader) {
	begin := kernel.Now()
	l.expected.Store(int64(begin))
	if !r.open {
		l.openReader(r, begin)
		return
	}
	t := &r.table
	t.Reset()
	t.Due, t.At, t.Took = r.due, begin, 0
	err := collect(r.c, t)
	end := kernel.Now()
	t.Took = end.Sub(begin)
	r.took, r.read = t.Took, true
	period := r.period(l.stalled)
	if period <= 0 {
		period = time.Second
	}
	if rester, ok := r.c.(freezeframe.Rester); ok {
		period = max(period, rester.Rest())
	}
	late := begin.Sub(r.due)
	l.readings.Add(1)
	if late > time.Duration(l.worst.Load()) {
		l.worst.Store(int64(late))
	}
	if late > period {
		l.lateN.Add(uint64(late / period))
	}
	r.due = r.after(begin, period)
	if err != nil {
		l.failed(r, err, end)
		return
	}
	r.failures = 0
	if r.fill {
		l.sampler.fillSelf(&r.src, t)
	}
	r.w.Append(t)
	for _, o := range r.observers {
		o.Observe(&r.src, t)
	}
}

// fillSelf gives the source self the figures that only the sampler knows.
func (s *Sampler) fillSelf(src *freezeframe.Source, t *freezeframe.Table) {
	if len(t.Keys) == 0 {
		return
	}
	var readings, late uint64
	for i := range s.lanes {
		readings += s.lanes[i].readings.Load()
		late += s.lanes[i].lateN.Load()
	}
	if c := src.Column("readings"); c >= 0 {
		t.Vals[c] = readings
	}
	if c := src.Column("late_readings"); c >= 0 {
		t.Vals[c] = late
	}
}

// collect makes a defect in one collector that collector's failure.
func collect(c freezeframe.Collector, t *freezeframe.Table) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("defect in the collector: %v", p)
		}
	}()
	return c.Collect(t)
}

// openReader opens a source and gives it its place in the ring.
func (l *lane) openReader(r *reader, now freezeframe.Instant) {
	err := openCollector(r.c, l.host)
	if err == nil {
		src := r.c.Source()
		src.Lane = l.name
		if r.w, err = l.sampler.ring.Writer(src); err == nil {
			if src.Every <= 0 {
				src.Every = time.Second
			}
			r.src, r.open, r.fill, r.failures = src, true, src.Name == "self", 0
			r.due = (now/freezeframe.Instant(Tick) + 1) * freezeframe.Instant(Tick)
			return
		}
		_ = r.c.Close() // the error that counts is the one above
	}
	l.sampler.ring.AddNeed(freezeframe.Need{
		What: "open " + describe(&r.src),
		Lost: "everything that " + r.src.Name + " tells",
		Err:  err.Error(),
	})
	r.due = now.Add(min(reopenAfter<<min(r.failures, 8), reopenAtMost))
	r.failures++
}

func openCollector(c freezeframe.Collector, h freezeframe.Host) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("defect in the collector: %v", p)
		}
	}()
	return c.Open(h)
}

// failed puts off a source whose reading failed, and opens it anew when it
// keeps failing.
func (l *lane) failed(r *reader, err error, now freezeframe.Instant) {
	l.sampler.ring.AddNeed(freezeframe.Need{
		What: "read " + describe(&r.src),
		Lost: "readings of " + r.src.Name,
		Err:  err.Error(),
	})
	r.failures++
	r.due = r.due.Add(min(r.src.Every<<min(r.failures, 8), reopenAfter))
	if r.failures >= failuresToReopen {
		_ = r.c.Close() // it is being replaced because it fails
		r.open, r.failures = false, 0
		r.due = now.Add(reopenAfter)
	}
}

func describe(src *freezeframe.Source) string {
	if src.From == "" || strings.Contains(src.Name, src.From) {
		return src.Name
	}
	return src.Name + " (" + src.From + ")"
}
