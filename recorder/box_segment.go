package recorder

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"freezeframe"
)

// The levels of a segment: as it was recorded, thinned, and thinned ones put
// together.
const (
	levelOpen = iota // being written, or cut off while it was
	levelFull
	levelThin
	levelHour
)

var levelNames = [...]string{"open", "full", "thin", "hour"}

// segment is one file of the black box. Its name says all that is needed to
// find what overlaps a span, so that nothing else is opened:
//
//	RUN.FIRST-LAST.START-END.LEVEL.frz
//
// the run (ms since 1970 of its beginning), which of the run's segments it
// stands for, and the wall time of its readings in ms. Of one that was not
// closed LEVEL is open and END 0.
type segment struct {
	run         uint64
	first, last uint64
	start, end  int64 // ms since 1970
	level       int
	bytes       int64
	file        string           // its name on the disk
	span        freezeframe.Span // of its readings, where it is known: of this run
}

func (s *segment) name() string {
	return fmt.Sprintf("%013d.%07d-%07d.%013d-%013d.%s.frz", s.run, s.first, s.last, max(s.start, 0), max(s.end, 0), levelNames[s.level])
}

// parseSegment reads a name that segment.name wrote.
func parseSegment(name string) (segment, bool) {
	var s segment
	var level string
	if n, err := fmt.Sscanf(name, "%d.%d-%d.%d-%d.%s", &s.run, &s.first, &s.last, &s.start, &s.end, &level); err != nil || n != 6 {
		return segment{}, false
	}
	for i, l := range levelNames {
		if level == l+".frz" {
			s.level, s.file = i, name
			return s, s.first <= s.last && s.name() == name
		}
	}
	return segment{}, false
}

// overlaps tells whether a segment has readings between two moments.
func (s *segment) overlaps(start, end int64) bool {
	return s.start <= end && (s.end >= start || s.level == levelOpen)
}

func compareSegments(a, b segment) int {
	return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.first, b.first), cmp.Compare(b.last, a.last), cmp.Compare(b.level, a.level))
}

// superseded returns the segments that a thinned one stands for and that are
// still there because the machine stopped between the two.
func superseded(sorted []segment) (old []segment) {
	for i, s := range sorted {
		if slices.ContainsFunc(sorted[:i], func(o segment) bool {
			return o.run == s.run && o.level > s.level && o.level >= levelThin && o.first <= s.first && o.last >= s.last
		}) {
			old = append(old, s)
		}
	}
	return old
}

// boxFile is what a segment is written to.
type boxFile interface {
	io.WriteCloser
	// Sync returns when everything written is on the disk (fdatasync(2)).
	Sync() error
}

// diskFile is a segment's file. Between two flushes it is open for reading only,
// which is enough to sync it: one open for writing would keep its filesystem from
// being mounted read-only.
type diskFile struct {
	file *os.File
	to   *os.File // nil: nothing was written since the last sync
}

func (f *diskFile) Write(p []byte) (int, error) {
	if f.to == nil {
		to, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.file.Fd()), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return 0, &os.PathError{Op: "write", Path: f.file.Name(), Err: errors.Unwrap(err)}
		}
		f.to = to
	}
	return f.to.Write(p)
}

func (f *diskFile) Sync() error {
	if err := f.release(); err != nil {
		return err
	}
	err := error(syscall.EINTR)
	for err == syscall.EINTR {
		err = syscall.Fdatasync(int(f.file.Fd()))
	}
	if err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.file.Name(), Err: err}
	}
	return nil
}

func (f *diskFile) release() error {
	to := f.to
	if to == nil {
		return nil
	}
	f.to = nil
	return to.Close()
}

func (f *diskFile) Close() error { return errors.Join(f.release(), f.file.Close()) }

func createSegment(path string) (boxFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	return &diskFile{file: f}, nil
}

// syncDir makes the names in a directory survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// segmentWriter appends to one segment.
type segmentWriter struct {
	segment
	dir    string
	to     boxFile
	buf    *bufio.Writer
	out    sections
	head   head
	tail   tail
	begun  freezeframe.Instant
	named  bool  // its name is on the disk
	synced int64 // bytes that are on the disk
	stall  bool  // the last STAL section names one
}

