package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/internal/config"
	"freezeframe/internal/control"
	"freezeframe/probes"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// sinceDefault is what a diagnosis without any time is of, where a daemon runs:
// whoever asks has just met something.
const sinceDefault = time.Hour

func (a *app) diagnose() *cobra.Command {
	var length time.Duration
	var asJSON, exitCode, last, live, rejudge bool
	var s span
	c := &cobra.Command{
		Use:   "diagnose",
		Short: "Say what stalled, and why: as recorded, or watching now",
		Long: `Say what stalled, and why.

Where the daemon runs it is asked for what it recorded: in the last incident
(--last), between two times (--since, --until), or in the last hour. Stalls of
which no report is kept are judged from the recording; with --rejudge all are, by
the rules of this version. Where nothing stalled it says what was watched then,
and of which time nothing is recorded. Where no daemon runs, --last, --since and
--until read what one has left in daemon.state_dir.

Where none runs, and with --live, --for, --http or --tcp, this machine is
watched for a while. That needs no daemon and no configuration, and sends no
request to any service unless --http or --tcp asks for it. Ctrl-C ends the watch
early and still gives the verdict so far. Only the document goes to standard
output.`,
		Example: `  freezeframe diagnose                       what the daemon recorded in the last hour; without one, watch for 20 seconds
  freezeframe diagnose --last
  freezeframe diagnose --since "yesterday 03:00" --until "yesterday 04:00"
  freezeframe diagnose --since 7d --rejudge  after an update: all stalls of a week, as its rules see them
  freezeframe diagnose --for 10m --out /var/tmp/freeze
  freezeframe diagnose --http http://127.0.0.1:8080/health --json`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := positive("for", length); err != nil {
				return err
			}
			for _, watching := range []string{"live", "for", "http", "tcp"} {
				live = live || c.Flags().Changed(watching)
				for _, recorded := range []string{"last", "since", "until", "rejudge"} {
					if err := excluding(c, watching, recorded); err != nil {
						return err
					}
				}
			}
			if err := cmp.Or(excluding(c, "last", "since"), excluding(c, "last", "until"), excluding(c, "last", "rejudge")); err != nil {
				return err
			}
			if rejudge && !s.given() {
				return usageError{errors.New("--rejudge needs --since: the stalls since when?")}
			}
			var stalls int
			var err error
			switch q := (control.DiagnoseRequest{Last: last, Rejudge: rejudge}); {
			case last:
				stalls, err = a.diagnoseRecorded(c.Context(), q, asJSON)
			case s.given():
				if q.Since, q.Until, err = s.times(); err != nil {
					return err
				}
				stalls, err = a.diagnoseRecorded(c.Context(), q, asJSON)
			case live:
				stalls, err = a.runDiagnose(c.Context(), length, asJSON)
			default:
				stalls, err = a.diagnoseAny(c.Context(), length, asJSON)
			}
			if err == nil && exitCode && stalls > 0 {
				return errStalled
			}
			return err
		},
	}
	c.Flags().DurationVar(&length, "for", 20*time.Second, "watch now for so long")
	c.Flags().BoolVar(&live, "live", false, "watch now, whether or not the daemon runs")
	c.Flags().BoolVar(&last, "last", false, "the last incident that the daemon recorded")
	s.flags(c, "what the daemon recorded is judged")
	c.Flags().BoolVar(&rejudge, "rejudge", false, "judge the stalls again, by the rules of this version; with --since")
	c.Flags().BoolVar(&asJSON, "json", false, "print the document as JSON (freezeframe.diagnosis/v1)")
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 3 when something stalled")
	c.Flags().String("out", "", "directory that gets the JSON, the HTML and the recording (.frz) of each stall")
	c.Flags().StringArray("http", nil, "URL to get again and again, as a user would (repeatable)")
	c.Flags().StringArray("tcp", nil, "host:port to connect to again and again (repeatable)")
	a.key(c, "out", "output.dir")
	a.key(c, "http", "probes.http")
	a.key(c, "tcp", "probes.tcp")
	return a.configured(c)
}

func positive(flag string, d time.Duration) error {
	if d <= 0 {
		return usageError{fmt.Errorf("--%s wants a time above 0, such as 20s, got %s", flag, d)}
	}
	return nil
}

