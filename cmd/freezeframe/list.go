package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
	"freezeframe/internal/when"
	"freezeframe/reports"
)

// listed is how many incidents list shows unless it is said otherwise.
const listed = 50

func (a *app) list() *cobra.Command {
	var s span
	var asJSON bool
	var cause string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the incidents that the daemon has kept",
		Long: `List the incidents that the daemon has kept, the newest first: when, how long,
the cause, how often the same came before, who is to blame, and the id for
freezeframe show.`,
		Example: `  freezeframe list
  freezeframe list --since "yesterday 18:00" --until 06:00
  freezeframe list --cause fs.frozen --json`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			q := control.ListRequest{Cause: cause, Limit: limit}
			if !c.Flags().Changed("limit") && asJSON {
				q.Limit = control.MaxList
			}
			if q.Limit < 1 || q.Limit > control.MaxList {
				return usageError{fmt.Errorf("--limit wants a number from 1 to %d, got %d", control.MaxList, limit)}
			}
			if known := explainable(); c.Flags().Changed("cause") && !knows(known, cause) {
				return usageError{unknownCause(cause, causes(known))}
			}
			if err := s.query(&q); err != nil {
				return err
			}
			return a.asking(c.Context(), func(ctx context.Context, client *control.Client) error {
				l, err := client.List(ctx, q)
				switch {
				case err != nil:
					return err
				case asJSON:
					return reports.JSON(a.stdout, l)
				}
				return reports.ListText(a.stdout, l, textOptions(a.stdout))
			})
		},
	}
	s.flags(c, "the incidents are")
	c.Flags().StringVar(&cause, "cause", "", "only incidents of this cause (freezeframe explain lists them)")
	c.Flags().IntVar(&limit, "limit", listed, "how many at most (with --json all there are)")
	c.Flags().BoolVar(&asJSON, "json", false, "print them as JSON (freezeframe.list/v1)")
	a.completeCause(c, "cause")
	return a.asks(c)
}

// query sets the times of a list, each of which may be missing.
func (s *span) query(q *control.ListRequest) (err error) {
	switch {
	case s.since != "":
		q.Since, q.Until, err = s.times()
		return err
	case s.until != "":
		if q.Until, err = when.Parse(s.until, time.Now()); err != nil {
			return usageError{fmt.Errorf("--until: %w", err)}
		}
	}
	return nil
}
