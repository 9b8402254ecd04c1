// Package archive keeps reports on disk, finds them again, and remembers which
// stalls come back, and when.
package archive

import (
	"context"
	"errors"
	"time"

	"freezeframe"
	"freezeframe/internal/schedules"
)

// Defaults of Options.
const (
	DefaultBytes = 512 << 20
	DefaultAge   = 90 * 24 * time.Hour
)

// ErrKept is wrapped by errors of Add that did not cost the report: it is on
// the disk, without some of what belongs to it.
var ErrKept = errors.New("the report itself is kept")

// ErrNotFound is wrapped by the errors for ids that name no report, or several.
var ErrNotFound = errors.New("no such report")

// Options says where reports are kept and how many.
type Options struct {
	Dir   string        // made when missing, 0750
	Bytes int64         // most bytes of all reports and their files; 0 is DefaultBytes
	Age   time.Duration // the oldest report kept; 0 is DefaultAge
	// ReadOnly looks at an archive that another process may be writing to: it
	// takes no lock, mends nothing, and Add fails.
	ReadOnly bool
	// Location is the machine's time zone, which patterns are said in; nil is
	// time.Local.
	Location *time.Location
	// Jobs tells what runs at fixed times on this machine; nil asks
	// schedules.Find. It is called by Add, Recur and Series, never under a lock.
	Jobs func(ctx context.Context) ([]schedules.Job, error)
}

// Query says which reports are wanted; what is zero does not matter.
type Query struct {
	Since, Until time.Time // stalls that overlap this span
	Cause        string    // id of the verdict
	Fingerprint  string    // whole or a prefix
	Limit        int
}

// Entry is a report as the index knows it.
type Entry struct {
	ID          string            `json:"id"`
	Fingerprint string            `json:"fingerprint"`
	Start       time.Time         `json:"start"`
	End         time.Time         `json:"end"`
	DurationMs  float64           `json:"duration_ms"`
	Ongoing     bool              `json:"ongoing,omitempty"`
	Headline    string            `json:"headline"` // what people felt, as the text says it
	Cause       freezeframe.Cause `json:"cause"`
	Title       string            `json:"title"`
	Who         string            `json:"who,omitempty"`  // the culprit in a few words
	Unit        string            `json:"unit,omitempty"` // of the culprit
	Explained   float64           `json:"explained_pct"`
	Files       []string          `json:"files"` // extensions: json first, then html, frz …
	Bytes       int64             `json:"bytes"` // of all its files
}

// Series are the stalls with one fingerprint: those whose reports are kept, and
// those whose reports are gone.
type Series struct {
	Fingerprint string            `json:"fingerprint"`
	Cause       freezeframe.Cause `json:"cause"`
	Title       string            `json:"title"`
	Who         string            `json:"who,omitempty"`
	Kept        int               `json:"kept"` // how many reports are kept
	freezeframe.Recurrence
}

// Archive is a directory of reports. All its methods may be called at once;
// those that only look wait for no write.
type Archive struct{}

// Open opens the archive in o.Dir, removes what a crash left half done, and
// rebuilds the index where it does not fit the files. A directory that cannot
// be written to is opened all the same, to be read.
func Open(o Options) (*Archive, error) { return nil, errors.New("not yet") }

// Close gives the directory free for another process.
func (a *Archive) Close() error { return nil }

// Recur fills in r.Recurrence, with r counted as one of its series whether or
// not it has been added. Call it before what shows the report is built.
func (a *Archive) Recur(ctx context.Context, r *freezeframe.Report) {}

// Add keeps a report, durably and as a whole: a crash at any moment leaves all
// of it or nothing. files may write more into the directory it is given, each
// named ID.ext, and returns their names; nil is none. Where that fails the
// report is kept without, and the error wraps ErrKept. A report with the id of
// one that is kept takes its place. r.Recurrence is filled in where it is nil.
func (a *Archive) Add(r freezeframe.Report, files func(dir string) ([]string, error)) error {
	return errors.New("not yet")
}

// Prune gives up the oldest reports over the bounds, as Add does; for a daemon
// in which nothing stalls.
func (a *Archive) Prune() error { return nil }

// List returns the reports that fit, newest first, from the index.
func (a *Archive) List(q Query) ([]Entry, error) { return nil, nil }

// Find returns the one report whose id begins with prefix.
func (a *Archive) Find(prefix string) (Entry, error) { return Entry{}, ErrNotFound }

// Report reads a report; id may be a prefix of one.
func (a *Archive) Report(id string) (freezeframe.Report, error) {
	return freezeframe.Report{}, ErrNotFound
}

// Path returns the file of a report that has this extension ("json", "html",
// "frz" …); id may be a prefix of one.
func (a *Archive) Path(id, ext string) (string, error) { return "", ErrNotFound }

// Series returns all series, the one with the newest stall first.
func (a *Archive) Series() []Series { return nil }

// Damaged says what was found broken and left out, one line each.
func (a *Archive) Damaged() []string { return nil }

// Stats are figures of the archive.
type Stats struct {
	Reports        int       `json:"reports"`
	Bytes          int64     `json:"bytes"`
	Oldest, Newest time.Time `json:"-"`
	Series         int       `json:"series"`
	Damaged        int       `json:"damaged"`
}

// Stats returns how full the archive is.
func (a *Archive) Stats() Stats { return Stats{} }
