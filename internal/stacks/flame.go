package stacks

import (
	"encoding/json"
	"slices"
	"strings"
)

// MaxFlameBytes is how large Flames may get as JSON.
const MaxFlameBytes = 200_000

// Other is the name of what is too small to be shown on its own.
const Other = "[other]"

// Flames is the form that stacks have in a report's page: trees, in which
// stacks share the frames that they begin with, of names that are written once.
// The page reads it in page/src/flame.ts.
//
//	{
//	  "names": ["vfs_fsync_range", "main", "redis-server"],
//	  "kernel_names": 1,
//	  "graphs": [{
//	    "kind": "off_cpu", "total_ns": 1200000000, "stacks": 1, "other_stacks": 0,
//	    "nodes": [0, 2, 0,  1, 1, 0,  2, 0, 1200000000]
//	  }]
//	}
type Flames struct {
	// Names of functions and, as the outermost frames, of commands. The first
	// KernelNames of them are the kernel's.
	Names       []string `json:"names"`
	KernelNames int      `json:"kernel_names"`
	Graphs      []Flame  `json:"graphs"`
}

// Flame is one flame graph.
type Flame struct {
	Kind    State  `json:"kind"`
	TotalNs uint64 `json:"total_ns"` // the sum of all self times
	// Stacks is how many different stacks there were, and OtherStacks how many
	// of them, the smallest, are only in the frame "[other]".
	Stacks      int `json:"stacks"`
	OtherStacks int `json:"other_stacks"`
	// Nodes are three numbers each, every frame before those that it called:
	// depth (0: the command), the index of its name, and the nanoseconds that
	// were spent in it itself.
	Nodes []uint64 `json:"nodes"`
}

// node is a frame of a flame graph while it is made.
type node struct {
	name     name
	self     uint64
	children map[name]*node
}

// name is a function of the kernel, or anything else.
type name struct {
	text   string
	kernel bool
}

// NewFlames makes the flame graphs of stacks, one for each state that time was
// spent in, or nil where there is none. The stacks with the most time are in
// them until limit bytes of JSON are full; the others are "[other]".
func NewFlames(in []Stack, limit int) *Flames {
	merged := Merge(in, PerComm)
	var states []State
	for _, state := range []State{OnCPU, OffCPU} {
		if slices.ContainsFunc(merged, func(s Stack) bool { return s.State == state && s.Nanoseconds > 0 }) {
			states = append(states, state)
		}
	}
	if len(states) == 0 {
		return nil
	}
	const frame = 400 // bytes of the JSON that are there without any stack, and of "[other]"
	names := make(map[name]bool)
	roots := make([]*node, len(states))
	out := &Flames{}
	for i, state := range states {
		root := &node{children: make(map[name]*node)}
		roots[i] = root
		graph := Flame{Kind: state}
		left := (limit - frame) / len(states)
		full := false
		for _, s := range merged {
			if s.State != state || s.Nanoseconds == 0 {
				continue
			}
			graph.Stacks++
			graph.TotalNs += s.Nanoseconds
			// Nothing that is smaller than what did not fit is shown: what stands in
			// the graph is all there was of that size.
			if cost := s.cost(root, names); !full && cost <= left {
				left -= cost
				s.add(root, names)
				continue
			}
			full = true
			graph.OtherStacks++
			o := root.children[name{text: Other}]
			if o == nil {
				names[name{text: Other}] = true
				o = &node{name: name{text: Other}}
				root.children[o.name] = o
			}
			o.self += s.Nanoseconds
		}
		out.Graphs = append(out.Graphs, graph)
	}
	order := make([]name, 0, len(names))
	for n := range names {
		order = append(order, n)
	}
	slices.SortFunc(order, func(a, b name) int {
		if a.kernel != b.kernel {
			if a.kernel {
				return -1
			}
			return 1
		}
		return strings.Compare(a.text, b.text)
	})
	index := make(map[name]int, len(order))
	for i, n := range order {
		index[n] = i
		out.Names = append(out.Names, n.text)
		if n.kernel {
			out.KernelNames++
		}
	}
	for i, root := range roots {
		out.Graphs[i].Nodes = root.flatten(nil, 0, index)
	}
	return out
}

// path returns the frames of a stack from the outermost on.
func (s *Stack) path(visit func(name) bool) {
	if !visit(name{text: s.Comm}) {
		return
	}
	for i := len(s.Frames) - 1; i >= 0; i-- {
		if !visit(name{s.Frames[i], i < s.Kernel}) {
			return
		}
	}
}

// cost is how many bytes of JSON a stack adds to a graph at most.
func (s *Stack) cost(n *node, names map[name]bool) int {
	const (
		perNode = len("255,") + len("99999,") + len("0,")
		perSelf = len("18446744073709551615")
	)
	cost := perSelf
	s.path(func(f name) bool {
		if n != nil {
			n = n.children[f]
		}
		if n == nil {
			cost += perNode
		}
		if !names[f] {
			text, err := json.Marshal(f.text)
			if err != nil { // no string fails to be encoded
				panic(err)
			}
			cost += len(text) + len(",")
		}
		return true
	})
	return cost
}

func (s *Stack) add(n *node, names map[name]bool) {
	s.path(func(f name) bool {
		names[f] = true
		child := n.children[f]
		if child == nil {
			child = &node{name: f, children: make(map[name]*node)}
			n.children[f] = child
		}
		n = child
		return true
	})
	n.self += s.Nanoseconds
}

// flatten appends the nodes below n, in the order of their names.
func (n *node) flatten(out []uint64, depth uint64, index map[name]int) []uint64 {
	children := make([]*node, 0, len(n.children))
	for _, c := range n.children {
		children = append(children, c)
	}
	slices.SortFunc(children, func(a, b *node) int { return index[a.name] - index[b.name] })
	for _, c := range children {
		out = append(out, depth, uint64(index[c.name]), c.self)
		out = c.flatten(out, depth+1, index)
	}
	return out
}
