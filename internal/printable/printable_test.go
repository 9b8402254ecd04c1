package printable

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"kworker/0:1":              "kworker/0:1",
		"ä 字":                      "ä 字",
		"evil\x1b[2J\u202ex\n\t":   "evil?[2J?x??",
		"\xff\xfe":                 "??",
		"a\u00a0b\u2028c\u200bd":   "a?b?c?d",
		strings.Repeat("ä", 20):    "äääääääää…",
		strings.Repeat("a", 20):    strings.Repeat("a", 20),
		strings.Repeat("a", 25):    strings.Repeat("a", 18) + "…",
		strings.Repeat("\x80", 25): strings.Repeat("?", 14) + "…",
	} {
		if got := Name(in, 21); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("evil\x1b[2J\u202ex\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Name(s, 64)
		if len(got) > 64 || !utf8.ValidString(got) || Name(got, 64) != got {
			t.Fatalf("%q is %q", s, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q still has %q", got, r)
			}
		}
	})
}
