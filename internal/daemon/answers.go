package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/archive"
	"freezeframe/internal/control"
	"freezeframe/internal/lookback"
	"freezeframe/recorder"
	"freezeframe/reports"
)

const (
	maxRecent = 20 // incidents that status tells of
	// coverageFresh is how long what is watched counts as known: to find it,
	// the last seconds are decoded.
	coverageFresh = 2 * time.Second
)

// answers is what the control server asks the daemon.
type answers struct{ *daemon }

var _ control.Handler = answers{}

// Status touches no disk.
func (d answers) Status(context.Context) (reports.Status, error) {
	d.mu.Lock()
	s := reports.Status{
		Running: true, Version: d.o.Version, PID: os.Getpid(), Started: d.started.UTC(),
		Config: d.o.ConfigFile, ConfigErr: d.configErr, Without: []string{}, Incidents: slices.Clone(d.recent),
	}
	c := d.config
	d.mu.Unlock()
	for _, n := range d.denied() {
		s.Without = append(s.Without, strings.TrimSuffix(n.What+": "+n.Err, ": "))
	}
	s.Coverage = d.coverage()
	if w := d.watch.Load(); w != nil {
		if stall := w.Unreported(); stall != nil && stall.Ongoing {
			clock := wallClock()
			s.Stalled = &reports.StalledNow{Since: clock.Wall(stall.Start), What: reports.Felt(stall, clock)}
		}
	}
	s.Box = reports.BoxStatus{Dir: boxOptions(c).Dir, MaxBytes: c.Box.Bytes}
	if box := d.store.box.Load(); box != nil {
		st := box.Stats()
		s.Box.Bytes, s.Box.Segments, s.Box.Oldest, s.Box.Newest = st.Bytes, st.Segments, st.Oldest, st.Newest
		s.Box.LagMs, s.Box.Gaps, s.Box.Err = float64(st.Lag)/float64(time.Millisecond), st.GapCount, st.Err
	}
	s.Reports = reports.ReportsStatus{Dir: archiveOptions(c).Dir, MaxBytes: c.Archive.Bytes}
	if a := d.store.archive.Load(); a != nil {
		st := a.Stats()
		s.Reports.Count, s.Reports.Bytes, s.Reports.Oldest = st.Reports, st.Bytes, st.Oldest
	}
	if text := d.store.boxFault.Load(); text != nil {
		s.Box.Err = *text
	}
	if text := d.store.archiveFault.Load(); text != nil {
		s.Reports.Err = *text
	}
	return s, nil
}

// coverage says what is watched, found a moment ago at most.
func (d *daemon) coverage() freezeframe.Coverage {
	d.covering.Lock()
	defer d.covering.Unlock()
	w := d.watch.Load()
	if w == nil {
		return freezeframe.Coverage{Probes: []string{}, Sources: []string{}, Services: []string{}, NotSeen: []freezeframe.NotSeen{}}
	}
	if now := time.Now(); d.covered.of != w || now.Sub(d.covered.at) > coverageFresh {
		d.covered.coverage, d.covered.of, d.covered.at = w.Coverage(), w, now
		d.covered.coverage.Recorder = d.cost.report(w)
	}
	return d.covered.coverage
}

// kept returns the archive, or says why there is none.
func (d *daemon) kept() (*archive.Archive, error) {
	if a := d.store.archive.Load(); a != nil {
		return a, nil
	}
	if text := d.store.archiveFault.Load(); text != nil {
		return nil, control.Errorf(control.CodeFailed, "no reports are kept: %s", *text)
	}
	return nil, control.Errorf(control.CodeFailed, "no reports are at hand: the state directory %s does not answer", d.store.dir)
}

// List gives the incidents that fit, from the index.
func (d answers) List(_ context.Context, q control.ListRequest) (reports.Listing, error) {
	a, err := d.kept()
	if err != nil {
		return reports.Listing{}, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = control.MaxList
	}
	// The index is in memory: counting what is left out costs next to nothing.
	query := archive.Query{Since: q.Since, Until: q.Until, Cause: q.Cause, Fingerprint: q.Fingerprint}
	all, err := a.List(query)
	if err != nil {
		return reports.Listing{}, fmt.Errorf("list the reports: %w", err)
	}
	l := reports.Listing{Incidents: incidents(a, all[:min(limit, len(all))]), More: max(len(all)-limit, 0), Notes: a.Damaged()}
	return l, nil
}

