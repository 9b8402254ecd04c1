package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// Between the spans that are kept, one reading of each source is left in
	// this time, on a common grid; of what has a row for each task, which is
	// most of a recording, one in thinTasks.
	thinEvery = 10 * time.Second
	thinTasks = 30 * time.Second
	// A source whose rows are each told once (a wait that is over, a packet
	// that was dropped) cannot be thinned in time: of these as many rows a
	// minute are left, and of events of a kind as many.
	thinRecords = 60
	thinEvents  = 30

	// What is thinned at once, and what is put together when it is.
	thinSpan = 10 * time.Minute
	hourSpan = 55 * time.Minute
	thinMost = 64 << 20 // bytes that are read for one thinned segment

	thinChunk = 256 << 10 // plain bytes
	thinTexts = 1 << 20   // more than a chunk has
	// thinShare is the share of a CPU that thinning takes: 1 in so many.
	thinShare = 5
	// maxThinTable is how many values and keys one reading may have.
	maxThinTable = 8 << 20
)

// every returns how often a reading of the source is left. Zero: none, as each
// row is one wait or one sample, and they are most of what is recorded.
func every(src *freezeframe.Source) (d time.Duration, once bool) {
	switch {
	case src.Name == "waits", src.Name == "profile":
		return 0, false
	case src.Key == "record", src.Key == "wait":
		return thinEvery, true
	case src.Key == "task":
		return thinTasks, false
	}
	return max(thinEvery, src.Every), false
}

// thinner makes one segment of several: of those at the full rate one with
// fewer readings, of thinned ones one of an hour.
type thinner struct {
	box    *Box
	done   <-chan struct{}
	packer packer
	failed map[string]bool // first files of what could not be done
	look   func()          // for a test: called between two chunks
}

func (t *thinner) close() { t.packer.close() }

var errStopped = errors.New("stopped")

// step thins one group of segments, and returns false when there is nothing
// (more) to do.
func (t *thinner) step() bool {
	select {
	case <-t.done:
		return false
	default:
	}
	group := t.box.group(t.box.now(), t.failed)
	if len(group) == 0 {
		return false
	}
	if err := t.thin(group); err != nil {
		if t.failed == nil {
			t.failed = map[string]bool{}
		}
		t.failed[group[0].file] = true
		if !errors.Is(err, errStopped) && !errors.Is(err, os.ErrNotExist) {
			t.box.tell(freezeframe.Need{
				What: "thin what is old in the black box in " + t.box.o.Dir,
				Lost: "nothing yet: it takes more space, and less time fits in",
				Fix:  boxFix(err), Err: reason(err),
			})
		}
	}
	return true
}

// group returns the next segments to be made one.
func (b *Box) group(now freezeframe.Instant, except map[string]bool) []segment {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := func(s *segment) bool {
		return s.run != b.run || s.span.End.Add(b.o.Full) < now
	}
	for _, level := range [...]int{levelFull, levelThin} {
		if g := b.groupOf(level, old, except); g != nil {
			return g
		}
	}
	return nil
}

// groupOf returns the oldest complete group of a level; b.mu is held.
func (b *Box) groupOf(level int, old func(*segment) bool, except map[string]bool) []segment {
	most := thinSpan
	if level == levelThin {
		most = hourSpan
	}
	for i := 0; i < len(b.segments); {
		first := &b.segments[i]
		n, bytes, span, full := 0, int64(0), time.Duration(0), false
		for ; i+n < len(b.segments); n++ {
			s := &b.segments[i+n]
			if s.run != first.run || s.level != level || !old(s) {
				break
			}
			with := time.Duration(s.end-first.start) * time.Millisecond
			if full = n > 0 && (with > most+segmentAge || bytes+s.bytes > thinMost); full {
				break
			}
			span, bytes = with, bytes+s.bytes
		}
		// A group is complete when it is long enough, or when what follows it
		// can never join it. A single segment that is thinned stays as it is.
		full = full || span >= most-segmentAge || bytes >= thinMost/2
		over := first.run != b.run || i+n < len(b.segments) && b.segments[i+n].level > level
		if (full || over) && (n > 1 || n == 1 && level == levelFull) && !except[first.file] {
			return slices.Clone(b.segments[i : i+n])
		}
		i += max(n, 1)
	}
	return nil
}

