package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/internal/config"
	"freezeframe/internal/control"
	"freezeframe/internal/kernel"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// Options are what the command gives the daemon.
type Options struct {
	Version    string
	ConfigFile string // that was read; "" for none
	Config     config.Config
	// Load reads the configuration again, from where it was read at first.
	Load func() (config.Config, error)
	// Watch is a configuration as a watch takes it.
	Watch func(config.Config) detectors.Options
	Log   zerolog.Logger
	// Level sets from which level on lines are logged.
	Level func(string)
	// LogLost is how many lines the log did not take in time.
	LogLost func() uint64
	// Reload asks for the configuration to be read again (SIGHUP).
	Reload <-chan os.Signal
}

const (
	// early is how long the start waits for the state directory: an error in
	// that time is told to whoever starts us, a disk that hangs is not waited for.
	early = 2 * time.Second
	// stopMost bounds a stop, whatever the disk does. It is below the unit's
	// TimeoutStopSec.
	stopMost = 15 * time.Second
	// judgeMost is how long what stalled last may take to be judged then: the
	// recording is ended in order in any case.
	judgeMost = 9 * time.Second
	// uncleanAfter is when the report of an unclean end is built at the latest:
	// recording comes first.
	uncleanAfter = 15 * time.Second
	// pulseEvery is how often the lanes are looked at when nobody's watchdog says.
	pulseEvery = 5 * time.Second
	// readyEvery is how often until each has sampled once.
	readyEvery = 50 * time.Millisecond
	// restartMost is how long a watch may be replaced before that counts as
	// being wedged.
	restartMost = time.Minute
)

// daemon is the parts that run.
type daemon struct {
	o       Options
	log     zerolog.Logger
	notify  *notifier
	store   *storage
	started time.Time
	host    freezeframe.HostReport
	user    func(uint32) string
	rules   []freezeframe.Rule
	rights  []freezeframe.Need // that the process did not get
	cost    cost

	watch   atomic.Pointer[detectors.Watch]
	without atomicTime // since when there is none
	reloads chan chan error
	sampled chan struct{} // closed when every lane has sampled once
	counts  counts
	clients control.Counters

	mu        sync.Mutex
	config    config.Config
	configErr string
	recent    []reports.Incident // the newest first
	last      *freezeframe.Report
	metrics   *metricsServer

	covering sync.Mutex
	covered  struct {
		coverage freezeframe.Coverage
		of       *detectors.Watch
		at       time.Time
	}
	judged struct { // the stall that was open then
		report *freezeframe.Report
		of     *detectors.Watch
		at     time.Time
	}

	noted struct { // what is watched, in the recording; of pulse
		of *detectors.Watch
		at time.Time
	}

	ending  chan struct{}      // closed when we stop
	judging sync.WaitGroup     // the report of an unclean end
	end     context.CancelFunc // of the goroutines
	running sync.WaitGroup
}

// counts are what the metrics count.
type counts struct {
	mu       sync.Mutex
	byCause  map[freezeframe.Cause]uint64
	stalled  time.Duration
	unclean  atomic.Uint64
	pings    atomic.Uint64
	withheld atomic.Uint64 // watchdog pings that were not sent
	reloads  atomic.Uint64
	refused  atomic.Uint64 // reloads that kept the old configuration
	restarts atomic.Uint64 // of the watch, inside the process
}

