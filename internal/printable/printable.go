// Package printable makes names that the watched machine's users have written
// fit to be shown: on a terminal, in a file, in a page.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Name returns s as valid UTF-8 of at most limit bytes, which must be more than
// 3. Each character that shows nothing of its own, moves a cursor or reorders a
// line, and each byte that is not UTF-8, is a "?"; what is cut off is "…".
func Name(s string, limit int) string {
	plain := len(s) <= limit
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] < 0x7f
	}
	if plain {
		return s
	}
	// No character gets longer than it was.
	cut := len(s) > limit
	if cut {
		end := limit - len("…")
		for n := 0; n < utf8.UTFMax && end > 0 && !utf8.RuneStart(s[end]); n++ {
			end--
		}
		s = s[:end]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if cut {
		s += "…"
	}
	return s
}
