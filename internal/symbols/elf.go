package symbols

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"sort"
)

// What an ELF file can make us keep, read or do at most.
const (
	maxHeaders  = 4 << 20   // bytes of headers, section names and notes read
	maxSegments = 64        // loaded segments kept
	maxFuncs    = 1 << 18   // functions kept in a table; of more, each lookup reads the file
	maxSymbols  = 4 << 20   // symbols looked at
	maxSameAddr = 64        // names looked at for one address
	maxBuildID  = 20        // bytes, as in the kernel (BUILD_ID_SIZE_MAX)
	maxNote     = 64 << 10  // bytes of one note segment read
	symbolChunk = 2048      // symbols read at a time
	funcBytes   = 16        // of a function in the table
	maxDebug    = 256 << 20 // bytes of a debug file whose checksum is made
)

var errTooLarge = errors.New("its headers are too large")

// budget lets only so many bytes be read, so that no length in a file can make
// a parser allocate more.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if int64(len(p)) > b.left {
		return 0, errTooLarge
	}
	b.left -= int64(len(p))
	return b.r.ReadAt(p, off)
}

// segment is a part of the file that is loaded.
type segment struct {
	off, size uint64 // in the file
	vaddr     uint64
	exec      bool
}

// function is one function of a symbol table.
type function struct {
	at   uint64
	size uint32
	name uint32 // offset in the table's strings
}

// table is a symbol table in a file, by where it stands.
type table struct {
	off, size       int64 // the symbols
	strings, length int64 // their names
	funcs           []function
	tooMany         bool // funcs is empty: there are more than maxFuncs
}

// image is what is kept of an ELF file: where addresses are and which functions
// there are, but not their names, which are read when they are asked for.
type image struct {
	class   elf.Class
	order   binary.ByteOrder
	machine elf.Machine
	buildID string // raw bytes; "" where it has none

	segments []segment
	symtab   *table // .symtab, of this file or of its debug file
	dynsym   *table
	gotab    *goTable
	debug    debugLink
	// inDebug says that symtab belongs to the debug file.
	inDebug bool
}

// debugLink is what .gnu_debuglink says.
type debugLink struct {
	name string // a file's name without a directory; "" where there is none
	crc  uint32
}

// readImage reads what lookups in an ELF file need. Every error says what is
// wrong with the file; a file without symbols is none.
func readImage(r io.ReaderAt) (*image, error) {
	f, err := elf.NewFile(&budget{r, maxHeaders})
	if err != nil {
		return nil, fmt.Errorf("read ELF headers: %w", err)
	}
	im := &image{class: f.Class, order: f.ByteOrder, machine: f.Machine, buildID: buildID(f, r)}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Filesz > 0 && len(im.segments) < maxSegments {
			im.segments = append(im.segments, segment{off: p.Off, size: p.Filesz, vaddr: p.Vaddr, exec: p.Flags&elf.PF_X != 0})
		}
	}
	for i, s := range f.Sections {
		switch {
		case s.Type == elf.SHT_SYMTAB && im.symtab == nil:
			im.symtab = im.findTable(r, f, s)
		case s.Type == elf.SHT_DYNSYM && im.dynsym == nil:
			im.dynsym = im.findTable(r, f, s)
		case im.gotab == nil && (s.Name == ".gopclntab" || s.Name == ".data.rel.ro.gopclntab"):
			im.gotab = findGoTable(r, f, f.Sections[i])
		case s.Name == ".gnu_debuglink" && s.Type != elf.SHT_NOBITS:
			im.debug = readDebugLink(r, s, f.ByteOrder)
		}
	}
	return im, nil
}

// buildID returns the file's GNU build id (note type 3 with the owner "GNU").
func buildID(f *elf.File, r io.ReaderAt) string {
	for _, p := range f.Progs {
		if p.Type == elf.PT_NOTE {
			if id := noteBuildID(r, f.ByteOrder, p.Off, p.Filesz, p.Align); id != "" {
				return id
			}
		}
	}
	// The program headers of a debug file point at what it does not have.
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NOTE {
			if id := noteBuildID(r, f.ByteOrder, s.Offset, s.FileSize, s.Addralign); id != "" {
				return id
			}
		}
	}
	return ""
}

