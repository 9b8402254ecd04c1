package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/detectors"
	"freezeframe/recorder"
	"freezeframe/reports"
)

func (a *app) capture() *cobra.Command {
	var length time.Duration
	var force bool
	c := &cobra.Command{
		Use:   "capture FILE",
		Short: "Record this machine for a while into a .frz file",
		Long: `Record this machine for a while and save everything as a .frz file, whether
something stalls or not. Ctrl-C ends it early and saves what there is.
freezeframe view shows the file, on any machine.`,
		Example: "  freezeframe capture --for 1m /var/tmp/now.frz",
		Args:    exactly(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := positive("for", length); err != nil {
				return err
			}
			return a.runCapture(c.Context(), args[0], length, force)
		},
	}
	c.Flags().DurationVar(&length, "for", 30*time.Second, "how long to record")
	c.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	return a.configured(c)
}

func (a *app) runCapture(parent context.Context, path string, length time.Duration, force bool) error {
	ctx, stop := interruptible(parent)
	defer stop()
	// What cannot be saved is better known now than after the recording.
	if _, err := os.Stat(path); err == nil && !force {
		return fmt.Errorf("capture: %s exists; --force replaces it", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("capture: %w", err)
	}
	if err := recorder.CanSave(path); err != nil {
		return err
	}
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
