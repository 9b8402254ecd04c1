package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"freezeframe/internal/control"
	"freezeframe/recorder"
	"freezeframe/reports"
)

func (a *app) show() *cobra.Command {
	var asJSON bool
	var htmlFile, frzFile string
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show the report of an incident that the daemon has kept",
		Long: `Show the report of an incident that the daemon has kept, as it was judged when
it happened. ID is one of freezeframe list, the beginning of one, or "last".`,
		Example: `  freezeframe show last
  freezeframe show 20260114T0310 --html /tmp/freeze.html`,
		Args:              exactly(1, "one id"),
		ValidArgsFunction: a.completeID,
		RunE: func(c *cobra.Command, args []string) error {
			if err := excluding(c, "json", "html", "frz"); err != nil {
				return err
			}
			for flag, path := range map[string]string{"html": htmlFile, "frz": frzFile} {
				// What cannot be saved is better known before it is asked for.
				if c.Flags().Changed(flag) {
					if err := recorder.CanSave(path); err != nil {
						return err
					}
				}
			}
			id := args[0]
			return a.asking(c.Context(), func(ctx context.Context, client *control.Client) error {
				switch {
				case c.Flags().Changed("html"):
					return a.saveHTML(ctx, client, id, htmlFile)
				case c.Flags().Changed("frz"):
					return a.saveForm(ctx, client, id, control.FormFRZ, frzFile)
				}
				r, err := client.Report(ctx, id)
				switch {
				case err != nil:
					return fmt.Errorf("show %s: %w", id, err)
				case asJSON:
					return reports.JSON(a.stdout, r)
				}
				return reports.Text(a.stdout, *r, textOptions(a.stdout))
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON (freezeframe.report/v1)")
	c.Flags().StringVar(&htmlFile, "html", "", "write it as one HTML file instead")
	c.Flags().StringVar(&frzFile, "frz", "", "write its recording instead, for freezeframe view")
	return a.asks(c)
}

// keeper has the documents of incidents: the daemon, or what one has left.
type keeper interface {
	Show(ctx context.Context, q control.ShowRequest, w io.Writer) (notes []string, err error)
}

// saveForm writes what is kept of an incident in one form.
func (a *app) saveForm(ctx context.Context, client keeper, id, form, path string) error {
	var notes []string
	var asked error
	f := &faulty{}
	err := recorder.SaveFile(path, func(w io.Writer) error {
		f.w = w
		notes, asked = client.Show(ctx, control.ShowRequest{ID: id, Form: form}, f)
		return asked
	})
	if asked != nil && !f.failed {
		return fmt.Errorf("show %s: %w", id, asked) // nothing of the file's is wrong
	}
	if err != nil {
		return err
	}
	a.noted(notes)
	fmt.Fprintf(a.stderr, "saved %s\n", path)
	return nil
}

// saveHTML writes the page of an incident: with charts where one was kept, else
// one of its report.
func (a *app) saveHTML(ctx context.Context, client *control.Client, id, path string) error {
	err := a.saveForm(ctx, client, id, control.FormHTML, path)
	if control.Code(err) != control.CodeNotFound {
		return err
	}
	r, err := client.Report(ctx, id)
	if err != nil {
		return fmt.Errorf("show %s: %w", id, err)
	}
	return a.saveBareHTML(r, path)
}
