package symbols

import (
	"bufio"
	"cmp"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
)

const (
	// maxPerfMap is how much of a perf map is read: its end, because a JIT
	// appends what it has made.
	maxPerfMap = 2 << 20
	// maxPerfEntries is how many functions of it are kept.
	maxPerfEntries = 1 << 17
	// maxNested is how many functions back one is looked for that reaches an
	// address: code that has been thrown away stays in the file.
	maxNested = 64
)

// perfMap is the code that a JIT says it has made, in the form of perf
// (tools/perf/Documentation/jit-interface.txt): start, size, name, in hex.
type perfMap struct {
	names string
	code  []jitCode // by address, then in the order of the file
}

type jitCode struct {
	at   uint64
	size uint32
	name uint32 // where it begins in names
	n    uint16 // its length
	_    uint16
	seq  uint32 // place in the file: the later one counts
}

// readPerfMap reads the last maxPerfMap bytes of a map of the given size.
func readPerfMap(r io.ReaderAt, size int64) (*perfMap, error) {
	off := max(0, size-maxPerfMap)
	in := bufio.NewReaderSize(io.NewSectionReader(r, off, size-off), 16<<10)
	if off > 0 {
		if _, err := readLine(in); err != nil { // the rest of a line
			return nil, err
		}
	}
	var names strings.Builder
	m := &perfMap{}
	for seq := uint32(0); ; seq++ {
		line, err := readLine(in)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		at, length, name, ok := parsePerfLine(string(line))
		if !ok {
			continue
		}
		if len(m.code) == maxPerfEntries {
			// The first half is the older one.
			m.code = append(m.code[:0], m.code[len(m.code)/2:]...)
		}
		m.code = append(m.code, jitCode{at: at, size: length, name: uint32(names.Len()), n: uint16(len(name)), seq: seq})
		names.WriteString(name)
	}
	m.names = names.String()
	slices.SortFunc(m.code, func(a, b jitCode) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq))
	})
	return m, nil
}

func parsePerfLine(line string) (at uint64, size uint32, name string, ok bool) {
	first, rest, ok1 := strings.Cut(line, " ")
	second, name, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 {
		return 0, 0, "", false
	}
	at, ok1 = parseHex([]byte(strings.TrimPrefix(first, "0x")))
	length, ok2 := parseHex([]byte(strings.TrimPrefix(second, "0x")))
	name = shown(strings.TrimSpace(name))
	return at, uint32(min(length, math.MaxUint32)), name, ok1 && ok2 && length > 0 && name != ""
}

// name returns what was compiled to an address last, or "".
func (m *perfMap) name(at uint64) string {
	next := sort.Search(len(m.code), func(i int) bool { return m.code[i].at > at })
	best := -1
	for i := next - 1; i >= 0 && i >= next-maxNested; i-- {
		c := &m.code[i]
		if at-c.at < uint64(c.size) && (best < 0 || c.seq > m.code[best].seq) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	c := &m.code[best]
	return m.names[c.name : c.name+uint32(c.n)]
}

func (m *perfMap) bytes() int { return 128 + len(m.names) + 24*cap(m.code) }
