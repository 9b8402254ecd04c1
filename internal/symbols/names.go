package symbols

import (
	"strings"

	"freezeframe/internal/printable"

	"github.com/ianlancetaylor/demangle"
)

// Unknown is the name of what has none.
const Unknown = "[unknown]"

// maxName is how long a name may get, in bytes: longer ones are cut.
const maxName = 256

// maxMangled is how long a mangled name is given to the demangler at most.
const maxMangled = 2048

// shown makes a name fit to be shown.
func shown(s string) string { return printable.Name(s, maxName) }

// symbolName makes a name out of an ELF file readable: without its version
// ("memcpy@@GLIBC_2.14"), demangled where it is of C++ or Rust.
func symbolName(s string) string {
	if i := strings.IndexByte(s, '@'); i > 0 {
		s = s[:i]
	}
	if len(s) <= maxMangled && (strings.HasPrefix(s, "_Z") || strings.HasPrefix(s, "_R") || strings.HasPrefix(s, "__Z")) {
		// As pprof shows them: what a template was made with, and the types of
		// parameters, are longer than what one wants to read in a stack.
		s = demangle.Filter(s, demangle.NoParams, demangle.NoEnclosingParams, demangle.NoTemplateParams, demangle.MaxLength(12))
	}
	return shown(s)
}

// underscores counts those a name begins with: of several names for one
// address the one with the fewest is what people call it (write, __write,
// __libc_write).
func underscores(s string) int { return len(s) - len(strings.TrimLeft(s, "_")) }

// better tells whether a is the better of two names for one address.
func better(a, b string) bool {
	ua, ub := underscores(a), underscores(b)
	if ua != ub {
		return ua < ub
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}
