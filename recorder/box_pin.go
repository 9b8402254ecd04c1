package recorder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"freezeframe"
)

const (
	// boxMargin is how far beyond a span the readings of thinned segments are
	// pinned, so that one before and one after frame it.
	boxMargin = thinTasks + time.Second
	// maxPinned is how many packed bytes of readings one Pin holds.
	maxPinned = 48 << 20
	// maxPinnedEvents bounds the events of one Pin.
	maxPinnedEvents = 50_000
)

// Pin returns what is on disk between two moments of wall time, and a little
// around it: one recording for each run in them, the oldest first, and another
// where the wall clock was stepped. Only the segments that overlap are read.
// What could not be read stands under what is missing in the recordings. When
// there is more than may be held in memory, the newest of it is returned with an
// error that says so.
func (b *Box) Pin(start, end time.Time) ([]*Recording, error) {
	if !end.After(start) {
		return nil, errors.New("pin the black box: the span is empty")
	}
	return b.pin(0, start.UnixMilli(), end.UnixMilli())
}

// pin is Pin, of one run or (0) of all.
func (b *Box) pin(run uint64, start, end int64) ([]*Recording, error) {
	var recs []*Recording
	var err error
	for range 3 {
		// Thinning may replace a file between the look at the list and its
		// opening: then the list says by which.
		var gone bool
		if recs, gone, err = b.pinOnce(run, start, end); !gone {
			break
		}
	}
	return recs, err
}

func (b *Box) pinOnce(run uint64, start, end int64) (recs []*Recording, gone bool, err error) {
	margin := boxMargin.Milliseconds()
	b.mu.Lock()
	var found []segment
	for _, s := range b.segments {
		if (run == 0 || s.run == run) && s.overlaps(start-margin, end+margin) {
			found = append(found, s)
		}
	}
	b.mu.Unlock()

	var lost []error
	held := 0
	var parts []*Recording // the newest first: of too much that is kept
	for i := len(found) - 1; i >= 0; i-- {
		rec, err := b.load(found[i])
		if errors.Is(err, fs.ErrNotExist) {
			return nil, true, nil
		}
		if rec == nil {
			if !errors.Is(err, ErrDamaged) {
				lost = append(lost, err)
			}
			continue
		}
		if rec.segment.Thinned {
			rec.cut(start, end, margin)
		} else {
			rec.cut(start, end, pinMargin/1e6)
		}
		for j := range rec.blocks {
			held += len(rec.blocks[j].packed)
		}
		if held > maxPinned && len(parts) > 0 {
			lost = append(lost, fmt.Errorf("there is more than can be held at once: what was before %s is left out; ask for a shorter span",
				time.UnixMilli(found[i].end).UTC().Format(time.RFC3339)))
			break
		}
		parts = append(parts, rec)
	}
	slices.Reverse(parts)
	for len(parts) > 0 {
		n := 1
		for n < len(parts) && joins(parts[n-1], parts[n]) {
			n++
		}
		rec := merge(parts[:n])
		rec.Span = freezeframe.Span{Start: rec.Clock.Instant(time.UnixMilli(start)), End: rec.Clock.Instant(time.UnixMilli(end))}
		if held := rec.readings(); held.Length() > 0 {
			if within := rec.Span.And(held); within.Length() > 0 {
				rec.Span = within
			} else {
				rec = nil // only what the margin brought in
			}
		} else if len(rec.Events) == 0 {
			rec = nil
		}
		if rec != nil {
			recs = append(recs, rec)
		}
		parts = parts[n:]
	}
	slices.SortStableFunc(recs, func(a, b *Recording) int {
		return a.Clock.Wall(a.Span.Start).Compare(b.Clock.Wall(b.Span.Start))
	})
	if err := errors.Join(lost...); err != nil {
		return recs, false, fmt.Errorf("pin the black box: %w", err)
	}
	return recs, false, nil
}

