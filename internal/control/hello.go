package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// The versions of the protocol that this binary talks. A new verb or field
// needs no new version: who does not know it says so. A version is for what an
// older side would misunderstand.
const (
	minVersion = 1
	maxVersion = 1
)

// protocolName begins every conversation, so that neither side takes some
// other program for the one it wanted.
const protocolName = "freezeframe.control"

// hello is the first frame of each side. Its form is the same in every version
// of the protocol; fields are added.
type hello struct {
	Protocol string `json:"protocol"`
	Min      int    `json:"min"`
	Max      int    `json:"max"`
	Version  string `json:"version"` // of freezeframe
	// Refused, from the server only: nothing will be answered.
	Refused *ending `json:"refused,omitempty"`
}

// parseHello reads the other side's.
func parseHello(kind byte, payload []byte) (hello, error) {
	var h hello
	if kind != frameHello {
		return h, malformed{fmt.Sprintf("a frame of kind %q, where a hello (%q) is the first", kind, frameHello)}
	}
	if err := json.Unmarshal(payload, &h); err != nil {
		return h, malformed{fmt.Sprintf("a hello that is no JSON object: %v", err)}
	}
	if h.Protocol != protocolName {
		return h, malformed{fmt.Sprintf("a hello of the protocol %q, where %q was meant", shortened(h.Protocol), protocolName)}
	}
	if h.Min < 1 || h.Max < h.Min {
		return h, malformed{fmt.Sprintf("a hello with the versions %d to %d", h.Min, h.Max)}
	}
	return h, nil
}

// common is the newest version that both talk; 0: none.
func common(a, b hello) int {
	v := min(a.Max, b.Max)
	if v < a.Min || v < b.Min {
		return 0
	}
	return v
}

// noCommon says why daemon and client do not understand each other, and which
// of the two to renew.
func noCommon(daemon, client hello) *Error {
	fix := "restart the daemon, so that it is the installed one: systemctl restart freezeframe"
	if daemon.Min > client.Max {
		fix = "use the freezeframe that the daemon was installed with"
	}
	return &Error{Code: CodeVersion, Text: fmt.Sprintf(
		"the daemon is freezeframe %s and talks control protocol %s, this is freezeframe %s with %s: %s",
		shortened(daemon.Version), spoken(daemon), shortened(client.Version), spoken(client), fix)}
}

func spoken(h hello) string {
	if h.Min == h.Max {
		return fmt.Sprint(h.Min)
	}
	return fmt.Sprintf("%d to %d", h.Min, h.Max)
}

// ending is the payload of the frame that ends an answer.
type ending struct {
	Code  string   `json:"code,omitempty"` // "": the answer is complete
	Text  string   `json:"text,omitempty"`
	Notes []string `json:"notes,omitempty"`
	// Bytes is how many the data frames before it held together.
	Bytes int64 `json:"bytes"`
}

// err is nil for an answer that is complete.
func (e *ending) err() error {
	if e.Code == "" {
		return nil
	}
	return &Error{Code: e.Code, Text: e.Text}
}

// What an ending says is bounded, so that it fits its frame even where every
// byte of it takes six as JSON.
const (
	maxText     = 4 << 10
	maxNotes    = 8
	maxNoteText = 512
)

// endingOf says how an answer of so many bytes ended.
func endingOf(err error, notes []string, bytes int64) ending {
	e := ending{Bytes: bytes}
	if err != nil {
		e.Code, e.Text = cmp.Or(Code(err), CodeFailed), cut(err.Error(), maxText)
	}
	for i, n := range notes {
		if i == maxNotes-1 && len(notes) > maxNotes {
			n = fmt.Sprintf("and %d more", len(notes)-i)
		}
		e.Notes = append(e.Notes, cut(n, maxNoteText))
		if len(e.Notes) == maxNotes {
			break
		}
	}
	return e
}

// jsonFrame makes the frame of a value that always encodes.
func jsonFrame(kind byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil || len(b) > maxFrame {
		panic(fmt.Sprintf("control: a frame of %T: %d bytes, %v", v, len(b), err))
	}
	return appendFrame(nil, kind, b)
}

// cut is s, or as many whole characters of it as fit into so many bytes.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// shortened is a word of the other side's, for an error.
func shortened(s string) string { return cut(s, 100) }
