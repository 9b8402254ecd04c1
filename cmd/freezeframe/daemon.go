package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"freezeframe/detectors"
	"freezeframe/internal/config"
	ffdaemon "freezeframe/internal/daemon"
)

func (a *app) daemon() *cobra.Command {
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Watch this machine all the time, and keep what was seen",
		Long: `Watch this machine all the time. What is recorded is kept on disk, within
bounds, so that it is there after a crash; each stall gets a report, and a line
in the log. The other verbs ask the daemon by its socket.

It is made for a service manager (systemd: Type=notify with a watchdog), and
runs without one as well. SIGTERM ends it in order: a stall that is open is
judged as it stands. SIGHUP reads the configuration again; one that is no good
changes nothing. These keys take effect at once: log.level, stall.quiet,
probes.http, probes.tcp, daemon.metrics, daemon.metrics_remote, box.* and
archive.*. For probes.fsync.skip, probes.network_mounts, sampling.realtime and
bpf.* the watch is started anew within the process, about a second of readings
is missing, and what was recorded is kept; for ring.bytes its memory begins
empty, and only the disk has what was before. daemon.state_dir and
daemon.socket take effect at the next start.`,
		Example: `  freezeframe daemon
  freezeframe daemon --state-dir /srv/freezeframe --socket /run/freezeframe.sock`,
		Args: exactly(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error { return a.runDaemon(c.Context()) },
	}
	c.Flags().String("state-dir", "", "directory that keeps the recording and the reports")
	c.Flags().String("socket", "", "control socket that the other verbs ask at")
	c.Flags().String("metrics", "", "serve metrics at 127.0.0.1:PORT, or at the path of a Unix socket")
	a.key(c, "state-dir", "daemon.state_dir")
	a.key(c, "socket", "daemon.socket")
	a.key(c, "metrics", "daemon.metrics")
	return a.configured(c)
}

func (a *app) runDaemon(parent context.Context) error {
	// A second signal of the kind ends the program as ever.
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	return ffdaemon.Run(ctx, ffdaemon.Options{
		Version: version, ConfigFile: a.sources.Read(), Config: a.config, Log: a.log, Reload: reload,
		Load:    func() (config.Config, error) { return config.Load(a.sources) },
		Watch:   func(c config.Config) detectors.Options { return watchOptions(c) },
		LogLost: func() uint64 { return a.logs.dropped.Load() },
		Level: func(level string) {
			if l, err := zerolog.ParseLevel(level); err == nil { // the configuration allows only those that parse
				a.level.Store(int32(l))
			}
		},
	})
}