func noteBuildID(r io.ReaderAt, order binary.ByteOrder, off, size, align uint64) string {
	if off > math.MaxInt64-maxNote {
		return ""
	}
	b := make([]byte, min(size, maxNote))
	n, _ := r.ReadAt(b, int64(off))
	b = b[:n]
	pad := uint64(4)
	if align == 8 {
		pad = 8
	}
	round := func(v uint64) uint64 { return (v + pad - 1) &^ (pad - 1) }
	for len(b) >= 12 {
		name, desc, kind := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint32(b[8:])
		d := round(12 + name)
		end := round(d + desc)
		if d+desc > uint64(len(b)) {
			return ""
		}
		if kind == 3 && name == 4 && string(b[12:16]) == "GNU\x00" && desc > 0 && desc <= maxBuildID {
			return string(b[d : d+desc])
		}
		if end >= uint64(len(b)) {
			return ""
		}
		b = b[end:]
	}
	return ""
}

func readDebugLink(r io.ReaderAt, s *elf.Section, order binary.ByteOrder) debugLink {
	if s.Offset > math.MaxInt64-4096 {
		return debugLink{}
	}
	b := make([]byte, min(s.FileSize, 4096))
	n, _ := r.ReadAt(b, int64(s.Offset))
	b = b[:n]
	end := bytes.IndexByte(b, 0)
	crc := (end + 4) &^ 3
	if end <= 0 || crc+4 > len(b) {
		return debugLink{}
	}
	name := string(b[:end])
	if path.Base(name) != name || name == "." || name == ".." {
		return debugLink{} // it must be a name, not a way to somewhere
	}
	return debugLink{name: name, crc: order.Uint32(b[crc:])}
}

// findTable returns the functions of a symbol table; nil where it has none.
func (im *image) findTable(r io.ReaderAt, f *elf.File, s *elf.Section) *table {
	if int(s.Link) >= len(f.Sections) || s.Flags&elf.SHF_COMPRESSED != 0 {
		return nil
	}
	str := f.Sections[s.Link]
	if str.Type != elf.SHT_STRTAB || s.Offset > math.MaxInt64/2 || s.FileSize > math.MaxInt64/2 || str.Offset > math.MaxInt64/2 || str.FileSize > math.MaxInt64/2 {
		return nil
	}
	t := &table{off: int64(s.Offset), size: int64(s.FileSize), strings: int64(str.Offset), length: int64(str.FileSize)}
	im.each(r, t, func(fn function) bool {
		if len(t.funcs) == maxFuncs {
			t.funcs, t.tooMany = nil, true
			return false
		}
		t.funcs = append(t.funcs, fn)
		return true
	})
	if len(t.funcs) == 0 && !t.tooMany {
		return nil
	}
	t.funcs = slices.Clone(t.funcs) // without what append took ahead
	slices.SortStableFunc(t.funcs, func(a, b function) int { return cmp.Compare(a.at, b.at) })
	return t
}

// each calls visit with every function of the table until it returns false.
func (im *image) each(r io.ReaderAt, t *table, visit func(function) bool) {
	size := 24
	if im.class == elf.ELFCLASS32 {
		size = 16
	}
	left := min(t.size/int64(size), maxSymbols)
	buf := make([]byte, min(left, symbolChunk)*int64(size))
	for off := t.off; left > 0; {
		chunk := buf[:min(left, symbolChunk)*int64(size)]
		n, err := r.ReadAt(chunk, off)
		for b := chunk[:n]; len(b) >= size; b = b[size:] {
			var fn function
			var info byte
			var section uint16
			var length uint64
			fn.name = im.order.Uint32(b)
			if size == 24 {
				info, section, fn.at, length = b[4], im.order.Uint16(b[6:]), im.order.Uint64(b[8:]), im.order.Uint64(b[16:])
			} else {
				fn.at, length, info, section = uint64(im.order.Uint32(b[4:])), uint64(im.order.Uint32(b[8:])), b[12], im.order.Uint16(b[14:])
			}
			kind := elf.SymType(info & 0xf)
			if kind != elf.STT_FUNC && kind != elf.STT_GNU_IFUNC || elf.SectionIndex(section) == elf.SHN_UNDEF || fn.name == 0 {
				continue
			}
			if im.machine == elf.EM_ARM {
				fn.at &^= 1 // the bit that says Thumb
			}
			fn.size = uint32(min(length, math.MaxUint32))
			if !visit(fn) {
				return
			}
		}
		if err != nil {
			return
		}
		off += int64(n)
		left -= int64(n / size)
	}
}