// Run records until ctx ends. It returns an error when it cannot begin; what
// fails later is logged, told to the service manager, and tried again.
func Run(ctx context.Context, o Options) error {
	d := &daemon{
		o: o, log: o.Log, config: o.Config, started: time.Now(), rules: rules.All(), user: reports.Users(),
		reloads: make(chan chan error), sampled: make(chan struct{}), ending: make(chan struct{}), counts: counts{byCause: map[freezeframe.Cause]uint64{}},
	}
	d.notify = newNotifier(o.Log)
	defer d.notify.close()
	d.rights = takeRights()
	for _, n := range d.rights {
		d.log.Warn().Str("lost", n.Lost).Str("fix", n.Fix).Str("error", n.Err).Msg("not allowed: " + n.What)
	}
	// While something hangs none of this can be read safely: read it first.
	d.host = reports.Host(ctx)
	d.user(0)

	background, end := context.WithCancel(context.Background())
	d.end = end
	defer end()
	d.store = newStorage(o.Config, o.Log)
	d.store.aside = d.aside
	d.store.open, d.store.found, d.store.ready = d.unreported, d.unclean, d.remember
	storing, stopStoring := context.WithCancel(background)
	defer stopStoring()
	go d.store.run(storing)

	w, err := detectors.Start(d.watchOptions(o.Config, nil))
	if err != nil {
		return err
	}
	d.adopt(w)
	select {
	case err := <-d.store.first:
		if err != nil && fatal(err) {
			d.abandon(w)
			return err
		}
	case <-time.After(early):
		d.log.Warn().Str("dir", d.store.dir).Msg("the state directory does not answer: recording in memory until it does")
	}
	listener, err := d.listen(o.Config)
	if err == nil {
		err = d.serveMetrics(o.Config)
	}
	if err != nil {
		d.abandon(w)
		return err
	}
	d.running.Go(func() {
		err := control.Serve(background, listener, answers{d}, control.Options{Version: o.Version, Log: o.Log, Counters: &d.clients})
		if err != nil {
			d.log.Error().Err(err).Msg("the control socket is answered no more")
		}
	})
	d.running.Go(func() { d.pulse(background) })
	d.loop(ctx)
	d.stop(stopStoring)
	return nil
}

// abandon ends a watch that is not to be used.
func (d *daemon) abandon(w *detectors.Watch) {
	d.watch.Store(nil)
	w.Stop(context.Background())
}

func (d *daemon) watchOptions(c config.Config, ring *recorder.Ring) detectors.Options {
	o := d.o.Watch(c)
	o.Ring = ring
	o.Missing = d.missing
	o.OnStall = func(s freezeframe.Stall) {
		d.log.Info().Int("symptoms", len(s.Symptoms)).Msg("a stall has begun")
	}
	return o
}

// missing is what the daemon could not get beside what the watch says.
func (d *daemon) missing() []freezeframe.Need {
	return append(slices.Clone(d.rights), d.store.needs()...)
}

// adopt makes a watch the one that runs.
func (d *daemon) adopt(w *detectors.Watch) {
	w.Ring().Describe(d.host, d.o.Version)
	d.watch.Store(w)
	d.store.follow(w.Ring())
}

// aside does what takes a CPU for long.
func (d *daemon) aside(work func()) {
	if w := d.watch.Load(); w != nil {
		w.Aside(work)
		return
	}
	work()
}

// unreported is the stall that is open, for the black box.
func (d *daemon) unreported() *freezeframe.Stall {
	if w := d.watch.Load(); w != nil {
		return w.Unreported()
	}
	return nil
}

// listen gives the control socket: that of the service manager, or our own.
func (d *daemon) listen(c config.Config) (net.Listener, error) {
	if passed := activation.Files(true); len(passed) > 0 {
		l, err := net.FileListener(passed[0])
		for _, f := range passed {
			_ = f.Close() // the listener has its own; more than one is nothing to us
		}
		if err != nil {
			return nil, fmt.Errorf("take the socket from the service manager: %w", err)
		}
		if _, ok := l.(*net.UnixListener); ok {
			return l, nil
		}
		_ = l.Close() // not ours to serve
		return nil, fmt.Errorf("the service manager passed a socket at %s: the control socket is a Unix stream socket", l.Addr())
	}
	l, err := control.Listen(c.Daemon.Socket)
	if err != nil {
		return nil, fmt.Errorf("the control socket (daemon.socket): %w", err)
	}
	return l, nil
}

// loop collects incidents and reloads the configuration until ctx ends.
func (d *daemon) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case i := <-d.watch.Load().Incidents():
			d.keep(d.watch.Load(), i)
		case <-d.o.Reload:
			_ = d.reload() // logged, and told to the service manager
		case reply := <-d.reloads:
			reply <- d.reload()
		}
	}
}