// newSegmentWriter makes the file; h.Span is empty until it is sealed.
func newSegmentWriter(create func(string) (boxFile, error), dir string, s segment, h head, p *packer, now freezeframe.Instant) (*segmentWriter, error) {
	w := &segmentWriter{segment: s, dir: dir, head: h, begun: now}
	w.segment.file = s.name()
	file, err := create(filepath.Join(dir, w.segment.file))
	if err != nil {
		return nil, err
	}
	w.to, w.buf = file, bufio.NewWriterSize(file, 64<<10)
	w.out = sections{w: w.buf, p: p}
	w.out.begin()
	w.out.json(tagHead, &w.head)
	return w, nil
}

// part appends what is new of a chunk.
func (w *segmentWriter) part(c *copied, offset int) {
	if w.out.err != nil {
		return
	}
	packed, err := w.out.p.deflate(c.data)
	w.out.fail(err)
	if offset == 0 {
		w.tail.Chunks = append(w.tail.Chunks, tailChunk{Lane: c.lane, Number: c.number, First: c.span.Start, Offset: w.out.n})
	}
	for n := len(w.tail.Chunks) - 1; n >= 0; n-- { // other lanes' may stand behind it
		if t := &w.tail.Chunks[n]; t.Lane == c.lane {
			t.Last, t.Bytes = c.span.End, offset+len(c.data)
			break
		}
	}
	w.out.chunk(tagPart, &block{lane: c.lane, number: c.number, first: c.span.Start, last: c.span.End, size: len(c.data)}, offset, packed)
	w.extend(c.span)
}

// extend widens what the segment covers.
func (w *segmentWriter) extend(s freezeframe.Span) {
	if w.span.End == 0 {
		w.span = s
	}
	w.span.Start, w.span.End = min(w.span.Start, s.Start), max(w.span.End, s.End+1)
	w.start, w.end = w.head.Clock.Wall(w.span.Start).UnixMilli(), w.head.Clock.Wall(w.span.End).UnixMilli()
}

func (w *segmentWriter) events(events []freezeframe.Event) {
	w.tail.Events += w.out.events(events)
}

// openStall notes the stall that is open now, or that there is none any more.
func (w *segmentWriter) openStall(s *freezeframe.Stall) {
	if s == nil && !w.stall {
		return
	}
	w.out.json(tagStall, s)
	w.stall = s != nil
}

// sync has everything on the disk.
func (w *segmentWriter) sync() error {
	if w.out.err != nil {
		return w.out.err
	}
	if err := w.buf.Flush(); err != nil {
		return err
	}
	if err := w.to.Sync(); err != nil {
		return err
	}
	if !w.named {
		if err := syncDir(w.dir); err != nil {
			return err
		}
		w.named = true
	}
	w.synced, w.bytes = w.out.n, w.out.n
	return nil
}

// seal ends the segment, what is missing by now in its second HEAD, and gives
// it the name under which it is found.
func (w *segmentWriter) seal(needs []freezeframe.Need) error {
	w.head.Span, w.head.Needs = w.span, needs
	w.out.json(tagHead, &w.head)
	w.out.json(tagTail, &w.tail)
	if err := w.sync(); err != nil {
		return err
	}
	return w.finish()
}

// finish closes the file and renames it by what it holds.
func (w *segmentWriter) finish() error {
	err := w.to.Close()
	w.level = levelFull
	if renamed := os.Rename(filepath.Join(w.dir, w.segment.file), filepath.Join(w.dir, w.name())); renamed != nil {
		return renamed // it is found under its old name, too
	}
	w.segment.file = w.name()
	if err != nil {
		return err
	}
	return syncDir(w.dir)
}

// abandon gives up a file that cannot be written to any more. What was synced
// stays; a file without any of that goes.
func (w *segmentWriter) abandon() (kept bool) {
	if w.synced == 0 || w.span.Length() == 0 {
		_ = w.to.Close()
		_ = os.Remove(filepath.Join(w.dir, w.segment.file)) // nothing is in it
		return false
	}
	w.bytes = w.out.n
	_ = w.finish() // the error that counts came before
	return true
}
