package probes

import (
	"time"

	"freezeframe"
)

// slotIndex finds the slot of a key in a dense table: open addressing, rebuilt
// whenever slots are removed. Its size is a power of two.
type slotIndex []int16

func (x slotIndex) probe(key freezeframe.Key) int {
	return int(uint64(key) * 0x9e3779b97f4a7c15 >> 32 & uint64(len(x)-1))
}

func (x slotIndex) next(i int) int { return (i + 1) & (len(x) - 1) }

const (
	maxListeners = 512
	maxConns     = 2048
)

// listenerTable holds the services; the first n slots are in use.
type listenerTable struct {
	slots   []service // maxListeners
	n       int
	buckets [2 * maxListeners]int16 // slot + 1
	swept   freezeframe.Instant
}

// index returns the slot of a key, -1 when it has none.
func (t *listenerTable) index(key freezeframe.Key) int {
	if key == 0 {
		return -1
	}
	x := slotIndex(t.buckets[:])
	for i := x.probe(key); x[i] != 0; i = x.next(i) {
		if t.slots[x[i]-1].key == key {
			return int(x[i] - 1)
		}
	}
	return -1
}

func (t *listenerTable) at(key freezeframe.Key) *service {
	if i := t.index(key); i >= 0 {
		return &t.slots[i]
	}
	return nil
}

// find returns the service of a key, a new one when there is none; nil when
// the table is full.
func (t *listenerTable) find(key freezeframe.Key) *service {
	if s := t.at(key); s != nil {
		return s
	}
	if key == 0 || t.n == maxListeners {
		return nil
	}
	s := &t.slots[t.n]
	*s = service{key: key}
	t.n++
	t.enter(t.n - 1)
	return s
}

func (t *listenerTable) enter(slot int) {
	x := slotIndex(t.buckets[:])
	i := x.probe(t.slots[slot].key)
	for x[i] != 0 {
		i = x.next(i)
	}
	x[i] = int16(slot + 1)
}

// has tells whether a process serves anything.
func (t *listenerTable) has(pid uint64) bool {
	for i := range t.n {
		if t.slots[i].pid == pid && pid != 0 {
			return true
		}
	}
	return false
}

// expire forgets the listeners that have not been there for a while: those of
// other namespaces are read only now and then.
func (t *listenerTable) expire(now freezeframe.Instant) {
	if now.Sub(t.swept) < time.Second {
		return
	}
	t.swept = now
	kept := 0
	for i := range t.n {
		if now.Sub(t.slots[i].seen) > 10*time.Second {
			continue
		}
		if kept != i {
			t.slots[kept] = t.slots[i]
		}
		kept++
	}
	if kept == t.n {
		return
	}
	t.n = kept
	clear(t.buckets[:])
	for i := range t.n {
		t.enter(i)
	}
}

// connTable holds the connections of the last readings.
type connTable struct {
	slots   []conn // maxConns
	n       int
	buckets [2 * maxConns]int16
}

func (t *connTable) find(key freezeframe.Key) *conn {
	x := slotIndex(t.buckets[:])
	i := x.probe(key)
	for ; x[i] != 0; i = x.next(i) {
		if t.slots[x[i]-1].key == key {
			return &t.slots[x[i]-1]
		}
	}
	if key == 0 || t.n == maxConns {
		return nil
	}
	n := &t.slots[t.n]
	*n = conn{key: key}
	t.n++
	x[i] = int16(t.n)
	return n
}

// expire forgets the connections that are gone and on which nobody waits.
func (t *connTable) expire(now freezeframe.Instant) {
	kept := 0
	for i := range t.n {
		n := &t.slots[i]
		if n.missing != 0 && now.Sub(n.missing) >= gone {
			continue
		}
		if kept != i {
			t.slots[kept] = t.slots[i]
		}
		kept++
	}
	if kept == t.n {
		return
	}
	t.n = kept
	clear(t.buckets[:])
	x := slotIndex(t.buckets[:])
	for slot := range t.n {
		i := x.probe(t.slots[slot].key)
		for x[i] != 0 {
			i = x.next(i)
		}
		x[i] = int16(slot + 1)
	}
}

// addressTable holds the addresses at which services of this host, in whatever
// network namespace, were reached: texts of the side that serves.
type addressTable struct {
	slots [512]reachedAddress
	n     int
}

type reachedAddress struct {
	text    uint64
	trouble freezeframe.Instant // when a request to connect was last overdue
}

func (t *addressTable) slot(text uint64) *reachedAddress {
	for i := text * 0x9e3779b97f4a7c15 >> 55; ; i++ {
		if at := &t.slots[i%uint64(len(t.slots))]; at.text == text || at.text == 0 {
			return at
		}
	}
}

// add keeps an address. When the table is full it starts anew: those in use
// are soon there again.
func (t *addressTable) add(text uint64) {
	at := t.slot(text)
	if text == 0 || at.text == text {
		return
	}
	if t.n == len(t.slots)/2 {
		*t = addressTable{}
		at = t.slot(text)
	}
	at.text = text
	t.n++
}

func (t *addressTable) has(text uint64) bool { return text != 0 && t.slot(text).text == text }

// trouble notes that an address that is in the table cannot be reached.
func (t *addressTable) trouble(text uint64, now freezeframe.Instant) { t.slot(text).trouble = now }

// troubled tells whether it was so within the last seconds: a connection that
// was half made then is sent to again after 1, 3 and 7 s.
func (t *addressTable) troubled(text uint64, now freezeframe.Instant) bool {
	at := t.slot(text)
	return t.has(text) && at.trouble != 0 && now.Sub(at.trouble) < 4*time.Second
}