// thin replaces the group.
func (t *thinner) thin(group []segment) error {
	b := t.box
	w := &thinning{thinner: t, group: group}
	if err := w.begin(); err != nil {
		return err
	}
	made := segment{
		run: group[0].run, first: group[0].first, last: group[len(group)-1].last,
		start: group[0].start, end: group[len(group)-1].end, level: group[0].level + 1,
	}
	for _, s := range group {
		made.start, made.end = min(made.start, s.start), max(made.end, s.end)
		if s.span.End != 0 {
			if made.span.End == 0 {
				made.span = s.span
			}
			made.span.Start, made.span.End = min(made.span.Start, s.span.Start), max(made.span.End, s.span.End)
		}
	}
	made.level = min(made.level, levelHour)
	made.file = made.name()
	if w.head.Sources == nil { // nothing in them can be read
		for _, s := range group {
			b.remove(s)
		}
		return nil
	}
	err := SaveFile(filepath.Join(b.o.Dir, made.file), func(to io.Writer) error { return w.write(to) })
	if err != nil {
		return err
	}
	made.bytes = w.out.n
	b.mu.Lock()
	at := slices.IndexFunc(b.segments, func(s segment) bool { return s.file == group[0].file })
	in := func(s segment) bool {
		return slices.ContainsFunc(group, func(g segment) bool { return g.file == s.file })
	}
	if at < 0 { // given up meanwhile
		at = 0
	}
	b.segments = slices.Insert(b.segments, at, made)
	b.segments = slices.DeleteFunc(b.segments, in)
	slices.SortFunc(b.segments, compareSegments)
	b.stats.Thinned += uint64(made.bytes)
	b.mu.Unlock()
	for _, s := range group {
		// What cannot be removed now is superseded by name: the next start does it.
		_ = os.Remove(filepath.Join(b.o.Dir, s.file))
	}
	return nil
}

// thinning is the making of one segment.
type thinning struct {
	*thinner
	group []segment
	keep  freezeframe.Spans
	head  head
	tail  tail
	out   sections
	evs   []freezeframe.Event
	slice freezeframe.Instant // when work began since it last paused

	memory, names []byte // of the lane that is at work: chunks, dictionary
}

// begin looks at what all the segments say of themselves.
func (w *thinning) begin() error {
	b := w.box
	b.mu.Lock()
	run := w.group[0].run
	keep := slices.Clone(b.keep[run])
	if run == b.run {
		keep = append(keep, b.open)
	}
	b.mu.Unlock()
	for i, s := range keep {
		if s.Length() > 0 {
			keep[i] = freezeframe.Span{Start: s.Start.Add(-pinMargin), End: s.End.Add(pinMargin)}
		}
	}
	w.keep = freezeframe.Union(keep...)
	per := map[string]*thinKind{}
	var before *Recording
	for _, s := range w.group {
		rec, err := b.load(s)
		if rec == nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if rec == nil || len(rec.Sources) == 0 {
			continue
		}
		if before != nil && !sameSources(before, rec) {
			return fmt.Errorf("the sources of %s are not those of the segment before", s.file)
		}
		before = rec
		h := &w.head
		h.Clock, h.Host, h.Tool, h.Stalls, h.Segment = rec.Clock, rec.Host, rec.Tool, rec.Stalls, rec.segment
		if len(rec.Sources) >= len(h.Sources) {
			h.Sources = rec.Sources
		}
		for _, n := range slices.Concat(rec.Needs, rec.notes) {
			if len(h.Needs) < 256 && !slices.Contains(h.Needs, n) {
				h.Needs = append(h.Needs, n)
			}
		}
		if span := rec.readings(); span.Length() > 0 {
			if h.Span.End == 0 {
				h.Span = span
			}
			h.Span.Start, h.Span.End = min(h.Span.Start, span.Start), max(h.Span.End, span.End)
		}
		w.events(rec.Events, per)
		if err := w.pause(); err != nil {
			return err
		}
	}
	for kind, k := range per {
		w.evs = k.close(w.evs, kind)
	}
	slices.SortStableFunc(w.evs, func(a, b freezeframe.Event) int { return int(min(max(a.At-b.At, -1), 1)) })
	if w.head.Segment != nil {
		own := *w.head.Segment
		own.Thinned = true
		w.head.Segment = &own
	}
	return nil
}

