package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/probes"
	"freezeframe/recorder"
	"freezeframe/reports"
)

func (a *app) diagnose() *cobra.Command {
	var length time.Duration
	var asJSON, exitCode bool
	c := &cobra.Command{
		Use:   "diagnose",
		Short: "Watch this machine for a while and say what stalled, and why",
		Long: `Watch this machine for a while, and say what stalled in that time, and why.

It needs no daemon and no configuration, and sends no request to any service
unless --http or --tcp asks for it. Ctrl-C ends the watch early and still gives
the verdict so far. Only the document goes to standard output.`,
		Example: `  freezeframe diagnose                       watch for 20 seconds
  freezeframe diagnose --for 10m --out /var/tmp/freeze
  freezeframe diagnose --http http://127.0.0.1:8080/health --json`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := positive("for", length); err != nil {
				return err
			}
			reportsSeen, err := a.runDiagnose(c.Context(), length, asJSON)
			if err == nil && exitCode && reportsSeen > 0 {
				return errStalled
			}
			return err
		},
	}
	c.Flags().DurationVar(&length, "for", 20*time.Second, "how long to watch")
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
func (a *app) watchOptions() detectors.Options {
	return detectors.Options{
		Probes: probes.Options{
			FsyncSkip:     a.config.Probes.Fsync.Skip,
			NetworkMounts: a.config.Probes.NetworkMounts,
			HTTP:          a.config.Probes.HTTP,
			TCP:           a.config.Probes.TCP,
		},
		BPF:       bpf.Options{Off: !a.config.BPF.Enabled, Without: a.config.BPF.Without, Budget: a.config.BPF.Budget},
		RingBytes: a.config.Ring.Bytes,
		Quiet:     a.config.Stall.Quiet,
		Realtime:  a.config.Sampling.Realtime,
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

// runDiagnose watches, prints the document, and returns how many stalls it
// holds. What could not be saved is an error, after the document is out.
func (a *app) runDiagnose(parent context.Context, length time.Duration, asJSON bool) (int, error) {
	ctx, stop := interruptible(parent)
	defer stop()
	if dir := a.config.Output.Dir; dir != "" {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return 0, fmt.Errorf("make the output directory: %w", err)
		}
		if err := recorder.CanSave(filepath.Join(dir, "report.json")); err != nil {
			return 0, fmt.Errorf("the output directory: %w", err)
		}
	}
	// While something hangs none of this can be read safely: read it first.
	collect := &collection{app: a, host: reports.Host(ctx), user: reports.Users(), rules: rules.All()}
	collect.user(0)

	progress := a.newProgress(length)
	o := a.watchOptions()
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
	defer debug.FreeOSMemory() // a recording is most of what the heap ever holds
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
