package bpf

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// mapped is the one value of an array (BPF_F_MMAPABLE) in our own memory:
// reading it costs no system call. The programs go on writing it meanwhile;
// each counter is whole, and those of one record may be a request apart.
type mapped[T any] struct {
	memory []byte
	value  *T
}

// mapValue maps a map of one value, which must be laid out as T.
func mapValue[T any](m *ebpf.Map) (mapped[T], error) {
	var zero T
	if size := int(unsafe.Sizeof(zero)); int(m.ValueSize()) != size {
		return mapped[T]{}, fmt.Errorf("map a BPF array: its value has %d bytes, want %d", m.ValueSize(), size)
	}
	page := os.Getpagesize()
	length := (int(m.ValueSize()) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return mapped[T]{}, fmt.Errorf("map a BPF array: %w", err)
	}
	return mapped[T]{b, (*T)(unsafe.Pointer(&b[0]))}, nil
}

// Close unmaps it.
func (m *mapped[T]) Close() error {
	if m.memory == nil {
		return nil
	}
	b := m.memory
	m.memory, m.value = nil, nil
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap a BPF array: %w", err)
	}
	return nil
}

// tracepoint returns how many arguments a tracepoint of this kernel passes, -1
// when it has none of that name. types may be those of a module.
func tracepoint(types *btf.Spec, name string) int {
	var def *btf.Typedef
	if err := types.TypeByName("btf_trace_"+name, &def); err != nil {
		return -1
	}
	pointer, ok := def.Type.(*btf.Pointer)
	if !ok {
		return -1
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return -1
	}
	return len(proto.Params) - 1 // the first is the probe's own
}

// enumValue returns a constant of one of the kernel's enumerations.
func enumValue(types *btf.Spec, enum, name string) (uint64, error) {
	var e *btf.Enum
	if err := types.TypeByName(enum, &e); err != nil {
		return 0, fmt.Errorf("find enum %s among the kernel's types: %w", enum, err)
	}
	for _, v := range e.Values {
		if v.Name == name {
			return v.Value, nil
		}
	}
	return 0, fmt.Errorf("enum %s of this kernel has no %s", enum, name)
}

// attachable puts an empty program in the place of each whose tracepoint is not
// among types, for trace to pass over, and returns the tracepoints' names.
func attachable(spec *ebpf.CollectionSpec, types *btf.Spec) (lacks []string) {
	for name, p := range spec.Programs {
		if tracepoint(types, p.AttachTo) < 0 {
			lacks = append(lacks, p.AttachTo)
			spec.Programs[name] = &ebpf.ProgramSpec{
				Name: name, Type: ebpf.SocketFilter, License: "GPL",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
			}
		}
	}
	return lacks
}

// errUnused says that this machine has nothing that a family could tell of: it
// is left out without a word.
var errUnused = errors.New("nothing here for it to tell of")
