package symbols

import (
	"bytes"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestReadable(t *testing.T) {
	for in, want := range map[string]string{
		"memcpy@@GLIBC_2.14":                             "memcpy",
		"memcpy@GLIBC_2.2.5":                             "memcpy",
		"_ZN3foo3barEiRKSs":                              "foo::bar",
		"_ZNSt6vectorIiSaIiEE9push_backERKi":             "std::vector::push_back",
		"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE": "core::fmt::Formatter::pad",
		"_RNvCskwGfYPst2Cb_3foo16example_function":       "foo::example_function",
		"_Znot_mangled":                                  "_Znot_mangled",
		"evil\x1b[2J\u202ex":                             "evil?[2J?x",
		"\xff\xfe":                                       "??",
		"plain":                                          "plain",
		strings.Repeat("ä", 200):                         strings.Repeat("ä", 126) + "…",
	} {
		if got := symbolName(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestBetterName(t *testing.T) {
	for _, c := range [][2]string{{"write", "__write"}, {"fsync", "__libc_fsync"}, {"malloc", "malloc_long"}, {"a", "b"}} {
		if !better(c[0], c[1]) || better(c[1], c[0]) {
			t.Errorf("%q is not preferred to %q", c[0], c[1])
		}
	}
}

const someMaps = `00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/dbus-daemon
7f0000000000-7f0000001000 rwxp 00000000 00:00 0 
7f0000001000-7f0000009000 r-xp 00000000 00:00 0 
7f1000000000-7f1000001000 r-xp 00002000 fd:01 4611686018427387999 /a b/lib x.so (deleted)
7f1000002000-7f1000003000 r-xs 00000000 00:01 77 /memfd:doublemapper (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
garbage
7f2000000000-7f1000000000 r-xp 00000000 00:00 0
`

func TestReadMaps(t *testing.T) {
	got, whole, err := readMaps(strings.NewReader(someMaps))
	if err != nil || !whole {
		t.Fatal(err, whole)
	}
	var b strings.Builder
	for _, m := range got {
		fmt.Fprintf(&b, "%x-%x %x %d %s %v\n", m.start, m.end, m.off, m.ino, m.base(), m.isMemory())
	}
	want := `400000-452000 0 173521 dbus-daemon false
7f0000000000-7f0000009000 0 0 [anon] true
7f1000000000-7f1000001000 2000 4611686018427387999 lib x.so false
7f1000002000-7f1000003000 0 77 memfd:doublemapper true
7ffd00000000-7ffd00002000 0 0 [vdso] false
ffffffffff600000-ffffffffff601000 0 0 [vsyscall] false
`
	want = strings.Replace(want, " memfd:", " memfd:", 1)
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	var many strings.Builder
	for i := range maxMappings + 10 {
		fmt.Fprintf(&many, "%x-%x r-xp 00000000 08:02 %d /lib%d.so\n", i*8192, i*8192+4096, i+1, i)
	}
	if got, whole, err := readMaps(strings.NewReader(many.String())); err != nil || whole || len(got) != maxMappings {
		t.Errorf("too many mappings: %d kept, whole %v, %v", len(got), whole, err)
	}
}

func TestPerfMap(t *testing.T) {
	text := "7f0000000000 100 old_code\n7f0000000200 40 Function:~handle /srv/app.js:12\n0x7f0000000300 0x10 py::loop:/a.py\n" +
		"7f0000000080 100 new_code\nnot a line\n7f0000000400 0 empty\n7f0000000500 20 evil\x1b[31m;name\n7f0000000200 40 LazyCompile:*handle /srv/app.js:12\n" +
		"7f0000000740 40 thrown_away\n7f0000000700 100 newer_and_longer\nffffffffffffffff1 10 x"
	m, err := readPerfMap(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[uint64]string{
		0x7f0000000000: "old_code",
		0x7f000000007f: "old_code",
		0x7f0000000080: "new_code", // compiled over the old code
		0x7f00000000ff: "new_code",
		0x7f000000017f: "new_code",
		0x7f0000000180: "",
		0x7f0000000200: "LazyCompile:*handle /srv/app.js:12",
		0x7f000000030f: "py::loop:/a.py",
		0x7f0000000310: "",
		0x7f0000000400: "",
		0x7f0000000510: "evil?[31m;name",
		0x7f0000000750: "newer_and_longer",
		0x7f00000007ff: "newer_and_longer",
		0:              "",
	} {
		if got := m.name(at); got != want {
			t.Errorf("%#x is %q, want %q", at, got, want)
		}
	}
	// Of a map that is too large, the end counts.
	var large bytes.Buffer
	for i := 0; large.Len() < maxPerfMap+1<<20; i++ {
		fmt.Fprintf(&large, "%x 40 function_%d_with_a_name_that_is_as_long_as_some\n", 0x1000+i*64, i)
	}
	last := bytes.Count(large.Bytes(), []byte("\n")) - 1
	in := &counted{r: bytes.NewReader(large.Bytes())}
	m, err = readPerfMap(in, int64(large.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.name(uint64(0x1000+last*64)), fmt.Sprintf("function_%d_with_a_name_that_is_as_long_as_some", last); got != want {
		t.Errorf("the last function is %q, want %q", got, want)
	}
	if in.n > maxPerfMap {
		t.Errorf("%d bytes of it were read", in.n)
	}
	if m.name(0x1000) != "" || m.bytes() > jitBytes {
		t.Errorf("a map of %d MiB was kept whole, %d bytes", large.Len()>>20, m.bytes())
	}
}

type counted struct {
	r io.ReaderAt
	n int
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += n
	return n, err
}

func TestParseStatus(t *testing.T) {
	nspid, uid, ok := parseStatus([]byte("Name:\tjava\nUid:\t1000\t33\t33\t33\nNSpid:\t4242\t17\t1\n"), 4242)
	if nspid != 1 || uid != 33 || !ok {
		t.Errorf("pid %d, user %d, %v", nspid, uid, ok)
	}
	if nspid, _, _ := parseStatus([]byte("Uid:\t0\t0\t0\t0\n"), 7); nspid != 7 {
		t.Errorf("without NSpid: %d", nspid)
	}
	if _, _, ok := parseStatus([]byte("NSpid:\t4242\t17\t1\n"), 4242); ok {
		t.Error("a user was made up")
	}
}

func TestParseFrame(t *testing.T) {
	b := make([]byte, FrameSize)
	if _, ok := ParseFrame(b); ok {
		t.Error("an empty frame was read")
	}
	binary.NativeEndian.PutUint64(b[24:], 0x1234)
	for i := range 20 {
		b[4+i] = byte(i + 1)
	}
	binary.NativeEndian.PutUint32(b, 1)
	if f, ok := ParseFrame(b); !ok || f.Offset != 0x1234 || f.IP != 0 || f.BuildID[0] != 1 || f.BuildID[19] != 20 {
		t.Errorf("a build id: %+v %v", f, ok)
	}
	binary.NativeEndian.PutUint32(b, 2)
	if f, ok := ParseFrame(b); !ok || f.IP != 0x1234 || f.BuildID != (BuildID{}) {
		t.Errorf("an address: %+v %v", f, ok)
	}
	if _, ok := ParseFrame(b[:31]); ok {
		t.Error("a short frame was read")
	}
}

// run runs a command that a test cannot do without.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if name == "go" {
			t.Fatal(err)
		}
		t.Skipf("needs gcc and binutils (apt-get install gcc): %v", err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// goProgram builds testdata/target.go.txt.
func goProgram(t testing.TB, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile("testdata/target.go.txt")
	if err != nil {
		t.Fatal(err)
	}
	src, out := filepath.Join(dir, "target.go"), filepath.Join(dir, "target")
	if err := os.WriteFile(src, b, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "go", append(append([]string{"build", "-o", out}, args...), src)...)
	return out
}

func openImageFile(t testing.TB, path string) (*os.File, *image) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	im, err := readImage(f)
	if err != nil {
		t.Fatal(err)
	}
	return f, im
}

// Every function of a stripped program must have the name that debug/gosym,
// which reads the whole table, gives it.
func TestGoTableAgreesWithGosym(t *testing.T) {
	for name, args := range map[string][]string{
		"stripped":     {"-ldflags=-s -w"},
		"stripped PIE": {"-ldflags=-s -w", "-buildmode=pie"},
	} {
		path := goProgram(t, args...)
		f, im := openImageFile(t, path)
		if im.symtab != nil || im.gotab == nil {
			t.Fatalf("%s: symbols %v, line table %v", name, im.symtab != nil, im.gotab != nil)
		}
		e, err := elf.NewFile(f)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, im.gotab.size)
		if _, err := f.ReadAt(data, int64(im.gotab.off)); err != nil {
			t.Fatal(err)
		}
		oracle, err := gosym.NewTable(nil, gosym.NewLineTable(data, e.Section(".text").Addr))
		if err != nil {
			t.Fatal(err)
		}
		if len(oracle.Funcs) < 1000 {
			t.Fatalf("%s: the oracle knows %d functions", name, len(oracle.Funcs))
		}
		for i := range oracle.Funcs {
			fn := &oracle.Funcs[i]
			for _, at := range []uint64{fn.Entry, fn.End - 1} {
				if got := im.gotab.name(f, at); got != fn.Name {
					t.Fatalf("%s: %#x is %q, want %q", name, at, got, fn.Name)
				}
			}
		}
	}
}

// Where a program does not say where Go's code begins, its names are given only
// if that is certain.
func TestGoTextThatIsNotSaid(t *testing.T) {
	forget := func(path string) *image {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		s := f.Section(".go.module")
		if s == nil {
			t.Fatal("no .go.module")
		}
		clear(b[s.Offset+22*8 : s.Offset+23*8])
		im, err := readImage(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	path := goProgram(t, "-ldflags=-s -w")
	_, whole := openImageFile(t, path)
	if im := forget(path); im.gotab == nil || im.gotab.text != whole.gotab.text {
		t.Errorf("the start of .text was not taken: %+v", im.gotab)
	}
	run(t, "gcc", "--version")
	t.Setenv("CGO_ENABLED", "1")
	path = goProgram(t, "-ldflags=-s -w -linkmode=external -extldflags=-no-pie")
	if _, whole = openImageFile(t, path); whole.gotab == nil {
		t.Fatal("no line table")
	}
	if im := forget(path); im.gotab != nil {
		t.Errorf("with C in front of Go's code it was guessed: %#x, it is %#x", im.gotab.text, whole.gotab.text)
	}
}

// The tables of Go 1.2 to 1.17 are not made any more: these are made by hand,
// and debug/gosym must read the same out of them.
func TestOldGoTables(t *testing.T) {
	for name, magic := range map[string]uint32{"1.2": goMagic12, "1.16": goMagic116} {
		data := oldGoTable(magic, []string{"main.main", "main.(*worker).run", "runtime.goexit"}, 0x401000)
		g := &goTable{size: uint64(len(data)), order: binary.LittleEndian, count: 3, width: 8}
		if magic == goMagic12 {
			g.pairs = 16
		} else {
			w := func(i int) uint64 { return binary.LittleEndian.Uint64(data[8+8*i:]) }
			g.names, g.pairs, g.funcs = w(2), w(6), w(6)
		}
		oracle, err := gosym.NewTable(nil, gosym.NewLineTable(data, 0x401000))
		if err != nil {
			t.Fatal(err)
		}
		for at := uint64(0x401000 - 1); at < 0x401000+3*64+2; at += 21 {
			want := ""
			if fn := oracle.PCToFunc(at); fn != nil {
				want = fn.Name
			}
			if got := g.name(bytes.NewReader(data), at); got != want {
				t.Errorf("Go %s: %#x is %q, want %q", name, at, got, want)
			}
		}
		if got := g.name(bytes.NewReader(data), 0x401040); got != "main.(*worker).run" {
			t.Errorf("Go %s: %q", name, got)
		}
	}
}

// oldGoTable writes a line table with one function every 64 bytes.
func oldGoTable(magic uint32, names []string, text uint64) []byte {
	le := binary.LittleEndian
	n := len(names)
	head := le.AppendUint32(nil, magic)
	head = append(head, 0, 0, 1, 8)
	head = le.AppendUint64(head, uint64(n))
	var strs []byte
	var nameOff []uint32
	for _, s := range names {
		nameOff = append(nameOff, uint32(len(strs)))
		strs = append(append(strs, s...), 0)
	}
	pairs := 2*8*n + 8
	fn := func(at, nameAt uint64) []byte { // runtime._func, up to what gosym reads
		b := le.AppendUint64(nil, at)
		b = le.AppendUint32(b, uint32(nameAt))
		return append(b, make([]byte, 40)...)
	}
	size := len(fn(0, 0))
	table := func(funcsAt, namesAt uint64) (out []byte) {
		for i := range n {
			out = le.AppendUint64(out, text+64*uint64(i))
			out = le.AppendUint64(out, funcsAt+uint64(i*size))
		}
		out = le.AppendUint64(out, text+64*uint64(n))
		return out
	}
	if magic == goMagic116 {
		namesAt := uint64(8 + 7*8)
		tableAt := namesAt + uint64(len(strs))
		for _, v := range []uint64{0, namesAt, namesAt, namesAt, namesAt, tableAt} {
			head = le.AppendUint64(head, v)
		}
		head = append(append(head, strs...), table(uint64(pairs), 0)...)
		for i := range n {
			head = append(head, fn(text+64*uint64(i), uint64(nameOff[i]))...)
		}
		return head
	}
	// Go 1.2: the pairs, the offset of the table of files, the functions, names.
	funcsAt := uint64(len(head) + pairs + 4)
	namesAt := funcsAt + uint64(n*size)
	head = append(head, table(funcsAt, namesAt)...)
	head = le.AppendUint32(head, uint32(namesAt)+uint32(len(strs)))
	for i := range n {
		head = append(head, fn(text+64*uint64(i), namesAt+uint64(nameOff[i]))...)
	}
	head = append(head, strs...)
	return le.AppendUint32(head, 0)
}

// A symbol table that is too large to keep must give the same names.
func TestSearchInPlaceAgrees(t *testing.T) {
	path := goProgram(t)
	f, im := openImageFile(t, path)
	if im.symtab == nil || len(im.symtab.funcs) < 1000 {
		t.Fatal("no symbols")
	}
	inPlace := *im.symtab
	inPlace.tooMany, inPlace.funcs = true, nil
	for i := 0; i < len(im.symtab.funcs); i += 97 {
		fn := im.symtab.funcs[i]
		for _, at := range []uint64{fn.at, fn.at + uint64(fn.size)/2, fn.at + uint64(fn.size), fn.at - 1} {
			if got, want := im.find(f, &inPlace, at), im.find(f, im.symtab, at); got != want {
				t.Fatalf("%#x is %q in place, want %q", at, got, want)
			}
		}
	}
}

// A file that lies must cost neither memory nor a crash.
func TestHostileELF(t *testing.T) {
	path := goProgram(t, "-ldflags=-s -w")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]byte){
		"section count": func(b []byte) { binary.LittleEndian.PutUint16(b[0x3c:], 0xffff) },
		"no sections": func(b []byte) {
			binary.LittleEndian.PutUint16(b[0x3c:], 0)
		},
		"section headers at the end of the world": func(b []byte) { binary.LittleEndian.PutUint64(b[0x28:], 1<<63-1) },
		"segments beyond the file":                func(b []byte) { binary.LittleEndian.PutUint64(b[0x20:], 1<<62) },
	} {
		b := bytes.Clone(good)
		spoil(b)
		if im, err := readImage(bytes.NewReader(b)); err == nil && im.bytes() > 1<<20 {
			t.Errorf("%s: %d bytes are kept", name, im.bytes())
		}
	}
	// A sparse file that claims a string table of 64 GiB.
	e, err := elf.NewFile(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(good)
	shoff := binary.LittleEndian.Uint64(b[0x28:])
	shstr := uint64(binary.LittleEndian.Uint16(b[0x3e:]))
	binary.LittleEndian.PutUint64(b[shoff+64*shstr+0x20:], 64<<30)
	var before, after = allocated(), uint64(0)
	_, err = readImage(sparse{b, 128 << 30})
	after = allocated()
	if err == nil {
		t.Errorf("64 GiB of section names were read (%d sections)", len(e.Sections))
	}
	if after-before > 64<<20 {
		t.Errorf("%d MiB were allocated", (after-before)>>20)
	}
}

// sparse is a file with a hole behind its content.
type sparse struct {
	b    []byte
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.b)) {
		copy(p, s.b[off:])
	}
	if off+int64(len(p)) > s.size {
		return 0, io.EOF
	}
	return len(p), nil
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// tiny is a small ELF file with a note, symbols and a debug link, for the
// fuzzer to start from.
func tiny() []byte {
	le := binary.LittleEndian
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 3)  // ET_DYN
	le.PutUint16(b[18:], 62) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 5)
	le.PutUint16(b[62:], 4)
	ph := func(kind, flags uint32, off, vaddr, size uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, v := range []uint64{off, vaddr, vaddr, size, size, 4} {
			b = le.AppendUint64(b, v)
		}
	}
	ph(1, 5, 0, 0x1000, 0x1000)
	notes := uint64(len(b) + 56)
	ph(4, 4, notes, notes, 36)
	b = le.AppendUint32(b, 4)
	b = le.AppendUint32(b, 20)
	b = le.AppendUint32(b, 3)
	b = append(b, "GNU\x00abcdefghijklmnopqrst"...)
	syms := uint64(len(b))
	sym := func(name uint32, at, size uint64) {
		b = le.AppendUint32(b, name)
		b = append(b, 0x12, 0, 1, 0)
		b = le.AppendUint64(b, at)
		b = le.AppendUint64(b, size)
	}
	sym(1, 0x1100, 0x20)
	sym(6, 0x1100, 0x20)
	sym(14, 0x1200, 0)
	sym(24, 0x1300, 0x100)
	sym(30, 0x1340, 0x10)
	sym(30, 0x1360, 0)
	strs := uint64(len(b))
	b = append(b, "\x00work\x00__work2\x00_ZN1a1bEv\x00outer\x00inner\x00"...)
	link := uint64(len(b))
	b = append(b, "x.debug\x00\x01\x02\x03\x04"...)
	names := uint64(len(b))
	b = append(b, "\x00.symtab\x00.strtab\x00.gnu_debuglink\x00.shstrtab\x00"...)
	shoff := uint64(len(b))
	le.PutUint64(b[40:], shoff)
	sh := func(name, kind, link uint32, off, size, entry uint64) {
		b = le.AppendUint32(b, name)
		b = le.AppendUint32(b, kind)
		for _, v := range []uint64{0, 0, off, size} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, link)
		b = le.AppendUint32(b, 0)
		b = le.AppendUint64(b, 4)
		b = le.AppendUint64(b, entry)
	}
	sh(0, 0, 0, 0, 0, 0)
	sh(1, 2, 2, syms, strs-syms, 24)
	sh(9, 3, 0, strs, link-strs, 0)
	sh(17, 1, 0, link, names-link, 0)
	sh(32, 3, 0, names, shoff-names, 0)
	return b
}

func TestTinyELF(t *testing.T) {
	b := tiny()
	im, err := readImage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if im.buildID != "abcdefghijklmnopqrst" || im.debug.name != "x.debug" || im.debug.crc != 0x04030201 {
		t.Errorf("build id %q, debug link %+v", im.buildID, im.debug)
	}
	// The same whether the table is kept or searched where it stands.
	large := *im
	table := *im.symtab
	table.funcs, table.tooMany = nil, true
	large.symtab = &table
	for off, want := range map[uint64]string{
		0x100: "work", 0x11f: "work", 0x120: "", 0x210: "a::b", 0x50: "", 0x1000: "",
		0x2ff: "a::b", 0x300: "outer", 0x340: "inner", 0x34f: "inner", 0x350: "outer", 0x360: "inner", 0x3ff: "inner", 0x500: "inner",
	} {
		for name, im := range map[string]*image{"kept": im, "in place": &large} {
			if got := im.name(bytes.NewReader(b), nil, off); got != want {
				t.Errorf("%s: offset %#x is %q, want %q", name, off, got, want)
			}
		}
	}
}

func TestAddressOfAnOffset(t *testing.T) {
	im := image{segments: []segment{
		{off: 0, size: 0x1234, vaddr: 0x400000}, {off: 0x1000, size: 0x1000, vaddr: 0x501000, exec: true}, {off: 0x2000, size: 0x100, vaddr: 0x702000, exec: true},
	}}
	for off, want := range map[uint64]uint64{0x10: 0x400010, 0x1010: 0x501010, 0x1fff: 0x501fff, 0x2000: 0x702000, 0x20ff: 0x7020ff, 0x2100: 0} {
		if got, ok := im.vaddr(off); got != want || ok != (want != 0) {
			t.Errorf("offset %#x is at %#x, want %#x", off, got, want)
		}
	}
}

func FuzzReadImage(f *testing.F) {
	f.Add(tiny(), uint64(0x100))
	f.Fuzz(func(t *testing.T, b []byte, off uint64) {
		im, err := readImage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if im.bytes() > 1<<10+40*maxSegments+2*len(b) {
			t.Fatalf("%d bytes are kept of a file of %d", im.bytes(), len(b))
		}
		for _, at := range []uint64{off, 0, 0x110} {
			checkName(t, im.name(bytes.NewReader(b), bytes.NewReader(b), at))
		}
	})
}

func FuzzGoTable(f *testing.F) {
	f.Add(oldGoTable(goMagic12, []string{"main.main"}, 64), uint64(64), uint64(24), uint64(16), uint64(0), uint64(0), uint64(8))
	f.Fuzz(func(t *testing.T, b []byte, at, count, pairs, funcs, names, width uint64) {
		g := &goTable{size: uint64(len(b)), order: binary.LittleEndian, count: 1 + count%4096, width: 4 << (width & 1),
			pairs: pairs % uint64(len(b)+1), funcs: funcs % uint64(len(b)+1), names: names % uint64(len(b)+1)}
		checkName(t, shown(g.name(bytes.NewReader(b), at)))
	})
}

func FuzzReadMaps(f *testing.F) {
	f.Add(someMaps)
	f.Fuzz(func(t *testing.T, s string) {
		out, _, err := readMaps(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > maxMappings {
			t.Fatalf("%d mappings", len(out))
		}
		for i := range out {
			checkName(t, out[i].base())
			if out[i].start >= out[i].end {
				t.Fatalf("an empty mapping: %+v", out[i])
			}
		}
	})
}

func FuzzPerfMap(f *testing.F) {
	f.Add("7f00 10 a\n7f08 10 b\x1b\n", uint64(0x7f09))
	f.Fuzz(func(t *testing.T, s string, at uint64) {
		m, err := readPerfMap(strings.NewReader(s), int64(len(s)))
		if err != nil {
			t.Fatal(err)
		}
		checkName(t, m.name(at))
	})
}

func FuzzSymbolName(f *testing.F) {
	f.Add("_ZN3foo3barEiRKSs")
	f.Add("_RNvCskwGfYPst2Cb_3foo16example_function")
	f.Fuzz(func(t *testing.T, s string) { checkName(t, symbolName(s)) })
}
