package collectors

import "bytes"

const (
	// maxCmdline is how much of a command line is kept, in bytes.
	maxCmdline = 256
	redacted   = "***"
)

// Redact appends a command line to dst as it may be stored: arguments joined
// by spaces, at most maxCmdline bytes, and *** in the place of what looks like
// a secret. raw is /proc/PID/cmdline: arguments that each end with a NUL byte,
// or, where a program has changed its title, one text with spaces. It errs on
// the side of hiding too much. It does not allocate when dst has room.
func Redact(dst, raw []byte) []byte {
	r := redactor{dst: dst, limit: len(dst) + maxCmdline}
	raw = bytes.TrimRight(raw, "\x00")
	for len(raw) > 0 && len(r.dst) < r.limit {
		arg := raw
		if i := bytes.IndexByte(raw, 0); i >= 0 {
			arg, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		r.argument(arg)
	}
	return r.dst
}

// redactor goes through a command line word by word.
type redactor struct {
	dst   []byte
	limit int
	words int
	// hide: the next argument is the value of an option that takes a secret.
	hide bool
	// short is the letter after which some client takes a password: -pSECRET
	// of mysql, -a SECRET of redis-cli; 0 for none.
	short byte
	glued bool // it takes it in the same word only
	// header: a name and a colon ended the word, "Authorization: Bearer x", so
	// the secret is the rest of the text.
	header bool
}

func (r *redactor) put(b []byte) {
	if room := r.limit - len(r.dst); len(b) > room {
		b = b[:max(room, 0)]
	}
	r.dst = append(r.dst, b...)
}

func (r *redactor) hidden() { r.put([]byte(redacted)) }

func (r *redactor) space() {
	if r.words > 0 {
		r.put([]byte{' '})
	}
	r.words++
}

// argument writes one element of argv. It may be a whole command of its own
// (sh -c "mysql -psecret"), so each of its words is looked at; a secret that
// begins the element may contain blanks and reaches to its end.
func (r *redactor) argument(arg []byte) {
	if r.hide && (len(arg) < 2 || arg[0] != '-' || arg[1] != '-') {
		r.hide = false
		r.program(arg) // PASS= mysql -psecret: what is hidden may be the client
		r.space()
		r.hidden()
		return
	}
	r.hide = false
	if len(arg) == 0 {
		r.space()
		return
	}
	for first := true; len(arg) > 0; first = false {
		word := arg
		if i := bytes.IndexAny(arg, " \t\n"); i >= 0 {
			word = arg[:i]
		}
		if len(word) == 0 {
			r.put(arg[:1])
			arg = arg[1:]
			continue
		}
		r.space()
		rest := arg[len(word):]
		if r.hide && !first {
			// The value stands in the same text; quotes may hold blanks.
			r.hide = false
			r.program(word)
			r.hidden()
			rest = afterQuoted(word, rest)
		} else if all := r.word(word); all {
			if first {
				rest = nil
			} else {
				rest = afterQuoted(word, rest)
			}
		}
		if r.header {
			r.header = false
			if len(rest) > 0 {
				r.hide = false
				r.space()
				r.hidden()
				rest = afterHeader(word, rest)
			}
		}
		if len(rest) > 0 {
			rest = rest[1:] // the blank, which space writes again
		}
		arg = rest
	}
}

// afterQuoted returns what follows the quoted text that word begins, so that
// --password "two words" is hidden as a whole.
func afterQuoted(word, rest []byte) []byte {
	open := bytes.IndexAny(word, `"'`)
	if open < 0 {
		return rest
	}
	quote := word[open]
	if bytes.IndexByte(word[open+1:], quote) >= 0 {
		return rest
	}
	if i := bytes.IndexByte(rest, quote); i >= 0 {
		rest = rest[i+1:]
		if i = bytes.IndexAny(rest, " \t\n"); i >= 0 {
			return rest[i:]
		}
	}
	return nil
}

// afterHeader returns what follows a header in quotes; without them the header
// is the whole argument.
func afterHeader(word, rest []byte) []byte {
	if bytes.ContainsAny(word, `"'`) {
		return afterQuoted(word, rest)
	}
	return nil
}

// word writes one word. all says that a value was hidden which may go on after
// the word.
func (r *redactor) word(w []byte) (all bool) {
	r.program(w)
	if r.short != 0 && len(w) >= 2 && w[0] == '-' && w[1] == r.short {
		if len(w) > 2 {
			r.put(w[:2])
			r.hidden()
			return true
		}
		if !r.glued {
			r.put(w)
			r.hide = true
			return false
		}
	}
	if isToken(w) {
		r.hidden()
		return false
	}
	// name=value, possibly several in a URL's query or joined by commas.
	for begin := 0; begin < len(w); {
		end := begin + bytes.IndexAny(w[begin:], "?&;,")
		if end < begin {
			end = len(w)
		}
		piece := w[begin:end]
		if i := bytes.IndexAny(piece, "=:"); i >= 0 && !bytes.HasPrefix(piece[i:], []byte("://")) && isSecretName(piece[:i]) {
			r.put(piece[:i+1])
			if i+1 == len(piece) && end == len(w) {
				r.hide = true
				r.header = piece[i] == ':'
				return false
			}
			r.hidden()
			if begin == 0 || w[begin-1] != '?' && w[begin-1] != '&' {
				return true // the value itself may hold any of the separators
			}
		} else {
			r.plain(piece)
		}
		if end < len(w) {
			r.put(w[end : end+1])
		}
		begin = end + 1
	}
	if name := w; name[0] == '-' && isSecretName(name) {
		r.hide = true
	} else if equalFold(w, "bearer") || equalFold(w, "basic") {
		r.hide = true
	}
	return false
}

// plain writes text that has no name=value in it, without the password of a
// URL and without well-known tokens.
func (r *redactor) plain(w []byte) {
	if i := bytes.Index(w, []byte("://")); i >= 0 {
		rest := w[i+3:]
		authority := len(rest)
		if j := bytes.IndexAny(rest, "/?#"); j >= 0 {
			authority = j
		}
		// A password may itself hold / or @: go by the last @ of the word
		// when there is none before the path.
		at := bytes.LastIndexByte(rest[:authority], '@')
		if at < 0 {
			if colon := bytes.IndexByte(rest[:authority], ':'); colon >= 0 && !isPort(rest[colon+1:authority]) {
				at = bytes.LastIndexByte(rest, '@')
			}
		}
		if at >= 0 {
			r.put(w[:i+3])
			user := rest[:at]
			if colon := bytes.IndexByte(user, ':'); colon >= 0 {
				r.put(user[:colon+1])
				r.hidden()
			} else if len(user) > 16 {
				r.hidden()
			} else {
				r.put(user)
			}
			r.plain(rest[at:])
			return
		}
	}
	for begin := 0; begin < len(w); {
		end := begin
		for end < len(w) && isTokenByte(w[end]) {
			end++
		}
		if end > begin {
			if isToken(w[begin:end]) {
				r.hidden()
			} else {
				r.put(w[begin:end])
			}
		}
		if end < len(w) {
			r.put(w[end : end+1])
		}
		begin = end + 1
	}
}

// program recognises a client whose short options carry a password.
func (r *redactor) program(w []byte) {
	base := w[bytes.LastIndexByte(w, '/')+1:]
	base = bytes.TrimLeft(base, `"'`)
	switch {
	case bytes.HasPrefix(base, []byte("mysql")), bytes.HasPrefix(base, []byte("mariadb")):
		r.short, r.glued = 'p', true
	case string(base) == "sshpass", string(base) == "mongo", string(base) == "mongosh", string(base) == "mongodump", string(base) == "mosquitto_pub", string(base) == "mosquitto_sub":
		r.short, r.glued = 'p', false
		if bytes.HasPrefix(base, []byte("mosquitto")) {
			r.short = 'P'
		}
	case string(base) == "redis-cli":
		r.short, r.glued = 'a', false
	case string(base) == "curl":
		r.short, r.glued = 'u', false
	case string(base) == "ldapsearch", string(base) == "ldapmodify", string(base) == "ldapadd":
		r.short, r.glued = 'w', false
	case string(base) == "smbclient":
		r.short, r.glued = 'U', false
	case string(base) == "sqlcmd", string(base) == "bcp", string(base) == "ipmitool":
		r.short, r.glued = 'P', false
	}
}

// secretWords stand in the names of options and variables that carry secrets.
var secretWords = [...]string{
	"password", "passwd", "passphrase", "passin", "passout", "userpwd",
	"secret", "token", "credential", "apikey", "api_key", "api-key",
	"accesskey", "privatekey", "authorization", "bearer", "cookie",
	"private-key", "private_key", "access_key", "access-key", "proxy-user", "mysql_pwd",
}

// secretEnds end such names: -key, DB_PASS, auth.
var secretEnds = [...]string{"key", "pass", "pwd", "auth", "pw", "sig", "signature"}

func isSecretName(name []byte) bool {
	name = bytes.TrimRight(name, `"'`)
	if len(name) > 128 {
		name = name[len(name)-128:]
	}
	for _, w := range secretWords {
		if containsFold(name, w) {
			return true
		}
	}
	for _, w := range secretEnds {
		if len(name) >= len(w) && equalFold(name[len(name)-len(w):], w) {
			return true
		}
	}
	return equalFold(name, "--user") || equalFold(name, "--pass")
}

// tokenPrefixes begin the access tokens of well-known services.
var tokenPrefixes = [...]string{
	"AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "xoxa-",
	"sk_live_", "rk_live_", "sk-", "npm_", "pypi-", "hvs.", "dop_v1_", "eyJ", "AIza", "ya29.", "SG.",
}

func isToken(w []byte) bool {
	w = bytes.Trim(w, `"'`)
	if len(w) < 20 {
		return false
	}
	for _, p := range tokenPrefixes {
		if bytes.HasPrefix(w, []byte(p)) {
			return true
		}
	}
	return false
}

func isTokenByte(c byte) bool {
	return c == '_' || c == '-' || c == '.' || c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func isPort(b []byte) bool {
	for _, c := range b {
		if c-'0' > 9 {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}

// equalFold compares with a lower-case ASCII word.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if lower(b[i]) != lower(word[i]) {
			return false
		}
	}
	return true
}

func containsFold(b []byte, word string) bool {
	for i := 0; i+len(word) <= len(b); i++ {
		if equalFold(b[i:i+len(word)], word) {
			return true
		}
	}
	return false
}
