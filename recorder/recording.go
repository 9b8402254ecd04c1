package recorder

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

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
	spare   freezeframe.Table      // memory to decode into
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
	covers freezeframe.Span
	bytes  int
	used   uint64
}

const (
	// keepPlain is how many bytes of chunks are kept as they are; beyond, they
	// are packed and unpacked again for each source that is read.
	keepPlain = 8 << 20
	// keepDecoded is how many bytes of decoded tables are kept for the next
	// reader; the last used source is kept in any case.
	keepDecoded = 8 << 20
	// maxDecoded is how many words of memory one source may decode to, and
	// maxRead how many values and keys may be read for that.
	maxDecoded = 32 << 20
	maxRead    = 16 * maxDecoded
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
func (rec *Recording) tables(index int) []freezeframe.Table { return rec.over(index, everything) }

// everything is every moment there is.
var everything = freezeframe.Span{Start: math.MinInt64, End: math.MaxInt64}

// over returns the tables of a source over a span, with one at or before its
// start and one at or after its end where there are such, and perhaps more. What
// is asked of a window is mostly near its stall: the rest stays encoded.
func (rec *Recording) over(index int, span freezeframe.Span) []freezeframe.Table {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.clock++
	have := rec.decoded[index]
	if have != nil && have.covers.Start <= span.Start && have.covers.End >= span.End {
		have.used = rec.clock
		return have.tables
	}
	covers := rec.reach(span)
	if have != nil {
		covers.Start, covers.End = min(covers.Start, have.covers.Start), max(covers.End, have.covers.End)
		rec.forget(index)
	}
	have = rec.decode(index, covers)
	for rec.held+have.bytes > keepDecoded && len(rec.decoded) > 0 {
		oldest := -1
		for i, other := range rec.decoded {
			if oldest < 0 || other.used < rec.decoded[oldest].used {
				oldest = i
			}
		}
		rec.forget(oldest)
	}
	if rec.decoded == nil {
		rec.decoded = make(map[int]*decodedSource)
	}
	rec.decoded[index] = have
	rec.held += have.bytes
	return have.tables
}

// forget drops what is decoded of a source.
func (rec *Recording) forget(index int) {
	rec.held -= rec.decoded[index].bytes
	delete(rec.decoded, index)
}

// beyond is how much more than was asked for is decoded on both sides: the next
// who asks wants a little more or less.
const beyond = 3 * time.Second

// reach returns what to decode when a span is asked for.
func (rec *Recording) reach(span freezeframe.Span) freezeframe.Span {
	all := rec.readings()
	if rec.merged || 2*span.And(all).Length() >= all.Length() {
		return everything
	}
	if span.Start > math.MinInt64+freezeframe.Instant(beyond) {
		span.Start = span.Start.Add(-beyond)
	}
	if span.End < math.MaxInt64-freezeframe.Instant(beyond) {
		span.End = span.End.Add(beyond)
	}
	return span
}

// errEnough ends decoding when what comes after is not asked for.
var errEnough = errors.New("the rest is not asked for")

// decode reads a source's tables over a span, with one before and one after it.
func (rec *Recording) decode(index int, covers freezeframe.Span) *decodedSource {
	src := &rec.Sources[index]
	d := newDecoder(index, src, maxRead)
	d.spare, rec.spare = rec.spare, freezeframe.Table{}
	leave := rec.sparse(src)
	rows := sharing{width: len(src.Columns)}
	var before freezeframe.Table // the last one before the span
	held, framed := false, covers == everything
	d.emit = func(t *freezeframe.Table) error {
		if leave != nil && leave(t.At) {
			return nil
		}
		if t.At < covers.Start {
			before.Due, before.At, before.Took = t.Due, t.At, t.Took
			before.Keys, before.Vals = append(before.Keys[:0], t.Keys...), append(before.Vals[:0], t.Vals...)
			held, framed = true, true
			return nil
		}
		if len(rows.out) == 0 {
			if held {
				rows.add(&before)
			}
			framed = framed || t.At == covers.Start
		}
		if rows.add(t); rows.words > maxDecoded {
			return errTooLarge
		}
		if !rec.merged && t.At >= covers.End {
			return errEnough
		}
		return nil
	}
	blocks := make([]*block, 0, len(rec.blocks))
	first := 0 // of them, that may hold a table before the span
	for i := range rec.blocks {
		if b := &rec.blocks[i]; b.lane == src.Lane {
			// Which snapshots are left out depends on those before.
			if leave == nil && b.first < covers.Start {
				first = len(blocks)
			}
			blocks = append(blocks, b)
		}
	}
	rec.decodeBlocks(d, src, blocks[first:])
	if first > 0 && !framed {
		rows, held, d.open = sharing{width: len(src.Columns)}, false, nil
		rec.decodeBlocks(d, src, blocks)
	}
	d.reuse(d.earlier)
	rec.spare = d.spare // the next source's tables are decoded into it
	if len(rows.out) == 0 && held {
		rows.add(&before)
	}
	out := rows.out
	slices.SortStableFunc(out, func(a, b freezeframe.Table) int { return int(min(max(a.At-b.At, -1), 1)) })
	if rec.merged {
		out = slices.CompactFunc(out, func(a, b freezeframe.Table) bool { return a.At == b.At && a.Due == b.Due })
	}
	return &decodedSource{tables: out, covers: covers, bytes: 8*rows.words + 120*len(out), used: rec.clock}
}

// decodeBlocks hands a source's tables in some blocks, which follow each other,
// to the decoder.
func (rec *Recording) decodeBlocks(d *decoder, src *freezeframe.Source, blocks []*block) {
	var before *block
	for _, b := range blocks {
		data, err := rec.chunk(b)
		if err == nil {
			err = d.chunk(data, b.first, before != nil && before.number+1 == b.number)
		}
		if errors.Is(err, errEnough) {
			return
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
				return
			}
		}
	}
}