// build turns an incident into its report.
func (d *daemon) build(w *detectors.Watch, i detectors.Incident) freezeframe.Report {
	i.Recording.Host, i.Recording.Tool = d.host, d.o.Version
	r := detectors.Cost(i.Window)
	r.Dropped = d.droppedRecords(w)
	return reports.Build(i.Window, i.Verdict, reports.Meta{Version: d.o.Version, Host: d.host, Rules: d.rules, User: d.user, Recorder: r})
}

// keep makes a report of an incident, tells of it in one line, and has it
// written.
func (d *daemon) keep(w *detectors.Watch, i detectors.Incident) {
	var r freezeframe.Report
	w.Aside(func() { r = d.build(w, i) })
	d.noteStall(w.Ring(), i.Window.Stall(), &r)
	d.told(&r)
	if box := d.store.box.Load(); box != nil {
		box.Keep(i.Recording.Span)
	}
	d.store.add(r, &i)
}

// told counts a report, keeps it at hand and logs its line.
func (d *daemon) told(r *freezeframe.Report) {
	c := &r.Causes[0]
	d.counts.mu.Lock()
	d.counts.byCause[c.ID]++
	d.counts.stalled += time.Duration(r.Stall.DurationMs * float64(time.Millisecond))
	d.counts.mu.Unlock()
	d.mu.Lock()
	d.last = r
	d.recent = append([]reports.Incident{listedNow(r)}, d.recent...)
	d.recent = d.recent[:min(len(d.recent), maxRecent)]
	d.mu.Unlock()
	d.log.Warn().Str("report", r.ID).Str("cause", string(c.ID)).Float64("stalled_ms", r.Stall.DurationMs).Msg(reports.Line(r))
}

// remember puts what the archive had last behind what came since.
func (d *daemon) remember(before []reports.Incident) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recent = append(d.recent, before...)
	d.recent = d.recent[:min(len(d.recent), maxRecent)]
}

// unclean has the report of an unclean end made, when the recorder runs.
func (d *daemon) unclean(u *recorder.Unclean) {
	d.judging.Go(func() {
		select {
		case <-d.sampled:
		case <-d.ending:
		case <-time.After(uncleanAfter):
		}
		m := uncleanMeta{
			Meta:    reports.Meta{Version: d.o.Version, Host: d.host, Rules: d.rules, User: d.user},
			started: d.started,
		}
		if !u.SameBoot {
			m.words, m.needs = readPstore(pstoreDirs[:], u.Last.Add(-pstoreSlack))
			if n := noPstore(pstoreBackend); n != nil && len(m.words) == 0 {
				m.needs = append(m.needs, *n)
			}
		}
		var r freezeframe.Report
		var i detectors.Incident
		d.aside(func() { r, i = uncleanEnd(u, m) })
		d.counts.unclean.Add(1)
		d.told(&r)
		d.store.add(r, &i)
	})
}

// pstoreSlack is by how much a record of pstore may be older than the last
// reading and still be of the same end: clocks that were set meanwhile.
const pstoreSlack = 2 * time.Minute

// reload reads the configuration again, and keeps the old one where the new one
// is no good.
func (d *daemon) reload() error {
	select {
	case <-d.sampled:
		d.notify.reloading()
		defer d.notify.ready()
	default: // READY=1 is not for us to say yet
	}
	d.counts.reloads.Add(1)
	c, err := d.o.Load()
	if err == nil {
		err = d.apply(c)
	}
	d.mu.Lock()
	d.configErr = ""
	if err != nil {
		d.configErr = err.Error()
	}
	d.mu.Unlock()
	if err != nil {
		d.counts.refused.Add(1)
		d.log.Error().Err(err).Msg("the configuration before it stays")
		return fmt.Errorf("the configuration before it stays: %w", err)
	}
	d.log.Info().Msg("the configuration was read again")
	return nil
}

