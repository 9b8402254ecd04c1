package recorder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// BoxOptions says where the black box lies and how much it may take. Zero
// values mean the defaults.
type BoxOptions struct {
	Dir       string        // made when missing, with mode 0750
	Bytes     int64         // most bytes of all segments; default 1 GiB
	Age       time.Duration // oldest reading kept; default 14 days
	FreeFloor int64         // bytes that must stay free on the filesystem; below, old segments are given up and then nothing is written; 0: none
	Sync      time.Duration // how often what was recorded is put on the disk; default 3 s, at most 4 s
	Aside     string        // file on another filesystem for the note of an end in order that Dir does not take; "": none
	Full      time.Duration // how long everything is kept at the full rate before it is thinned; default 15 min
}

const (
	defaultBoxBytes = 1 << 30
	defaultBoxAge   = 14 * 24 * time.Hour
	defaultSync     = 3 * time.Second
	maxSync         = 4 * time.Second // with the time that a flush takes no more than 5 s are lost: see follower.pause
	defaultFull     = 15 * time.Minute

	// lastMinutes is how much of the run before is given to whoever judges its
	// end, and kept at the full rate.
	lastMinutes = 3 * time.Minute
	// spared is how much of the newest is not given up to keep the filesystem
	// above its floor: when others fill it, that is what is asked for next.
	spared = time.Hour

	markerName = "run.json"
	keepName   = "keep.json"
	lockName   = "lock"

	maxKeep    = 4096
	maxBoxGaps = 64
)

// Unclean says that the run before ended without saying so: a crash, a kill, a
// reset, a power cut.
type Unclean struct {
	SameBoot  bool          // the machine did not restart: freezeframe alone was killed
	BootID    string        // of that run; "" when it is not known
	Began     time.Time     // when it began; zero when it is not known
	Last      time.Time     // wall time of its last reading on disk; zero when there is none
	Recording *Recording    // its last minutes, nil when there is nothing; Stalls: the one that was open, if any
	Missing   time.Duration // how long it wrote after Last, where that is known
}

// EventBoxGap is an event of the black box alone: between At and End the disk
// did not take what was recorded. Attributes lane, events.
const EventBoxGap = "box_gap"

// BoxGap is a time of which the black box holds nothing, or not all, because
// the disk did not take it before the ring was full.
type BoxGap struct {
	Lane   freezeframe.Lane
	Span   freezeframe.Span
	Events int // that were lost; Lane and Span mean nothing then
}

// BoxStats says how the black box is doing.
type BoxStats struct {
	Bytes          int64         // of all segments
	Segments       int           // files
	Oldest, Newest time.Time     // wall time of the first and last reading on disk; zero: none
	Lag            time.Duration // since what was recorded was last put on the disk, or since Run began
	Err            string        // why nothing is being written now; ""
	Errors         uint64        // failed attempts
	Written        uint64        // bytes written as they were recorded
	Thinned        uint64        // bytes written by thinning
	Gaps           []BoxGap      // the newest 64
	GapCount       uint64
}

// Box is the recording on disk that survives the machine: segments that are
// appended every few seconds, thinned when they get old and removed when there
// are too many (FORMAT.md). Segments never depend on each other.
type Box struct {
	o      BoxOptions
	boot   string
	run    uint64 // ms since 1970 of its beginning
	began  freezeframe.Instant
	create func(path string) (boxFile, error) // createSegment, or what a test puts in its place
	clock  func() freezeframe.Clock           // kernel.WallClock, likewise
	haste  bool                               // thinning does not rest between its chunks, likewise

	ready  bool // Run and OpenBox: the directory is locked and marked
	locked *os.File

	started chan struct{} // Run has begun
	done    chan struct{} // Run has returned
	changed chan struct{} // for the upkeep: there is something to do

	mu       sync.Mutex // of what follows; never held while the disk is asked
	segments []segment  // in order, the open one among them
	keep     map[uint64]freezeframe.Spans
	keepDue  bool
	open     freezeframe.Span // of the stall that was open at the last flush
	synced   freezeframe.Instant
	failure  error
	needs    []freezeframe.Need
	stats    BoxStats
	running  bool
	ended    bool
	loads    int // segments that were read
}

// marker is run.json.
type marker struct {
	Boot    string    // boot id
	Run     uint64    // as in the segments' names
	Began   time.Time // of the daemon
	PID     int
	Clean   bool      // it ended as it should
	Flushed time.Time // the last time it was known to write, at most a segment ago
}