const (
	// around is how far from a stall every snapshot of the processes is kept.
	around = 2 * time.Second
	// fullSpan is how much of a stall is read at the full rate; of a longer one
	// fewer snapshots are.
	fullSpan = 20 * time.Second
)

// sharing keeps tables with each row that is as it was in the table before
// only once: of a thousand processes next to none has changed within 250 ms, and
// a window has hundreds of readings.
type sharing struct {
	width  int
	out    []freezeframe.Table
	words  int      // of memory taken
	free   []uint64 // for the next rows
	lookup keyIndex
}

// rowsAtOnce is for how many rows memory is taken at a time. All of it stays
// while one of them is in use.
const rowsAtOnce = 32

// add keeps a copy of a table.
func (s *sharing) add(t *freezeframe.Table) {
	out := freezeframe.Table{Due: t.Due, At: t.At, Took: t.Took}
	var before freezeframe.Table
	if n := len(s.out); n > 0 {
		before = s.out[n-1]
	}
	sameKeys := slices.Equal(t.Keys, before.Keys)
	if sameKeys {
		out.Keys = before.Keys
	} else {
		out.Keys = slices.Clone(t.Keys)
		s.words += len(out.Keys)
	}
	// As long as all rows are as they were, the list of them is too.
	same, indexed := 0, false
	if sameKeys {
		for same < len(t.Keys) && slices.Equal(t.Values(same, s.width), before.Rows[same]) {
			same++
		}
	}
	if sameKeys && same == len(t.Keys) {
		out.Rows = before.Rows
		s.out = append(s.out, out)
		return
	}
	out.Rows = append(make([][]uint64, 0, len(t.Keys)), before.Rows[:same]...)
	s.words += 3 * len(t.Keys)
	next := same // where the row in the table before is expected
	for r := same; r < len(t.Keys); r++ {
		row, found := t.Values(r, s.width), -1
		switch {
		case next < len(before.Keys) && before.Keys[next] == t.Keys[r]:
			found = next
		case len(before.Keys) > 0:
			if !indexed {
				s.lookup.build(before.Keys)
				indexed = true
			}
			found = s.lookup.find(before.Keys, t.Keys[r])
		}
		if found >= 0 {
			next = found + 1
			if slices.Equal(row, before.Rows[found]) {
				out.Rows = append(out.Rows, before.Rows[found])
				continue
			}
		}
		if len(s.free) < s.width {
			s.free = make([]uint64, min(rowsAtOnce, 1+len(s.out))*s.width)
			s.words += len(s.free)
		}
		own := s.free[:s.width:s.width]
		s.free = s.free[s.width:]
		copy(own, row)
		out.Rows = append(out.Rows, own)
	}
	s.out = append(s.out, out)
}

// sparse tells which readings of a source are left out of what is decoded; nil:
// none. The state of every process and thread, twenty times a second for a
// minute, is tens of megabytes, and takes whole seconds of a CPU that others
// may be waiting for. Beside a stall one a second is as good, which is how
// often they are read while all is well; what they count is not lost with them.
func (rec *Recording) sparse(src *freezeframe.Source) func(freezeframe.Instant) bool {
	if src.Name != "procs" && src.Name != "tasks" || len(rec.Stalls) == 0 {
		return nil
	}
	last := freezeframe.Instant(math.MinInt64)
	return func(at freezeframe.Instant) bool {
		pace := time.Second
		for i := range rec.Stalls {
			s := &rec.Stalls[i]
			if at >= s.Start.Add(-around) && at <= s.End.Add(around) {
				pace = min(pace, time.Duration(int64(Tick)*(int64(s.Length()/fullSpan)+1)))
			}
		}
		if last != math.MinInt64 && at.Sub(last) < pace-Tick/2 {
			return true
		}
		last = at
		return false
	}
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
func (rec *Recording) source(name string, span freezeframe.Span) int {
	found := -1
	for i := len(rec.Sources) - 1; i >= 0; i-- {
		if rec.Sources[i].Name != name {
			continue
		}
		if len(rec.over(i, span)) > 0 {
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
	asked := freezeframe.Span{Start: span.Start, End: max(span.Start, span.End)}
	i := rec.source(source, asked)
	if i < 0 {
		return freezeframe.Series{Source: freezeframe.Source{Name: source}, Span: span}
	}
	tables := rec.over(i, asked)
	from, found := slices.BinarySearchFunc(tables, span.Start, func(t freezeframe.Table, at freezeframe.Instant) int {
		return int(min(max(t.At-at, -1), 1))
	})
	if !found && from > 0 {
		from--
	}
	to, _ := slices.BinarySearchFunc(tables, asked.End, func(t freezeframe.Table, at freezeframe.Instant) int {
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
