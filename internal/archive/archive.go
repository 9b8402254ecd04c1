// Package archive keeps reports on disk, finds them again, and remembers which
// stalls come back, and when.
package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/internal/schedules"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// Defaults of Options.
const (
	DefaultBytes = 512 << 20
	DefaultAge   = 90 * 24 * time.Hour
)

// The errors of the archive.
var (
	// ErrKept is wrapped by errors of Add that did not cost the report: it is on
	// the disk, without some of what belongs to it.
	ErrKept = errors.New("the report itself is kept")
	// ErrNotFound is wrapped by the errors for ids that name no report, or
	// several.
	ErrNotFound = errors.New("no such report")
	// ErrInUse says that another process writes to the archive.
	ErrInUse = errors.New("another freezeframe writes to it: stop that one, or ask it")
	// ErrDamaged is wrapped by the errors for a report whose file is not what
	// was written.
	ErrDamaged = errors.New("its file is damaged")
)

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
	// schedules.Find. It may hang: nobody waits longer than jobsWait.
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

// record is a line of the index.
type record struct {
	Entry
	Ran  []string `json:"ran,omitempty"` // timers that ran just before
	Size int64    `json:"size"`          // of the JSON file
	Mod  int64    `json:"mod"`           // its modification time, ns since 1970
	Sum  uint32   `json:"sum"`           // its checksum, CRC-32C
}

// Names in the directory. A report is a directory ID with the files ID.json,
// ID.html …; while it is written it is .ID.new, while it is replaced .ID.old.
const (
	indexFile  = "index"
	seriesFile = "series"
	newSuffix  = ".new"
	oldSuffix  = ".old"
)

const (
	jobsWait    = 3 * time.Second
	jobsFresh   = 10 * time.Second // what ran just before a stall is asked for after it
	jobsCurrent = 10 * time.Minute
	// maxAged is how many reports one Add, Prune or Open gives up for their age:
	// a clock that is wrong for a moment does not cost them all.
	maxAged = 16
)

