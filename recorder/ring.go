package recorder

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// DefaultBytes is the size of a ring that holds more than two minutes at the
// full rate on a machine with 300 processes.
const DefaultBytes = 24 << 20

// MinBytes is the smallest ring; NewRing does not make a smaller one.
const MinBytes = 2 << 20

// Ring is the recording of the last minutes in memory that is set aside, and
// locked, once. Each lane has its own part, which only that lane's thread
// writes. Writers never wait: a chunk is readable up to its last whole table
// at every moment, even while its writer is stuck, and a chunk that a reader
// has pinned is passed over when the oldest one is overwritten.
type Ring struct {
	lanes  [freezeframe.Lanes]subring
	texts  *Texts
	events eventLog

	mu      sync.Mutex // of what follows; never taken on the sampling path
	sources []freezeframe.Source
	needs   []freezeframe.Need
	lasting int // of the needs: those of the ring itself
	host    freezeframe.HostReport
	tool    string
	drain   []*Sampler // whose lanes set events aside
}

// taken gives the ring to a sampler. What one before it could not open or read
// is no longer missing.
func (r *Ring) taken(s *Sampler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.needs = r.needs[:r.lasting]
	for i := range r.sources {
		r.sources[i].Needs = nil
	}
	r.drain = append(r.drain, s)
}

// left forgets a sampler that has ended.
func (r *Ring) left(s *Sampler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drain = slices.DeleteFunc(r.drain, func(have *Sampler) bool { return have == s })
}

// NewRing returns a ring that takes the given number of bytes in all. Memory
// that cannot be locked is used all the same, and stands in the recordings
// under what is missing.
func NewRing(bytes int) *Ring {
	return newRing(bytes, func(n int) ([]byte, error) {
		b, err := kernel.Memory(n)
		if err != nil {
			return make([]byte, n), err
		}
		return b, kernel.Mlock(b)
	})
}

// newRing makes a ring from memory, which returns zeroed bytes and an error
// when they are not resident.
func newRing(bytes int, memory func(int) ([]byte, error)) *Ring {
	bytes = max(bytes, MinBytes)
	// Large chunks compress better, as the first table of each source in a
	// chunk is whole; small ones lose less when one is overwritten or damaged.
	size := 128 << 10
	for size > 32<<10 && bytes/size < 64 {
		size /= 2
	}
	r := new(Ring)
	r.events.init()
	var failed error
	take := func(n int) []byte {
		b, err := memory(n)
		if err != nil && failed == nil {
			failed = err
		}
		return b
	}
	r.texts = newTexts(take(bytes / 8))
	chunks := (bytes - bytes/8) / size
	// The shares are those of the lanes' measured rates, with room for the
	// lane whose rows grow with the machine.
	fast, slow := chunks*28/100, chunks*8/100
	for lane, n := range [freezeframe.Lanes]int{fast, chunks - fast - slow, slow} {
		r.lanes[lane].init(freezeframe.Lane(lane), r.texts, take(n*size), size)
	}
	if failed != nil {
		r.AddNeed(freezeframe.Need{
			What: "lock the recorder's memory",
			Lost: "under memory pressure the recorder itself may have to wait for its own memory",
			Fix:  "grant CAP_IPC_LOCK, or raise LimitMEMLOCK (ulimit -l) above the size of the ring",
			Err:  failed.Error(),
		})
	}
	r.lasting = len(r.needs)
	return r
}

// Texts returns the dictionary.
func (r *Ring) Texts() *Texts { return r.texts }

// AddEvent keeps an event. Any goroutine may call it; no lane ever waits for
// it.
func (r *Ring) AddEvent(e freezeframe.Event) { r.events.add(e) }

// Events returns the events of a kind that touch a span, in order; the empty
// kind means all.
func (r *Ring) Events(kind string, span freezeframe.Span) []freezeframe.Event {
	r.drainLate()
	return slices.DeleteFunc(r.events.snapshot(span), func(e freezeframe.Event) bool { return kind != "" && e.Kind != kind })
}

// drainLate brings in the events that lanes have set aside.
func (r *Ring) drainLate() {
	r.mu.Lock()
	drain := slices.Clone(r.drain)
	r.mu.Unlock()
	for _, s := range drain {
		s.drainLate()
	}
}

// AddNeed keeps something that this machine does not give, once.
func (r *Ring) AddNeed(n freezeframe.Need) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.needs) < 256 && !slices.Contains(r.needs, n) {
		r.needs = append(r.needs, n)
	}
}

// Describe sets what every recording says about the machine and the tool that
// made it.
func (r *Ring) Describe(host freezeframe.HostReport, tool string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host, r.tool = host, tool
}