// thinKind counts the events of a kind in a minute.
type thinKind struct {
	minute     freezeframe.Instant
	n          int
	suppressed int
	since, end freezeframe.Instant
}

func (k *thinKind) close(to []freezeframe.Event, kind string) []freezeframe.Event {
	if k.suppressed == 0 {
		return to
	}
	e := eventKind{suppressed: k.suppressed, since: k.since}
	k.suppressed = 0
	return append(to, e.suppression(kind, k.end))
}

// events leaves some events of each kind a minute.
func (w *thinning) events(events []freezeframe.Event, per map[string]*thinKind) {
	for i := range events {
		e := &events[i]
		if w.kept(e.At) || e.Attr("suppressed") != "" {
			w.evs = append(w.evs, *e)
			continue
		}
		k := per[e.Kind]
		if k == nil {
			k = &thinKind{minute: -1}
			per[e.Kind] = k
		}
		if m := e.At / freezeframe.Instant(time.Minute); m != k.minute {
			w.evs = k.close(w.evs, e.Kind)
			k.minute, k.n = m, 0
		}
		if k.n++; k.n <= thinEvents || e.Kind == EventBoxGap {
			w.evs = append(w.evs, *e)
			continue
		}
		if k.suppressed++; k.suppressed == 1 {
			k.since = e.At
		}
		k.end = e.At
	}
}

// kept tells whether a moment lies in a span that is not thinned.
func (w *thinning) kept(at freezeframe.Instant) bool {
	i, _ := slices.BinarySearchFunc(w.keep, at, func(s freezeframe.Span, at freezeframe.Instant) int {
		if s.End <= at {
			return -1
		}
		return 1
	})
	return i < len(w.keep) && w.keep[i].Contains(at)
}

// pause gives the CPU to others after each bit of work: the process may have
// real-time priority.
func (w *thinning) pause() error {
	if w.look != nil {
		w.look()
	}
	now := kernel.Now()
	if w.slice != 0 && !w.box.haste {
		rest := min(now.Sub(w.slice)*(thinShare-1), time.Second)
		timer := time.NewTimer(rest)
		defer timer.Stop()
		select {
		case <-w.done:
			return errStopped
		case <-timer.C:
		}
	}
	w.slice = kernel.Now()
	return nil
}

func (w *thinning) write(to io.Writer) error {
	w.packer.tight = true
	w.out = sections{w: to, p: &w.packer}
	w.out.begin()
	w.out.json(tagHead, &w.head)
	for lane := range freezeframe.Lanes {
		if err := w.lane(lane); err != nil {
			return err
		}
	}
	w.tail.Events = w.out.events(w.evs)
	w.out.json(tagHead, &w.head)
	w.out.json(tagTail, &w.tail)
	return w.out.err
}

// thinSource is one source on its way from the old segments to the new one.
type thinSource struct {
	dec    *decoder
	to     *Writer
	every  time.Duration
	once   bool
	last   freezeframe.Instant // reading seen
	bucket freezeframe.Instant // of the last one that was left
	minute freezeframe.Instant
	rows   int // left in this minute, of what is told once
}