// listed is what a query finds, as a list shows it.
func listed(a *archive.Archive, q archive.Query) []reports.Incident {
	all, err := a.List(q)
	if err != nil {
		return nil // the list itself says so when it is asked for
	}
	return incidents(a, all)
}

func incidents(a *archive.Archive, entries []archive.Entry) []reports.Incident {
	series := map[string]*archive.Series{}
	all := a.Series()
	for i := range all {
		series[all[i].Fingerprint] = &all[i]
	}
	out := []reports.Incident{}
	for i := range entries {
		e := &entries[i]
		i := incidentOf(e)
		if s := series[e.Fingerprint]; s != nil {
			i.Count, i.Pattern = s.Count, s.Pattern
		}
		out = append(out, i)
	}
	return out
}

// incidentOf is an entry of the index as a line of a list.
func incidentOf(e *archive.Entry) reports.Incident {
	return reports.Incident{
		ID: e.ID, Fingerprint: e.Fingerprint, Start: e.Start, End: e.End, DurationMs: e.DurationMs, Ongoing: e.Ongoing,
		Cause: string(e.Cause), ExplainedPct: e.Explained, Culprit: e.Who, Summary: e.Headline, Count: 1,
	}
}

// listedNow is a report that has just been made as a line of a list.
func listedNow(r *freezeframe.Report) reports.Incident {
	e := archive.EntryOf(r)
	i := incidentOf(&e)
	if r.Recurrence != nil {
		i.Count, i.Pattern = r.Recurrence.Count, r.Recurrence.Pattern
	}
	return i
}