// Writer returns what appends a source's tables, on the thread of the source's
// lane. A source of the same name and columns gets the same place in the ring.
func (r *Ring) Writer(src freezeframe.Source) (*Writer, error) {
	switch {
	case src.Name == "":
		return nil, fmt.Errorf("a source without a name")
	case len(src.Columns) > maxColumns:
		return nil, fmt.Errorf("source %s has %d columns, more than %d", src.Name, len(src.Columns), maxColumns)
	case src.Lane >= freezeframe.Lanes:
		return nil, fmt.Errorf("source %s is on lane %d, which does not exist", src.Name, src.Lane)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	src.Columns = slices.Clone(src.Columns)
	src.Needs = slices.Clone(src.Needs)
	index := slices.IndexFunc(r.sources, func(have freezeframe.Source) bool {
		return have.Name == src.Name && have.Key == src.Key && have.Lane == src.Lane && slices.Equal(have.Columns, src.Columns)
	})
	if index < 0 {
		if len(r.sources) >= maxSources {
			return nil, fmt.Errorf("source %s: the recording has %d sources already", src.Name, maxSources)
		}
		index = len(r.sources)
		r.sources = append(r.sources, src)
	} else {
		r.sources[index] = src
	}
	return newWriter(&r.lanes[src.Lane], index, &src), nil
}

const (
	maxSources = 1024
	minAge     = 15 * time.Second
)

// RingStats says what the ring holds.
type RingStats struct {
	Bytes  int                 // of memory for readings
	Oldest freezeframe.Instant // the first reading of the lane that holds the least; 0: nothing yet
	Held   [freezeframe.Lanes]freezeframe.Span
	// Written is how many bytes each lane has written in all.
	Written [freezeframe.Lanes]uint64
	Lost    uint64 // readings dropped because every chunk was pinned
	Events  int
}

// Stats returns what the ring holds now.
func (r *Ring) Stats() RingStats {
	var st RingStats
	for i := range r.lanes {
		s := &r.lanes[i]
		st.Bytes += len(s.chunks) * s.size
		st.Written[i] = s.written.Load()
		st.Lost += s.lost.Load()
		span := freezeframe.Span{Start: math.MaxInt64}
		for j := range s.chunks {
			c := &s.chunks[j]
			if c.n.Load() > 0 {
				span.Start = min(span.Start, freezeframe.Instant(c.first.Load()))
				span.End = max(span.End, freezeframe.Instant(c.last.Load()))
			}
		}
		if span.End == 0 {
			continue
		}
		st.Held[i] = span
		st.Oldest = max(st.Oldest, span.Start)
	}
	st.Events = r.events.len()
	return st
}

// chunk is one fixed piece of a lane's memory. The writer appends to buf and
// then publishes n; a reader that has pinned the chunk may read buf[:n].
type chunk struct {
	pins   atomic.Int32 // readers at work; -1: the writer is taking it
	number atomic.Uint64
	first  atomic.Int64 // At of the first table; times in the chunk start there
	last   atomic.Int64
	n      atomic.Int64
	buf    []byte
}

// subring is one lane's part. All but the chunks' atomics belongs to the
// lane's thread.
type subring struct {
	lane    freezeframe.Lane
	texts   *Texts
	size    int
	chunks  []chunk
	cur     *chunk
	pos     int
	written atomic.Uint64
	lost    atomic.Uint64
	age     time.Duration // after which a chunk is turned though it is not full
	full    func(*chunk)  // where set, told of a chunk before the next one begins

	// The texts of the chunk that is being written: a table from id to index,
	// in which an entry counts only if it bears the chunk's number.
	slots        []textSlot
	count        int
	pending      []uint64 // ids that stand in the part being written
	pendingBytes int
	mute         bool // leave the texts' bytes out
	scratch      [maxText]byte
}

type textSlot struct {
	id    uint64
	chunk uint64
	index uint32
}

func (s *subring) init(lane freezeframe.Lane, texts *Texts, memory []byte, size int) {
	s.lane, s.texts, s.size = lane, texts, size
	s.chunks = make([]chunk, len(memory)/size)
	for i := range s.chunks {
		s.chunks[i].buf = memory[i*size : (i+1)*size : (i+1)*size]
	}
	s.cur = &s.chunks[0]
	s.cur.number.Store(1)
	// While little happens a chunk would last for minutes, and as much would
	// be lost with it in a damaged file; but together they must last.
	s.age = max(minAge, 4*time.Minute/time.Duration(len(s.chunks)))
	s.slots = kernel.Slots[textSlot](s, size/32)
	s.pending = make([]uint64, 0, len(s.slots))
}

// turn begins the next chunk in place of the oldest that nobody reads.
func (s *subring) turn() bool {
	for {
		var oldest *chunk
		for i := range s.chunks {
			c := &s.chunks[i]
			if c != s.cur && c.pins.Load() == 0 && (oldest == nil || c.number.Load() < oldest.number.Load()) {
				oldest = c
			}
		}
		if oldest == nil {
			s.lost.Add(1)
			return false
		}
		if !oldest.pins.CompareAndSwap(0, -1) {
			continue
		}
		if s.full != nil {
			s.full(s.cur)
		}
		number := s.cur.number.Load() + 1
		oldest.n.Store(0)
		oldest.number.Store(number)
		oldest.pins.Store(0)
		s.cur, s.pos, s.count, s.mute = oldest, 0, 0, false
		return true
	}
}

// publish makes everything before at readable.
func (s *subring) publish(at int, when freezeframe.Instant) {
	s.written.Add(uint64(at - s.pos))
	s.pos = at
	s.cur.last.Store(int64(when))
	s.cur.n.Store(int64(at))
}

// slot returns the entry of an id, or the free one where it belongs.
func (s *subring) slot(id uint64) *textSlot {
	number := s.cur.number.Load()
	mask := len(s.slots) - 1
	for i := int(id) & mask; ; i = (i + 1) & mask {
		if e := &s.slots[i]; e.chunk != number || e.id == id {
			return e
		}
	}
}

// roomFor tells whether the chunk's table of texts takes n more.
func (s *subring) roomFor(n int) bool { return s.count+n <= len(s.slots)*3/4 }

// textCost returns the bytes that a text still has to be given in this chunk.
func (s *subring) textCost(id uint64) int {
	if id == 0 || s.slot(id).chunk == s.cur.number.Load() {
		return 0
	}
	n, _ := s.text(id)
	return textOverhead + n
}

// textIndex returns the index of a text in the chunk, and has its bytes
// written behind the table when it is new there.
func (s *subring) textIndex(id uint64) uint64 {
	if id == 0 {
		return 0
	}
	e := s.slot(id)
	if number := s.cur.number.Load(); e.chunk != number {
		s.count++
		*e = textSlot{id: id, chunk: number, index: uint32(s.count)}
		n := 0
		if !s.mute {
			n, _ = s.text(id)
		}
		s.pending = append(s.pending, id)
		s.pendingBytes += textOverhead + n
	}
	return uint64(e.index)
}

// text puts a text's bytes into the scratch, and keeps it in the dictionary
// for as long as it is being used.
func (s *subring) text(id uint64) (int, bool) {
	if n, ok := s.texts.lanes[s.lane].touch(id, s.scratch[:]); ok {
		return n, true
	}
	return s.texts.load(id, s.scratch[:])
}

// writeTexts writes the texts that became due with a table. The bytes of a
// text that the dictionary has lost stay away.
func (s *subring) writeTexts(at int) int {
	b := s.cur.buf
	for _, id := range s.pending {
		n := 0
		if !s.mute {
			n, _ = s.text(id)
		}
		if at+textOverhead+n > len(b) {
			n = 0 // the dictionary gained it only now
		}
		putLength(b, at, 1+8+n)
		b[at+lengthBytes] = recordText
		binary.LittleEndian.PutUint64(b[at+lengthBytes+1:], id)
		at += textOverhead + copy(b[at+textOverhead:], s.scratch[:n])
	}
	s.pending, s.pendingBytes = s.pending[:0], 0
	return at
}

// copied is a copy of a chunk that a reader made.
type copied struct {
	lane   freezeframe.Lane
	number uint64
	span   freezeframe.Span // of the beginnings of its tables, both ends in it
	data   []byte
}

// pin keeps a chunk from being overwritten until it is unpinned (pins.Add(-1)).
// It returns false when the writer is just taking it.
func (c *chunk) pin() bool {
	pins := c.pins.Load()
	for pins >= 0 && !c.pins.CompareAndSwap(pins, pins+1) {
		pins = c.pins.Load()
	}
	return pins >= 0
}

// numbers returns the numbers of the oldest and the newest chunk that has
// something in it; 0, 0 when none has.
func (s *subring) numbers() (oldest, newest uint64) {
	for i := range s.chunks {
		c := &s.chunks[i]
		if !c.pin() {
			continue
		}
		if n := c.number.Load(); c.n.Load() > 0 {
			newest = max(newest, n)
			if oldest == 0 || n < oldest {
				oldest = n
			}
		}
		c.pins.Add(-1)
	}
	return oldest, newest
}

// since copies what chunk number holds from offset on into buf, which must be
// as long as a chunk. It returns false when the chunk is not there any more.
func (s *subring) since(number uint64, offset int, buf []byte) (copied, bool) {
	for i := range s.chunks {
		c := &s.chunks[i]
		if c.number.Load() != number || !c.pin() {
			continue
		}
		if c.number.Load() != number {
			c.pins.Add(-1)
			return copied{}, false
		}
		n := int(c.n.Load())
		out := copied{s.lane, number, freezeframe.Span{Start: freezeframe.Instant(c.first.Load()), End: freezeframe.Instant(c.last.Load())}, nil}
		if n > offset {
			out.data = buf[:copy(buf, c.buf[offset:n])]
		}
		c.pins.Add(-1)
		return out, true
	}
	return copied{}, false
}

// read copies the lane's chunks that have tables in the span, oldest first.
func (s *subring) read(span freezeframe.Span) []copied {
	var out []copied
	for i := range s.chunks {
		c := &s.chunks[i]
		if !c.pin() {
			continue // just being overwritten: it was the oldest
		}
		if n := c.n.Load(); n > 0 {
			held := freezeframe.Span{Start: freezeframe.Instant(c.first.Load()), End: freezeframe.Instant(c.last.Load())}
			if held.Start < span.End && held.End >= span.Start {
				out = append(out, copied{s.lane, c.number.Load(), held, slices.Clone(c.buf[:n])})
			}
		}
		c.pins.Add(-1)
	}
	slices.SortFunc(out, func(a, b copied) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return out
}
