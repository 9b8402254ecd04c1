package recorder

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// Recording is a part of the ring that was pinned, or a .frz file that was
// read: the same to everything that reads it. Its exported fields may be set
// before it is written or given to others, not after. Readings stay encoded
// until they are asked for.
type Recording struct {
	Span    freezeframe.Span // what was asked for; some readings around it are kept too
	Clock   freezeframe.Clock
	Host    freezeframe.HostReport
	Tool    string // freezeframe's version
	Sources []freezeframe.Source
	Needs   []freezeframe.Need
	Stalls  []freezeframe.Stall
	Events  []freezeframe.Event // by their beginning

	blocks  []block            // by lane, then number
	segment *segmentHead       // of a segment of the black box
	open    *freezeframe.Stall // when that was last written to; in Stalls too
	merged  bool               // of several segments: a reading may be there twice

	mu      sync.Mutex // of what follows
	packer  packer
	names   map[uint64]string
	decoded map[int]*decodedSource // by index in Sources
	held    int                    // bytes of the decoded tables
	clock   uint64                 // of uses, for the oldest
	notes   []freezeframe.Need     // what decoding found missing
}

// block is one chunk of a recording, plain or packed.
type block struct {
	lane   freezeframe.Lane
	number uint64
	first  freezeframe.Instant // At of the first and last table
	last   freezeframe.Instant
	size   int    // plain
	plain  []byte // or
	packed []byte // zstd
}

type decodedSource struct {
	tables []freezeframe.Table
	bytes  int
	used   uint64
}

const (
	// keepPlain is how many bytes of chunks are kept as they are; beyond, they
	// are packed and unpacked again for each source that is read.
	keepPlain = 12 << 20
	// keepDecoded is how many bytes of decoded tables are kept for the next
	// reader; the last used source is kept in any case.
	keepDecoded = 8 << 20
	// maxDecoded is how many values and keys one source may decode to.
	maxDecoded = 32 << 20
	// pinMargin is how far beyond a span readings are pinned, so that those of
	// slow sources frame it.
	pinMargin = 3e9
)

// Pin copies what the ring holds of a span, and a little around it so that
// every reading in the span has one before and one after. Writers are neither
// stopped nor slowed; of a lane that hangs, everything up to its last reading
// is there.
func (r *Ring) Pin(span freezeframe.Span) (*Recording, error) {
	if span.Length() == 0 {
		return nil, errors.New("pin the recording: the span is empty")
	}
	r.drainLate()
	wide := freezeframe.Span{Start: span.Start - pinMargin, End: span.End + pinMargin}
	if span.End > math.MaxInt64-pinMargin {
		wide.End = span.End
	}
	rec := &Recording{Span: span, Clock: kernel.WallClock()}
	defer rec.packer.close()
	total := 0
	for i := range r.lanes {
		for _, c := range r.lanes[i].read(wide) {
			rec.blocks = append(rec.blocks, block{lane: c.lane, number: c.number, first: c.span.Start, last: c.span.End, size: len(c.data), plain: c.data})
			if total += len(c.data); total > keepPlain {
				if err := rec.pack(); err != nil {
					return nil, fmt.Errorf("pin the recording: %w", err)
				}
			}
		}
	}
	r.mu.Lock()
	rec.Host, rec.Tool = r.host, r.tool
	rec.Sources = slices.Clone(r.sources)
	rec.Needs = slices.Clone(r.needs)
	r.mu.Unlock()
	rec.Events = r.events.snapshot(wide)
	return rec, nil
}

// pack packs every block that is not yet.
func (rec *Recording) pack() error {
	for i := range rec.blocks {
		b := &rec.blocks[i]
		if b.packed == nil {
			packed, err := rec.packer.deflate(b.plain)
			if err != nil {
				return err
			}
			b.packed, b.plain = packed, nil
		}
	}
	return nil
}

// chunk returns a block's plain bytes.
func (rec *Recording) chunk(b *block) ([]byte, error) {
	if b.plain != nil {
		return b.plain, nil
	}
	return rec.packer.inflate(b.packed, b.size)
}

