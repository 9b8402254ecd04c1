package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/internal/config"
	"freezeframe/recorder"
	"freezeframe/reports"
)

func (a *app) view() *cobra.Command {
	var asJSON bool
	var htmlFile, stacksFile string
	c := &cobra.Command{
		Use:   "view FILE",
		Short: "Show a recording (.frz) or a report (.json)",
		Long: `Show a recording (.frz), or a report or diagnosis (.json).

A recording is judged again by the rules of this version; its report may
therefore differ from the one that was made when it was recorded. What is
damaged is said, and the rest is shown.`,
		Args: exactly(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("stacks") {
				if asJSON || c.Flags().Changed("html") {
					return usageError{errors.New("--stacks, --json and --html exclude each other: give one of them")}
				}
				return a.viewStacks(args[0], stacksFile)
			}
			if !c.Flags().Changed("html") {
				return a.runView(args[0], asJSON, nil)
			}
			if asJSON {
				return usageError{errors.New("--json and --html exclude each other: give one of them")}
			}
			return a.runView(args[0], asJSON, &htmlFile)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	c.Flags().StringVar(&htmlFile, "html", "", "write the report as one HTML file instead")
	c.Flags().StringVar(&stacksFile, "stacks", "", "write the call stacks of the longest stall instead: a pprof profile if the name ends with .pprof or .pb.gz, else folded lines")
	return c
}

// viewStacks writes the call stacks of a recording's longest stall.
func (a *app) viewStacks(path, to string) error {
	v, damage, err := load(path)
	if err != nil {
		return fmt.Errorf("view %s: %w", path, err)
	}
	if damage != nil {
		fmt.Fprintf(a.stderr, "freezeframe: %s; what is intact was used\n", reports.Clean(damage.Error()))
	}
	if len(v.windows) == 0 {
		return fmt.Errorf("no stacks were written: %s is no recording (.frz) of a stall", path)
	}
	longest := slices.MaxFunc(v.windows, func(a, b freezeframe.Window) int {
		x, y := a.Stall(), b.Stall()
		return cmp.Compare(x.Length(), y.Length())
	})
	sampled := reports.Stacks(longest)
	if len(sampled) == 0 {
		return fmt.Errorf("no stacks were written: %s holds none (they need BPF, see freezeframe check)", path)
	}
	return writeStacks(to, longest, sampled)
}

// viewed is what a file holds: windows only where it is a recording.
type viewed struct {
	single    *freezeframe.Report
	diagnosis freezeframe.Diagnosis
	windows   []freezeframe.Window // of each report of the diagnosis
}

func (a *app) runView(path string, asJSON bool, htmlFile *string) error {
	v, damage, err := load(path)
	if err != nil {
		return fmt.Errorf("view %s: %w", path, err)
	}
	switch {
	case htmlFile != nil:
		err = a.viewHTML(v, *htmlFile)
	case asJSON && v.single != nil:
		err = reports.JSON(a.stdout, v.single)
	case asJSON:
		err = reports.JSON(a.stdout, v.diagnosis)
	case v.single != nil:
		err = reports.Text(a.stdout, *v.single, textOptions(a.stdout))
	default:
		err = reports.DiagnosisText(a.stdout, v.diagnosis, textOptions(a.stdout))
	}
	if damage != nil {
		fmt.Fprintf(a.stderr, "freezeframe: %s; what is intact was used\n", reports.Clean(damage.Error()))
	}
	return err
}

// load reads either kind of file. damage is what is wrong with a recording of
// which the rest could be read.
func load(path string) (v viewed, damage, err error) {
	f, err := config.OpenInput(path)
	if err != nil {
		return v, nil, unwrapPath(err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	start, err := r.Peek(64)
	if len(start) == 0 {
		if err != nil && err != io.EOF {
			return v, nil, unwrapPath(err)
		}
		return v, nil, errors.New("it is empty")
	}
	if text := bytes.TrimLeft(start, " \t\r\n\ufeff"); len(text) > 0 && text[0] == '{' {
		report, diagnosis, err := reports.Read(r)
		if err != nil {
			return v, nil, err
		}
		if diagnosis != nil {
			v.diagnosis = *diagnosis
		}
		v.single = report
		return v, nil, nil
	}
	rec, err := recorder.Read(r)
	if rec == nil {
		if errors.Is(err, recorder.ErrNotARecording) {
			return v, nil, errors.New("it is neither a recording (.frz) nor a report (.json) of freezeframe")
		}
		return v, nil, err
	}
	if err != nil && len(rec.Sources) == 0 {
		return v, nil, fmt.Errorf("nothing in it can be used: %w", err)
	}
	return judgeAgain(rec), err, nil
}

// unwrapPath drops the path from an error that will be told with it anyway.
func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// judgeAgain makes the diagnosis of a recording.
func judgeAgain(rec *recorder.Recording) viewed {
	var v viewed
	all := rules.All()
	coverage := detectors.Covered(rec)
	var list []freezeframe.Report
	for _, i := range detectors.Rejudge(rec, all) {
		list = append(list, reports.Build(i.Window, i.Verdict, reports.Meta{Version: version, Host: rec.Host, Rules: all, Recorder: coverage.Recorder}))
		v.windows = append(v.windows, i.Window)
	}
	observed := freezeframe.Observed{Start: rec.Clock.Wall(rec.Span.Start), End: rec.Clock.Wall(rec.Span.End)}
	v.diagnosis = reports.Diagnosis(observed, coverage, list)
	return v
}

// saveBareHTML writes the page of a report without its recording: no charts.
func (a *app) saveBareHTML(r *freezeframe.Report, path string) error {
	if err := recorder.SaveFile(path, func(w io.Writer) error { return reports.HTML(w, *r, nil, nil) }); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "saved %s, without charts: there is no recording with the report\n", path)
	return nil
}

// saveHTMLOf writes the page of a report with the charts of its recording.
func (a *app) saveHTMLOf(recording string, r *freezeframe.Report, path string) error {
	v, _, err := load(recording) // what is damaged in it is missing in the charts
	if err != nil {
		return fmt.Errorf("read %s again: %w", recording, err)
	}
	if len(v.windows) != 1 {
		return a.saveBareHTML(r, path)
	}
	window := v.windows[0]
	if err := recorder.SaveFile(path, func(w io.Writer) error { return reports.HTML(w, *r, window, reports.Stacks(window)) }); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "saved %s\n", path)
	return nil
}

// viewHTML writes one file a stall: the longest has the name that was asked
// for, the others that name with a number.
func (a *app) viewHTML(v viewed, path string) error {
	if v.single != nil {
		return a.saveBareHTML(v.single, path)
	}
	if len(v.diagnosis.Reports) == 0 {
		return errors.New("no HTML was written: the file holds no stall")
	}
	order := make([]int, len(v.diagnosis.Reports))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Compare(v.diagnosis.Reports[j].Stall.DurationMs, v.diagnosis.Reports[i].Stall.DurationMs)
	})
	for n, i := range order {
		var window freezeframe.Window
		if v.windows != nil {
			window = v.windows[i]
		}
		name := path
		if n > 0 {
			ext := filepath.Ext(path)
			name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(path, ext), n+1, ext)
		}
		if err := recorder.SaveFile(name, func(w io.Writer) error {
			return reports.HTML(w, v.diagnosis.Reports[i], window, reports.Stacks(window))
		}); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "saved %s\n", name)
	}
	return nil
}