// Show opens one file of the archive; the report that came last is at hand even
// when the disk is not.
func (d answers) Show(_ context.Context, q control.ShowRequest) (control.Document, error) {
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if q.Form == control.FormJSON && last != nil && (q.ID == control.Last || q.ID == last.ID) {
		return document(last)
	}
	a, err := d.kept()
	if err != nil {
		return control.Document{}, err
	}
	id := q.ID
	if id == control.Last {
		newest, err := a.List(archive.Query{Limit: 1})
		if err != nil {
			return control.Document{}, fmt.Errorf("list the reports: %w", err)
		}
		if len(newest) == 0 {
			return control.Document{}, control.Errorf(control.CodeNotFound, "no incident so far")
		}
		id = newest[0].ID
	}
	path, err := a.Path(id, q.Form)
	if errors.Is(err, archive.ErrNotFound) {
		return control.Document{}, control.Errorf(control.CodeNotFound, "%v", err)
	}
	if err != nil {
		return control.Document{}, fmt.Errorf("show %s: %w", id, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return control.Document{}, fmt.Errorf("show %s: %w", id, err)
	}
	return control.Document{Body: f}, nil
}

func document(r *freezeframe.Report) (control.Document, error) {
	var b strings.Builder
	if err := reports.JSON(&b, r); err != nil {
		return control.Document{}, err
	}
	return control.Document{Body: io.NopCloser(strings.NewReader(b.String()))}, nil
}

// Diagnose gives the last incident, or what stalled in a span: what is kept and
// what was recorded of it, and the stall that is open now, judged as it stands.
func (d answers) Diagnose(ctx context.Context, q control.DiagnoseRequest) (freezeframe.Diagnosis, error) {
	now := time.Now().UTC()
	if q.Last {
		r, err := d.newest()
		if err != nil {
			return freezeframe.Diagnosis{}, err
		}
		return reports.Diagnosis(freezeframe.Observed{Start: r.Stall.Start, End: r.Stall.End}, d.coverage(), []freezeframe.Report{*r}), nil
	}
	until := q.Until
	if until.IsZero() || until.After(now) {
		until = now
	}
	if !q.Since.Before(until) {
		return freezeframe.Diagnosis{}, control.Errorf(control.CodeBadRequest, "the span ends (%s) before it begins (%s)", until.Format(time.RFC3339), q.Since.Format(time.RFC3339))
	}
	return d.lookBack(ctx, lookback.Question{Since: q.Since, Until: until, Rejudge: q.Rejudge}, now)
}

// newest returns the last report there is.
func (d *daemon) newest() (*freezeframe.Report, error) {
	if r := d.openReport(); r != nil {
		return r, nil
	}
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last != nil {
		return last, nil
	}
	a, err := d.kept()
	if err != nil {
		return nil, err
	}
	list, err := a.List(archive.Query{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("list the reports: %w", err)
	}
	if len(list) == 0 {
		return nil, control.Errorf(control.CodeNotFound, "no incident so far")
	}
	r, err := a.Report(list[0].ID)
	if err != nil {
		return nil, fmt.Errorf("read the report %s: %w", list[0].ID, err)
	}
	return &r, nil
}

// openReport is the report of the stall that is open now, as it stands; nil when
// there is none.
func (d *daemon) openReport() *freezeframe.Report {
	d.covering.Lock()
	defer d.covering.Unlock()
	w := d.watch.Load()
	if w == nil {
		return nil
	}
	if d.judged.of == w && time.Since(d.judged.at) < coverageFresh {
		return d.judged.report
	}
	d.judged.of, d.judged.report = w, nil
	if i, ok := w.Open(); ok {
		r := d.build(w, i)
		d.judged.report = &r
	}
	d.judged.at = time.Now()
	return d.judged.report
}

// Capture gives a recording: of the memory where it reaches back far enough,
// else of the black box, the newest run of it in the span.
func (d answers) Capture(_ context.Context, q control.CaptureRequest) (control.Document, error) {
	now := time.Now()
	since, until := q.Since, q.Until
	if q.Last > 0 {
		since, until = now.Add(-q.Last), now
	}
	if until.IsZero() || until.After(now) {
		until = now
	}
	if !since.Before(until) {
		return control.Document{}, control.Errorf(control.CodeBadRequest, "the span ends (%s) before it begins (%s)", until.Format(time.RFC3339), since.Format(time.RFC3339))
	}
	rec, notes, err := d.pin(since, until)
	if err != nil {
		return control.Document{}, err
	}
	f, err := unlinked(d.store.dir)
	if err != nil {
		return control.Document{}, err
	}
	if err := recorder.Write(f, rec); err != nil {
		_ = f.Close() // the error that counts is the one above
		return control.Document{}, fmt.Errorf("write the recording: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close() // the error that counts is the one above
		return control.Document{}, fmt.Errorf("read the recording back: %w", err)
	}
	return control.Document{Body: f, Notes: notes}, nil
}

// pin returns the recording of a span of wall time, and what whoever asked must
// know of it.
func (d *daemon) pin(since, until time.Time) (*recorder.Recording, []string, error) {
	clock := wallClock()
	span := freezeframe.Span{Start: clock.Instant(since), End: clock.Instant(until)}
	w := d.watch.Load()
	if w != nil {
		if st := w.Ring().Stats(); st.Oldest != 0 && st.Oldest <= span.Start || d.store.box.Load() == nil {
			rec, err := w.Ring().Pin(span)
			if err != nil {
				return nil, nil, err
			}
			rec.Needs = append(rec.Needs, w.Missing()...)
			var notes []string
			if st.Oldest > span.Start {
				notes = append(notes, "the recording begins at "+clock.Wall(st.Oldest).Format(time.RFC3339)+": the memory reaches back no further, and the black box is not at hand")
			}
			return rec, notes, nil
		}
	}
	box := d.store.box.Load()
	if box == nil {
		return nil, nil, control.Errorf(control.CodeNotFound, "nothing was recorded then that is at hand")
	}
	recs, err := box.Pin(since, until)
	if err != nil {
		return nil, nil, fmt.Errorf("read the black box: %w", err)
	}
	if len(recs) == 0 {
		return nil, nil, control.Errorf(control.CodeNotFound, "nothing was recorded between %s and %s", since.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339))
	}
	rec := recs[len(recs)-1]
	var notes []string
	if n := len(recs) - 1; n > 0 {
		notes = append(notes, fmt.Sprintf("freezeframe was started %d times in this span: the recording is of the newest run, from %s on", n, rec.Clock.Wall(rec.Span.Start).Format(time.RFC3339)))
	}
	return rec, notes, nil
}

// unlinked is a file that is gone when it is closed.
func unlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "capture-*")
	if err != nil {
		return nil, fmt.Errorf("make room for the recording: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // the error that counts is the one above
		return nil, fmt.Errorf("make room for the recording: %w", err)
	}
	return f, nil
}

// Reload reads the configuration again.
func (d answers) Reload(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case d.reloads <- reply:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leftovers removes what a capture could not when it was killed in between.
func leftovers(dir string) {
	names, err := filepath.Glob(filepath.Join(dir, "capture-*"))
	for _, name := range names {
		if err == nil {
			_ = os.Remove(name) // at worst it is there until next time
		}
	}
}