// load reads one segment. With damage in it, what is intact is returned with
// an error that wraps ErrDamaged; of any other error the recording is nil.
func (b *Box) load(s segment) (*Recording, error) {
	b.mu.Lock()
	b.loads++
	b.mu.Unlock()
	f, err := os.Open(filepath.Join(b.o.Dir, s.file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// What is appended meanwhile is not waited for.
	data := make([]byte, min(info.Size(), maxFile))
	n, err := io.ReadFull(f, data)
	if data = data[:n]; errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // it was made shorter: decoding tells
	}
	if err != nil && n == 0 {
		return nil, fmt.Errorf("read the segment %s: %w", s.file, err)
	}
	rec, damage := decode(data, false)
	if rec != nil && rec.segment == nil {
		return nil, fmt.Errorf("%w: %s does not say which run it is of", ErrDamaged, s.file)
	}
	if errors.Is(damage, ErrNotARecording) { // it bears a segment's name, so it was one
		damage = fmt.Errorf("%w: %w", ErrDamaged, damage)
	}
	if err = errors.Join(err, damage); err != nil {
		err = fmt.Errorf("read the segment %s: %w", s.file, err)
	}
	return rec, err
}

// cut leaves what lies between two moments of wall time in ms, and its margin.
func (rec *Recording) cut(start, end, margin int64) {
	from := rec.Clock.Instant(time.UnixMilli(start - margin))
	to := rec.Clock.Instant(time.UnixMilli(end + margin))
	rec.blocks = slices.DeleteFunc(rec.blocks, func(b block) bool { return b.first > to || b.last < from })
	span := freezeframe.Span{Start: from, End: to}
	rec.Events = slices.DeleteFunc(rec.Events, func(e freezeframe.Event) bool { return !touches(&e, span) })
}

// joins tells whether two segments that follow each other are one recording:
// the same run, the same sources, the same wall clock.
func joins(a, b *Recording) bool {
	step := a.Clock.Wall(b.Clock.Mono).Sub(b.Clock.Wall(b.Clock.Mono))
	// What is disciplined slowly (by 500 ppm at most) is no step.
	slewed := b.Clock.Mono.Sub(a.Clock.Mono).Abs() / 1000
	return a.segment.Run == b.segment.Run && step.Abs() < stepped+slewed && sameSources(a, b)
}

// sameSources tells whether two recordings number their sources alike, as far
// as both know them.
func sameSources(a, b *Recording) bool {
	n := min(len(a.Sources), len(b.Sources))
	for i := range n {
		x, y := &a.Sources[i], &b.Sources[i]
		if x.Name != y.Name || x.Key != y.Key || x.Lane != y.Lane || !slices.Equal(x.Columns, y.Columns) {
			return false
		}
	}
	return true
}

// merge makes one recording of segments of one run, in order. A chunk that was
// being written when a segment ended stands in the next one from its beginning
// too: the longer one counts.
func merge(parts []*Recording) *Recording {
	last := parts[len(parts)-1]
	rec := &Recording{Clock: last.Clock, Host: last.Host, Tool: last.Tool, Stalls: last.Stalls, segment: last.segment, open: last.open, merged: true}
	for _, p := range parts {
		if len(p.Sources) >= len(rec.Sources) {
			rec.Sources = p.Sources
		}
		for _, n := range p.Needs {
			if len(rec.Needs) < 256 && !slices.Contains(rec.Needs, n) {
				rec.Needs = append(rec.Needs, n)
			}
		}
		for _, n := range p.notes {
			rec.note(n)
		}
		rec.Events = append(rec.Events, p.Events...)
	}
	slices.SortStableFunc(rec.Events, func(a, b freezeframe.Event) int { return int(min(max(a.At-b.At, -1), 1)) })
	if n := len(rec.Events) - maxPinnedEvents; n > 0 {
		rec.Events = slices.Clone(rec.Events[n:])
		rec.note(freezeframe.Need{What: "read every event of the span", Lost: fmt.Sprintf("the first %d events", n)})
	}
	for lane := range freezeframe.Lanes {
		var number, have uint64 // in the recording; in the ring, 0: of a thinned segment
		for _, p := range parts {
			thinned := uint64(0)
			for _, b := range p.blocks {
				if b.lane != lane {
					continue
				}
				follows := false
				switch n := len(rec.blocks) - 1; {
				case p.segment.Thinned:
					follows = thinned != 0 && b.number == thinned+1
					thinned, have = b.number, 0
				case have != 0 && b.number == have:
					if b.size > rec.blocks[n].size {
						b.number = rec.blocks[n].number
						rec.blocks[n] = b
					}
					continue
				case have != 0 && b.number < have:
					continue // it was there in full
				default:
					follows = have != 0 && b.number == have+1
					have = b.number
				}
				if number++; !follows {
					number++ // a table does not run on from one into the other
				}
				b.number = number
				rec.blocks = append(rec.blocks, b)
			}
		}
	}
	return rec
}
