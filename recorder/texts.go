package recorder

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// maxText is the longest string that is kept, in bytes; a longer one is cut
// there, and its id is that of what is left.
const maxText = 4096

// TextID returns the id under which a string stands in every recording: 0 for
// the empty one, else the hash that FORMAT.md describes.
func TextID(b []byte) uint64 {
	if len(b) > maxText {
		b = b[:maxText]
	}
	if len(b) == 0 {
		return 0
	}
	h := 0x9e3779b97f4a7c15 ^ uint64(len(b))
	for ; len(b) >= 8; b = b[8:] {
		h = mix(h, binary.LittleEndian.Uint64(b))
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		h = mix(h, binary.LittleEndian.Uint64(last[:]))
	}
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	if h == 0 {
		h = 1
	}
	return h
}

func mix(h, word uint64) uint64 {
	h = (h ^ word) * 0xff51afd7ed558ccd
	return h ^ h>>32
}

// Texts is the live dictionary of strings: fixed memory, one part for each
// lane, which only that lane's thread writes, and one for everybody else.
// Every part has two generations: when the newer one is full, the older one is
// dropped and takes its place, and what is interned or written into the ring
// again moves over. A string that occurs in the ring is stored there beside its
// readings, so it lives as long as they do whatever happens here. An id that a
// collector keeps must be interned again, or occur in a reading, before the
// generations turn twice.
type Texts struct {
	lanes  [freezeframe.Lanes]dictionary
	others struct {
		sync.Mutex
		dictionary
	}
}

// Intern implements freezeframe.Texts for everybody who is not a lane: it
// takes a short lock. Collectors that the Sampler opens get their lane's own
// part instead, which takes none.
func (t *Texts) Intern(b []byte) uint64 {
	t.others.Lock()
	defer t.others.Unlock()
	return t.others.Intern(b)
}

// Lane returns the part that only the given lane's thread may intern into.
func (t *Texts) Lane(l freezeframe.Lane) freezeframe.Texts { return &t.lanes[l] }

// String returns the string behind an id while the dictionary has it, else "".
// Any goroutine may call it, and no writer ever waits for it. It allocates the
// string.
func (t *Texts) String(id uint64) string {
	var buf [maxText]byte
	n, _ := t.load(id, buf[:])
	return string(buf[:n])
}

// load copies the string behind id into buf, which must have maxText bytes.
func (t *Texts) load(id uint64, buf []byte) (int, bool) {
	if id == 0 {
		return 0, true
	}
	for i := range t.lanes {
		if n, ok := t.lanes[i].load(id, buf); ok {
			return n, true
		}
	}
	return t.others.load(id, buf)
}

// Lost returns how many strings did not fit.
func (t *Texts) Lost() uint64 {
	lost := t.others.lost.Load()
	for i := range t.lanes {
		lost += t.lanes[i].lost.Load()
	}
	return lost
}

// dictionary is one part. All shared memory is atomic words, and a reader
// proves what it has read by hashing it: an id is the hash of its bytes, so a
// copy torn by a turn of the generations is noticed, and nobody locks.
type dictionary struct {
	generations [2]generation
	turns       atomic.Uint32 // the newer generation is turns%2; only the writer stores
	lost        atomic.Uint64
}

type generation struct {
	slots []atomic.Uint64 // pairs: id, then stamp<<48 | length<<32 | first word
	words []atomic.Uint64
	used  int // words
	count int // slots
}

// use gives the dictionary its memory; slots is a power of two.
func (d *dictionary) use(memory []atomic.Uint64, slots int) {
	half := len(memory) / 2
	for i := range d.generations {
		part := memory[i*half : (i+1)*half]
		d.generations[i] = generation{slots: part[:2*slots], words: part[2*slots:]}
	}
	d.turns.Store(1) // the stamp 0 of fresh memory must not look valid
}

// Intern implements freezeframe.Texts on the thread that owns the part.
func (d *dictionary) Intern(b []byte) uint64 {
	if len(b) > maxText {
		b = b[:maxText]
	}
	id := TextID(b)
	if id == 0 || d.words() == nil {
		return id
	}
	turn := d.turns.Load()
	if _, ok := d.generations[turn%2].find(id, turn); !ok {
		d.store(id, b)
	}
	return id
}

