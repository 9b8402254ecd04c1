package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
	"freezeframe/reports"
)

const (
	// completionPatience is how long a shell waits for the ids of incidents.
	completionPatience = time.Second
	// completed is how many incidents a completion offers, the newest.
	completed = 100
)

// completeID offers "last" and the ids of the incidents that the daemon keeps.
// A shell has no place for an error: where the daemon cannot be asked there are
// no ids.
func (a *app) completeID(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out := []string{control.Last + "\tthe newest incident"}
	if err := a.load(c); err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionPatience)
	defer cancel()
	client, err := a.dial(ctx)
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.Close()
	l, err := client.List(ctx, control.ListRequest{Limit: completed})
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	for i := range l.Incidents {
		if it := &l.Incidents[i]; strings.HasPrefix(it.ID, begun) {
			out = append(out, fmt.Sprintf("%s\t%s, %s", it.ID, it.Cause, reports.HowLong(it)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