// OpenBox opens the black box and says whether the run before ended cleanly:
// nil when it did, or when there was none. What keeps the directory from being
// written to is not an error: Run tries again, and Stats and Needs say why. It
// is one when another process has the box. It waits for the disk.
func OpenBox(o BoxOptions) (*Box, *Unclean, error) { return openBox(o, kernel.WallClock) }

func openBox(o BoxOptions, clock func() freezeframe.Clock) (*Box, *Unclean, error) {
	if o.Dir == "" {
		return nil, nil, errors.New("open the black box: no directory was named")
	}
	if o.Bytes < 0 || o.Age < 0 || o.FreeFloor < 0 || o.Sync < 0 || o.Full < 0 {
		return nil, nil, errors.New("open the black box: sizes and times must not be negative")
	}
	o.Bytes = cmp.Or(o.Bytes, defaultBoxBytes)
	o.Age = cmp.Or(o.Age, defaultBoxAge)
	o.Sync = min(cmp.Or(o.Sync, defaultSync), maxSync)
	o.Full = cmp.Or(o.Full, defaultFull)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, fmt.Errorf("open the black box: read the boot id: %w", err)
	}
	now := clock()
	b := &Box{
		o: o, boot: strings.TrimSpace(string(boot)), began: now.Mono, create: createSegment, clock: clock,
		started: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}, 1),
		keep: map[uint64]freezeframe.Spans{},
	}
	b.run = uint64(max(now.WallNanos/1e6, 0))
	if err := b.lock(); err != nil {
		if errors.Is(err, errTaken) {
			return nil, nil, fmt.Errorf("open the black box %s: %w", o.Dir, err)
		}
		b.fail(err)
	}
	if err := b.list(); err != nil {
		b.fail(err)
	}
	unclean := b.recognise()
	if b.failure == nil {
		if err := b.prepare(); err != nil {
			b.fail(err)
		}
	}
	return b, unclean, nil
}

var errTaken = errors.New("another freezeframe uses it: stop that one, or name another directory")

// lock makes the directory and keeps others out.
func (b *Box) lock() error {
	if b.locked != nil {
		return nil
	}
	if err := os.MkdirAll(b.o.Dir, 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.o.Dir, lockName), os.O_RDONLY|os.O_CREATE, 0o640) // for writing it would keep the filesystem from being made read-only
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errTaken
		}
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	b.locked = f
	return nil
}

// list finds the segments, and makes the run's number larger than any.
func (b *Box) list() error {
	entries, err := os.ReadDir(b.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var all []segment
	for _, e := range entries {
		s, ok := parseSegment(e.Name())
		if !ok || !e.Type().IsRegular() {
			if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".tmp") {
				_ = os.Remove(filepath.Join(b.o.Dir, e.Name())) // half of a file that SaveFile did not finish
			}
			continue
		}
		if info, err := e.Info(); err == nil {
			s.bytes = info.Size()
		}
		if s.level == levelOpen {
			if s, ok = b.closeLeft(s); !ok {
				continue
			}
		}
		b.run = max(b.run, s.run+1)
		all = append(all, s)
	}
	slices.SortFunc(all, compareSegments)
	for _, s := range superseded(all) {
		_ = os.Remove(filepath.Join(b.o.Dir, s.file)) // the next start tries again
		all = slices.DeleteFunc(all, func(o segment) bool { return o.file == s.file })
	}
	b.mu.Lock()
	b.segments = all
	b.mu.Unlock()
	var keep map[uint64]freezeframe.Spans
	if data, err := os.ReadFile(filepath.Join(b.o.Dir, keepName)); err == nil && json.Unmarshal(data, &keep) == nil {
		for run, spans := range keep {
			if slices.ContainsFunc(all, func(s segment) bool { return s.run == run }) {
				b.keep[run] = freezeframe.Union(spans...)
			}
		}
	}
	return nil
}

// closeLeft gives a segment that was not closed the name that says what is in
// it. One with nothing in it goes.
func (b *Box) closeLeft(s segment) (segment, bool) {
	path := filepath.Join(b.o.Dir, s.file)
	rec, err := b.load(s)
	if rec == nil && !errors.Is(err, ErrDamaged) {
		return s, false // it cannot be read now; the next start tries again
	}
	span := freezeframe.Span{}
	if rec != nil {
		span = rec.readings()
	}
	if span.Length() == 0 {
		_ = os.Remove(path) // its first flush never reached the disk
		return s, false
	}
	s.start, s.end = rec.Clock.Wall(span.Start).UnixMilli(), rec.Clock.Wall(span.End).UnixMilli()
	s.level = levelFull
	if os.Rename(path, filepath.Join(b.o.Dir, s.name())) == nil {
		s.file = s.name()
	}
	return s, true
}