// tables returns every table of a source, oldest first. They must not be
// changed.
func (rec *Recording) tables(index int) []freezeframe.Table {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.clock++
	if have := rec.decoded[index]; have != nil {
		have.used = rec.clock
		return have.tables
	}
	src := &rec.Sources[index]
	d := newDecoder(index, src, maxDecoded)
	var before *block
	for i := range rec.blocks {
		b := &rec.blocks[i]
		if b.lane != src.Lane {
			continue
		}
		data, err := rec.chunk(b)
		if err == nil {
			err = d.chunk(data, b.first, before != nil && before.number+1 == b.number)
		}
		before = b
		if err != nil {
			before = nil // a table that runs on from here is incomplete
			rec.note(freezeframe.Need{
				What: "read " + src.Name + " from the recording",
				Lost: fmt.Sprintf("readings of %s between %s and %s", src.Name, rec.Clock.Wall(b.first).Format("15:04:05.000"), rec.Clock.Wall(b.last).Format("15:04:05.000")),
				Err:  err.Error(),
			})
			if errors.Is(err, errTooLarge) {
				break
			}
		}
	}
	slices.SortStableFunc(d.out, func(a, b freezeframe.Table) int { return int(min(max(a.At-b.At, -1), 1)) })
	if rec.merged {
		d.out = slices.CompactFunc(d.out, func(a, b freezeframe.Table) bool { return a.At == b.At && a.Due == b.Due })
	}
	have := &decodedSource{tables: d.out, bytes: 8*(maxDecoded-d.budget) + 100*len(d.out), used: rec.clock}
	for rec.held+have.bytes > keepDecoded && len(rec.decoded) > 0 {
		oldest := -1
		for i, other := range rec.decoded {
			if oldest < 0 || other.used < rec.decoded[oldest].used {
				oldest = i
			}
		}
		rec.held -= rec.decoded[oldest].bytes
		delete(rec.decoded, oldest)
	}
	if rec.decoded == nil {
		rec.decoded = make(map[int]*decodedSource)
	}
	rec.decoded[index] = have
	rec.held += have.bytes
	return have.tables
}

// note keeps what decoding found missing, once.
func (rec *Recording) note(n freezeframe.Need) {
	if len(rec.notes) < 64 && !slices.Contains(rec.notes, n) {
		rec.notes = append(rec.notes, n)
	}
}

// source returns the index of the newest source of a name that has tables, or
// else of the newest, or -1. A source that came back with other columns is
// another source.
func (rec *Recording) source(name string) int {
	found := -1
	for i := len(rec.Sources) - 1; i >= 0; i-- {
		if rec.Sources[i].Name != name {
			continue
		}
		if len(rec.tables(i)) > 0 {
			return i
		}
		if found < 0 {
			found = i
		}
	}
	return found
}

// Series returns a source's readings over a span, with one at or before its
// start and one at or after its end where there are such. The tables must not
// be changed.
func (rec *Recording) Series(source string, span freezeframe.Span) freezeframe.Series {
	i := rec.source(source)
	if i < 0 {
		return freezeframe.Series{Source: freezeframe.Source{Name: source}, Span: span}
	}
	tables := rec.tables(i)
	from, found := slices.BinarySearchFunc(tables, span.Start, func(t freezeframe.Table, at freezeframe.Instant) int {
		return int(min(max(t.At-at, -1), 1))
	})
	if !found && from > 0 {
		from--
	}
	to, _ := slices.BinarySearchFunc(tables, max(span.End, span.Start), func(t freezeframe.Table, at freezeframe.Instant) int {
		return int(min(max(t.At-at, -1), 1))
	})
	to = max(min(to+1, len(tables)), from)
	return freezeframe.Series{Source: rec.Sources[i], Span: span, Tables: tables[from:to:to]}
}

// Text returns the string behind an id, "" when the recording does not have
// it.
func (rec *Recording) Text(id uint64) string {
	if id == 0 {
		return ""
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.names == nil {
		rec.names = make(map[uint64]string)
		for i := range rec.blocks {
			data, err := rec.chunk(&rec.blocks[i])
			if err != nil {
				continue // noted when its tables are read
			}
			_, _ = chunkTexts(data, func(id uint64, text []byte) {
				if _, have := rec.names[id]; !have {
					rec.names[id] = string(text)
				}
			})
		}
	}
	return rec.names[id]
}

// Missing says what the machine, or a damaged file, did not give.
func (rec *Recording) Missing() []freezeframe.Need {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	out := slices.Clone(rec.Needs)
	for i := range rec.Sources {
		for _, n := range rec.Sources[i].Needs {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return append(out, rec.notes...)
}

// readings returns the span from the first reading to the last, empty when there
// is none.
func (rec *Recording) readings() freezeframe.Span {
	span := freezeframe.Span{Start: math.MaxInt64}
	for i := range rec.blocks {
		span.Start = min(span.Start, rec.blocks[i].first)
		span.End = max(span.End, rec.blocks[i].last+1)
	}
	if span.End == 0 {
		return freezeframe.Span{}
	}
	return span
}
