package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/archive"
	"freezeframe/internal/config"
	"freezeframe/internal/kernel"
	"freezeframe/internal/schedules"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// Bounds of what waits for a disk that does not answer.
const (
	maxQueued = 256 // reports
	// maxHeld is how many of them keep their recording, of up to 12 MB each;
	// the others keep the report alone.
	maxHeld = 2
	// openAgain is the pause before a directory that could not be opened is
	// tried again, and prune how often reports that are too old are looked for.
	openAgain = 30 * time.Second
	prune     = time.Hour
)

// errInUse says that another daemon has the state directory.
var errInUse = errors.New("another freezeframe daemon uses it")

// storage is what lies on the disk: the black box and the archive of reports.
// The disk may hang for an hour; all that touches it is on goroutines of its
// own, and nobody else ever waits for one.
type storage struct {
	log   zerolog.Logger
	dir   string
	open  func() *freezeframe.Stall // the stall that is open now
	found func(*recorder.Unclean)   // the run before ended without saying so
	ready func([]reports.Incident)  // the archive is open; what it had last
	aside func(work func())         // does what takes a CPU for long, at ordinary priority

	box     atomic.Pointer[recorder.Box]
	archive atomic.Pointer[archive.Archive]
	first   chan error // what the first attempt came to
	// Why the two are not open; nil: they are, or it is not known yet.
	boxFault, archiveFault atomic.Pointer[string]

	queue     chan kept
	rings     chan *recorder.Ring
	following atomic.Pointer[recorder.Ring]
	held      atomic.Int32
	lost      atomic.Uint64 // reports that did not fit into the queue
	bad       atomic.Uint64 // reports that could not be written
	added     atomic.Uint64

	mu     sync.Mutex
	config config.Config
	again  chan struct{} // closed when the configuration has changed

	lock   *os.File
	opened bool // the black box was open before; of its goroutine
	done   chan struct{}
}

// kept is a report on its way to the disk, with its recording where there was
// room for it.
type kept struct {
	report   freezeframe.Report
	incident *detectors.Incident
}

func newStorage(c config.Config, log zerolog.Logger) *storage {
	return &storage{
		log: log, dir: c.Daemon.StateDir, config: c, again: make(chan struct{}), first: make(chan error, 1),
		aside: func(work func()) { work() },
		queue: make(chan kept, maxQueued), rings: make(chan *recorder.Ring, 1), done: make(chan struct{}),
	}
}

// boxOptions and archiveOptions are the configuration as the two take it.
func boxOptions(c config.Config) recorder.BoxOptions {
	return recorder.BoxOptions{
		Dir: filepath.Join(c.Daemon.StateDir, "box"), Bytes: c.Box.Bytes, Age: c.Box.Age,
		FreeFloor: c.Box.FreeFloor, Sync: c.Box.Sync, Full: c.Box.Full,
		Aside: filepath.Join(filepath.Dir(c.Daemon.Socket), "ended.json"), // in memory, in general
	}
}

func archiveOptions(c config.Config) archive.Options {
	return archive.Options{Dir: filepath.Join(c.Daemon.StateDir, "reports"), Bytes: c.Archive.Bytes, Age: c.Archive.Age, Jobs: jobs}
}

// run makes the state directory ours, opens what is in it, each part again and
// again until it can be, and writes what is queued until ctx ends.
func (s *storage) run(ctx context.Context) {
	defer close(s.done)
	claimed := s.insist(ctx, &s.boxFault, "the state directory cannot be used", func() error {
		err := s.claim()
		s.archiveFault.Store(s.boxFault.Load())
		return err
	})
	if !claimed {
		return
	}
	s.archiveFault.Store(nil)
	var writers sync.WaitGroup
	writers.Go(func() { s.record(ctx) })
	writers.Go(func() { s.keep(ctx) })
	writers.Wait()
	_ = s.lock.Close() // that it is closed is all that counts
}

// insist tries until it works, or ctx ends: then it returns false.
func (s *storage) insist(ctx context.Context, fault *atomic.Pointer[string], what string, try func() error) bool {
	for told := ""; ; {
		err := try()
		if err == nil {
			fault.Store(nil)
		}
		select {
		case s.first <- err:
		default:
		}
		if err == nil {
			return true
		}
		text := err.Error()
		fault.Store(&text)
		if text != told && !fatal(err) {
			s.log.Error().Err(err).Msg(what + "; trying again")
			told = text
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(openAgain):
		}
	}
}