// watchOptions is the configuration as a watch takes it.
func watchOptions(c config.Config) detectors.Options {
	return detectors.Options{
		Probes: probes.Options{
			FsyncSkip:     c.Probes.Fsync.Skip,
			FsyncDirs:     []string{c.Daemon.StateDir, "/var/tmp"},
			NetworkMounts: c.Probes.NetworkMounts,
			HTTP:          c.Probes.HTTP,
			TCP:           c.Probes.TCP,
		},
		BPF:       bpf.Options{Off: !c.BPF.Enabled, Without: c.BPF.Without, Budget: c.BPF.Budget},
		RingBytes: c.Ring.Bytes,
		Quiet:     c.Stall.Quiet,
		Realtime:  c.Sampling.Realtime,
		Rules:     rules.All(),
	}
}

// interruptible ends the context at the first Ctrl-C, SIGTERM or loss of the
// terminal (a session over the network breaks just when a machine stalls); a
// second, meant as one, ends the program as ever. Under nohup the loss is none.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(parent, signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(oneWish, stop) })
	return ctx, stop
}

// oneWish is how close together signals are one wish to stop: timeout(1) sends
// its own to the process and then to the group it is in, shells and a terminal
// that goes away do alike.
const oneWish = time.Second

// makeOutput makes the directory that reports go to, if there is to be one.
func (a *app) makeOutput() error {
	dir := a.config.Output.Dir
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the output directory: %w", err)
	}
	if err := recorder.CanSave(filepath.Join(dir, "report.json")); err != nil {
		return fmt.Errorf("the output directory: %w", err)
	}
	return nil
}

// diagnoseAny asks the daemon for the last hour, and watches where it cannot
// be asked: this verb never depends on it.
func (a *app) diagnoseAny(parent context.Context, length time.Duration, asJSON bool) (int, error) {
	var d freezeframe.Diagnosis
	err := a.asking(parent, func(ctx context.Context, client *control.Client) (err error) {
		d, err = client.Diagnose(ctx, control.DiagnoseRequest{Since: time.Now().Add(-sinceDefault)})
		if err == nil {
			fmt.Fprintln(a.stderr, "freezeframe: this is what the daemon recorded in the last hour; --live watches now")
			err = a.printRecorded(d, asJSON, a.savingKept(ctx, client, false))
		}
		return err
	})
	if d.Schema != "" || errors.Is(err, errInterrupted) { // it answered, or nobody wants to know
		return len(d.Reports), err
	}
	a.unasked(fmt.Sprintf("watching for %s", length), err)
	return a.runDiagnose(parent, length, asJSON)
}

// diagnoseRecorded asks the daemon, or where none runs looks at what one has
// left, prints the document, and returns how many stalls it holds.
func (a *app) diagnoseRecorded(parent context.Context, q control.DiagnoseRequest, asJSON bool) (stalls int, err error) {
	err = a.asking(parent, func(ctx context.Context, client *control.Client) error {
		d, err := client.Diagnose(ctx, q)
		if err != nil {
			return err
		}
		stalls = len(d.Reports)
		return a.printRecorded(d, asJSON, a.savingKept(ctx, client, q.Rejudge))
	})
	if errors.Is(err, control.ErrNotRunning) {
		return a.diagnoseLeft(parent, q, asJSON, err)
	}
	return stalls, err
}

// printRecorded prints what was told, then saves each report, where that was
// asked for.
func (a *app) printRecorded(d freezeframe.Diagnosis, asJSON bool, save func(dir string, r *freezeframe.Report) error) error {
	if err := a.makeOutput(); err != nil {
		return err
	}
	var err error
	if asJSON {
		err = reports.JSON(a.stdout, d)
	} else {
		err = reports.DiagnosisText(a.stdout, d, textOptions(a.stdout))
	}
	if err != nil {
		err = fmt.Errorf("print the document: %w", err)
	}
	errs := []error{err}
	for i := range d.Reports {
		if dir := a.config.Output.Dir; dir != "" {
			errs = append(errs, save(dir, &d.Reports[i]))
		}
	}
	return errors.Join(errs...)
}

