package kernel

import "bytes"

// Scanner walks the words of a kernel text file in place. Its methods never
// fail on bad input: a number that is not there reads as 0 with ok false, and
// walking past the end yields empty words.
type Scanner struct {
	b []byte
	i int
}

// Scan returns a scanner over b, which is neither copied nor changed.
func Scan(b []byte) Scanner { return Scanner{b: b} }

// More tells whether anything is left.
func (s *Scanner) More() bool { return s.i < len(s.b) }

// Line returns the next line without its newline.
func (s *Scanner) Line() []byte {
	rest := s.b[s.i:]
	n := bytes.IndexByte(rest, '\n')
	if n < 0 {
		s.i = len(s.b)
		return rest
	}
	s.i += n + 1
	return rest[:n]
}

// Word skips blanks (not newlines) and returns the word up to the next blank,
// newline or the end.
func (s *Scanner) Word() []byte {
	s.blanks()
	start := s.i
	for s.i < len(s.b) && s.b[s.i] != ' ' && s.b[s.i] != '\t' && s.b[s.i] != '\n' {
		s.i++
	}
	return s.b[start:s.i]
}

// Uint skips blanks and reads a decimal number. ok is false, and nothing but
// the blanks is skipped, when there is no digit; a number that does not fit
// saturates.
func (s *Scanner) Uint() (v uint64, ok bool) {
	s.blanks()
	for s.i < len(s.b) {
		c := s.b[s.i] - '0'
		if c > 9 {
			break
		}
		ok = true
		s.i++
		if v > (1<<64-1-uint64(c))/10 {
			v = 1<<64 - 1
			for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
				s.i++
			}
			break
		}
		v = v*10 + uint64(c)
	}
	return v, ok
}

// Hex is Uint for a hexadecimal number without prefix.
func (s *Scanner) Hex() (v uint64, ok bool) {
	s.blanks()
	for ; s.i < len(s.b); s.i++ {
		c := s.b[s.i]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c-'a' <= 5:
			c -= 'a' - 10
		case c-'A' <= 5:
			c -= 'A' - 10
		default:
			return v, ok
		}
		ok = true
		if v >= 1<<60 {
			v = 1<<64 - 1 // and stays there: the digits that follow keep it above
			continue
		}
		v = v<<4 | uint64(c)
	}
	return v, ok
}

// Int is Uint with an optional minus sign; the value is two's complement.
func (s *Scanner) Int() (v int64, ok bool) {
	s.blanks()
	neg := s.i < len(s.b) && s.b[s.i] == '-'
	if neg {
		s.i++
	}
	u, ok := s.Uint()
	if neg {
		return -int64(u), ok
	}
	return int64(u), ok
}

// Skip skips n words.
func (s *Scanner) Skip(n int) {
	for range n {
		s.Word()
	}
}

// Byte skips one byte if it is c, and tells whether it was.
func (s *Scanner) Byte(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// EndOfLine tells whether the scanner stands at a newline or the end, blanks
// apart.
func (s *Scanner) EndOfLine() bool {
	s.blanks()
	return s.i >= len(s.b) || s.b[s.i] == '\n'
}

// NextLine skips to the start of the next line.
func (s *Scanner) NextLine() { s.Line() }

func (s *Scanner) blanks() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t') {
		s.i++
	}
}

// Uint parses a word that is a decimal number.
func Uint(word []byte) (uint64, bool) {
	s := Scan(word)
	v, ok := s.Uint()
	return v, ok && !s.More()
}
