package bpf

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batch reads a whole hash map by one system call or a few, into memory of its
// own (BPF_MAP_LOOKUP_BATCH, since Linux 5.6). It is for one goroutine.
type batch struct {
	m            *ebpf.Map
	keySize      int
	valueSize    int // of all that a key has
	perKey       int // values a key: in a per-CPU map as many as CPUs
	most         uint32
	keys, values []byte
	cursors      [2][64]byte
}

// batchAttr is the part of union bpf_attr for batches (include/uapi/linux/bpf.h).
type batchAttr struct {
	in, out, keys, values unsafe.Pointer
	count, fd             uint32
	elemFlags, flags      uint64
}

const mapLookupBatch = 24 // BPF_MAP_LOOKUP_BATCH

func newBatch(m *ebpf.Map) *batch {
	b := &batch{m: m, keySize: int(m.KeySize()), valueSize: int(m.ValueSize()), perKey: 1, most: m.MaxEntries()}
	if m.Type() == ebpf.PerCPUHash {
		b.perKey = possibleCPUs()
		b.valueSize = (b.valueSize + 7) / 8 * 8 * b.perKey
	}
	b.keys, b.values = make([]byte, b.keySize*int(b.most)), make([]byte, b.valueSize*int(b.most))
	return b
}

// each calls f with every key and value that is in the map, in no order. It
// does not allocate.
func (b *batch) each(f func(key, value unsafe.Pointer)) error {
	var attr batchAttr
	for turn := 0; ; turn++ {
		attr = batchAttr{
			out: unsafe.Pointer(&b.cursors[turn%2]), keys: unsafe.Pointer(&b.keys[0]), values: unsafe.Pointer(&b.values[0]),
			count: b.most, fd: uint32(b.m.FD()),
		}
		if turn > 0 {
			attr.in = unsafe.Pointer(&b.cursors[(turn+1)%2])
		}
		_, _, errno := unix.RawSyscall(unix.SYS_BPF, mapLookupBatch, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		runtime.KeepAlive(b)
		if errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("read a BPF map at once (needs Linux 5.6): %w", errno)
		}
		for i := range int(attr.count) {
			f(unsafe.Pointer(&b.keys[i*b.keySize]), unsafe.Pointer(&b.values[i*b.valueSize]))
		}
		if errno == unix.ENOENT { // that was the last of it
			return nil
		}
	}
}
