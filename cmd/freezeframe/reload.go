package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
)

func (a *app) reload() *cobra.Command {
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Long: `Have the daemon read its configuration again, from where it read it at its start,
and wait until the new one is in force. One that is no good changes nothing: it
is said why, and the exit code is 1. Only root may ask for it.

Which keys take effect at once, and which at the next start, is in
freezeframe-daemon(1). systemctl reload freezeframe does the same, but the reason
is in the journal then.`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			err := a.asking(c.Context(), func(ctx context.Context, client *control.Client) error { return client.Reload(ctx) })
			if err == nil {
				fmt.Fprintln(a.stderr, "freezeframe: the daemon has read its configuration again")
			}
			return err
		},
	}
	return a.asks(c)
}
