package collectors

import (
	"bytes"

	"freezeframe/internal/kernel"
)

// mountLine is one line of /proc/PID/mountinfo (proc(5)); its slices point into
// the line, with the kernel's octal escapes.
type mountLine struct {
	id, parent uint64
	dev        uint64 // major<<20 | minor
	root       []byte // of the mount within its filesystem
	point      []byte
	options    []byte // of the mount
	fstype     []byte
	source     []byte
	super      []byte // options of the filesystem
}

// nextMount reads the next line that is whole; it returns false at the end.
func nextMount(lines *kernel.Scanner, m *mountLine) bool {
	for lines.More() {
		s := kernel.Scan(lines.Line())
		var ok [4]bool
		var major, minor uint64
		m.id, ok[0] = s.Uint()
		m.parent, ok[1] = s.Uint()
		major, ok[2] = s.Uint()
		s.Byte(':')
		minor, ok[3] = s.Uint()
		m.dev = major<<20 | minor
		m.root, m.point, m.options = s.Word(), s.Word(), s.Word()
		dash := false
		for !dash && !s.EndOfLine() {
			dash = string(s.Word()) == "-"
		}
		m.fstype, m.source, m.super = s.Word(), s.Word(), s.Word()
		if ok == [4]bool{true, true, true, true} && dash && len(m.fstype) > 0 {
			return true
		}
	}
	return false
}

// appendUnescaped appends a field of mountinfo with its octal escapes (\040 is
// a blank) undone.
func appendUnescaped(buf, field []byte) []byte {
	for i := 0; i < len(field); i++ {
		b := field[i]
		if b == '\\' && i+3 < len(field) {
			if v, ok := octal(field[i+1 : i+4]); ok {
				b = v
				i += 3
			}
		}
		buf = append(buf, b)
	}
	return buf
}

func octal(digits []byte) (byte, bool) {
	v := 0
	for _, d := range digits {
		if d < '0' || d > '7' {
			return 0, false
		}
		v = v<<3 | int(d-'0')
	}
	return byte(v), v < 256
}

// hasOption tells whether a comma-separated list has an entry.
func hasOption(list []byte, option string) bool {
	for len(list) > 0 {
		one := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			one, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if string(one) == option {
			return true
		}
	}
	return false
}
