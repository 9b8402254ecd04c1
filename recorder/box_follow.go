package recorder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"freezeframe"
)

const (
	// A segment is closed after a minute or a few MB: what damage in it can
	// cost.
	segmentAge   = time.Minute
	segmentBytes = 4 << 20
	// stepped is a step of the wall clock that begins a new segment, as each
	// has one pair of clocks.
	stepped = time.Second
	// pauseAtMost is the longest pause after failures in a row.
	pauseAtMost = time.Minute
	// maxLost is what a power cut may cost, with half a second to spare, on a disk
	// that takes a flush within half of that; breath is the shortest pause between
	// two flushes on one that does not.
	maxLost = 4500 * time.Millisecond
	breath  = 100 * time.Millisecond
)

// follower hands what is new in the ring to the disk. It is slower than the
// ring at times, and stands still while the disk does; what the ring has
// overwritten by then is a gap. It holds one chunk at a time.
type follower struct {
	box  *Box
	ring *Ring
	open func() *freezeframe.Stall

	to       *segmentWriter // nil: the next flush begins one
	packer   packer
	buf      []byte
	next     uint64              // number of the next segment
	sources  int                 // that the open segment's HEAD names
	failures int                 // in a row
	flushed  freezeframe.Instant // the last flush that worked
	durable  time.Duration       // how long the last flush took until all was on the disk
	slow     time.Duration       // the longest of these of late

	// What is on the disk; a flush that fails leaves it as it was.
	place  [freezeframe.Lanes]place
	events uint64 // order of the last event
	began  bool   // something is; what was lost before that, nobody asked for
}

// place is how far a lane's chunks are on the disk.
type place struct {
	number uint64
	offset int                 // in the open segment
	last   freezeframe.Instant // reading
}

// pause returns how long to wait for the next flush after one that took so long.
// What a power cut costs is the time between two flushes, and that until what the
// second one copied is on the disk: the longer they take, the sooner the next
// one comes.
func (f *follower) pause(err error, took time.Duration) time.Duration {
	if err == nil {
		f.failures = 0
		f.slow = max(f.durable, f.slow*3/4)
		return max(min(f.box.o.Sync, maxLost-f.slow)-took, min(breath, f.box.o.Sync))
	}
	f.failures++
	return min(f.box.o.Sync<<min(f.failures-1, 10), max(pauseAtMost, f.box.o.Sync))
}

func (f *follower) close() { f.packer.close() }

// flush puts everything that is new on the disk.
func (f *follower) flush() error {
	b := f.box
	if err := b.prepare(); err != nil {
		return fmt.Errorf("prepare %s: %w", b.o.Dir, err)
	}
	if err := b.floor(); err != nil {
		f.drop()
		return err
	}
	now := b.now()
	if f.to != nil && f.stale(now) {
		f.seal()
	}
	if f.to == nil {
		if err := f.begin(now); err != nil {
			return err
		}
	}
	before := f.to.out.n
	place, events, gaps := f.copy()
	if err := f.to.sync(); err != nil {
		f.drop()
		return err
	}
	f.place, f.events, f.began = place, events, true
	f.durable = b.now().Sub(now)

	b.mu.Lock()
	b.failure, b.synced = nil, now
	b.stats.Written += uint64(f.to.synced - before)
	b.stats.GapCount += uint64(len(gaps))
	b.stats.Gaps = append(b.stats.Gaps, gaps...)
	b.stats.Gaps = b.stats.Gaps[max(0, len(b.stats.Gaps)-maxBoxGaps):]
	b.replace(f.to.segment.file, f.to.segment)
	b.mu.Unlock()
	// Closed now that what is new is safe, as this takes the disk several times as
	// long: by the next flush it would be too old.
	next := now
	if f.flushed != 0 {
		next = now.Add(min(now.Sub(f.flushed), segmentAge/2))
	}
	if f.flushed = now; next.Sub(f.to.begun) >= segmentAge || f.to.out.n >= segmentBytes {
		f.seal()
	}
	return nil
}