// touch keeps the string behind id for another generation, if it is here.
func (d *dictionary) touch(id uint64, scratch []byte) (length int, ok bool) {
	if d.words() == nil {
		return 0, false
	}
	turn := d.turns.Load()
	if ref, ok := d.generations[turn%2].find(id, turn); ok {
		n, ok := d.generations[turn%2].copy(ref, id, scratch)
		return n, ok
	}
	old := &d.generations[(turn+1)%2]
	ref, ok := old.find(id, turn-1)
	if !ok {
		return 0, false
	}
	n, ok := old.copy(ref, id, scratch)
	if ok {
		d.store(id, scratch[:n])
	}
	return n, ok
}

func (d *dictionary) words() []atomic.Uint64 { return d.generations[0].words }

// store puts a string that is not in the newer generation there.
func (d *dictionary) store(id uint64, b []byte) {
	need := (len(b) + 7) / 8
	g := &d.generations[d.turns.Load()%2]
	if g.used+need > len(g.words) || g.count >= len(g.slots)/2*3/4 {
		if need > len(g.words) {
			d.lost.Add(1)
			return
		}
		// A reader that is in the older generation now reads torn strings, and
		// drops them as such.
		turn := d.turns.Load() + 1
		g = &d.generations[turn%2]
		g.used, g.count = 0, 0
		d.turns.Store(turn)
	}
	turn := d.turns.Load()
	first := g.used
	for i := 0; i < need; i++ {
		var word [8]byte
		copy(word[:], b[8*i:])
		g.words[first+i].Store(binary.LittleEndian.Uint64(word[:]))
	}
	g.used += need
	g.count++
	mask := len(g.slots)/2 - 1
	for i := int(id) & mask; ; i = (i + 1) & mask {
		if stamped(g.slots[2*i+1].Load(), turn) {
			continue
		}
		// The reference is cleared first, so that no reader pairs the new id
		// with it; if one did, the hash would tell.
		g.slots[2*i+1].Store(0)
		g.slots[2*i].Store(id)
		g.slots[2*i+1].Store(uint64(uint16(turn))<<48 | uint64(len(b))<<32 | uint64(uint32(first)))
		return
	}
}

func stamped(ref uint64, turn uint32) bool {
	return ref != 0 && uint16(ref>>48) == uint16(turn)
}

// find returns the reference of an id, if it was stored under the stamp turn.
func (g *generation) find(id uint64, turn uint32) (ref uint64, ok bool) {
	mask := len(g.slots)/2 - 1
	i := int(id) & mask
	for range len(g.slots) / 2 {
		ref := g.slots[2*i+1].Load()
		if !stamped(ref, turn) {
			return 0, false
		}
		if g.slots[2*i].Load() == id {
			return ref, true
		}
		i = (i + 1) & mask
	}
	return 0, false
}

// copy copies the string behind ref, and tells whether it is still that of id.
func (g *generation) copy(ref, id uint64, buf []byte) (int, bool) {
	n, first := int(uint16(ref>>32)), int(uint32(ref))
	if n > len(buf) || first+(n+7)/8 > len(g.words) {
		return 0, false
	}
	for i := 0; i < n; i += 8 {
		word := g.words[first+i/8].Load()
		if n-i >= 8 {
			binary.LittleEndian.PutUint64(buf[i:], word)
			continue
		}
		for j := i; j < n; j++ {
			buf[j] = byte(word >> (8 * (j - i)))
		}
	}
	return n, TextID(buf[:n]) == id
}

// load is a read from any goroutine.
func (d *dictionary) load(id uint64, buf []byte) (int, bool) {
	if d.words() == nil {
		return 0, false
	}
	turn := d.turns.Load()
	for _, turn := range [2]uint32{turn, turn - 1} {
		g := &d.generations[turn%2]
		if ref, ok := g.find(id, turn); ok {
			if n, ok := g.copy(ref, id, buf); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// newTexts shares out memory: most of it to the lane of processes, threads and
// sockets, which has most of the names.
func newTexts(memory []byte) *Texts {
	t := new(Texts)
	words := kernel.Words(memory)
	rest := words
	give := func(d *dictionary, percent int) {
		n := len(words) * percent / 100 &^ 1
		if n < 256 {
			return
		}
		// A slot takes two words, an ordinary string six: one slot to eight
		// words leaves room for short ones.
		slots := 1 << (bits.Len(uint(n/2/8)) - 1)
		d.use(rest[:n], slots)
		rest = rest[n:]
	}
	give(&t.lanes[freezeframe.Fast], 5)
	give(&t.lanes[freezeframe.Tasks], 70)
	give(&t.lanes[freezeframe.Slow], 15)
	give(&t.others.dictionary, 10)
	return t
}
