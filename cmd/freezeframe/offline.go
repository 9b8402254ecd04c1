package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/internal/archive"
	"freezeframe/internal/control"
	"freezeframe/internal/lookback"
	"freezeframe/internal/schedules"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// left is what a daemon that does not run has left on the disk. It is looked
// at and not changed.
type left struct {
	dir     string
	archive *archive.Archive
	box     *recorder.Box
	missing []freezeframe.Need
}

// openLeft opens what is below the state directory. It is an error when
// nothing of it can be read.
func openLeft(dir string) (*left, error) {
	l := &left{dir: dir}
	var err error
	l.archive, err = archive.Open(archive.Options{
		Dir: filepath.Join(dir, "reports"), ReadOnly: true,
		Jobs: func(context.Context) ([]schedules.Job, error) { return nil, nil }, // nothing is said of what comes back
	})
	if err != nil {
		l.need("read the reports that were kept", "the stalls of which nothing is in the recording any more", err)
	}
	var boxErr error
	if l.box, boxErr = recorder.ViewBox(filepath.Join(dir, "box")); boxErr != nil {
		l.need("read the black box", "stalls without a report, and which time was recorded", boxErr)
	}
	if err == nil || boxErr == nil {
		return l, nil
	}
	switch err = errors.Join(err, boxErr); {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("what it has left in %s may not be read by this user: ask as root", dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("it has left nothing in %s (daemon.state_dir)", dir)
	}
	return nil, fmt.Errorf("what it has left in %s cannot be read: %w", dir, err)
}

func (l *left) need(what, lost string, err error) {
	l.missing = append(l.missing, freezeframe.Need{What: what, Lost: lost, Err: err.Error()})
}

// diagnose answers as the daemon would, but for what is only in its memory.
func (l *left) diagnose(ctx context.Context, q control.DiagnoseRequest, judged func(freezeframe.Report, detectors.Incident)) (freezeframe.Diagnosis, error) {
	o := lookback.Options{
		Archive: l.archive, Box: l.box, Missing: l.missing, Rules: rules.All(), Version: version,
		Host: reports.Host(ctx), User: reports.Users(), Judged: judged,
	}
	if !q.Last {
		until := q.Until
		if now := time.Now(); until.IsZero() || until.After(now) {
			until = now
		}
		return lookback.At(ctx, o, lookback.Question{Since: q.Since, Until: until, Rejudge: q.Rejudge})
	}
	if l.archive == nil {
		return freezeframe.Diagnosis{}, fmt.Errorf("%s: %s", l.missing[0].What, l.missing[0].Err)
	}
	newest, err := l.archive.List(archive.Query{Limit: 1})
	if err != nil {
		return freezeframe.Diagnosis{}, fmt.Errorf("list the reports: %w", err)
	}
	if len(newest) == 0 {
		return freezeframe.Diagnosis{}, control.Errorf(control.CodeNotFound, "no incident so far")
	}
	r, err := l.archive.Report(newest[0].ID)
	if err != nil {
		return freezeframe.Diagnosis{}, err
	}
	// What was watched then; of the stalls only that one was asked for.
	d, err := lookback.At(ctx, o, lookback.Question{Since: r.Stall.Start, Until: r.Stall.End.Add(time.Millisecond)})
	d.Observed.End, d.Reports = r.Stall.End, []freezeframe.Report{r}
	return d, err
}

// Show writes one document that is kept of an incident, as the daemon does.
func (l *left) Show(_ context.Context, q control.ShowRequest, w io.Writer) (notes []string, err error) {
	if l.archive == nil {
		return nil, control.Errorf(control.CodeNotFound, "no reports are at hand")
	}
	path, err := l.archive.Path(q.ID, q.Form)
	if errors.Is(err, archive.ErrNotFound) {
		return nil, control.Errorf(control.CodeNotFound, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return nil, err
}

// diagnoseLeft prints what is on the disk of a span, or of the last incident.
// None says why the daemon could not be asked.
func (a *app) diagnoseLeft(parent context.Context, q control.DiagnoseRequest, asJSON bool, none error) (int, error) {
	ctx, stop := interruptible(parent)
	defer stop()
	l, err := openLeft(a.config.Daemon.StateDir)
	if err != nil {
		return 0, fmt.Errorf("%w; %v; freezeframe diagnose --live watches without it", none, err)
	}
	if err := a.makeOutput(); err != nil {
		return 0, err
	}
	var errs []error
	saved := map[string]bool{}
	d, err := l.diagnose(ctx, q, func(r freezeframe.Report, i detectors.Incident) {
		if dir := a.config.Output.Dir; dir != "" {
			names, err := saveAll(dir, r, i)
			for _, name := range names {
				fmt.Fprintf(a.stderr, "saved %s\n", name)
			}
			saved[r.ID], errs = true, append(errs, err)
		}
	})
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = errInterrupted
		}
		return 0, errors.Join(append(errs, err)...)
	}
	fmt.Fprintf(a.stderr, "freezeframe: no daemon is running: this is what one has left in %s\n", reports.Clean(l.dir))
	kept := a.savingKept(ctx, l, false)
	err = a.printRecorded(d, asJSON, func(dir string, r *freezeframe.Report) error {
		if saved[r.ID] {
			return nil // with what it was judged from
		}
		return kept(dir, r)
	})
	return len(d.Reports), errors.Join(append(errs, err)...)
}