// recognise says how the run before ended.
func (b *Box) recognise() *Unclean {
	path := filepath.Join(b.o.Dir, markerName)
	data, err := os.ReadFile(path)
	var m marker
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	newest := len(b.segments) - 1
	if err != nil && newest < 0 || err == nil && m.Clean {
		return nil // there was no run before, or it ended as it should
	}
	if err == nil && b.notedAside(m.Run) {
		return nil
	}
	u := &Unclean{BootID: m.Boot, Began: m.Began}
	if err != nil { // the marker is lost
		m = marker{Run: b.segments[newest].run}
	}
	if newest >= 0 && b.segments[newest].run == m.Run {
		last := b.segments[newest]
		u.Last = time.UnixMilli(last.end).UTC()
		recs, err := b.pin(m.Run, last.end-lastMinutes.Milliseconds(), last.end)
		if n := len(recs); n > 0 {
			rec := recs[n-1]
			u.Recording = rec
			span := rec.readings()
			u.Last = rec.Clock.Wall(span.End - 1)
			rec.Span = freezeframe.Span{Start: max(span.Start, span.End.Add(-lastMinutes)), End: span.End}
			u.BootID = cmp.Or(u.BootID, rec.segment.Boot)
			b.keep[m.Run] = freezeframe.Union(append(b.keep[m.Run], rec.Span)...)
			b.keepDue = true
		}
		if err != nil && u.Recording != nil {
			u.Recording.notes = append(u.Recording.notes, freezeframe.Need{
				What: "read the black box of the run before", Lost: "a part of its last minutes", Err: err.Error()})
		}
		written := m.Flushed
		if info, err := os.Stat(filepath.Join(b.o.Dir, last.file)); err == nil && info.ModTime().After(written) {
			written = info.ModTime()
		}
		if !written.IsZero() {
			u.Missing = max(written.Sub(u.Last), 0)
		}
	} else if !m.Flushed.IsZero() {
		u.Missing = m.Flushed.Sub(m.Began)
	}
	u.SameBoot = u.BootID == b.boot
	return u
}

// notedAside tells whether a run of this boot ended as it should, and its disk did
// not take the note of that.
func (b *Box) notedAside(run uint64) bool {
	if b.o.Aside == "" {
		return false
	}
	data, err := os.ReadFile(b.o.Aside)
	var m marker
	return err == nil && json.Unmarshal(data, &m) == nil && m.Run == run && m.Boot == b.boot && m.Clean
}

// prepare makes the directory ours. It is tried until it succeeds.
func (b *Box) prepare() error {
	if b.ready {
		return nil
	}
	err := b.lock()
	if err == nil {
		err = b.mark(false)
	}
	if err != nil {
		return err
	}
	b.ready = true
	return nil
}

// mark writes the marker.
func (b *Box) mark(clean bool) error { return b.markAt(filepath.Join(b.o.Dir, markerName), clean) }

func (b *Box) markAt(path string, clean bool) error {
	now := b.clock()
	m := marker{Boot: b.boot, Run: b.run, Began: now.Wall(b.began), PID: os.Getpid(), Clean: clean, Flushed: now.Wall(now.Mono)}
	return saveJSON(path, &m)
}

func saveJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return SaveFile(path, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
}

// fail notes why nothing can be written. Each reason is told once.
func (b *Box) fail(err error) {
	b.mu.Lock()
	b.failure = err
	b.mu.Unlock()
	b.tell(freezeframe.Need{
		What: "write the black box in " + b.o.Dir,
		Lost: "what happens now, should the machine stop before it can be written; the last minutes are in memory",
		Fix:  boxFix(err),
		Err:  reason(err),
	})
}

// tell counts a failure, and keeps it under what is missing, once.
func (b *Box) tell(n freezeframe.Need) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Errors++
	if len(b.needs) < 32 && !slices.Contains(b.needs, n) {
		b.needs = append(b.needs, n)
	}
}

var errFloor = errors.New("less is free on the filesystem than must stay free")

// reason is an error without the path, which differs from file to file.
func reason(err error) string {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.Is(err, errFloor):
		return errFloor.Error()
	case errors.As(err, &p):
		return p.Err.Error()
	case errors.As(err, &l):
		return l.Err.Error()
	}
	return err.Error()
}

