package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
	"freezeframe/internal/when"
	"freezeframe/reports"
)

// dial connects to the daemon.
func (a *app) dial(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, a.config.Daemon.Socket, version)
}

// asking connects to the daemon, runs what asks it, and closes. Ctrl-C ends
// both.
func (a *app) asking(parent context.Context, ask func(context.Context, *control.Client) error) error {
	ctx, stop := interruptible(parent)
	defer stop()
	c, err := a.dial(ctx)
	if err == nil {
		defer c.Close()
		err = ask(ctx, c)
	}
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

var errInterrupted = errors.New("interrupted before the daemon had answered")

// unasked is why a verb that can do without the daemon goes on without it: none
// runs, which is nothing to tell, or it gave no answer.
func (a *app) unasked(instead string, err error) {
	if !errors.Is(err, control.ErrNotRunning) {
		fmt.Fprintf(a.stderr, "freezeframe: %s, because the daemon did not answer: %s\n", instead, reports.Clean(err.Error()))
	}
}

// noted tells what the daemon said of its answer.
func (a *app) noted(notes []string) {
	for _, n := range notes {
		fmt.Fprintf(a.stderr, "freezeframe: %s\n", reports.Clean(n))
	}
}

// span is --since and --until of a verb.
type span struct{ since, until string }

func (s *span) flags(c *cobra.Command, what string) {
	c.Flags().StringVar(&s.since, "since", "", "from when "+what+": "+when.Forms)
	c.Flags().StringVar(&s.until, "until", "", "until when (default now)")
}

func (s *span) given() bool { return s.since != "" || s.until != "" }

// times reads both flags. to is zero where it is now.
func (s *span) times() (from, to time.Time, err error) {
	if s.since == "" {
		return from, to, usageError{errors.New("--until needs --since: from when?")}
	}
	from, to, err = when.Span(s.since, s.until, time.Now())
	if err != nil {
		return from, to, usageError{err}
	}
	if s.until == "" {
		to = time.Time{}
	}
	return from, to, nil
}

// excluding is an error if more than one of the flags was given.
func excluding(c *cobra.Command, flags ...string) error {
	first := ""
	for _, f := range flags {
		if !c.Flags().Changed(f) {
			continue
		}
		if first != "" {
			return usageError{fmt.Errorf("--%s and --%s exclude each other: give one of them", first, f)}
		}
		first = f
	}
	return nil
}