// apply puts a new configuration into force. What does not work out leaves the
// old one.
func (d *daemon) apply(c config.Config) error {
	d.mu.Lock()
	old := d.config
	d.mu.Unlock()
	// The state directory and the socket are held: they change at the next start.
	for key, changed := range map[string]bool{"daemon.state_dir": c.Daemon.StateDir != old.Daemon.StateDir, "daemon.socket": c.Daemon.Socket != old.Daemon.Socket} {
		if changed {
			d.log.Warn().Str("key", key).Msg("this key takes effect at the next start")
		}
	}
	c.Daemon.StateDir, c.Daemon.Socket = old.Daemon.StateDir, old.Daemon.Socket
	if err := d.serveMetrics(c); err != nil {
		return err
	}
	if anew(old, c) {
		if err := d.restart(old, c); err != nil {
			return errors.Join(err, d.serveMetrics(old))
		}
	} else {
		w := d.watch.Load()
		w.SetQuiet(c.Stall.Quiet)
		w.Ask(d.o.Watch(c).Probes)
	}
	d.store.reconfigure(c)
	d.o.Level(c.Log.Level)
	d.mu.Lock()
	d.config = c
	d.mu.Unlock()
	return nil
}

// anew tells whether a change is one that a running watch cannot take.
func anew(old, c config.Config) bool {
	live := func(c config.Config) any {
		return []any{c.Sampling, c.BPF.Enabled, c.BPF.Budget, c.Ring, c.Probes.NetworkMounts}
	}
	return fmt.Sprint(live(old)) != fmt.Sprint(live(c)) ||
		!slices.Equal(old.BPF.Without, c.BPF.Without) || !slices.Equal(old.Probes.Fsync.Skip, c.Probes.Fsync.Skip)
}

// restart replaces the watch. What the ring holds stays, unless its size
// changes or a lane that hangs may still write to it; the black box has it in
// either case. A stall that is open is judged as it stands.
func (d *daemon) restart(old, c config.Config) error {
	d.counts.restarts.Add(1)
	before := d.watch.Load()
	d.without.set(time.Now())
	left := before.Stop(context.Background())
	for _, i := range left {
		d.keep(before, i)
	}
	ring := before.Handover()
	if ring == nil {
		d.log.Warn().Msg("a lane hangs: the watch goes on with a fresh memory")
	}
	if c.Ring != old.Ring {
		ring = nil
	}
	w, err := detectors.Start(d.watchOptions(c, ring))
	if err != nil {
		d.log.Error().Err(err).Msg("the watch did not start with the new configuration")
		var again error
		if w, again = detectors.Start(d.watchOptions(old, before.Handover())); again != nil {
			// Nothing is recorded: the watchdog will have the service manager
			// start us anew.
			return errors.Join(err, again)
		}
	}
	d.cost.reset()
	d.adopt(w)
	d.without.set(time.Time{})
	return err
}

// serveMetrics has them served where c says.
func (d *daemon) serveMetrics(c config.Config) error {
	d.mu.Lock()
	have := d.metrics
	d.mu.Unlock()
	address := ""
	if have != nil {
		address = have.address
	}
	if address == c.Daemon.Metrics {
		return nil
	}
	var fresh *metricsServer
	if c.Daemon.Metrics != "" {
		var err error
		if fresh, err = serveMetrics(c.Daemon.Metrics, d.gather, d.log); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.metrics = fresh
	d.mu.Unlock()
	if have != nil {
		have.close()
	}
	return nil
}

// pulse tells the service manager how things stand, until ctx ends: that we are
// ready, that the lanes go round, and what is to be said of it.
func (d *daemon) pulse(ctx context.Context) {
	every, limit := pulseEvery, restartMost
	if watchdog, err := systemd.SdWatchdogEnabled(false); err != nil {
		d.log.Error().Err(err).Msg("the service manager's watchdog cannot be understood: it will not be told that all is well")
	} else if watchdog > 0 {
		every, limit = min(watchdog/4, pulseEvery), watchdog/4
	}
	ready := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		why := d.wedged(limit)
		if w := d.watch.Load(); !ready && w != nil && sampled(w.Pulse()) {
			ready = true
			close(d.sampled)
			d.notify.ready()
			d.log.Info().Str("version", d.o.Version).Dur("after", time.Since(d.started)).Msg("recording")
		}
		switch {
		case why != "":
			if d.counts.withheld.Add(1) == 1 {
				d.log.Error().Msg("the recorder is wedged: " + why)
			}
		case ready: // the watchdog begins there
			d.notify.watchdog()
			d.counts.pings.Add(1)
			d.noteWatching()
		}
		d.cost.mark()
		d.notify.setStatus(d.status(ready, why))
		if ready {
			timer.Reset(every)
		} else {
			timer.Reset(readyEvery)
		}
	}
}

