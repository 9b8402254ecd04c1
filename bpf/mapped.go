package bpf

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// slots are the values of an array (BPF_F_MMAPABLE) in our own memory: reading
// them costs no system call. The programs go on writing meanwhile; each number
// is whole, and those of one value may be a moment apart.
type slots[T any] struct {
	memory []byte
	values []T
}

// mapSlots maps an array whose values are laid out as T. They may be written.
func mapSlots[T any](m *ebpf.Map) (slots[T], error) {
	var zero T
	if size := int(unsafe.Sizeof(zero)); int(m.ValueSize()) != size {
		return slots[T]{}, fmt.Errorf("map %s: its values have %d bytes, not %d", m, m.ValueSize(), size)
	}
	page := os.Getpagesize()
	length := (int(m.MaxEntries())*int(m.ValueSize()) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return slots[T]{}, fmt.Errorf("map %s: %w", m, err)
	}
	return slots[T]{b, unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries())}, nil
}

// Close unmaps them.
func (s *slots[T]) Close() error {
	if s.memory == nil {
		return nil
	}
	b := s.memory
	s.memory, s.values = nil, nil
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap a BPF array: %w", err)
	}
	return nil
}
