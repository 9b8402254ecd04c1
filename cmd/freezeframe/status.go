package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
	"freezeframe/reports"
)

func (a *app) status() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether the daemon runs, what it watches, and what it costs",
		Long: `Say whether the daemon runs and since when, what it watches, what it cannot
see, what it costs, how far back its recording goes, and what happened last.

It exits with 0 when the daemon answered, with 3 when none runs (as systemctl
status does), and with 1 when it could not be asked.`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.runStatus(c.Context(), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON (freezeframe.status/v1)")
	return a.asks(c)
}

func (a *app) runStatus(parent context.Context, asJSON bool) error {
	var s reports.Status
	err := a.asking(parent, func(ctx context.Context, client *control.Client) (err error) {
		s, err = client.Status(ctx)
		return err
	})
	switch none := errors.Is(err, control.ErrNotRunning); {
	case none && asJSON:
		s = reports.Status{Why: err.Error()}
		s.Normalize()
		return errors.Join(errNotRunning, reports.JSON(a.stdout, s))
	case none:
		return errors.Join(errNotRunning, reports.StatusText(a.stdout, reports.Status{Why: err.Error()}, time.Now(), textOptions(a.stdout)))
	case err != nil:
		return err
	case asJSON:
		return reports.JSON(a.stdout, s)
	}
	return reports.StatusText(a.stdout, s, time.Now(), textOptions(a.stdout))
}