// wedged says why nothing is recorded, "" while something is.
func (d *daemon) wedged(limit time.Duration) string {
	if w := d.watch.Load(); w != nil && d.without.get().IsZero() {
		return wedged(w.Pulse(), limit)
	}
	if since := d.without.get(); !since.IsZero() && time.Since(since) > limit {
		return "the watch has been down for " + plain(time.Since(since))
	}
	return ""
}

// status is the line for systemctl status.
func (d *daemon) status(ready bool, why string) string {
	d.mu.Lock()
	configErr, recent := d.configErr, d.recent
	d.mu.Unlock()
	switch {
	case why != "":
		return "Wedged: " + why
	case configErr != "":
		return "Recording; the last reload kept the configuration before it: " + configErr
	case !ready:
		return "Starting: opening what is read"
	}
	text := "Recording"
	if w := d.watch.Load(); w != nil {
		for _, p := range w.Pulse() {
			if hangs(&p) && p.Late > pulseEvery {
				text += fmt.Sprintf("; reading %s hangs", p.Reading)
			}
		}
	}
	box := d.store.box.Load()
	switch fault := d.store.boxFault.Load(); {
	case fault != nil:
		text += "; not recording to disk: " + *fault
	case box == nil:
		text += "; the state directory does not answer"
	default:
		if st := box.Stats(); st.Err != "" {
			text += "; the black box is not written: " + st.Err
		}
	}
	if fault := d.store.archiveFault.Load(); fault != nil && d.store.boxFault.Load() == nil {
		text += "; reports are not kept: " + *fault
	}
	if len(recent) > 0 {
		text += fmt.Sprintf("; last stall %s: %s", recent[0].Start.UTC().Format("2006-01-02 15:04:05Z"), recent[0].Cause)
	} else {
		text += "; nothing has stalled so far"
	}
	return text
}

// stop ends everything: an open stall is judged as it stands, what is queued is
// written, the black box is told that this end is meant. All of it together is
// bounded; what a disk does not take by then is left.
func (d *daemon) stop(stopStoring context.CancelFunc) {
	close(d.ending)
	d.notify.stopping()
	d.notify.send(statusLine("Stopping: writing what is left"))
	deadline := time.NewTimer(stopMost)
	defer deadline.Stop()
	ended, judged := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(judged)
		if w := d.watch.Load(); d.without.get().IsZero() {
			for _, i := range w.Stop(context.Background()) {
				d.keep(w, i)
			}
		}
		d.judging.Wait()
	}()
	go func() {
		defer close(ended)
		select {
		case <-judged:
		case <-time.After(judgeMost):
			d.log.Error().Dur("after", judgeMost).Msg("what stalled last is not judged in time: freezeframe diagnose --since judges it from the recording")
		}
		stopStoring()
		<-d.store.done
		d.end()
		d.mu.Lock()
		metrics := d.metrics
		d.mu.Unlock()
		if metrics != nil {
			metrics.close()
		}
		d.running.Wait()
	}()
	select {
	case <-ended:
		d.log.Info().Msg("stopped")
	case <-deadline.C:
		d.log.Error().Dur("after", stopMost).Msg("not everything could be written in time: the next start will take this end for an unclean one")
	}
}

// atomicTime is a time that is set and read on different goroutines.
type atomicTime struct{ at atomic.Pointer[time.Time] }

func (a *atomicTime) set(t time.Time) { a.at.Store(&t) }

func (a *atomicTime) get() time.Time {
	if t := a.at.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

func wallClock() freezeframe.Clock { return kernel.WallClock() }
