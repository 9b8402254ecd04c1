package bpf

import (
	"errors"
	"fmt"

	"freezeframe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// optional is a program that a kernel may not have the tracepoint for.
type optional struct {
	program, tracepoint string
	lost                string
}

// tracepoint returns the arguments that a BTF tracepoint passes, without the
// first (its private data); an error that wraps ebpf.ErrNotSupported when this
// kernel does not have it.
func (l *loading) tracepoint(name string) ([]btf.FuncParam, error) {
	var def *btf.Typedef
	if err := l.kernel.TypeByName("btf_trace_"+name, &def); err != nil {
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

// without takes those programs out of an object that this kernel has no
// tracepoint for, and notes what is lost with each.
func (l *loading) without(spec *ebpf.CollectionSpec, list ...optional) {
	for _, o := range list {
		if _, err := l.tracepoint(o.tracepoint); err != nil {
			delete(spec.Programs, o.program)
			l.need(freezeframe.Need{What: "BPF " + l.name + " (tp_btf " + o.tracepoint + ")", Lost: o.lost, Fix: fixFor(err), Err: err.Error()})
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
	for name, value := range constants {
		v := spec.Variables[name]
		if v == nil {
			return nil, fmt.Errorf("set the constant %s: the object has none", name)
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set the constant %s: %w", name, err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: l.kernel}})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", l.name, err)
	}
	l.closing(collection{coll})
	return coll, nil
}