// stale tells whether what is new does not belong into the open segment, whose
// HEAD has other sources or another wall clock.
func (f *follower) stale(now freezeframe.Instant) bool {
	f.ring.mu.Lock()
	changed := len(f.ring.sources) != f.sources
	f.ring.mu.Unlock()
	step := f.box.clock().Wall(now).Sub(f.to.head.Clock.Wall(now))
	return changed || step.Abs() >= stepped
}

// begin makes a segment. It can be read without any other, so the chunks that
// are being written go into it from their beginning.
func (f *follower) begin(now freezeframe.Instant) error {
	b := f.box
	if f.buf == nil {
		for i := range f.ring.lanes {
			f.buf = make([]byte, max(len(f.buf), f.ring.lanes[i].size))
		}
	}
	h := head{Clock: b.clock(), Segment: &segmentHead{Run: b.run, Boot: b.boot}}
	f.ring.mu.Lock()
	h.Host, h.Tool = f.ring.host, f.ring.tool
	h.Sources = slices.Clone(f.ring.sources)
	h.Needs = slices.Clone(f.ring.needs)
	f.ring.mu.Unlock()
	f.next++
	s := segment{run: b.run, first: f.next, last: f.next, start: h.Clock.Wall(now).UnixMilli(), level: levelOpen}
	to, err := newSegmentWriter(b.create, b.o.Dir, s, h, &f.packer, now)
	if errors.Is(err, os.ErrNotExist) { // somebody removed the directory
		if err = os.MkdirAll(b.o.Dir, 0o750); err == nil {
			to, err = newSegmentWriter(b.create, b.o.Dir, s, h, &f.packer, now)
		}
		if err == nil {
			err = b.mark(false)
		}
		if err != nil && to != nil {
			to.abandon()
		}
	}
	if err != nil {
		return err
	}
	f.to, f.sources = to, len(h.Sources)
	for i := range f.place {
		f.place[i].offset = 0
	}
	b.mu.Lock()
	b.segments = append(b.segments, to.segment)
	b.mu.Unlock()
	return nil
}

// copy appends what is new, and returns where that ends and what the ring has
// lost meanwhile.
func (f *follower) copy() (next [freezeframe.Lanes]place, events uint64, gaps []BoxGap) {
	next = f.place
	for i := range f.ring.lanes {
		sub, p := &f.ring.lanes[i], &next[i]
		// A chunk below the newest of this moment is not written to any more.
		oldest, newest := sub.numbers()
		lost := p.number != 0 && oldest > p.number // what was written is gone already: so is what came after
		for n := max(oldest, p.number, 1); n <= newest && f.to.out.err == nil; n++ {
			offset := 0
			if n == p.number {
				offset = p.offset
			}
			c, ok := sub.since(n, offset, f.buf)
			if !ok {
				lost = lost || p.number != 0
				continue
			}
			if lost {
				gaps = append(gaps, BoxGap{Lane: sub.lane, Span: freezeframe.Span{Start: p.last, End: c.span.Start}})
				lost = false
			}
			if len(c.data) > 0 {
				f.to.part(&c, offset)
				p.last = c.span.End
			}
			p.number, p.offset = n, offset+len(c.data)
		}
	}

	f.ring.drainLate()
	found, events, missed := f.ring.events.since(f.events)
	if missed > 0 && f.began {
		gaps = append(gaps, BoxGap{Events: missed})
	}
	now := f.box.now()
	for _, g := range gaps {
		found = append(found, g.event(now))
	}
	f.to.events(found)

	var stall *freezeframe.Stall
	if f.open != nil {
		stall = f.open()
	}
	f.to.openStall(stall)
	f.box.mu.Lock()
	f.box.open = freezeframe.Span{}
	if stall != nil {
		f.box.open = freezeframe.Span{Start: stall.Start, End: max(stall.End, now)}
	}
	f.box.mu.Unlock()
	return next, events, gaps
}

