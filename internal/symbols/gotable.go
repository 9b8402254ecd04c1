package symbols

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"math"
	"sort"
)

// The magic numbers of Go's line tables (internal/abi.PCLnTabMagic): before Go
// 1.18 functions stood by their addresses, since then by their distance from
// where the text starts.
const (
	goMagic12  = 0xfffffffb
	goMagic116 = 0xfffffffa
	goMagic118 = 0xfffffff0
	goMagic120 = 0xfffffff1
)

// goTable is the line table of a Go program (.gopclntab), which stays when the
// symbols are stripped. debug/gosym would read all of it and make an object of
// every function; here it is searched where it stands.
type goTable struct {
	off, size uint64 // in the file
	order     binary.ByteOrder
	count     uint64 // of functions
	// Offsets in the table: pairs of an entry and the offset of a function; what
	// that offset counts from; and the names.
	pairs, funcs, names uint64

	width uint64 // of an entry, and of the offset behind it
	text  uint64 // the address that entries count from
}

// findGoTable looks at the table in a section; nil where it cannot be used.
func findGoTable(r io.ReaderAt, f *elf.File, s *elf.Section) *goTable {
	if s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_COMPRESSED != 0 || s.Offset > math.MaxInt64/2 || s.FileSize > math.MaxInt64/2 {
		return nil
	}
	g := &goTable{off: s.Offset, size: s.FileSize, order: f.ByteOrder}
	// magic, two zeros, the smallest instruction, the size of a pointer, and
	// words of that size.
	head := make([]byte, 8+8*8)
	n, _ := r.ReadAt(head[:min(uint64(len(head)), g.size)], int64(g.off))
	pointer := uint64(head[7])
	if n < len(head) || head[4] != 0 || head[5] != 0 || pointer != 4 && pointer != 8 {
		return nil
	}
	word := func(i int) uint64 {
		if pointer == 8 {
			return g.order.Uint64(head[8+8*i:])
		}
		return uint64(g.order.Uint32(head[8+4*i:]))
	}
	g.count, g.width = word(0), pointer
	relative := false
	switch g.order.Uint32(head) {
	case goMagic118, goMagic120: // functions, files, text start, names, units, files, values, functions
		g.names, g.pairs, g.funcs, g.width, relative = word(3), word(7), word(7), 4, true
	case goMagic116: // functions, files, names, units, files, values, functions
		g.names, g.pairs, g.funcs = word(2), word(6), word(6)
	case goMagic12: // functions, and their pairs at once; offsets count from the table
		g.pairs = 8 + pointer
	default:
		return nil
	}
	if g.count == 0 || g.count > math.MaxUint32 || g.names >= g.size || g.pairs >= g.size || (2*g.count+1)*g.width > g.size-g.pairs {
		return nil
	}
	if !relative {
		return g
	}
	// One entry more than functions: where the last one ends.
	text := f.Section(".text")
	end, ok := g.number(r, g.pairs+2*g.width*g.count, g.width)
	if text == nil || !ok {
		return nil
	}
	if g.text, ok = goText(r, f, text, pointer, word(2), end); !ok {
		return nil
	}
	return g
}

// goText finds the address that the entries of a table count from, runtime.text:
// said is what the table says, which is 0 since Go 1.26, and end where the last
// function ends. ok is false where it cannot be known, because names counted
// from a wrong start would be wrong names.
func goText(r io.ReaderAt, f *elf.File, text *elf.Section, pointer, said, end uint64) (at uint64, ok bool) {
	holds := func(at uint64) bool {
		return at >= text.Addr && at-text.Addr <= text.Size && end <= text.Size-(at-text.Addr)
	}
	if said != 0 && holds(said) {
		return said, true
	}
	// runtime.moduledata has a section of its own since Go 1.26, and says it in
	// its word 22 (runtime/symtab.go). In a program that can be moved the word is
	// 0 until it runs.
	if s := f.Section(".go.module"); s != nil && s.Type != elf.SHT_NOBITS && s.Offset < math.MaxInt64/2 {
		b := make([]byte, pointer)
		if n, _ := r.ReadAt(b, int64(s.Offset+22*pointer)); n == len(b) {
			at = uint64(f.ByteOrder.Uint32(b))
			if pointer == 8 {
				at = f.ByteOrder.Uint64(b)
			}
			if at != 0 && holds(at) {
				return at, true
			}
		}
	}
	// Go's functions fill .text unless C was linked in beside them.
	return text.Addr, end <= text.Size && text.Size-end < 64
}

// number reads a number of 4 or 8 bytes at an offset of the table.
func (g *goTable) number(r io.ReaderAt, off, width uint64) (uint64, bool) {
	var b [8]byte
	if off > g.size || width > g.size-off {
		return 0, false
	}
	if n, _ := r.ReadAt(b[:width], int64(g.off+off)); uint64(n) < width {
		return 0, false
	}
	if width == 8 {
		return g.order.Uint64(b[:]), true
	}
	return uint64(g.order.Uint32(b[:])), true
}

// name returns the function at an address, or "".
func (g *goTable) name(r io.ReaderAt, at uint64) string {
	if at < g.text {
		return ""
	}
	ok := true
	number := func(off, width uint64) (v uint64) {
		if ok {
			v, ok = g.number(r, off, width)
		}
		return v
	}
	i := sort.Search(int(g.count)+1, func(i int) bool {
		return number(g.pairs+2*g.width*uint64(i), g.width) > at-g.text
	}) - 1
	if i < 0 || uint64(i) >= g.count {
		return ""
	}
	// A function is its entry and the offset of its name (runtime._func).
	fn := number(g.pairs+2*g.width*uint64(i)+g.width, g.width)
	name := number(g.funcs+min(fn, g.size)+g.width, 4)
	if !ok {
		return ""
	}
	return cstring(r, int64(g.off+g.names), int64(g.size-g.names), int64(name))
}
