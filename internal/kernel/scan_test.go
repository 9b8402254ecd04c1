package kernel

import (
	"bytes"
	"strconv"
	"testing"
)

func TestScanner(t *testing.T) {
	s := Scan([]byte("cpu0  12 -3\tffZ\n\nlast 18446744073709551615 18446744073709551616"))
	if w := s.Word(); string(w) != "cpu0" {
		t.Errorf("word %q", w)
	}
	if v, ok := s.Uint(); v != 12 || !ok {
		t.Errorf("uint %d %v", v, ok)
	}
	if v, ok := s.Uint(); v != 0 || ok {
		t.Errorf("uint of -3: %d %v", v, ok)
	}
	if v, ok := s.Int(); v != -3 || !ok {
		t.Errorf("int %d %v", v, ok)
	}
	if v, ok := s.Hex(); v != 0xff || !ok {
		t.Errorf("hex %#x %v", v, ok)
	}
	if !s.Byte('Z') || s.Byte('Z') || !s.EndOfLine() {
		t.Error("the Z ends the line")
	}
	s.NextLine()
	if !s.EndOfLine() {
		t.Error("the second line is empty")
	}
	s.NextLine()
	s.Skip(1)
	if v, ok := s.Uint(); v != 1<<64-1 || !ok {
		t.Errorf("largest: %d %v", v, ok)
	}
	if v, ok := s.Uint(); v != 1<<64-1 || !ok {
		t.Errorf("too large: %d %v; want it to saturate", v, ok)
	}
	if s.More() || len(s.Word()) != 0 || len(s.Line()) != 0 {
		t.Error("something after the end")
	}
	if _, ok := s.Hex(); ok {
		t.Error("a number after the end")
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte("Tcp: 1 200 -1\n\tdeadbeef 99999999999999999999 \n"), []byte{0, 1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, b, walk []byte) {
		s := Scan(b)
		for _, step := range walk {
			before := s.i
			switch step % 7 {
			case 0:
				s.Word()
			case 1:
				s.Uint()
			case 2:
				s.Int()
			case 3:
				s.Hex()
			case 4:
				s.Line()
			case 5:
				s.EndOfLine()
			case 6:
				s.Byte(':')
			}
			if s.i < before || s.i > len(b) {
				t.Fatalf("step %d went from %d to %d of %d bytes", step, before, s.i, len(b))
			}
		}
	})
}

// Numbers are what strconv reads, or the largest there is.
func FuzzNumbers(f *testing.F) {
	for _, n := range []string{"0", "7", "18446744073709551615", "18446744073709551616", "99999999999999999999999x", "ffffffffffffffff", "fffffffffffffffff", "10000000000000000", "DEADbeef", "", "-1", "1x"} {
		f.Add([]byte(n))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.ContainsAny(b, " \t") {
			return // the scanner skips blanks
		}
		check := func(v uint64, ok bool, digits string, base int) {
			want, _ := strconv.ParseUint(string(b), base, 64)
			if isNumber := len(b) > 0 && len(bytes.Trim(b, digits)) == 0; ok != isNumber || ok && v != want {
				t.Errorf("%q in base %d: %d, %v; want %d, %v", b, base, v, ok, want, isNumber)
			}
		}
		v, ok := Uint(b)
		check(v, ok, "0123456789", 10)
		s := Scan(b)
		v, ok = s.Hex()
		check(v, ok && !s.More(), "0123456789abcdefABCDEF", 16)
	})
}