// lane thins the readings of one lane, chunk by chunk.
func (w *thinning) lane(lane freezeframe.Lane) error {
	if w.memory == nil {
		w.memory, w.names = make([]byte, 2*thinChunk), make([]byte, thinTexts)
	}
	clear(w.names)
	var texts Texts
	texts.lanes[lane].use(kernel.Words(w.names), thinTexts/8/16)
	var sub subring
	sub.init(lane, &texts, w.memory, thinChunk)
	sub.age = 2 * hourSpan
	sub.full = func(c *chunk) {
		n := c.n.Load()
		if n == 0 || w.out.err != nil {
			return
		}
		b := block{lane: lane, number: c.number.Load(), first: freezeframe.Instant(c.first.Load()), last: freezeframe.Instant(c.last.Load()), size: int(n)}
		packed, err := w.packer.deflate(c.buf[:n])
		w.out.fail(err)
		w.tail.Chunks = append(w.tail.Chunks, tailChunk{Lane: lane, Number: b.number, First: b.first, Last: b.last, Offset: w.out.n})
		w.out.chunk(tagChunk, &b, 0, packed)
	}
	sources := make([]*thinSource, len(w.head.Sources))
	for i := range w.head.Sources {
		src := &w.head.Sources[i]
		if src.Lane != lane {
			continue
		}
		s := &thinSource{dec: newDecoder(i, src, maxThinTable), to: newWriter(&sub, i, src), bucket: math.MinInt64, minute: math.MinInt64, last: math.MinInt64}
		s.every, s.once = every(src)
		s.dec.emit = func(t *freezeframe.Table) error {
			s.dec.budget = maxThinTable
			if t.At > s.last { // else it stood in the segment before, too
				s.last = t.At
				if w.leave(s, t) {
					s.to.Append(t)
				}
			}
			return w.out.err
		}
		sources[i] = s
	}
	for _, seg := range w.group {
		rec, err := w.box.load(seg)
		if rec == nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if rec == nil {
			continue
		}
		var before *block
		for i := range rec.blocks {
			b := &rec.blocks[i]
			if b.lane != lane {
				continue
			}
			plain, err := rec.chunk(b)
			if err == nil {
				err = w.chunk(plain, b, before != nil && before.number+1 == b.number, sources, &texts.lanes[lane])
			}
			before = b
			if w.out.err != nil {
				return w.out.err
			}
			if err != nil { // damaged: what came before in the chunk is there
				before = nil
			}
			if err := w.pause(); err != nil {
				return err
			}
		}
		rec.packer.close()
	}
	sub.full(sub.cur)
	return w.out.err
}

// chunk decodes the tables of a chunk in their order.
func (w *thinning) chunk(plain []byte, b *block, follows bool, sources []*thinSource, texts *dictionary) error {
	ids, err := chunkTexts(plain, func(_ uint64, text []byte) { texts.Intern(text) })
	if err != nil {
		return err
	}
	for _, s := range sources {
		if s == nil {
			continue
		}
		s.dec.reuse(s.dec.earlier)
		s.dec.earlier = nil
		if !follows {
			s.dec.open = nil
		}
	}
	return records(plain, func(kind byte, body []byte) error {
		if kind != recordTable {
			return nil
		}
		index, n := binary.Uvarint(body)
		if n <= 0 || index >= uint64(len(sources)) || sources[index] == nil {
			return nil
		}
		return sources[index].dec.record(&fields{b: body[n:]}, ids, b.first)
	})
}

// leave tells whether a reading stays.
func (w *thinning) leave(s *thinSource, t *freezeframe.Table) bool {
	if w.group[0].level >= levelThin || w.kept(t.At) {
		return true
	}
	if s.every == 0 {
		return false
	}
	bucket := t.At / freezeframe.Instant(s.every)
	if bucket != s.bucket {
		s.bucket = bucket
		return true
	}
	if !s.once || len(t.Keys) == 0 {
		return false
	}
	if m := t.At / freezeframe.Instant(time.Minute); m != s.minute {
		s.minute, s.rows = m, 0
	}
	if s.rows >= thinRecords {
		return false
	}
	s.rows += len(t.Keys)
	return true
}