func boxFix(err error) string {
	switch {
	case errors.Is(err, errFloor), errors.Is(err, syscall.ENOSPC):
		return "free some space on its filesystem, or put it on another one"
	case errors.Is(err, syscall.EDQUOT):
		return "raise the quota, or put it on another filesystem"
	case errors.Is(err, syscall.EROFS):
		return "mount its filesystem read-write, or put it on another one"
	case errors.Is(err, fs.ErrPermission):
		return "let this user write there"
	case errors.Is(err, syscall.EIO):
		return "check the disk: the kernel log says what failed"
	}
	return ""
}

// Keep exempts a span of this run from thinning: a stall and what surrounds
// it.
func (b *Box) Keep(span freezeframe.Span) {
	if span.Length() == 0 {
		return
	}
	b.mu.Lock()
	spans := freezeframe.Union(append(b.keep[b.run], span)...)
	if len(spans) > maxKeep {
		spans = spans[len(spans)-maxKeep:]
	}
	b.keep[b.run], b.keepDue = spans, true
	b.mu.Unlock()
	b.poke()
}

func (b *Box) now() freezeframe.Instant { return b.clock().Mono }

// poke wakes the upkeep.
func (b *Box) poke() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// errUnmarked is what comes of an end of which nobody took a note.
var errUnmarked = errors.New("the next start will take this end for an unclean one")

// Close ends the run cleanly. It waits a few seconds for Run, whose ctx must
// have ended, and for the disk; when they take longer, or the disk takes nothing,
// the end is noted aside.
func (b *Box) Close() error {
	b.mu.Lock()
	running, ended := b.running, b.ended
	b.ended = true
	b.mu.Unlock()
	if ended {
		return nil
	}
	failed := make(chan error, 1)
	go func() {
		if running {
			<-b.done
		}
		b.mu.Lock()
		err := b.failure
		b.mu.Unlock()
		if err == nil && b.ready {
			err = b.mark(true)
		}
		if b.locked != nil {
			b.locked.Close()
		}
		failed <- err
	}()
	var err error
	select {
	case err = <-failed:
	case <-time.After(5 * time.Second):
		err = errSilent
	}
	if err == nil {
		return nil
	}
	if b.o.Aside == "" {
		err = fmt.Errorf("%w: %w", err, errUnmarked)
	} else if aside := b.markAt(b.o.Aside, true); aside != nil {
		err = fmt.Errorf("%w: %w: %w", err, errUnmarked, aside)
	}
	return fmt.Errorf("close the black box %s: %w", b.o.Dir, err)
}

var errSilent = errors.New("the disk does not answer")

// Stats never waits for the disk.
func (b *Box) Stats() BoxStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.stats
	st.Gaps = slices.Clone(st.Gaps)
	st.Segments = len(b.segments)
	for i := range b.segments {
		s := &b.segments[i]
		st.Bytes += s.bytes
		if s.end == 0 {
			continue
		}
		if start := time.UnixMilli(s.start).UTC(); st.Oldest.IsZero() || start.Before(st.Oldest) {
			st.Oldest = start
		}
		if end := time.UnixMilli(s.end).UTC(); end.After(st.Newest) {
			st.Newest = end
		}
	}
	if b.synced != 0 {
		st.Lag = b.now().Sub(b.synced)
	}
	if b.failure != nil {
		st.Err = b.failure.Error()
	}
	return st
}

// Needs says what kept the black box from being written, now or before.
func (b *Box) Needs() []freezeframe.Need {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.needs)
}

// Run writes what the ring holds until ctx ends, and then what is left. It is
// for a goroutine of its own, once: the disk may hold it up for an hour. open
// returns the stall that is open now, or nil; it may be nil itself.
func (b *Box) Run(ctx context.Context, r *Ring, open func() *freezeframe.Stall) {
	b.mu.Lock()
	if b.running || b.ended {
		b.mu.Unlock()
		return
	}
	b.running = true
	b.synced = b.now()
	b.mu.Unlock()
	defer close(b.done)
	var upkeep sync.WaitGroup
	upkeep.Go(func() { b.upkeep(ctx) })
	defer upkeep.Wait()

	f := &follower{box: b, ring: r, open: open}
	defer f.close()
	timer := time.NewTimer(b.o.Sync)
	defer timer.Stop()
	for {
		last := false
		select {
		case <-timer.C:
		case <-ctx.Done():
			last = true
		}
		began := b.now()
		err := f.flush()
		if err != nil {
			b.fail(err)
		}
		if last {
			f.seal()
			return
		}
		timer.Reset(f.pause(err, b.now().Sub(began)))
	}
}
