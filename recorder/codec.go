package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"freezeframe"
)

// ErrDamaged says that a part of a recording could not be read. What could be
// read is returned beside it.
var ErrDamaged = errors.New("the recording is damaged")

// The kinds of record in a chunk and the operations in a table's record;
// FORMAT.md describes both.
const (
	recordText  = 1
	recordTable = 2

	partFirst = 1 << 0 // the table begins here
	partLast  = 1 << 1 // the table ends here
	partFull  = 1 << 2 // there is no earlier table of this source in the chunk

	opSame   = 0 // argument: how many rows are as they were
	opMove   = 1 // argument: zigzag distance to move in the earlier table
	opChange = 2 // argument: mask of the first 60 columns
	opNew    = 3 // argument: as opChange

	opBits       = 2
	opMaskBits   = 60
	lengthBytes  = 3 // of a record's length: a uvarint, padded
	maxColumns   = 512
	masksMax     = 1 + (maxColumns-opMaskBits+63)/64
	textOverhead = lengthBytes + 1 + 8 // of a text's record
)

// putUvarint is binary.PutUvarint without its bounds checks being repeated by
// the caller: b has room.
func putUvarint(b []byte, at int, v uint64) int {
	for v >= 0x80 {
		b[at] = byte(v) | 0x80
		v >>= 7
		at++
	}
	b[at] = byte(v)
	return at + 1
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

func putLength(b []byte, at, n int) {
	b[at] = byte(n) | 0x80
	b[at+1] = byte(n>>7) | 0x80
	b[at+2] = byte(n >> 14)
}

// masks returns how many mask words a row of the given width has: one of 60
// columns, then one for each further 64.
func masks(width int) int {
	if width <= opMaskBits {
		return 1
	}
	return 1 + (width-opMaskBits+63)/64
}

// Writer appends the tables of one source to the ring. It belongs to its
// lane's thread, like every other writer of that lane.
type Writer struct {
	sub     *subring
	index   int
	width   int
	isText  []bool
	texts   []int // the text columns
	keyText bool
	worst   int      // bytes that a row takes at most, its texts apart
	zero    []uint64 // a row of zeros

	chunk  uint64 // number of the chunk that the earlier table is in; 0: none
	keys   []freezeframe.Key
	vals   []uint64
	lookup keyIndex
}

func newWriter(sub *subring, index int, src *freezeframe.Source) *Writer {
	w := &Writer{sub: sub, index: index, width: len(src.Columns), keyText: src.Key == "text"}
	w.isText = make([]bool, w.width)
	for c, column := range src.Columns {
		if column.Kind == freezeframe.Text {
			w.isText[c] = true
			w.texts = append(w.texts, c)
		}
	}
	const varint = binary.MaxVarintLen64
	w.worst = varint*(2+masks(w.width)+1+w.width) + varint // a run and a move may stand before it
	w.zero = make([]uint64, w.width)
	return w
}

// Append stores a table; it does not keep it. It allocates only when the
// source has never had so many rows. It never waits: a reader at work at most
// makes it overwrite another old chunk than the one being read.
func (w *Writer) Append(t *freezeframe.Table) {
	if s := w.sub; s.pos > 0 && t.At.Sub(freezeframe.Instant(s.cur.first.Load())) > s.age && !s.turn() {
		return // every chunk is being read; counted there
	}
	for row := 0; ; {
		next, done := w.part(t, row)
		if done {
			return
		}
		if !w.sub.turn() {
			return // every chunk is being read; counted there
		}
		if row = next; w.sub.pos == 0 && w.cramped(t, row) {
			w.sub.mute = true // this one row's texts fill a chunk: keep the figures
		}
	}
}

// part writes the rows from row on that fit into the chunk, and returns the
// first that did not; done tells whether the table is complete.
func (w *Writer) part(t *freezeframe.Table, row int) (next int, done bool) {
	s := w.sub
	b := s.cur.buf
	start := s.pos
	const header = lengthBytes + 1 + 5 + 1 + 3*binary.MaxVarintLen64
	if start+header > len(b) || row < len(t.Keys) && !w.fits(t, row, start+header) {
		return row, false
	}
	if start == 0 {
		s.cur.first.Store(int64(t.At))
	}
	flags := byte(0)
	if row == 0 {
		flags |= partFirst
	}
	if w.chunk != s.cur.number.Load() {
		flags |= partFull
		w.keys, w.vals = w.keys[:0], w.vals[:0]
	}
	at := start + lengthBytes
	b[at] = recordTable
	at = putUvarint(b, at+1, uint64(w.index))
	flagsAt := at
	at = putUvarint(b, at+1, zigzag(int64(t.Due)-s.cur.first.Load()))
	at = putUvarint(b, at, zigzag(int64(t.At-t.Due)))
	at = putUvarint(b, at, uint64(max(t.Took, 0)))

	begun := row
	reused := 0           // rows that refer to the earlier table
	earlier, same := 0, 0 // place in the earlier table; rows that are as they were
	indexed := false
	before := w.zero
	for ; row < len(t.Keys) && w.fits(t, row, at); row++ {
		key := t.Keys[row]
		vals := t.Vals[row*w.width : (row+1)*w.width]
		found := -1
		if earlier < len(w.keys) && w.keys[earlier] == key {
			found = earlier
		} else if len(w.keys) > 0 {
			if !indexed {
				w.lookup.build(w.keys)
				indexed = true
			}
			found = w.lookup.find(w.keys, key)
		}
		// A key may have several rows (a thread's waits): those of the earlier
		// table are not referred to more often than there are, which is what a
		// reader takes for damage.
		if found >= 0 && reused == len(w.keys) {
			found = -1
		}
		if found < 0 {
			at, same = flush(b, at, same), 0
			at = w.values(b, at, opNew, vals, before)
			if w.keyText {
				at = putUvarint(b, at, s.textIndex(uint64(key)))
			} else if row > begun {
				at = putUvarint(b, at, zigzag(int64(key-t.Keys[row-1])))
			} else {
				at = putUvarint(b, at, zigzag(int64(key)))
			}
			before = vals
			continue
		}
		reused++
		old := w.vals[found*w.width : (found+1)*w.width]
		if found != earlier {
			at, same = flush(b, at, same), 0
			at = putUvarint(b, at, zigzag(int64(found-earlier))<<opBits|opMove)
		}
		if slices.Equal(old, vals) {
			same++
		} else {
			at, same = flush(b, at, same), 0
			at = w.values(b, at, opChange, vals, old)
		}
		earlier = found + 1
		before = vals
	}
	at = flush(b, at, same)
	done = row == len(t.Keys)
	if done {
		flags |= partLast
	}
	b[flagsAt] = flags
	putLength(b, start, at-start-lengthBytes)
	at = s.writeTexts(at)

	w.keys = append(w.keys[:0], t.Keys[begun:row]...)
	w.vals = append(w.vals[:0], t.Vals[begun*w.width:row*w.width]...)
	w.chunk = s.cur.number.Load()
	s.publish(at, t.At)
	return row, done
}

// fits tells whether another row, with its new texts and those that are to be
// written already, fits into the chunk behind at.
func (w *Writer) fits(t *freezeframe.Table, row, at int) bool {
	s := w.sub
	left := len(s.cur.buf) - at - w.worst - s.pendingBytes
	if left < 0 || !s.roomFor(len(w.texts)+1) {
		return false
	}
	if s.mute || left >= (len(w.texts)+1)*(textOverhead+maxText) {
		return true
	}
	return left >= w.textBytes(t, row)
}

// textBytes returns what the texts of a row that the chunk does not have yet
// take in it.
func (w *Writer) textBytes(t *freezeframe.Table, row int) int {
	n := 0
	for _, c := range w.texts {
		n += w.sub.textCost(t.Vals[row*w.width+c])
	}
	if w.keyText {
		n += w.sub.textCost(uint64(t.Keys[row]))
	}
	return n
}

// cramped tells whether a row does not even fit into an empty chunk.
func (w *Writer) cramped(t *freezeframe.Table, row int) bool {
	return row < len(t.Keys) && w.worst+64+w.textBytes(t, row) > len(w.sub.cur.buf)
}

// flush writes the run of rows that are as they were.
func flush(b []byte, at, same int) int {
	if same > 0 {
		at = putUvarint(b, at, uint64(same)<<opBits|opSame)
	}
	return at
}

// values writes an operation: the masks of the columns of vals that differ
// from base, and the differences.
func (w *Writer) values(b []byte, at int, op uint64, vals, base []uint64) int {
	mask := uint64(0)
	for c := range min(w.width, opMaskBits) {
		if vals[c] != base[c] {
			mask |= 1 << c
		}
	}
	at = putUvarint(b, at, mask<<opBits|op)
	for from := opMaskBits; from < w.width; from += 64 {
		mask := uint64(0)
		for c := from; c < min(w.width, from+64); c++ {
			if vals[c] != base[c] {
				mask |= 1 << (c - from)
			}
		}
		at = putUvarint(b, at, mask)
	}
	for c, v := range vals {
		switch {
		case v == base[c]:
		case w.isText[c]:
			at = putUvarint(b, at, w.sub.textIndex(v))
		default:
			at = putUvarint(b, at, zigzag(int64(v-base[c])))
		}
	}
	return at
}

// keyIndex finds a key's row in a table: open addressing, rebuilt for each
// table whose rows moved.
type keyIndex struct {
	rows []int32 // row+1; 0: free
}

func (x *keyIndex) build(keys []freezeframe.Key) {
	size := 1 << bits.Len(uint(2*len(keys)))
	if size > cap(x.rows) {
		x.rows = make([]int32, size)
	}
	x.rows = x.rows[:size]
	clear(x.rows)
	for r, k := range keys {
		i := x.place(k)
		for x.rows[i] != 0 {
			i = (i + 1) & (size - 1)
		}
		x.rows[i] = int32(r + 1)
	}
}

func (x *keyIndex) place(k freezeframe.Key) int {
	return int(uint64(k)*0x9e3779b97f4a7c15>>32) & (len(x.rows) - 1)
}

func (x *keyIndex) find(keys []freezeframe.Key, k freezeframe.Key) int {
	for i := x.place(k); x.rows[i] != 0; i = (i + 1) & (len(x.rows) - 1) {
		if r := int(x.rows[i]) - 1; keys[r] == k {
			return r
		}
	}
	return -1
}

// damaged makes the error of a chunk that cannot be decoded.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// records walks a chunk's records. A record that runs past the end ends the
// walk with an error.
func records(chunk []byte, each func(kind byte, body []byte) error) error {
	for len(chunk) > 0 {
		n, used := binary.Uvarint(chunk)
		if used <= 0 || n == 0 || n > uint64(len(chunk)-used) {
			return damaged("a record of a chunk runs past its end")
		}
		body := chunk[used : used+int(n)]
		if err := each(body[0], body[1:]); err != nil {
			return err
		}
		chunk = chunk[used+int(n):]
	}
	return nil
}

// chunkTexts returns the ids of a chunk's texts in the order of their indexes,
// the empty text first, and calls each for every one.
func chunkTexts(chunk []byte, each func(id uint64, text []byte)) ([]uint64, error) {
	ids := []uint64{0}
	err := records(chunk, func(kind byte, body []byte) error {
		if kind != recordText {
			return nil
		}
		if len(body) < 8 {
			return damaged("a text without its id")
		}
		id := binary.LittleEndian.Uint64(body)
		ids = append(ids, id)
		if text := body[8:]; each != nil && len(text) > 0 {
			if TextID(text) != id {
				return damaged("a text that does not fit its id")
			}
			each(id, text)
		}
		return nil
	})
	return ids, err
}

// errTooLarge says that a recording decodes to more than may be held.
var errTooLarge = errors.New("the readings take more memory than may be used for them")

// decoder turns the records of one source back into tables, over chunks of one
// lane in their order.
type decoder struct {
	index   int
	width   int
	isText  []bool
	keyText bool
	budget  int // values and keys that may still be decoded

	open    *freezeframe.Table // its last part has not come yet
	earlier *freezeframe.Table // of this chunk
	out     []freezeframe.Table

	// emit, where it is set, gets each table instead of out; the table is its
	// own only until it returns, and its memory is used again.
	emit  func(t *freezeframe.Table) error
	spare freezeframe.Table
}

func newDecoder(index int, src *freezeframe.Source, budget int) *decoder {
	d := &decoder{index: index, width: len(src.Columns), keyText: src.Key == "text", budget: budget}
	d.isText = make([]bool, d.width)
	for i, c := range src.Columns {
		d.isText[i] = c.Kind == freezeframe.Text
	}
	return d
}

// chunk decodes the source's tables in a chunk whose differences in time start
// from first. Tables before the damage, if there is any, are kept. follows
// tells whether the chunk is the one after that of the last call.
func (d *decoder) chunk(chunk []byte, first freezeframe.Instant, follows bool) error {
	if !follows {
		d.open = nil
	}
	ids, err := chunkTexts(chunk, nil)
	if err != nil {
		return err
	}
	d.reuse(d.earlier)
	d.earlier = nil
	return records(chunk, func(kind byte, body []byte) error {
		r := fields{b: body}
		if kind != recordTable || r.uvarint() != uint64(d.index) {
			return nil
		}
		return d.record(&r, ids, first)
	})
}

// record decodes a table's record behind the number of its source.
func (d *decoder) record(r *fields, ids []uint64, first freezeframe.Instant) error {
	flags := r.byte()
	if flags&partFull != 0 {
		d.reuse(d.earlier)
		d.earlier = &freezeframe.Table{}
	} else if d.earlier == nil {
		return damaged("a table without the one that it continues")
	}
	t, err := d.table(r, ids, first, d.earlier)
	if err != nil {
		return err
	}
	if len(t.Vals) == 0 || len(d.earlier.Vals) == 0 || &t.Vals[0] != &d.earlier.Vals[0] {
		d.reuse(d.earlier)
	}
	d.earlier = t
	if flags&partFirst == 0 {
		if d.open == nil {
			return nil // the chunk with its beginning is gone
		}
		d.open.Keys = append(d.open.Keys, t.Keys...)
		d.open.Vals = append(d.open.Vals, t.Vals...)
		t = d.open
	}
	d.open = nil
	switch {
	case flags&partLast == 0:
		d.open = &freezeframe.Table{Due: t.Due, At: t.At, Took: t.Took, Keys: slices.Clone(t.Keys), Vals: slices.Clone(t.Vals)}
	case d.emit != nil:
		return d.emit(t)
	default:
		d.out = append(d.out, *t)
	}
	return nil
}

// reuse takes a table's memory for the next one, if none was handed out.
func (d *decoder) reuse(t *freezeframe.Table) {
	if d.emit != nil && t != nil && cap(t.Vals) > cap(d.spare.Vals) {
		d.spare = *t
	}
}

// table decodes one record behind its flags. Tables share keys and values with
// the earlier one where nothing changed, so they must not be written to.
func (d *decoder) table(r *fields, ids []uint64, first freezeframe.Instant, earlier *freezeframe.Table) (*freezeframe.Table, error) {
	due := first + freezeframe.Instant(unzigzag(r.uvarint()))
	at := due + freezeframe.Instant(unzigzag(r.uvarint()))
	t := &freezeframe.Table{Due: due, At: at, Took: time.Duration(r.uvarint())}
	if r.bad {
		return nil, damaged("a table without its times")
	}
	rows := len(earlier.Keys)
	if op := (fields{b: r.b}); rows > 0 && op.uvarint() == uint64(rows)<<opBits|opSame && len(op.b) == 0 {
		t.Keys, t.Vals = earlier.Keys, earlier.Vals
		return t, nil
	}
	if !d.spend(rows) {
		return nil, errTooLarge
	}
	if d.emit != nil {
		t.Keys, t.Vals = d.spare.Keys[:0], d.spare.Vals[:0]
		d.spare = freezeframe.Table{}
		if room := rows + rows/8 + 4; cap(t.Vals) < room*d.width {
			t.Keys, t.Vals = make([]freezeframe.Key, 0, room), make([]uint64, 0, room*d.width)
		}
	} else {
		t.Keys = make([]freezeframe.Key, 0, rows)
		t.Vals = make([]uint64, 0, rows*d.width)
	}
	place, reused := 0, 0
	for len(r.b) > 0 {
		op := r.uvarint()
		arg := op >> opBits
		switch op & (1<<opBits - 1) {
		case opSame:
			if arg == 0 || arg > uint64(rows-place) {
				return nil, damaged("a run of rows that the earlier table does not have")
			}
			n := int(arg)
			t.Keys = append(t.Keys, earlier.Keys[place:place+n]...)
			t.Vals = append(t.Vals, earlier.Vals[place*d.width:(place+n)*d.width]...)
			place += n
			reused += n
		case opMove:
			to := int64(place) + unzigzag(arg)
			if to < 0 || to >= int64(rows) {
				return nil, damaged("a move out of the earlier table")
			}
			place = int(to)
		case opChange:
			if place >= rows {
				return nil, damaged("a row that the earlier table does not have")
			}
			t.Keys = append(t.Keys, earlier.Keys[place])
			t.Vals = append(t.Vals, earlier.Vals[place*d.width:(place+1)*d.width]...)
			d.values(r, arg, t.Vals[len(t.Vals)-d.width:], ids)
			place++
			reused++
		case opNew:
			if !d.spend(1) {
				return nil, errTooLarge
			}
			var before freezeframe.Key
			if n := len(t.Keys); n > 0 {
				before = t.Keys[n-1]
				t.Vals = append(t.Vals, t.Vals[(n-1)*d.width:n*d.width]...)
			} else {
				t.Vals = append(t.Vals, make([]uint64, d.width)...)
			}
			d.values(r, arg, t.Vals[len(t.Vals)-d.width:], ids)
			if d.keyText {
				t.Keys = append(t.Keys, freezeframe.Key(r.text(ids)))
			} else {
				t.Keys = append(t.Keys, before+freezeframe.Key(unzigzag(r.uvarint())))
			}
		}
		if r.bad {
			return nil, damaged("a table that is cut short")
		}
		if reused > rows {
			return nil, damaged("a table that repeats rows of the earlier one")
		}
	}
	if d.emit == nil && slices.Equal(t.Keys, earlier.Keys) {
		t.Keys = earlier.Keys
	}
	return t, nil
}

// values changes the columns of a row that the masks name.
func (d *decoder) values(r *fields, mask uint64, row []uint64, ids []uint64) {
	var rest [masksMax]uint64
	rest[0] = mask
	for i := 1; i < masks(d.width); i++ {
		rest[i] = r.uvarint()
	}
	for c := range row {
		word, bit := 0, c
		if c >= opMaskBits {
			word, bit = 1+(c-opMaskBits)/64, (c-opMaskBits)%64
		}
		if rest[word]&(1<<bit) == 0 {
			continue
		}
		if d.isText[c] {
			row[c] = r.text(ids)
		} else {
			row[c] += uint64(unzigzag(r.uvarint()))
		}
	}
}

// spend takes rows from the budget.
func (d *decoder) spend(rows int) bool {
	d.budget -= rows * (d.width + 1)
	return d.budget >= 0
}

// fields reads a record's fields; once one is missing, bad stays true.
type fields struct {
	b   []byte
	bad bool
}

func (r *fields) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *fields) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// text reads the index of a text and returns its id.
func (r *fields) text(ids []uint64) uint64 {
	i := r.uvarint()
	if i >= uint64(len(ids)) {
		r.bad, r.b = true, nil
		return 0
	}
	return ids[i]
}
