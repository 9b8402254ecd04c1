package bpf

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Ring reads a BPF ring buffer (Documentation/bpf/ringbuf.rst) without a
// system call: the programs submit with BPF_RB_NO_WAKEUP, and whoever reads
// comes by on his own tick. It is for one goroutine.
type Ring struct {
	consumer, producer *uint64
	data               []byte // the buffer and its beginning again, so that no record is cut
	mask               uint64
	pages              [2][]byte
}

const (
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
	ringHeader  = 8
	// longestRecord is how long a record may be, with its header. The kernel maps
	// the buffer twice in a row; so much of the second time is enough, and what is
	// mapped twice counts twice as resident.
	longestRecord = 4096
)

// NewRing maps the buffer. The map may be closed afterwards.
func NewRing(m *ebpf.Map) (*Ring, error) {
	page := os.Getpagesize()
	size := int(m.MaxEntries())
	consumer, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the consumer's page of a BPF ring buffer: %w", err)
	}
	again := min((longestRecord+page-1)/page*page, size)
	rest, err := unix.Mmap(m.FD(), int64(page), page+size+again, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Munmap(consumer)
		return nil, fmt.Errorf("map the data of a BPF ring buffer: %w", err)
	}
	return &Ring{
		consumer: (*uint64)(unsafe.Pointer(&consumer[0])),
		producer: (*uint64)(unsafe.Pointer(&rest[0])),
		data:     rest[page:],
		mask:     uint64(size - 1),
		pages:    [2][]byte{consumer, rest},
	}, nil
}

// Drain calls f with every record that is complete, at most the given number,
// oldest first, and returns how many there were. The record is only valid
// during the call. It neither allocates nor waits.
func (r *Ring) Drain(most int, f func(record []byte)) int {
	n := 0
	at := atomic.LoadUint64(r.consumer)
	for ; n < most && at < atomic.LoadUint64(r.producer); n++ {
		start := at & r.mask
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[start])))
		if header&ringBusy != 0 {
			break // its writer is not done
		}
		length := uint64(header &^ (ringBusy | ringDiscard))
		if header&ringDiscard == 0 {
			f(r.data[start+ringHeader : start+ringHeader+length])
		}
		at += (length + ringHeader + 7) &^ 7
		atomic.StoreUint64(r.consumer, at)
	}
	return n
}

// Close unmaps the buffer.
func (r *Ring) Close() error {
	if r == nil || r.data == nil {
		return nil
	}
	r.data = nil
	for _, p := range r.pages {
		if err := unix.Munmap(p); err != nil {
			return fmt.Errorf("unmap a BPF ring buffer: %w", err)
		}
	}
	return nil
}