// vaddr translates an offset in the file to the address that the file's symbols
// are given in.
func (im *image) vaddr(off uint64) (uint64, bool) {
	found := -1
	for i, s := range im.segments {
		// Two segments can share a page: code counts first.
		if off >= s.off && off-s.off < s.size && (found < 0 || s.exec && !im.segments[found].exec) {
			found = i
		}
	}
	if found < 0 {
		return 0, false
	}
	return off - im.segments[found].off + im.segments[found].vaddr, true
}

// name returns the function at an offset of the file, or "". r is the file,
// dr its debug file (nil where symtab is its own).
func (im *image) name(r, dr io.ReaderAt, off uint64) string {
	at, ok := im.vaddr(off)
	if !ok {
		return ""
	}
	if im.symtab != nil && (!im.inDebug || dr != nil) {
		from := r
		if im.inDebug {
			from = dr
		}
		if s := im.find(from, im.symtab, at); s != "" {
			return im.readable(s)
		}
	}
	if im.gotab != nil {
		if s := im.gotab.name(r, at); s != "" {
			return shown(s)
		}
	}
	if im.dynsym != nil {
		if s := im.find(r, im.dynsym, at); s != "" {
			return im.readable(s)
		}
	}
	return ""
}

// readable is symbolName, except for Go's names, which are readable and in
// which an @ or a leading _Z would mean nothing.
func (im *image) readable(s string) string {
	if im.gotab != nil && bytes.ContainsAny([]byte(s), ".") && !bytes.HasPrefix([]byte(s), []byte("_Z")) {
		return shown(s)
	}
	return symbolName(s)
}

// find returns the name of the function of a table that an address is in.
func (im *image) find(r io.ReaderAt, t *table, at uint64) string {
	funcs := t.funcs
	if t.tooMany {
		funcs = im.around(r, t, at)
	}
	next := sort.Search(len(funcs), func(i int) bool { return funcs[i].at > at })
	// A function can lie in another (a part of it with a name of its own): the
	// nearest one that reaches the address is it.
	for i := next - 1; i >= 0 && i >= next-maxSameAddr; i-- {
		fn := funcs[i]
		reaches := at-fn.at < uint64(fn.size)
		if fn.size == 0 { // written in assembly: it ends where the next begins
			reaches = fn.at == funcs[next-1].at
		}
		if !reaches {
			continue
		}
		best := ""
		for j := i; j >= 0 && j > i-maxSameAddr && funcs[j].at == fn.at; j-- {
			if s := cstring(r, t.strings, t.length, int64(funcs[j].name)); s != "" && (best == "" || better(s, best)) {
				best = s
			}
		}
		return best
	}
	return ""
}

// around reads a table that is too large to keep and returns, sorted, those of
// its functions that can hold the address.
func (im *image) around(r io.ReaderAt, t *table, at uint64) []function {
	var last, holds []function
	im.each(r, t, func(fn function) bool {
		switch {
		case fn.at > at:
		case at-fn.at < uint64(fn.size):
			if len(holds) < maxSameAddr {
				holds = append(holds, fn)
			}
		case fn.size == 0:
			if len(last) > 0 && last[0].at < fn.at {
				last = last[:0]
			}
			if len(last) == 0 || last[0].at == fn.at && len(last) < maxSameAddr {
				last = append(last, fn)
			}
		default: // it ends before: one without a size before it ends, too
			if len(last) > 0 && last[0].at < fn.at {
				last = append(last[:0], fn)
			} else if len(last) == 0 {
				last = append(last, fn)
			}
		}
		return true
	})
	out := append(holds, last...)
	slices.SortStableFunc(out, func(a, b function) int { return cmp.Compare(a.at, b.at) })
	return out
}

// cstring reads a name out of a table of strings; what is longer than
// maxMangled is cut.
func cstring(r io.ReaderAt, table, length, off int64) string {
	if off < 0 || off >= length {
		return ""
	}
	// Most names are short.
	for _, size := range []int64{128, maxMangled} {
		b := make([]byte, min(size, length-off))
		n, err := r.ReadAt(b, table+off)
		b = b[:n]
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(b[:i])
		}
		if err != nil || size == maxMangled || int64(len(b)) == length-off {
			return string(b)
		}
	}
	return ""
}

// bytes is how much memory the image keeps.
func (im *image) bytes() int {
	n := 512 + 40*len(im.segments)
	for _, t := range []*table{im.symtab, im.dynsym} {
		if t != nil {
			n += 64 + funcBytes*len(t.funcs)
		}
	}
	return n
}
