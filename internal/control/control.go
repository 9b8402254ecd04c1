// Package control is how the verbs talk to the daemon: framed JSON over a Unix
// stream socket, versioned on both sides, with a server that no client can
// make large, slow or deaf. PROTOCOL.md says what goes over the wire.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"freezeframe"
	"freezeframe/reports"
)

// DefaultSocket is where the daemon listens unless daemon.socket says otherwise.
const DefaultSocket = "/run/freezeframe/control.sock"

// DefaultGroup is the group whose members may read.
const DefaultGroup = "freezeframe"

// Handler is what the daemon answers with. Its methods run on goroutines of the
// server, several at once, each for one client; ctx ends when the client has
// gone, when the answer takes too long, and when the server stops. An error
// that is no *Error goes to the client as CodeFailed with its text.
//
// The server answers for what hangs: it tells the client, and lets the call be.
// Until a call returns, it counts against the few that may run at once. Status
// must not touch a disk, so that it is answered while a disk hangs.
type Handler interface {
	Status(ctx context.Context) (reports.Status, error)
	List(ctx context.Context, q ListRequest) (reports.Listing, error)
	// Show gives one document of one incident. CodeNotFound: there is no such
	// incident, or nothing in that form is kept of it.
	Show(ctx context.Context, q ShowRequest) (Document, error)
	// Diagnose judges what was recorded. The server sends one report at a
	// time; how many there are is for the handler to bound.
	Diagnose(ctx context.Context, q DiagnoseRequest) (freezeframe.Diagnosis, error)
	// Capture gives a recording (.frz) of a span. It is read as fast as the
	// client takes it, which may be slow: the body should not hold it all in
	// memory (an unlinked file does not).
	Capture(ctx context.Context, q CaptureRequest) (Document, error)
	// Reload reads the configuration again; only root may ask for it. The
	// error says why the old one stays.
	Reload(ctx context.Context) error
}

// Document is a stream of bytes that answers a request. The server closes Body.
type Document struct {
	Body io.ReadCloser
	// Notes say what whoever asked must know of it: a damaged segment, a span
	// that was not recorded from its beginning.
	Notes []string
}

// ListRequest asks for incidents; what is zero does not matter.
type ListRequest struct {
	Since       time.Time `json:"since,omitzero"` // stalls that ended at or after it
	Until       time.Time `json:"until,omitzero"` // stalls that began before it
	Cause       string    `json:"cause,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Limit       int       `json:"limit,omitempty"` // 0: MaxList; the server allows 1 to MaxList
}

// MaxList is the most incidents of one listing.
const MaxList = 10_000

// The forms of a document of an incident.
const (
	FormJSON = "json" // the report
	FormHTML = "html" // the report as a page
	FormFRZ  = "frz"  // the recording
)

// Last is the id of the newest incident.
const Last = "last"

// ShowRequest asks for one document of one incident.
type ShowRequest struct {
	// ID is an incident's id, the beginning of one that no other begins with,
	// or Last. The server passes on at most MaxID letters, digits, "-", "_"
	// and ".", no "." at its beginning; the handler refuses what fits several.
	ID   string `json:"id"`
	Form string `json:"form"`
}

// MaxID is the longest id that can be asked for, in bytes.
const MaxID = 128

// DiagnoseRequest asks what stalled, and why: in the last incident, or in a
// span of time. Exactly one of Last and Since is set.
type DiagnoseRequest struct {
	Last  bool      `json:"last,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"` // zero: now
	// Rejudge judges again, by the daemon's rules of today, what it judged in
	// the span when it happened; not with Last.
	Rejudge bool `json:"rejudge,omitempty"`
}

// CaptureRequest asks for the recording of a span: of the last so much, or
// between two times. Exactly one of Last and Since is set.
type CaptureRequest struct {
	Last  time.Duration `json:"last_ns,omitempty"` // by the monotonic clock, whatever became of the wall clock
	Since time.Time     `json:"since,omitzero"`
	Until time.Time     `json:"until,omitzero"` // zero: now
}

// The codes of an Error.
const (
	CodeRefused    = "refused"     // neither root nor a member of the group
	CodeRootOnly   = "root_only"   // a member of the group asked for what only root may
	CodeBusy       = "busy"        // too many are being answered; try again
	CodeVersion    = "version"     // no common version of the protocol
	CodeMalformed  = "malformed"   // no frame, or no request, of this protocol
	CodeUnknown    = "unknown"     // a verb or a field that this daemon does not know
	CodeBadRequest = "bad_request" // a request that makes no sense: a span that ends before it begins
	CodeNotFound   = "not_found"   // no such incident, or nothing was recorded then
	CodeTimeout    = "timeout"     // the daemon did not get to an answer in time
	CodeStopping   = "stopping"    // the daemon ends
	CodeFailed     = "failed"      // anything else
)

// Error is an answer that says why there is none.
type Error struct {
	Code string
	Text string // for people, with what to do where they can do something
}

func (e *Error) Error() string { return e.Text }

// Errorf makes an Error as fmt.Errorf does.
func Errorf(code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Code is the code of an *Error that err is or wraps; "" otherwise.
func Code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
