package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/detectors"
	"freezeframe/internal/control"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// lastDefault is what a capture without any time is of, where a daemon runs.
const lastDefault = 2 * time.Minute

func (a *app) capture() *cobra.Command {
	var length, last time.Duration
	var force, live bool
	var s span
	c := &cobra.Command{
		Use:   "capture FILE",
		Short: "Save a recording of this machine as a .frz file",
		Long: `Save a recording of this machine as a .frz file, whether something stalls or not.
freezeframe view shows the file, on any machine.

Where the daemon runs it is asked for what it has recorded: the last two
minutes, or what --last, --since and --until say.

Where none runs, and with --live or --for, this machine is recorded from now on.
Ctrl-C ends that early and saves what there is.`,
		Example: `  freezeframe capture --last 5m /var/tmp/before.frz
  freezeframe capture --for 1m /var/tmp/now.frz`,
		Args: exactly(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			for flag, d := range map[string]time.Duration{"for": length, "last": last} {
				if err := positive(flag, d); err != nil {
					return err
				}
			}
			live = live || c.Flags().Changed("for")
			for _, watching := range []string{"live", "for"} {
				for _, recorded := range []string{"last", "since", "until"} {
					if err := excluding(c, watching, recorded); err != nil {
						return err
					}
				}
			}
			if err := cmp.Or(excluding(c, "last", "since"), excluding(c, "last", "until")); err != nil {
				return err
			}
			path, q := args[0], control.CaptureRequest{Last: last}
			if s.given() {
				var err error
				if q.Since, q.Until, err = s.times(); err != nil {
					return err
				}
				q.Last = 0
			}
			if err := newFile(path, force); err != nil {
				return err
			}
			if live {
				return a.runCapture(c.Context(), path, length)
			}
			answered, err := a.captureRecorded(c.Context(), path, q)
			asked := s.given() || c.Flags().Changed("last")
			switch {
			case answered || errors.Is(err, errInterrupted):
				return err
			case asked && errors.Is(err, control.ErrNotRunning):
				return fmt.Errorf("%w; freezeframe capture --live records without it", err)
			case asked:
				return err
			}
			a.unasked(fmt.Sprintf("recording for %s", length), err)
			return a.runCapture(c.Context(), path, length)
		},
	}
	c.Flags().DurationVar(&length, "for", 30*time.Second, "record from now on for so long")
	c.Flags().BoolVar(&live, "live", false, "record from now on, whether or not the daemon runs")
	c.Flags().DurationVar(&last, "last", lastDefault, "what the daemon has recorded in the time before now")
	s.flags(c, "what the daemon recorded is saved")
	c.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.configured(c)
}

// newFile says why a recording cannot be saved there, which is better known
// now than after it was made.
func newFile(path string, force bool) error {
	if _, err := os.Stat(path); err == nil && !force {
		return fmt.Errorf("capture: %s exists; --force replaces it", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("capture: %w", err)
	}
	return recorder.CanSave(path)
}

// captureRecorded saves what the daemon has recorded, and tells whether the
// daemon did its part.
func (a *app) captureRecorded(parent context.Context, path string, q control.CaptureRequest) (answered bool, err error) {
	var notes []string
	err = a.asking(parent, func(ctx context.Context, client *control.Client) error {
		var asked error
		err := recorder.SaveFile(path, func(w io.Writer) error {
			f := &faulty{w: w}
			notes, asked = client.Capture(ctx, q, f)
			answered = asked == nil || f.failed
			return asked
		})
		if !answered {
			return asked // of the daemon's troubles the file has no part
		}
		return err
	})
	if err != nil {
		return answered, err
	}
	a.noted(notes)
	info, err := os.Stat(path)
	if err != nil {
		return true, fmt.Errorf("capture: %w", err)
	}
	what := "what the daemon recorded then"
	if q.Last > 0 {
		what = "the last " + q.Last.String()
	}
	fmt.Fprintf(a.stderr, "saved %s: %s, %d KB\n", path, what, info.Size()>>10)
	return true, nil
}

// faulty tells whether it was the file that could not take an answer.
type faulty struct {
	w      io.Writer
	failed bool
}

func (f *faulty) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.failed = f.failed || err != nil
	return n, err
}

func (a *app) runCapture(parent context.Context, path string, length time.Duration) error {
	ctx, stop := interruptible(parent)
	defer stop()
	host := reports.Host(ctx)
	progress := a.newProgress(length)
	w, err := detectors.Start(watchOptions(a.config))
	if err != nil {
		progress.stop()
		return err
	}
	progress.watching(w)
	started := time.Now()
	var incidents []detectors.Incident
	end := time.NewTimer(length)
	defer end.Stop()
	for watching := true; watching; {
		select {
		case <-ctx.Done():
			watching = false
		case <-end.C:
			watching = false
		case i := <-w.Incidents():
			i.Recording = nil // only its stall is wanted
			incidents = append(incidents, i)
		}
	}
	rec, err := w.Pin(time.Since(started))
	incidents = append(incidents, w.Stop(context.Background())...)
	progress.stop()
	if err != nil {
		return err
	}
	rec.Host, rec.Tool = host, version
	for _, i := range incidents {
		rec.Stalls = append(rec.Stalls, i.Window.Stall())
	}
	if err := recorder.WriteFile(path, rec); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	fmt.Fprintf(a.stderr, "saved %s: %s, %d KB, %d stalls\n", path, time.Since(started).Round(time.Second), info.Size()>>10, len(rec.Stalls))
	return nil
}
