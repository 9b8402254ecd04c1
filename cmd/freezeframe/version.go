package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/recorder"
	"freezeframe/reports/page"
)

// version and commit are set when a release is linked (-X main.version …).
var (
	version = "dev"
	commit  = "unknown"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which freezeframe this is and what it reads and writes",
		Args:  exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			commit := commit
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if commit == "unknown" && s.Key == "vcs.revision" {
						commit = s.Value
					}
				}
			}
			html := "built in"
			if page.Index() == nil {
				html = "not built in (make page)"
			}
			_, err := fmt.Fprintf(a.stdout, "freezeframe %s\ncommit      %s\ngo          %s %s/%s\nreports     %s, %s\nrecordings  .frz format %d\nHTML page   %s\n",
				version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, freezeframe.ReportSchema, freezeframe.DiagnosisSchema, recorder.Format, html)
			return err
		},
	}
}