// claim makes the state directory, and sees to it that no other daemon has it.
func (s *storage) claim() error {
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return fmt.Errorf("make the state directory: %w (daemon.state_dir names another one)", err)
	}
	// For writing it would keep the filesystem from being made read-only.
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDONLY|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("open the state directory: %w (daemon.state_dir names another one)", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the error that counts is the one above
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("state directory %s: %w", s.dir, errInUse)
		}
		return fmt.Errorf("lock the state directory %s: %w", s.dir, err)
	}
	s.lock = f
	leftovers(s.dir)
	return nil
}

// openBox opens the black box, the first time with what the run before left.
func (s *storage) openBox() error {
	box, unclean, err := recorder.OpenBox(boxOptions(s.configured()))
	if err != nil {
		return fmt.Errorf("open the black box: %w", err)
	}
	s.box.Store(box)
	if unclean != nil && !s.opened {
		s.found(unclean)
	}
	s.opened = true
	return nil
}

func (s *storage) openArchive() error {
	a, err := archive.Open(archiveOptions(s.configured()))
	if err != nil {
		return fmt.Errorf("open the archive of reports: %w", err)
	}
	if s.archive.Swap(a) == nil {
		s.ready(listed(a, archive.Query{Limit: maxRecent}))
	}
	return nil
}

func (s *storage) configured() config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// reconfigure has the black box and the archive take the sizes and times of a
// new configuration.
func (s *storage) reconfigure(c config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Daemon.StateDir = s.config.Daemon.StateDir
	same := boxOptions(c) == boxOptions(s.config) && c.Archive == s.config.Archive
	if s.config = c; !same {
		close(s.again)
		s.again = make(chan struct{})
	}
}

// changed returns what is closed at the next change of the configuration.
func (s *storage) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.again
}

// follow has the black box write what this ring holds from now on.
func (s *storage) follow(r *recorder.Ring) {
	if s.following.Swap(r) == r {
		return // another watch goes on with it
	}
	for {
		select {
		case s.rings <- r:
			return
		case <-s.rings: // an older one that nobody has taken yet
		}
	}
}

// record runs the black box, and opens it anew when the ring is another one or
// the configuration has changed.
func (s *storage) record(parent context.Context) {
	var ring *recorder.Ring
	for {
		changed := s.changed() // before what it is opened with is read: a change meanwhile counts
		if !s.insist(parent, &s.boxFault, "the black box cannot be opened", s.openBox) {
			return
		}
		if ring == nil {
			select {
			case ring = <-s.rings:
			case <-parent.Done():
			}
		}
		box := s.box.Load()
		if ring != nil {
			ring = s.recordInto(parent, box, ring, changed)
		}
		if err := box.Close(); err != nil {
			s.log.Error().Err(err).Msg("the black box could not be closed: what it did not take is lost")
		}
		if parent.Err() != nil {
			return
		}
	}
}

// recordInto runs one black box, and returns the ring for the next.
func (s *storage) recordInto(parent context.Context, box *recorder.Box, ring *recorder.Ring, changed <-chan struct{}) *recorder.Ring {
	ctx, end := context.WithCancel(parent)
	defer end()
	next := make(chan *recorder.Ring, 1)
	go func() {
		defer end()
		select {
		case <-changed:
		case r := <-s.rings:
			next <- r
			return
		case <-ctx.Done():
		}
		next <- ring
	}()
	box.Run(ctx, ring, s.open)
	end()
	return <-next
}

// add queues a report; it never waits for the disk.
func (s *storage) add(r freezeframe.Report, i *detectors.Incident) {
	if i != nil {
		if s.held.Add(1) > maxHeld {
			s.held.Add(-1)
			i = nil
			r.NotSeen = append(slices.Clone(r.NotSeen), freezeframe.NotSeen{
				What: "keep the recording of this stall", Lost: "its page and its .frz file",
				Err: "the disk had not taken the reports before it",
			})
		}
	}
	select {
	case s.queue <- kept{r, i}:
	default:
		if i != nil {
			s.held.Add(-1)
		}
		if s.lost.Add(1) == 1 {
			s.log.Error().Str("report", r.ID).Msg("a report is lost: the disk has not taken the last ones")
		}
	}
}

