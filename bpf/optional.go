package bpf

import (
	"errors"
	"fmt"

	"freezeframe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// optional is a program that a kernel may not have the tracepoint for.
type optional struct {
	program, tracepoint string
	lost                string
}

// tracepoint returns the arguments that a BTF tracepoint passes, without the
// first (its private data); an error that wraps ebpf.ErrNotSupported when there
// is none of that name. types are the kernel's or those of a module.
func tracepoint(types *btf.Spec, name string) ([]btf.FuncParam, error) {
	var def *btf.Typedef
	if err := types.TypeByName("btf_trace_"+name, &def); err != nil {
		if errors.Is(err, btf.ErrNotFound) {
			return nil, fmt.Errorf("this kernel has no tracepoint %s: %w", name, ebpf.ErrNotSupported)
		}
		return nil, fmt.Errorf("look for the tracepoint %s: %w", name, err)
	}
	if pointer, ok := def.Type.(*btf.Pointer); ok {
		if proto, ok := pointer.Target.(*btf.FuncProto); ok && len(proto.Params) > 0 {
			return proto.Params[1:], nil
		}
	}
	return nil, fmt.Errorf("the tracepoint %s is of an unknown shape: %w", name, ebpf.ErrNotSupported)
}

// arguments returns how many arguments a tracepoint passes, -1 where there is
// none of that name.
func arguments(types *btf.Spec, name string) int {
	args, err := tracepoint(types, name)
	if err != nil {
		return -1
	}
	return len(args)
}

// without takes those programs out of an object that this kernel has no
// tracepoint for, and notes what is lost with each.
func (l *loading) without(spec *ebpf.CollectionSpec, list ...optional) {
	for _, o := range list {
		if _, err := tracepoint(l.kernel, o.tracepoint); err != nil {
			delete(spec.Programs, o.program)
			l.need(needOf(l, "tp_btf "+o.tracepoint, o.lost, err))
		}
	}
}

// open loads an object of which programs may be missing, attaches what is left,
// and returns its maps.
func (l *loading) open(spec *ebpf.CollectionSpec, constants map[string]any) (map[string]*ebpf.Map, error) {
	coll, err := l.plain(spec, constants)
	if err != nil {
		return nil, err
	}
	for name, prog := range coll.Programs {
		lk, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", name, err)
		}
		l.links = append(l.links, lk)
		l.programs = append(l.programs, prog)
	}
	return coll.Maps, nil
}

type collection struct{ *ebpf.Collection }

func (c collection) Close() error {
	c.Collection.Close()
	return nil
}

func needOf(l *loading, at, lost string, err error) freezeframe.Need {
	return freezeframe.Need{What: "BPF " + l.name + " (" + at + ")", Lost: lost, Fix: fixFor(err), Err: err.Error()}
}

// plain loads an object whose programs are attached by hand.
func (l *loading) plain(spec *ebpf.CollectionSpec, constants map[string]any) (*ebpf.Collection, error) {
	if err := prepare(spec, constants); err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: l.kernel}})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", l.name, err)
	}
	l.closing(collection{coll})
	return coll, nil
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
		if arguments(types, p.AttachTo) < 0 {
			lacks = append(lacks, p.AttachTo)
			spec.Programs[name] = nothing(name)
		}
	}
	return lacks
}

// nothing is a program in the place of another that is not to be attached.
func nothing(name string) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: name, Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
}

// errUnused says that this machine has nothing that a family could tell of: it
// is left out without a word.
var errUnused = errors.New("nothing here for it to tell of")