// savingKept writes the JSON of a report, and the HTML and the recording of it
// that are kept. The page of one that was judged again is made anew.
func (a *app) savingKept(ctx context.Context, kept keeper, rejudged bool) func(dir string, r *freezeframe.Report) error {
	return func(dir string, r *freezeframe.Report) error {
		if r.ID == "" || r.ID[0] == '.' || filepath.Base(r.ID) != r.ID {
			return fmt.Errorf("a report with the id %q was not saved: it is no name of a file", r.ID)
		}
		base := filepath.Join(dir, r.ID)
		errs := []error{recorder.SaveFile(base+".json", func(w io.Writer) error { return reports.JSON(w, r) })}
		if errs[0] == nil {
			fmt.Fprintf(a.stderr, "saved %s.json\n", base)
		}
		frz := a.saveForm(ctx, kept, r.ID, control.FormFRZ, base+".frz")
		var err error
		switch {
		case !rejudged:
			err = a.saveForm(ctx, kept, r.ID, control.FormHTML, base+".html")
			if control.Code(err) == control.CodeNotFound {
				err = a.saveBareHTML(r, base+".html")
			}
		case frz == nil:
			err = a.saveHTMLOf(base+".frz", r, base+".html")
		default:
			err = a.saveBareHTML(r, base+".html")
		}
		if errors.Is(err, reports.ErrNoPage) {
			fmt.Fprintf(a.stderr, "no %s.html: %v\n", base, reports.ErrNoPage)
			err = nil
		}
		if control.Code(frz) == control.CodeNotFound {
			fmt.Fprintf(a.stderr, "no %s.frz: no recording of it is kept\n", base)
			frz = nil
		}
		return errors.Join(append(errs, err, frz)...)
	}
}

// runDiagnose watches, prints the document, and returns how many stalls it
// holds. What could not be saved is an error, after the document is out.
func (a *app) runDiagnose(parent context.Context, length time.Duration, asJSON bool) (int, error) {
	ctx, stop := interruptible(parent)
	defer stop()
	if err := a.makeOutput(); err != nil {
		return 0, err
	}
	// While something hangs none of this can be read safely: read it first.
	collect := &collection{app: a, host: reports.Host(ctx), user: reports.Users(), rules: rules.All()}
	collect.user(0)

	progress := a.newProgress(length)
	o := watchOptions(a.config)
	o.OnStall = func(s freezeframe.Stall) {
		progress.stalled(s)
		a.log.Info().Int("symptoms", len(s.Symptoms)).Msg("a stall has begun")
	}
	o.OnVerdict = func(i detectors.Incident) { progress.judged(i) }
	w, err := detectors.Start(o)
	if err != nil {
		progress.stop()
		return 0, err
	}
	started := w.Started()
	collect.watch = w
	progress.watching(w)
	end := time.NewTimer(length)
	defer end.Stop()
	for watching := true; watching; {
		select {
		case <-ctx.Done():
			watching = false
		case <-end.C:
			watching = false
		case i := <-w.Incidents():
			collect.add(i)
		}
	}
	coverage := w.Coverage()
	ended := time.Now().UTC()
	for _, i := range w.Stop(context.Background()) {
		collect.add(i)
	}
	progress.stop()

	d := reports.Diagnosis(freezeframe.Observed{Start: started, End: ended}, coverage, collect.reports)
	if asJSON {
		err = reports.JSON(a.stdout, d)
	} else {
		err = reports.DiagnosisText(a.stdout, d, textOptions(a.stdout))
		for _, path := range collect.saved {
			fmt.Fprintf(a.stderr, "saved %s\n", path)
		}
	}
	if err != nil {
		err = fmt.Errorf("print the document: %w", err)
	}
	return len(d.Reports), errors.Join(append([]error{err}, collect.errs...)...)
}

// collection turns incidents into reports as they come, so that no recording
// is held in memory longer than it takes to save it.
type collection struct {
	app     *app
	host    freezeframe.HostReport
	user    func(uint32) string
	rules   []freezeframe.Rule
	watch   *detectors.Watch
	reports []freezeframe.Report
	saved   []string
	errs    []error
}

func (c *collection) add(i detectors.Incident) { c.watch.Aside(func() { c.build(i) }) }

func (c *collection) build(i detectors.Incident) {
	r := reports.Build(i.Window, i.Verdict, reports.Meta{
		Version: version, Host: c.host, Rules: c.rules, User: c.user, Recorder: c.watch.Recorder(),
	})
	c.reports = append(c.reports, r)
	slices.SortStableFunc(c.reports, func(a, b freezeframe.Report) int { return a.Stall.Start.Compare(b.Stall.Start) })
	dir := c.app.config.Output.Dir
	if dir == "" {
		return
	}
	i.Recording.Host, i.Recording.Tool = c.host, version
	saved, err := saveAll(dir, r, i)
	c.saved = append(c.saved, saved...)
	if err != nil {
		c.errs = append(c.errs, err)
		c.app.log.Error().Err(err).Msg("a report could not be saved")
	}
}