// keep writes what is queued. After ctx has ended it writes what is left, as far
// as whoever stops us waits.
func (s *storage) keep(ctx context.Context) {
	if !s.insist(ctx, &s.archiveFault, "the archive of reports cannot be opened", s.openArchive) {
		if n := len(s.queue); n > 0 {
			s.log.Error().Int("reports", n).Msg("reports are lost: the archive could not be opened")
		}
		return
	}
	tick := time.NewTicker(prune)
	defer tick.Stop()
	changed := s.changed()
	for {
		select {
		case k := <-s.queue:
			s.write(ctx, k)
		case <-tick.C:
			if err := s.archive.Load().Prune(); err != nil {
				s.log.Warn().Err(err).Msg("old reports could not be removed")
			}
		case <-changed:
			changed = s.changed()
			s.closeArchive()
			if !s.insist(ctx, &s.archiveFault, "the archive of reports cannot be opened with its new bounds", s.openArchive) {
				return
			}
		case <-ctx.Done():
			for {
				select {
				case k := <-s.queue:
					s.write(context.WithoutCancel(ctx), k)
				default:
					s.closeArchive()
					return
				}
			}
		}
	}
}

func (s *storage) closeArchive() {
	if err := s.archive.Load().Close(); err != nil {
		s.log.Warn().Err(err).Msg("the archive of reports could not be closed")
	}
}

func (s *storage) write(ctx context.Context, k kept) {
	a := s.archive.Load()
	a.Recur(ctx, &k.report)
	var files func(string) ([]string, error)
	if k.incident != nil {
		defer s.held.Add(-1)
		files = func(dir string) (names []string, err error) {
			s.aside(func() { names, err = pages(dir, k.report, k.incident) })
			return names, err
		}
	}
	err := a.Add(k.report, files)
	switch {
	case err == nil:
		s.added.Add(1)
		return
	case errors.Is(err, archive.ErrKept):
		s.added.Add(1)
	default:
		s.bad.Add(1)
	}
	s.log.Error().Err(err).Str("report", k.report.ID).Msg("a report could not be kept")
}

// pages writes what belongs to a report beside its JSON: the page and the
// recording.
func pages(dir string, r freezeframe.Report, i *detectors.Incident) (names []string, err error) {
	base := filepath.Join(dir, r.ID)
	html := recorder.SaveFile(base+".html", func(w io.Writer) error { return reports.HTML(w, r, i.Window, reports.Stacks(i.Window)) })
	switch {
	case errors.Is(html, reports.ErrNoPage):
		html = nil // built without it; the recording can be shown by a binary that has it
	case html == nil:
		names = append(names, r.ID+".html")
	}
	frz := recorder.SaveFile(base+".frz", func(w io.Writer) error { return recorder.Write(&unhurried{w: w, since: time.Now()}, i.Recording) })
	if frz == nil {
		names = append(names, r.ID+".frz")
	}
	return names, errors.Join(html, frz)
}

// unhurried leaves the CPU to others between two writes for three times as long
// as the work between them took: all of the process is of real-time priority,
// and nobody waits for these files.
type unhurried struct {
	w     io.Writer
	since time.Time
}

func (u *unhurried) Write(b []byte) (int, error) {
	worked := time.Since(u.since)
	n, err := u.w.Write(b)
	time.Sleep(min(3*worked, maxBreath))
	u.since = time.Now()
	return n, err
}

// maxBreath bounds one pause, so that a stop is not held up by many.
const maxBreath = 20 * time.Millisecond

// jobs are what runs on this machine at fixed times. Whoever is asked for them is
// started with an ordinary priority, not with ours.
func jobs(ctx context.Context) (found []schedules.Job, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine: it stays locked to it.
		runtime.LockOSThread()
		if err = kernel.SetOther(); err != nil {
			return
		}
		found, err = schedules.Find(ctx)
	}()
	<-done
	return found, err
}

// needs says what the disk keeps us from; it never waits for it.
func (s *storage) needs() []freezeframe.Need {
	var out []freezeframe.Need
	need := func(what, lost string, fault *string) {
		n := freezeframe.Need{What: what, Lost: lost, Err: "the state directory " + s.dir + " does not answer"}
		if fault != nil {
			n.Err = *fault
		}
		out = append(out, n)
	}
	box := s.box.Load()
	if fault := s.boxFault.Load(); fault != nil || box == nil {
		need("record to disk (daemon.state_dir)", "the last minutes, when the machine stops", fault)
	} else {
		out = append(out, box.Needs()...)
	}
	if fault := s.archiveFault.Load(); fault != nil || s.archive.Load() == nil {
		need("keep reports on disk (daemon.state_dir)", "reports, when this process ends", fault)
	}
	return out
}

// fatal tells whether no other attempt will do better: whoever started us has
// to mend it.
func fatal(err error) bool {
	return errors.Is(err, errInUse) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}
