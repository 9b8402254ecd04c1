// Command freezeframe notices when a server stops answering, keeps what
// happened before, during and after, and names the cause.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"freezeframe/internal/config"
	"freezeframe/internal/nearest"
	"freezeframe/reports"
)

// The exit codes are a contract with scripts.
const (
	exitOK      = 0
	exitFailure = 1 // it was tried and did not work
	exitUsage   = 2 // the command line, the configuration or the cause's name is wrong
	exitStalled = 3 // only with diagnose --exit-code: something stalled
	exitNone    = 3 // only with status: no daemon runs, as systemctl status says it
)

func main() {
	// Whoever reads standard error may be gone before whoever waits for the
	// verdict: a write to a closed pipe is an error, not the end.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// app is what the verbs share.
type app struct {
	stdout, stderr io.Writer
	log            zerolog.Logger
	config         config.Config
	logs           *logWriter
	level          atomic.Int32 // zerolog.Level from which on lines are logged
	sources        config.Sources
	configFile     string
	flags          map[string]*pflag.Flag // flags that set a key of the configuration
}

// usageError is a mistake of whoever typed the command.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errStalled makes diagnose --exit-code exit with 3; nothing is printed.
var errStalled = errors.New("something stalled")

// errNotRunning makes status exit with 3; what there is to say is printed.
var errNotRunning = errors.New("no daemon runs")

func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, log: zerolog.Nop(), flags: make(map[string]*pflag.Flag)}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	if a.logs != nil {
		a.logs.Close()
	}
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errStalled) {
		return exitStalled
	}
	code := exitFailure
	for _, err := range separate(err) {
		if errors.Is(err, errNotRunning) {
			code = exitNone
			continue
		}
		// Whoever read the document has seen enough (| head).
		if errors.Is(err, syscall.EPIPE) {
			continue
		}
		// What is wrong may quote a file or an argument that nobody here chose.
		fmt.Fprintf(stderr, "freezeframe: %s\n", reports.Clean(err.Error()))
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return code
}

// separate is each of the errors that were joined to one.
func separate(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, separate(e)...)
	}
	return all
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "freezeframe",
		Short: "Find out why this server stopped answering",
		Long: `freezeframe watches this machine, notices when work stops getting done, and
names the cause: who held, filled or used up what the others waited for, and
how much of the stall that explains.

It exits with 0 when it did its work, 1 when it could not, 2 when the command
line or the configuration is wrong.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var verbs []string
			for _, v := range c.Commands() {
				verbs = append(verbs, v.Name())
			}
			if close := nearest.To(args[0], verbs); close != "" {
				return usageError{fmt.Errorf("unknown verb %q: did you mean %q?", args[0], close)}
			}
			return usageError{fmt.Errorf("unknown verb %q: see freezeframe --help", args[0])}
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(a.daemon(), a.diagnose(), a.list(), a.show(), a.status(), a.reload(), a.view(), a.capture(), a.check(), a.explain(), a.version(), a.manual())
	return root
}

// exactly is cobra.ExactArgs with an error that says what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s takes %s, got %d arguments: usage: %s", c.CommandPath(), what, len(args), c.UseLine())}
		}
		return nil
	}
}

// configured adds --config and --log-level to a verb, and loads the
// configuration before it runs.
func (a *app) configured(c *cobra.Command) *cobra.Command { return a.loading(c, a.load) }

// asks is configured for a verb that only asks the daemon, which knows more: a
// file that is no good must not keep anybody from hearing from it that the
// configuration before that one is in force.
func (a *app) asks(c *cobra.Command) *cobra.Command {
	return a.loading(c, func(c *cobra.Command) error {
		err := a.load(c)
		if err != nil && !c.Flags().Changed("config") {
			err = a.withoutFile(err)
		}
		return err
	})
}

// withoutFile takes the defaults instead of the file that is to blame for an
// error, and says so; the error again, where it is not the file's.
func (a *app) withoutFile(bad error) error {
	sources := a.sources
	sources.File, sources.Default = "", ""
	c, err := config.Load(sources)
	if err != nil {
		return bad
	}
	a.config = c
	fmt.Fprintf(a.stderr, "freezeframe: %s; asking the daemon at %s\n", reports.Clean(bad.Error()), c.Daemon.Socket)
	return nil
}

func (a *app) loading(c *cobra.Command, load func(*cobra.Command) error) *cobra.Command {
	c.Flags().StringVar(&a.configFile, "config", "", "configuration file, YAML or TOML ('' reads none; default "+config.DefaultFile+" where it exists)")
	c.Flags().String("log-level", "", "what is logged to standard error: debug, info, warn or error")
	verb := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := load(c); err != nil {
			return usageError{err}
		}
		a.openLog()
		return verb(c, args)
	}
	return c
}

// load loads the configuration as the flags of a verb say.
func (a *app) load(c *cobra.Command) (err error) {
	a.flags["log.level"] = c.Flags().Lookup("log-level")
	a.sources = config.Sources{File: a.configFile, Default: config.DefaultFile, Environ: os.Environ(), Flags: a.flags}
	if c.Flags().Changed("config") {
		a.sources.Default = ""
	}
	a.config, err = config.Load(a.sources)
	return err
}

// key ties a flag of a verb to a key of the configuration.
func (a *app) key(c *cobra.Command, flag, key string) {
	prepare := c.PreRun
	c.PreRun = func(c *cobra.Command, args []string) {
		if prepare != nil {
			prepare(c, args)
		}
		a.flags[key] = c.Flags().Lookup(flag)
	}
}

// textOptions fits the text to where it goes: colour and width of a terminal,
// neither in a file or pipe.
func textOptions(w io.Writer) reports.TextOptions {
	o := reports.TextOptions{Width: 100, Location: time.Local}
	if f, ok := terminal(w); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			o.Width = width
		}
		o.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return o
}

// terminal tells whether w is one.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
