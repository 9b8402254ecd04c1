package symbols

import (
	"bufio"
	"bytes"
	"io"
	"path"
	"strings"
)

const (
	// maxMappings is how many executable mappings of a process are kept.
	maxMappings = 1024
	// maxMapsBytes is how much of /proc/PID/maps is read: a process has at most
	// 65,530 mappings (vm.max_map_count).
	maxMapsBytes = 32 << 20
)

// mapping is one executable mapping of a process.
type mapping struct {
	start, end uint64
	off        uint64 // of start in the file
	ino        uint64 // 0: no file
	path       string // as it stands in maps
	buildID    BuildID
}

// readMaps reads the executable mappings out of /proc/PID/maps (proc(5)), in
// order. whole is false where there were more than can be kept.
func readMaps(r io.Reader) (out []mapping, whole bool, err error) {
	whole = true
	in := bufio.NewReaderSize(io.LimitReader(r, maxMapsBytes), 16<<10)
	for {
		line, err := readLine(in)
		if err == io.EOF {
			return out, whole, nil
		}
		if err != nil {
			return nil, false, err
		}
		m, ok := parseMapping(line)
		if !ok {
			continue
		}
		// A JIT makes many small mappings side by side: one is enough.
		if n := len(out); n > 0 && m.ino == 0 && out[n-1].ino == 0 && out[n-1].end == m.start && out[n-1].path == m.path {
			out[n-1].end = m.end
			continue
		}
		if len(out) == maxMappings {
			whole = false
			continue
		}
		out = append(out, m)
	}
}

// parseMapping takes a line apart; ok is false for one that no code is in.
//
//	start-end perms offset major:minor inode path
func parseMapping(line []byte) (m mapping, ok bool) {
	field := func() []byte {
		line = bytes.TrimLeft(line, " ")
		i := bytes.IndexByte(line, ' ')
		if i < 0 {
			i = len(line)
		}
		f := line[:i]
		line = line[i:]
		return f
	}
	from, to, found := bytes.Cut(field(), []byte("-"))
	perms := field()
	if !found || len(perms) < 4 || perms[2] != 'x' {
		return m, false
	}
	var ok1, ok2, ok3, ok4 bool
	m.start, ok1 = parseHex(from)
	m.end, ok2 = parseHex(to)
	m.off, ok3 = parseHex(field())
	field()
	m.ino, ok4 = parseDecimal(field())
	if !ok1 || !ok2 || !ok3 || !ok4 || m.start >= m.end {
		return mapping{}, false
	}
	m.path = string(bytes.TrimLeft(line, " "))
	return m, true
}

func parseHex(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		d := unhex(c)
		if d > 15 {
			return 0, false
		}
		v = v<<4 | uint64(d)
	}
	return v, len(b) > 0 && len(b) <= 16
}

func parseDecimal(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return v, len(b) > 0 && len(b) <= 20
}

// isMemory tells whether the code was made in memory, by a JIT: it has no file
// of its own.
func (m *mapping) isMemory() bool {
	switch {
	case m.path == "" || strings.HasPrefix(m.path, "//anon") || strings.HasPrefix(m.path, "[anon"):
		return true
	case strings.HasPrefix(m.path, "/memfd:") || strings.HasPrefix(m.path, "/dev/zero") || strings.HasPrefix(m.path, "/SYSV"):
		return true // .NET maps its code twice, by a memfd
	}
	return m.path == "[heap]" || m.path == "[stack]"
}

// base is the name by which a mapping is shown.
func (m *mapping) base() string {
	if m.path == "" {
		return "[anon]"
	}
	return baseName(m.path)
}

func baseName(file string) string {
	if strings.HasPrefix(file, "[") || strings.HasPrefix(file, "//") {
		return shown(file)
	}
	if file == "" {
		return Unknown
	}
	return shown(path.Base(strings.TrimSuffix(file, " (deleted)")))
}