var (
	validID          = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{8}$`)
	validFingerprint = regexp.MustCompile(`^[0-9a-f]{12}$`)
	validPrefix      = regexp.MustCompile(`^[0-9][0-9TZ.a-f-]{0,31}$`)
	validExtension   = regexp.MustCompile(`^[a-z0-9]{1,12}(\.[a-z0-9]{1,6})?$`)
	leftover         = regexp.MustCompile(`^\.(` + indexFile + `|` + seriesFile + `)\..*\.tmp$`)
)

// Archive is a directory of reports. All its methods may be called at once;
// those that only look wait for no write, and for no disk but Report.
type Archive struct {
	dir  string
	o    Options
	lock *os.File

	write sync.Mutex // held while something is written, which may take for ever
	torn  bool       // the index may end in half a line

	mu      sync.RWMutex
	records map[string]*record
	ids     []string // of records, in order
	broken  map[string]int64
	bytes   int64 // of all
	dead    int   // lines of the index that say nothing any more
	past    map[string]memory
	pending []string
	damaged []string
	judged  map[string]judged

	jobs jobs
}

// judged is a series that was looked at, and what it was like then.
type judged struct {
	count, kept int
	last        string
	jobs        time.Time
	is          Series
}

// Open opens the archive in o.Dir, removes what a crash left half done, and
// rebuilds the index where it does not fit the files. What is damaged is left
// out and said by Damaged. A directory that cannot be written to is opened all
// the same, to be read.
func Open(o Options) (*Archive, error) {
	o.Bytes, o.Age = cmp.Or(o.Bytes, DefaultBytes), cmp.Or(o.Age, DefaultAge)
	if o.Location == nil {
		o.Location = time.Local
	}
	if o.Jobs == nil {
		o.Jobs = schedules.Find
	}
	a := &Archive{dir: o.Dir, o: o, records: make(map[string]*record), broken: make(map[string]int64), judged: make(map[string]judged)}
	if !o.ReadOnly {
		if err := os.MkdirAll(o.Dir, 0o750); err != nil {
			return nil, fmt.Errorf("make the directory for reports: %w", err)
		}
	}
	d, err := os.Open(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of reports: %w", err)
	}
	if !o.ReadOnly {
		// Some filesystems have no locks; they have no second daemon either.
		if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
			d.Close()
			return nil, fmt.Errorf("open the reports in %s: %w", o.Dir, ErrInUse)
		}
		a.lock = d
	} else {
		defer d.Close()
	}
	if err := a.load(d); err != nil {
		d.Close()
		return nil, fmt.Errorf("read the reports in %s: %w", o.Dir, err)
	}
	if !o.ReadOnly {
		if err := a.prune(""); err != nil {
			a.damage(err.Error())
		}
	}
	return a, nil
}

// load reads the directory.
func (a *Archive) load(d *os.File) error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	a.loadSeries()
	known := make(map[string]*record)
	lines := 0
	broken, err := readLines(filepath.Join(a.dir, indexFile), func(text []byte) error {
		r, err := parseRecord(text)
		if err == nil {
			known[r.ID] = r
			lines++
		}
		return err
	})
	stale := broken > 0 || err != nil // the files know better
	var ids []string
	for _, name := range names {
		id, old := strings.CutSuffix(strings.TrimPrefix(name, "."), oldSuffix)
		switch {
		case validID.MatchString(name):
			ids = append(ids, name)
		case a.o.ReadOnly:
		case old && validID.MatchString(id) && name[0] == '.':
			// The replacement is there, or it never came.
			if slices.Contains(names, id) {
				a.remove(name)
			} else if err := os.Rename(filepath.Join(a.dir, name), filepath.Join(a.dir, id)); err != nil {
				a.damage("a report that was being replaced could not be put back: " + err.Error())
			} else {
				ids = append(ids, id)
			}
		case strings.HasSuffix(name, newSuffix) && name[0] == '.' && validID.MatchString(name[1:len(name)-len(newSuffix)]):
			a.remove(name)
		case leftover.MatchString(name):
			a.remove(name)
		}
	}
	for _, id := range ids {
		if slices.Contains(a.pending, id) {
			if a.o.ReadOnly || a.remove(id) {
				continue
			}
		}
		r, err := a.examine(id, known[id])
		switch {
		case errors.Is(err, fs.ErrNotExist) && a.o.ReadOnly: // given up meanwhile
		case err != nil:
			a.damage(fmt.Sprintf("the report %s is left out: %v", id, err))
			a.broken[id] = sizeOf(filepath.Join(a.dir, id))
			a.bytes += a.broken[id]
		default:
			stale = stale || r != known[id]
			a.records[id] = r
			a.bytes += r.Bytes
		}
	}
	a.ids = slices.Sorted(maps.Keys(a.records))
	a.dead = lines - len(a.records)
	if (stale || a.dead > len(a.records)+100) && !a.o.ReadOnly {
		if err := a.writeIndex(); err != nil {
			a.damage("the index could not be written anew, so that the next start takes longer: " + err.Error())
		}
	}
	return nil
}

// remove removes what lies in the directory, and says whether it is gone.
func (a *Archive) remove(name string) bool {
	if err := os.RemoveAll(filepath.Join(a.dir, name)); err != nil {
		a.damage("what a crash left behind could not be removed: " + err.Error())
		return false
	}
	return true
}

func (a *Archive) damage(text string) {
	if len(a.damaged) < 100 {
		a.damaged = append(a.damaged, reports.Clean(text))
	}
}

func sizeOf(dir string) (n int64) {
	list, _ := os.ReadDir(dir) // damaged anyway
	for _, f := range list {
		if info, err := f.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

// examine returns the record of a report on the disk: the one of the index
// where it still fits.
func (a *Archive) examine(id string, known *record) (*record, error) {
	list, err := os.ReadDir(filepath.Join(a.dir, id))
	if err != nil {
		return nil, err
	}
	var files []string
	var total, size, mod int64
	for _, f := range list {
		ext, ok := strings.CutPrefix(f.Name(), id+".")
		if !ok || !f.Type().IsRegular() {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		total += info.Size()
		if ext == "json" {
			size, mod = info.Size(), info.ModTime().UnixNano()
			continue
		}
		files = append(files, ext)
	}
	if mod == 0 {
		return nil, errors.New("it has no JSON file")
	}
	files = append([]string{"json"}, files...)
	if known != nil && known.Size == size && known.Mod == mod && known.Bytes == total && slices.Equal(known.Files, files) {
		return known, nil
	}
	r, sum, err := a.read(id)
	if err != nil {
		return nil, err
	}
	out := recordOf(&r)
	out.Files, out.Bytes, out.Size, out.Mod, out.Sum = files, total, size, mod, sum
	if known != nil {
		out.Ran = known.Ran
	}
	return out, nil
}

// read reads the JSON file of a report.
func (a *Archive) read(id string) (r freezeframe.Report, sum uint32, err error) {
	f, err := os.Open(a.file(id, "json"))
	if err != nil {
		return r, 0, err
	}
	defer f.Close()
	h := newSum()
	doc, _, err := reports.Read(io.TeeReader(f, h))
	switch {
	case err != nil:
	case doc == nil:
		err = errors.New("it holds a diagnosis")
	case doc.ID != id:
		err = fmt.Errorf("it holds the report %q", doc.ID)
	case !validFingerprint.MatchString(doc.Fingerprint):
		err = fmt.Errorf("its fingerprint is %q", doc.Fingerprint)
	default:
		return *doc, h.Sum32(), nil
	}
	return r, h.Sum32(), err
}

func (a *Archive) file(id, ext string) string {
	return filepath.Join(a.dir, id, id+"."+ext)
}

// EntryOf is a report as the index would know it, but for its files.
func EntryOf(r *freezeframe.Report) Entry { return recordOf(r).Entry }

func recordOf(r *freezeframe.Report) *record {
	c := &r.Causes[0]
	e := &record{Entry: Entry{
		ID: r.ID, Fingerprint: r.Fingerprint, Start: r.Stall.Start, End: r.Stall.End, DurationMs: r.Stall.DurationMs, Ongoing: r.Stall.Ongoing,
		Headline: reports.Headline(r), Cause: c.ID, Title: c.Title, Who: reports.Who(&c.Culprit), Unit: c.Culprit.Unit, Explained: c.ExplainedPct,
	}}
	e.clean()
	return e
}

// Close gives the directory free for another process.
func (a *Archive) Close() error {
	a.write.Lock()
	defer a.write.Unlock()
	if a.lock == nil {
		return nil
	}
	lock := a.lock
	a.lock = nil
	return lock.Close()
}

// Recur fills in r.Recurrence, with r counted as one of its series whether or
// not it has been added. Call it before what shows the report is built. It
// asks for the machine's timers and cron entries, for at most three seconds.
func (a *Archive) Recur(ctx context.Context, r *freezeframe.Report) {
	if !validID.MatchString(r.ID) || len(r.Causes) == 0 {
		return
	}
	jobs, _ := a.jobs.get(ctx, a.o.Jobs, jobsFresh)
	e := recordOf(r)
	e.Ran = ranBefore(jobs, r.Stall.Start)
	a.mu.RLock()
	g := a.gather(r.Fingerprint, e)[r.Fingerprint]
	a.mu.RUnlock()
	g.judge(a.o.Location, jobs)
	rec := g.Recurrence
	r.Recurrence = &rec
}

// Add keeps a report, durably and as a whole: a crash at any moment leaves all
// of it or nothing. files may write more into the directory it is given, each
// named ID.ext, and returns the names of those that are complete; nil is none.
// Where it fails the report is kept with those, and the error wraps ErrKept. A
// report with the id of one that is kept takes its place. r.Recurrence is
// filled in where it is nil.
func (a *Archive) Add(r freezeframe.Report, files func(dir string) ([]string, error)) error {
	switch {
	case a.o.ReadOnly:
		return errors.New("keep the report: the archive was opened to be read only")
	case !validID.MatchString(r.ID) || startOf(r.ID).IsZero():
		return fmt.Errorf("keep the report: %q is no id of a report", r.ID)
	case !validFingerprint.MatchString(r.Fingerprint):
		return fmt.Errorf("keep the report %s: %q is no fingerprint", r.ID, r.Fingerprint)
	case len(r.Causes) == 0 || r.Causes[0].ID == "" || r.Stall.Start.IsZero():
		return fmt.Errorf("keep the report %s: it has no cause or no beginning", r.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), jobsWait)
	defer cancel()
	if r.Recurrence == nil {
		a.Recur(ctx, &r)
	}
	jobs, _ := a.jobs.get(ctx, a.o.Jobs, time.Minute)
	ran := ranBefore(jobs, r.Stall.Start)

	a.write.Lock()
	defer a.write.Unlock()
	if a.lock == nil {
		return fmt.Errorf("keep the report %s: the archive is closed", r.ID)
	}
	var kept []error // what went wrong without costing the report
	e, err := a.store(&r, files, &kept)
	if err != nil {
		return fmt.Errorf("keep the report %s: %w", r.ID, err)
	}
	e.Ran = ran
	a.mu.Lock()
	if old := a.records[r.ID]; old != nil {
		a.bytes -= old.Bytes
		a.dead++
	} else {
		i, _ := slices.BinarySearch(a.ids, r.ID)
		a.ids = slices.Insert(slices.Clone(a.ids), i, r.ID) // readers may hold the old one
	}
	a.bytes += e.Bytes - a.broken[r.ID]
	delete(a.broken, r.ID)
	a.records[r.ID] = e
	a.mu.Unlock()
	if err := a.appendIndex(e); err != nil {
		kept = append(kept, fmt.Errorf("the index could not be written, and is built anew at the next start: %w", err))
	}
	if err := a.prune(r.ID); err != nil {
		kept = append(kept, err)
	}
	if len(kept) > 0 {
		return fmt.Errorf("%w (%s), but: %w", ErrKept, r.ID, errors.Join(kept...))
	}
	return nil
}

// store writes the directory of a report and moves it into its place.
func (a *Archive) store(r *freezeframe.Report, files func(dir string) ([]string, error), kept *[]error) (e *record, err error) {
	if slices.Contains(a.pending, r.ID) {
		// Were it still noted as one to go, the next start would remove it.
		if err := a.saveSeries(maps.Clone(a.past), nil); err != nil {
			return nil, err
		}
		a.mu.Lock()
		a.pending = nil
		a.mu.Unlock()
	}
	tmp := filepath.Join(a.dir, "."+r.ID+newSuffix)
	if err := cmp.Or(os.RemoveAll(tmp), os.Mkdir(tmp, 0o750)); err != nil {
		return nil, fmt.Errorf("%w%s", err, hint(err))
	}
	defer func() {
		if err != nil {
			os.RemoveAll(tmp) // and if not, the next start does
		}
	}()
	path := filepath.Join(tmp, r.ID+".json")
	h := newSum()
	save := func() error {
		h = newSum()
		return recorder.SaveFile(path, func(w io.Writer) error { return reports.JSON(io.MultiWriter(w, h), r) })
	}
	if err := save(); err != nil {
		return nil, err
	}
	before, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	e = recordOf(r)
	e.Files, e.Bytes = []string{"json"}, before.Size()
	if files != nil {
		names, err := files(tmp)
		if err != nil {
			*kept = append(*kept, fmt.Errorf("not all of its files could be written: %w", err))
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(before, now) || now.Size() != before.Size() || now.ModTime() != before.ModTime() {
			if err := save(); err != nil { // files may write one too, but this one is sure to be whole
				return nil, err
			}
		}
		if err := a.gatherFiles(tmp, e, names); err != nil {
			*kept = append(*kept, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	e.Size, e.Mod, e.Sum = info.Size(), info.ModTime().UnixNano(), h.Sum32()
	if err := syncDir(tmp); err != nil {
		return nil, err
	}
	final, old := filepath.Join(a.dir, r.ID), filepath.Join(a.dir, "."+r.ID+oldSuffix)
	if err := os.RemoveAll(old); err != nil {
		return nil, err
	}
	replaces := true
	if err := os.Rename(final, old); errors.Is(err, fs.ErrNotExist) {
		replaces = false
	} else if err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, final); err != nil {
		if replaces {
			err = errors.Join(err, os.Rename(old, final))
		}
		return nil, err
	}
	if err := syncDir(a.dir); err != nil {
		*kept = append(*kept, fmt.Errorf("it may not survive a power cut: %w", err))
	}
	if replaces {
		if err := os.RemoveAll(old); err != nil {
			*kept = append(*kept, fmt.Errorf("what it replaces could not be removed: %w", err))
		}
	}
	return e, nil
}

// gatherFiles makes the named files durable, and removes what is not named.
func (a *Archive) gatherFiles(tmp string, e *record, names []string) error {
	var errs []error
	wanted := make(map[string]bool)
	for _, name := range names {
		ext, ok := strings.CutPrefix(filepath.Base(name), e.ID+".")
		if dir := filepath.Dir(name); !ok || !validExtension.MatchString(ext) || dir != "." && dir != filepath.Clean(tmp) {
			errs = append(errs, fmt.Errorf("%q is no file of the report %s", reports.Clean(name), e.ID))
			continue
		}
		wanted[ext] = true
	}
	list, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, f := range list {
		ext := strings.TrimPrefix(f.Name(), e.ID+".")
		if ext == "json" {
			delete(wanted, ext)
			continue
		}
		path := filepath.Join(tmp, f.Name())
		info, err := f.Info()
		if err == nil && wanted[ext] && info.Mode().IsRegular() {
			if e.Bytes+info.Size() > a.o.Bytes {
				err = fmt.Errorf("%s is larger than the archive may be: allow it more bytes", f.Name())
			} else if err = syncFile(path); err == nil {
				e.Files, e.Bytes = append(e.Files, ext), e.Bytes+info.Size()
				delete(wanted, ext)
				continue
			}
		}
		delete(wanted, ext)
		errs = append(errs, err, os.RemoveAll(path))
	}
	for ext := range wanted {
		errs = append(errs, fmt.Errorf("%s.%s was not written", e.ID, ext))
	}
	return errors.Join(errs...)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	err := syncFile(path)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil // some filesystems cannot
	}
	return err
}

// hint is what a user can do about an error.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ": free some space there, or keep reports on another filesystem (daemon.state_dir)"
	case errors.Is(err, syscall.EROFS):
		return ": mount it writable, or keep reports on another filesystem (daemon.state_dir)"
	case errors.Is(err, fs.ErrPermission):
		return ": run as root, or keep reports in a directory of this user (daemon.state_dir)"
	}
	return ""
}

// Prune gives up the oldest reports over the bounds, as Add does; for a daemon
// in which nothing stalls.
func (a *Archive) Prune() error {
	a.write.Lock()
	defer a.write.Unlock()
	if a.lock == nil {
		return errors.New("give up old reports: the archive is closed, or to be read only")
	}
	return a.prune("")
}

// prune gives up the oldest reports, but not the one with the id keep. What is
// counted of them is written first, with their names, so that a crash in
// between neither forgets nor counts twice. a.write is held.
func (a *Archive) prune(keep string) error {
	a.mu.RLock()
	all := slices.Clone(a.ids)
	for id := range a.broken {
		all = append(all, id)
	}
	slices.Sort(all)
	bytes := a.bytes
	var go_ []string
	past := maps.Clone(a.past)
	aged, full := 0, bytes > a.o.Bytes
	horizon := time.Now().Add(-a.o.Age)
	for _, id := range all {
		size := a.broken[id]
		e := a.records[id]
		if e != nil {
			size = e.Bytes
		}
		old := aged < maxAged && startOf(id).Before(horizon)
		// Some more than needed, so that not every report makes one go.
		tooMuch := full && bytes > a.o.Bytes-a.o.Bytes/64
		if !old && !tooMuch || id == keep {
			continue
		}
		if old {
			aged++
		}
		bytes -= size
		go_ = append(go_, id)
		if e != nil {
			m := past[e.Fingerprint]
			m.Fingerprint = e.Fingerprint
			m.fold(e)
			past[e.Fingerprint] = m
		}
	}
	a.mu.RUnlock()
	if len(go_) == 0 {
		return nil
	}
	if err := a.saveSeries(past, go_); err != nil {
		return fmt.Errorf("old reports stay, because what is remembered of them cannot be written: %w", err)
	}
	a.mu.Lock()
	a.past, a.pending = past, go_
	a.mu.Unlock()
	var errs []error
	for _, id := range go_ {
		if err := os.RemoveAll(filepath.Join(a.dir, id)); err != nil {
			errs = append(errs, fmt.Errorf("remove an old report: %w%s", err, hint(err)))
			continue
		}
		a.mu.Lock()
		if e := a.records[id]; e != nil {
			a.bytes -= e.Bytes
			a.dead++
			delete(a.records, id)
			i, _ := slices.BinarySearch(a.ids, id)
			a.ids = slices.Delete(slices.Clone(a.ids), i, i+1)
		}
		a.bytes -= a.broken[id]
		delete(a.broken, id)
		a.mu.Unlock()
	}
	if a.dead > len(a.records)+1000 {
		if err := a.writeIndex(); err != nil {
			errs = append(errs, fmt.Errorf("the index could not be written anew: %w", err))
		}
	}
	return errors.Join(errs...)
}

// List returns the reports that fit, newest first, from the index.
func (a *Archive) List(q Query) ([]Entry, error) {
	if q.Limit < 0 {
		return nil, fmt.Errorf("list reports: a limit of %d is none", q.Limit)
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && q.Until.Before(q.Since) {
		return nil, fmt.Errorf("list reports: %s comes before %s", q.Until.Format(time.RFC3339), q.Since.Format(time.RFC3339))
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []Entry
	for _, id := range slices.Backward(a.ids) {
		e := a.records[id]
		if !q.Since.IsZero() && e.End.Before(q.Since) || !q.Until.IsZero() && e.Start.After(q.Until) ||
			q.Cause != "" && string(e.Cause) != q.Cause || !strings.HasPrefix(e.Fingerprint, q.Fingerprint) {
			continue
		}
		out = append(out, e.Entry)
		if len(out) == q.Limit {
			break
		}
	}
	return out, nil
}

// Find returns the one report whose id begins with prefix.
func (a *Archive) Find(prefix string) (Entry, error) {
	e, err := a.find(prefix)
	if err != nil {
		return Entry{}, err
	}
	return e.Entry, nil
}

func (a *Archive) find(prefix string) (*record, error) {
	// Nothing that is not an id comes near a path: what is returned is one of
	// those that the directory was seen to have.
	if !validPrefix.MatchString(prefix) {
		return nil, fmt.Errorf("%w: %q is no id of one: `freezeframe list` shows them", ErrNotFound, reports.Clean(prefix[:min(len(prefix), 64)]))
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	i, _ := slices.BinarySearch(a.ids, prefix)
	n := 0
	for n < len(a.ids)-i && strings.HasPrefix(a.ids[i+n], prefix) {
		n++
	}
	switch {
	case n == 1:
		return a.records[a.ids[i]], nil
	case n > 1:
		text := strings.Join(a.ids[i:i+min(n, 3)], ", ")
		if n > 3 {
			text += " …"
		}
		return nil, fmt.Errorf("%w: %d begin with %q: %s: say more of it", ErrNotFound, n, prefix, text)
	}
	for id := range a.broken {
		if strings.HasPrefix(id, prefix) {
			return nil, fmt.Errorf("the report %s: %w", id, ErrDamaged)
		}
	}
	return nil, fmt.Errorf("%w: none begins with %q: `freezeframe list` shows them", ErrNotFound, prefix)
}

// Report reads a report; id may be a prefix of one.
func (a *Archive) Report(id string) (freezeframe.Report, error) {
	e, err := a.find(id)
	if err != nil {
		return freezeframe.Report{}, err
	}
	r, sum, err := a.read(e.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return freezeframe.Report{}, fmt.Errorf("%w: %s has been given up", ErrNotFound, e.ID)
	}
	if err == nil && sum != e.Sum {
		// Whoever changed it on purpose changed its time too.
		if info, statErr := os.Stat(a.file(e.ID, "json")); statErr == nil && info.ModTime().UnixNano() == e.Mod {
			err = errors.New("its checksum is wrong")
		}
	}
	if err != nil {
		return freezeframe.Report{}, fmt.Errorf("read the report %s: %w: %w", e.ID, ErrDamaged, err)
	}
	return r, nil
}

// Path returns the file of a report that has this extension ("json", "html",
// "frz" …); id may be a prefix of one.
func (a *Archive) Path(id, ext string) (string, error) {
	e, err := a.find(id)
	if err != nil {
		return "", err
	}
	if !slices.Contains(e.Files, ext) {
		return "", fmt.Errorf("%w: %s has no .%s, only %s", ErrNotFound, e.ID, reports.Clean(ext[:min(len(ext), 16)]), strings.Join(e.Files, ", "))
	}
	return a.file(e.ID, ext), nil
}

// Series returns all series, the one with the newest stall first. It asks for
// the machine's timers and cron entries as Recur does.
func (a *Archive) Series() []Series {
	jobs, asked := a.jobs.get(context.Background(), a.o.Jobs, jobsCurrent)
	a.mu.RLock()
	all := a.gather("", nil)
	a.mu.RUnlock()
	var out []Series
	for fingerprint, g := range all {
		if len(g.ids) == 0 {
			continue
		}
		now := judged{count: g.Count, kept: g.Kept, last: g.ids[len(g.ids)-1], jobs: asked}
		a.mu.RLock()
		was, ok := a.judged[fingerprint]
		a.mu.RUnlock()
		if now.is = was.is; !ok || now != was {
			g.judge(a.o.Location, jobs)
			now.is = g.Series
			a.mu.Lock()
			a.judged[fingerprint] = now
			a.mu.Unlock()
		}
		out = append(out, now.is)
	}
	a.mu.Lock()
	maps.DeleteFunc(a.judged, func(f string, _ judged) bool { return all[f] == nil })
	a.mu.Unlock()
	slices.SortFunc(out, func(x, y Series) int {
		return cmp.Or(y.Last.Compare(x.Last), strings.Compare(x.Fingerprint, y.Fingerprint))
	})
	return out
}

// Damaged says what was found broken and left out, one line each.
func (a *Archive) Damaged() []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Clone(a.damaged)
}

// Stats are figures of the archive.
type Stats struct {
	Reports        int
	Bytes          int64
	Oldest, Newest time.Time // starts of stalls; zero where there are none
	Series         int       // whose reports are gone, in part or all
	Damaged        int       // reports that are left out
	Jobs           error     // why timers or cron entries could not be had, the last time they were asked for
}

// Stats returns how full the archive is.
func (a *Archive) Stats() Stats {
	a.mu.RLock()
	defer a.mu.RUnlock()
	s := Stats{Reports: len(a.ids), Bytes: a.bytes, Series: len(a.past), Damaged: len(a.broken), Jobs: a.jobs.lastError()}
	if len(a.ids) > 0 {
		s.Oldest, s.Newest = startOf(a.ids[0]), startOf(a.ids[len(a.ids)-1])
	}
	return s
}