// event tells of the gap in the segment itself.
func (g *BoxGap) event(now freezeframe.Instant) freezeframe.Event {
	if g.Events > 0 {
		return freezeframe.Event{
			Kind: EventBoxGap, At: now, Text: fmt.Sprintf("%d events were not written: the disk took too long", g.Events),
			Attrs: []freezeframe.Attr{{Name: "events", Value: strconv.Itoa(g.Events)}},
		}
	}
	return freezeframe.Event{
		Kind: EventBoxGap, At: g.Span.Start, End: g.Span.End,
		Text:  fmt.Sprintf("%s of the %s lane were not written: the disk took too long", g.Span.Length().Round(time.Millisecond), g.Lane),
		Attrs: []freezeframe.Attr{{Name: "lane", Value: g.Lane.String()}},
	}
}

// seal closes the open segment. When that fails it is as good as one that was
// cut off: all that was synced can be read.
func (f *follower) seal() {
	if f.to == nil {
		return
	}
	w, b := f.to, f.box
	f.ring.mu.Lock()
	needs := slices.Clone(f.ring.needs)
	f.ring.mu.Unlock()
	before, file := w.out.n, w.segment.file
	if err := w.seal(append(needs, b.Needs()...)); err != nil {
		b.fail(fmt.Errorf("close a segment: %w", err))
		f.drop()
		return
	}
	f.to = nil
	b.mu.Lock()
	b.replace(file, w.segment)
	b.stats.Written += uint64(w.out.n - before)
	b.mu.Unlock()
	if err := b.mark(false); err != nil {
		b.fail(err)
	}
	b.poke()
}

// drop gives up the open segment after a failure. After a failed fsync nobody
// knows what is in the file, so nothing more is appended to it.
func (f *follower) drop() {
	if f.to == nil {
		return
	}
	w, b := f.to, f.box
	f.to = nil
	file := w.segment.file
	kept := w.abandon()
	b.mu.Lock()
	if kept {
		b.replace(file, w.segment)
	} else {
		b.segments = slices.DeleteFunc(b.segments, func(s segment) bool { return s.file == file })
	}
	b.mu.Unlock()
}

// replace puts what is known of a file by now into the list; b.mu is held.
func (b *Box) replace(file string, s segment) {
	for i := range b.segments {
		if b.segments[i].file == file {
			b.segments[i] = s
			return
		}
	}
}

// floor gives up old segments while too little is free on the filesystem, and
// returns an error when that is not enough.
func (b *Box) floor() error {
	if b.o.FreeFloor == 0 {
		return nil
	}
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(b.o.Dir, &st); err != nil {
			return &os.PathError{Op: "statfs", Path: b.o.Dir, Err: err}
		}
		free := int64(st.Bavail) * st.Bsize
		if free >= b.o.FreeFloor {
			return nil
		}
		old, ok := b.oldest(func(s *segment, newest int64) bool { return newest-s.end > spared.Milliseconds() })
		if !ok || !b.remove(old) {
			return fmt.Errorf("%w: %d of %d MiB", errFloor, free>>20, b.o.FreeFloor>>20)
		}
	}
}

// oldest returns the oldest closed segment, if it may go; newest is the wall
// time in ms of the newest reading.
func (b *Box) oldest(mayGo func(s *segment, newest int64) bool) (segment, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	newest := int64(0)
	for i := range b.segments {
		newest = max(newest, b.segments[i].end)
	}
	for i := range b.segments {
		if s := &b.segments[i]; s.level != levelOpen {
			return *s, mayGo(s, newest)
		}
	}
	return segment{}, false
}

// remove removes a segment, and forgets one that is gone.
func (b *Box) remove(s segment) bool {
	if err := os.Remove(filepath.Join(b.o.Dir, s.file)); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.tell(freezeframe.Need{
			What: "remove what is old from the black box in " + b.o.Dir, Lost: "nothing yet: it takes more space than it may",
			Fix: boxFix(err), Err: reason(err),
		})
		return false
	}
	b.mu.Lock()
	b.segments = slices.DeleteFunc(b.segments, func(o segment) bool { return o.file == s.file })
	b.mu.Unlock()
	return true
}
