package detectors

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/collectors"
	"freezeframe/internal/kernel"
	"freezeframe/probes"
	"freezeframe/recorder"
)

// What a stall's recording keeps around it, and how the watch paces itself.
const (
	keepBefore = 30 * time.Second
	keepAfter  = 10 * time.Second
	// pace is how often an open stall is looked at; while nothing is late the
	// watch sleeps until a probe speaks.
	pace = 100 * time.Millisecond
	// full is how long after the last lateness the full rate is kept.
	full = 2 * time.Second
	// settling is how long our own work may be late because of our own start:
	// memory is mapped and locked, every source is opened for the first time.
	settling = time.Second
	// maxKept is how many incidents are kept for whoever collects them late.
	maxKept = 64
	// defaultRingBytes holds two minutes of some 300 processes.
	defaultRingBytes = 24 << 20
)

// Options of a watch. The zero value watches this machine.
type Options struct {
	Probes    probes.Options // Events, Focus and Texts are set by Start
	BPF       bpf.Options
	RingBytes int
	// Ring is recorded into, where it is not nil: that of a watch before (see
	// Handover), so that what it holds is there for this one too.
	Ring  *recorder.Ring
	Rules []freezeframe.Rule
	Quiet time.Duration // 0: DefaultQuiet
	// OnStall is told when a stall opens, with what is known then.
	OnStall func(freezeframe.Stall)
	// OnVerdict is told the verdict as soon as a stall is over; the incident
	// with the time after it follows on Incidents.
	OnVerdict func(Incident)
	// Realtime asks for real-time scheduling of the whole process, and for its
	// memory to stay resident, so that recording goes on where ordinary
	// processes starve.
	Realtime bool
	// Missing says what whoever runs the watch could not get; may be nil. It
	// must not wait.
	Missing func() []freezeframe.Need
}

// Incident is one judged stall with its recording.
type Incident struct {
	Recording *recorder.Recording
	Window    freezeframe.Window
	Verdict   freezeframe.Verdict
}

// Watch is a running recorder with its probes and detectors.
type Watch struct {
	opts    Options
	focus   *freezeframe.Focus
	ring    *recorder.Ring
	sampler *recorder.Sampler
	bpf     *bpf.Programs
	chase   *chase
	cancel  context.CancelFunc
	began   freezeframe.Instant // when we began to cost something
	started freezeframe.Instant // when we began to look
	usage   kernel.Usage

	late    chan freezeframe.Lateness
	dropped atomic.Uint64 // reports of probes that found the channel full
	asks    chan func()   // run by the loop between two steps
	out     chan Incident
	done    chan struct{}
	ctx     context.Context // of the probes
	probing sync.WaitGroup
	whole   bool // after Stop: no lane was left behind

	monitor int // thread of the Go runtime; 0: it is as it was

	stalled  atomic.Bool // a stall is open
	heap     heap
	relaxing sync.Mutex // of the next four
	relaxed  int        // how much work is done aside
	restore  func() error
	patience *time.Timer
	raised   bool // we run with real-time priority

	mu      sync.Mutex
	needs   []freezeframe.Need
	rights  []freezeframe.Need // of the needs: what we asked for to be on time
	running map[string]bool    // probes that could be had
	probes  []freezeframe.Probe
	asking  map[string]context.CancelFunc // the active probes, by name

	// Owned by the loop until it is done.
	tracker Tracker
	pending []freezeframe.Stall // over, waiting for the time after them
	rested  freezeframe.Instant // until when no verdict is made after the last
}

// Start begins to record and to probe. The error says why nothing could be
// recorded at all; what is merely missing is in Coverage.
func Start(o Options) (*Watch, error) {
	if o.RingBytes == 0 {
		o.RingBytes = defaultRingBytes
	}
	if o.Quiet == 0 {
		o.Quiet = DefaultQuiet
	}
	if o.Ring == nil {
		o.Ring = recorder.NewRing(o.RingBytes)
	}
	w := &Watch{
		opts: o, focus: &freezeframe.Focus{}, ring: o.Ring,
		late: make(chan freezeframe.Lateness, 4096), asks: make(chan func()), out: make(chan Incident, maxKept), done: make(chan struct{}),
		running: map[string]bool{}, asking: map[string]context.CancelFunc{},
		began: kernel.Now(), usage: kernel.ProcessUsage(),
	}
	w.heap.bound()
	// Loading takes memory for a moment, which cannot be given back once it is
	// locked.
	w.bpf = bpf.Load(o.BPF)
	debug.FreeOSMemory()
	w.started = kernel.Now()
	texts := w.ring.Texts()
	w.chase = newChase(w.focus, texts, texts.String, w.ring.AddEvent)
	po := o.Probes
	po.Events, po.Focus, po.Texts = w.event, w.focus, texts.String
	po.OnlyTCP = w.bpf.Requests.OnlyTCP()
	all := probes.All(po)
	observers := []recorder.Observer{w.chase}
	for _, p := range all {
		if obs, ok := p.(recorder.Observer); ok {
			observers = append(observers, obs)
		}
	}
	host := freezeframe.Host{Proc: "/proc", Sys: "/sys", Texts: texts, Focus: w.focus}
	w.sampler = recorder.NewSampler(w.ring, host, collectors.All(w.bpf), observers...)
	if err := w.sampler.Start(); err != nil {
		w.bpf.Close()
		return nil, fmt.Errorf("start the sampler: %w", err)
	}
	if o.Realtime {
		w.firstReadings()
		w.raise()
	}
	if w.raised {
		w.heap.atEase()
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.probes = all
	w.tracker = Tracker{Quiet: o.Quiet, Settled: kernel.Now().Add(settling)}
	for _, p := range all {
		w.probe(p)
	}
	go w.loop(w.ctx)
	go w.noticeStops(w.ctx)
	if w.raised && w.monitor != 0 {
		go w.raiseStarted(w.ctx)
	}
	go w.bpf.Guard(w.ctx, o.BPF.Budget)
	go w.keepHeap(w.ctx)
	return w, nil
}

// firstReadings waits until each lane has read once: the first round of
// everything is work that must not hold up others, as it would at our priority
// on a slow machine of one CPU.
func (w *Watch) firstReadings() {
	for end := kernel.Now().Add(firstMost); kernel.Now() < end; time.Sleep(10 * time.Millisecond) {
		lanes := w.sampler.Pulse()
		if !slices.ContainsFunc(lanes[:], func(p recorder.Pulse) bool { return !p.Sampled }) {
			return
		}
	}
}

// firstMost is how long that may take: on a machine that is busy the rest is
// read at our priority.
const firstMost = 2 * time.Second

// raise keeps the process in memory, and asks for real-time priority for all
// threads there are.
func (w *Watch) raise() {
	// First, since it fills some 50 MiB of pages.
	if err := kernel.MlockAll(); err != nil {
		w.right(freezeframe.Need{
			What: "keep the recorder in memory", Lost: "readings may come late while memory is short",
			Fix: "run as root, or grant CAP_IPC_LOCK", Err: err.Error(),
		})
	}
	err := kernel.SetRealtime(RealtimePriority)
	if err != nil {
		w.right(freezeframe.Need{
			What: "run with real-time priority", Lost: "readings may come late while ordinary processes starve",
			Fix: "run as root, or grant CAP_SYS_NICE", Err: err.Error(),
		})
	}
	w.raised = err == nil
	monitor, err := kernel.RelaxMonitor()
	if err != nil {
		w.right(freezeframe.Need{What: "let the Go runtime's monitor sleep longer", Lost: "about 1 % of a CPU", Err: err.Error()})
	}
	w.monitor = monitor
}

// probe starts a probe. One that asks an address can be ended by itself.
func (w *Watch) probe(p freezeframe.Probe) {
	ctx, cancel := context.WithCancel(w.ctx)
	name := shown(p.Name())
	w.mu.Lock()
	w.running[name] = true
	if probes.Asks(p) {
		w.asking[p.Name()] = cancel
	}
	w.mu.Unlock()
	w.probing.Go(func() {
		defer cancel()
		err := p.Run(ctx, w.report)
		if err == nil || ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		delete(w.running, name)
		w.mu.Unlock()
		w.need(freezeframe.Need{What: "probe " + name, Lost: "stalls that only this probe would notice", Err: err.Error()})
	})
}

// Ask changes the addresses that are asked actively: what is asked already goes
// on with what is known of it.
func (w *Watch) Ask(o probes.Options) {
	want := probes.Asking(w.probes, o)
	w.mu.Lock()
	var fresh []freezeframe.Probe
	wanted := map[string]bool{}
	for _, p := range want {
		wanted[p.Name()] = true
		if w.asking[p.Name()] == nil {
			fresh = append(fresh, p)
		}
	}
	for name, end := range w.asking {
		if !wanted[name] {
			end()
			delete(w.asking, name)
			delete(w.running, shown(name))
		}
	}
	w.mu.Unlock()
	for _, p := range fresh {
		w.probe(p)
	}
}

// SetQuiet changes how long nothing must be late before a stall is over.
func (w *Watch) SetQuiet(d time.Duration) {
	w.inLoop(func() { w.tracker.Quiet = d })
}

// inLoop runs f between two steps of the loop. It does not when the watch is
// over.
func (w *Watch) inLoop(f func()) {
	ran := make(chan struct{})
	select {
	case w.asks <- func() { f(); close(ran) }:
		<-ran
	case <-w.done:
	}
}

// Unreported returns the stall that is open, as it stands, or one that is over
// and whose incident was not handed out yet; nil when there is none. It waits
// for a verdict that is being found.
func (w *Watch) Unreported() *freezeframe.Stall {
	var out *freezeframe.Stall
	w.inLoop(func() {
		if out = w.tracker.Current(kernel.Now()); out == nil && len(w.pending) > 0 {
			s := w.pending[len(w.pending)-1]
			out = &s
		}
	})
	return out
}

// Ring returns what is recorded into.
func (w *Watch) Ring() *recorder.Ring { return w.ring }

// Open judges the stall that is open now as it stands; false when there is
// none, or it could not be pinned.
func (w *Watch) Open() (i Incident, ok bool) {
	w.inLoop(func() {
		if s := w.tracker.Current(kernel.Now()); s != nil {
			var err error
			i, err = w.judge(*s)
			ok = err == nil
		}
	})
	return i, ok
}

// Handover returns, after Stop, the ring for another watch: nil when a lane was
// left behind that may still write into it.
func (w *Watch) Handover() *recorder.Ring {
	if !w.whole {
		return nil
	}
	return w.ring
}

// Pulse returns how each lane of the sampler is doing.
func (w *Watch) Pulse() [freezeframe.Lanes]recorder.Pulse { return w.sampler.Pulse() }

// Sampling returns what the sampler has done so far.
func (w *Watch) Sampling() recorder.SamplerStats { return w.sampler.Stats() }

// Dropped returns how many records of this watch were left out: readings and
// reports of probes.
func (w *Watch) Dropped() uint64 { return w.dropped.Load() + w.ring.Stats().Lost }

// Missing is everything that this machine did not give.
func (w *Watch) Missing() []freezeframe.Need { return w.missing() }

// Started returns when the watch began to look: loading BPF programs takes time
// before that.
func (w *Watch) Started() time.Time { return kernel.WallClock().Wall(w.started) }

// RealtimePriority lies just below that of the kernel's threaded interrupt
// handlers (50): a real-time thread that starves the others must not starve
// the recorder that is to name it. What we do at it is bounded.
const RealtimePriority = 49

// report hands a probe's lateness to the loop; it never waits.
func (w *Watch) report(l freezeframe.Lateness) {
	l.Target = shown(l.Target)
	select {
	case w.late <- l:
	default:
		w.dropped.Add(1)
	}
}

// event keeps what a probe has to tell. An address that was named to be asked
// and fails at once is no stall while it was never better, but must not look
// as if it had answered in time.
func (w *Watch) event(e freezeframe.Event) {
	if target := e.Attr("target"); target != shown(target) {
		e.Text = strings.ReplaceAll(e.Text, target, shown(target))
		e.Attrs = slices.Clone(e.Attrs)
		for i := range e.Attrs {
			e.Attrs[i].Value = strings.ReplaceAll(e.Attrs[i].Value, target, shown(target))
		}
	}
	if e.Kind == freezeframe.EventRefused && e.Attr("probe") == "active" {
		n := freezeframe.Need{
			What: "ask " + e.Attr("target"), Lost: "whether its users wait: requests failed at once",
			Fix: "check the address, and that something listens there", Err: e.Attr("errno"),
		}
		w.mu.Lock()
		told := slices.ContainsFunc(w.needs, func(have freezeframe.Need) bool { return have.What == n.What })
		w.mu.Unlock()
		if !told {
			w.need(n)
		}
	}
	w.ring.AddEvent(e)
}

// shown is what may be told of an address that a probe was given: not the
// credentials of a URL, nor what its query says.
func shown(target string) string {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		return target
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 && i+1 < len(rest) {
		rest = rest[:i+1] + "***"
	}
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		rest = "***" + rest[at:]
	}
	return scheme + "://" + rest
}

func (w *Watch) need(n freezeframe.Need) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.needs, n) {
		w.needs = append(w.needs, n)
	}
}

func (w *Watch) right(n freezeframe.Need) {
	w.need(n)
	w.mu.Lock()
	w.rights = append(w.rights, n)
	w.mu.Unlock()
}

// Without returns what the watch asked for so as to be on time and did not get:
// real-time scheduling, memory that stays.
func (w *Watch) Without() []freezeframe.Need {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.rights)
}

// loop follows what is late, and wakes up only while something is.
func (w *Watch) loop(ctx context.Context) {
	defer close(w.done)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var due freezeframe.Instant // when the timer fires; 0: it does not
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-w.late:
			w.tracker.Feed(l)
			w.drain()
		case f := <-w.asks:
			f()
		case <-timer.C:
			due = 0
		}
		now := kernel.Now()
		open, ended := w.tracker.Step(now)
		if open {
			w.focus.Suspect(now.Add(full))
			w.chase.step(now)
			if !w.stalled.Load() && w.opts.OnStall != nil {
				w.opts.OnStall(*w.tracker.Current(now))
			}
		}
		if ended != nil {
			w.chase.reset()
			w.pending = append(w.pending, *ended)
			if w.opts.OnVerdict != nil && now >= w.rested {
				w.first(*ended)
			}
		}
		w.stalled.Store(open)
		w.settle(now)
		// A stall that begins while one before waits for the time after it wants
		// to be looked at long before that.
		if next := w.next(now, open); next > 0 && (due == 0 || now.Add(next) < due) {
			due = now.Add(next)
			timer.Reset(next)
		}
	}
}

// first hands out the verdict on a stall as soon as it is over, before the
// time after it is recorded.
func (w *Watch) first(stall freezeframe.Stall) {
	began := kernel.Now()
	w.Aside(func() {
		if incident, err := w.judge(stall); err == nil {
			w.opts.OnVerdict(incident)
		}
	})
	w.rested = kernel.Now().Add(w.rest(kernel.Now().Sub(began)))
}

// drain takes what else the probes have reported, so that a burst of lateness
// is looked at once.
func (w *Watch) drain() {
	for {
		select {
		case l := <-w.late:
			w.tracker.Feed(l)
		default:
			return
		}
	}
}

// next is how long the loop may sleep; 0 means until a probe speaks.
func (w *Watch) next(now freezeframe.Instant, open bool) time.Duration {
	if open || len(w.tracker.items) > 0 {
		return pace
	}
	if len(w.pending) > 0 {
		return max(w.pending[0].End.Add(keepAfter).Sub(now), w.rested.Sub(now), pace)
	}
	return 0
}

// rest is how long no other verdict is made after one that took so long: where
// stalls follow each other, making their reports must not be what holds up the
// machine. The ring forgets after a minute or two: where many wait, they wait for
// less.
func (w *Watch) rest(took time.Duration) time.Duration {
	if len(w.pending) > manyPending {
		return 2 * took
	}
	return min(8*took, restMost)
}

const (
	restMost    = 5 * time.Second
	manyPending = 8
)

// settle hands out the stalls whose time after is recorded.
func (w *Watch) settle(now freezeframe.Instant) {
	for len(w.pending) > 0 && now >= w.pending[0].End.Add(keepAfter) && now >= w.rested {
		stall := w.pending[0]
		w.pending = w.pending[1:]
		began := kernel.Now()
		incident, err := w.judge(stall)
		now = kernel.Now()
		w.rested = now.Add(w.rest(now.Sub(began)))
		if err != nil {
			w.need(freezeframe.Need{What: "keep the recording of a stall", Lost: "its report", Err: err.Error()})
			continue
		}
		select {
		case w.out <- incident:
		default:
			w.need(freezeframe.Need{What: "hand out a report", Lost: "one report: nobody collected the last ones"})
		}
	}
}

// Aside does work that takes a CPU for long, such as judging a window and
// writing its report: not at our priority, at which nobody else would get that
// CPU. The lanes keep it. A stop of the world may then wait for an ordinary
// thread, and a reading be late, but the stall is over; where ordinary threads
// still get nothing, our priority is back after a while. The garbage is collected
// here, and only here (see atEase).
func (w *Watch) Aside(work func()) {
	w.relaxing.Lock()
	w.relaxed++
	if w.raised && w.restore == nil {
		restore, err := kernel.Relax(RealtimePriority, w.sampler.Threads())
		if err != nil {
			w.need(freezeframe.Need{What: "judge at ordinary priority", Lost: "up to a CPU for as long as a verdict takes", Err: err.Error()})
		}
		w.restore = restore
		w.patience = time.AfterFunc(asideMost, w.hurry)
		w.heap.collect()
	}
	w.relaxing.Unlock()
	work()
	w.relaxing.Lock()
	last := w.relaxed == 1
	w.relaxing.Unlock()
	if last {
		w.heap.settle()
	}
	w.relaxing.Lock()
	defer w.relaxing.Unlock()
	if w.relaxed--; w.relaxed == 0 {
		w.hurryLocked()
	}
}

// raiseStarted gives our priority to the threads that the runtime's monitor has
// started: it is an ordinary one itself.
func (w *Watch) raiseStarted(ctx context.Context) {
	tick := time.NewTicker(raiseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.relaxing.Lock()
		var err error
		if w.restore == nil { // else all but the lanes are ordinary now
			_, err = kernel.RaiseStarted(w.monitor, RealtimePriority)
		}
		w.relaxing.Unlock()
		if err != nil {
			w.need(freezeframe.Need{What: "run new threads with real-time priority", Lost: "readings may come late while ordinary processes starve", Err: err.Error()})
			return
		}
	}
}

// raiseEvery is how long such a thread may run as an ordinary one.
const raiseEvery = 2 * time.Second

// asideMost is how long a verdict may wait for ordinary threads to get a CPU.
const asideMost = 2 * time.Second

// hurry gives all threads our priority again.
func (w *Watch) hurry() {
	w.relaxing.Lock()
	defer w.relaxing.Unlock()
	w.hurryLocked()
}

func (w *Watch) hurryLocked() {
	if w.restore == nil {
		return
	}
	if err := w.restore(); err != nil {
		w.need(freezeframe.Need{What: "run with real-time priority again after a verdict", Lost: "readings may come late while ordinary processes starve", Err: err.Error()})
	}
	w.restore = nil
	w.patience.Stop()
}

// judge pins the window around a stall and judges it.
func (w *Watch) judge(stall freezeframe.Stall) (i Incident, err error) {
	w.Aside(func() { i, err = w.pinned(stall) })
	return i, err
}

func (w *Watch) pinned(stall freezeframe.Stall) (Incident, error) {
	rec, err := w.ring.Pin(freezeframe.Span{Start: stall.Start.Add(-keepBefore), End: stall.End.Add(keepAfter)})
	if err != nil {
		return Incident{}, fmt.Errorf("pin the window of a stall: %w", err)
	}
	rec.Stalls = []freezeframe.Stall{stall}
	rec.Needs = w.missing()
	return judged(rec, stall, w.opts.Rules), nil
}

func judged(rec *recorder.Recording, stall freezeframe.Stall, rules []freezeframe.Rule) Incident {
	win := rec.Window(stall)
	win.SetLedger(Account(win))
	return Incident{Recording: rec, Window: win, Verdict: Judge(win, rules)}
}

// Rejudge judges every stall of a recording again, as a newer version of the
// rules would have.
func Rejudge(rec *recorder.Recording, rules []freezeframe.Rule) []Incident {
	var out []Incident
	for _, s := range rec.Stalls {
		out = append(out, judged(rec, s, rules))
	}
	return out
}

// Incidents delivers each stall when the time after it is recorded too.
func (w *Watch) Incidents() <-chan Incident { return w.out }

// Stop ends the watch and returns the incidents that were not delivered yet,
// a stall that is still open among them, judged as it stands.
func (w *Watch) Stop(ctx context.Context) []Incident {
	w.cancel()
	<-w.done
	w.drain()
	now := kernel.Now()
	stalls := w.pending
	if _, ended := w.tracker.Step(now); ended != nil {
		stalls = append(stalls, *ended)
	} else if current := w.tracker.Current(now); current != nil {
		stalls = append(stalls, *current)
	}
	var out []Incident
	for more := true; more; {
		select {
		case i := <-w.out:
			out = append(out, i)
		default:
			more = false
		}
	}
	for _, s := range stalls {
		i, err := w.judge(s)
		if err != nil {
			w.need(freezeframe.Need{What: "keep the recording of a stall", Lost: "its report", Err: err.Error()})
			continue
		}
		out = append(out, i)
	}
	w.heap.release()
	w.whole = w.sampler.Stop()
	w.bpf.Close()
	// A probe that is stuck in the kernel does not end; its thread is left.
	ended := make(chan struct{})
	go func() { w.probing.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-time.After(stopWait):
	}
	return out
}

// stopWait is how long Stop waits for the probes to end.
const stopWait = 300 * time.Millisecond

// Pin returns the recording of the last d.
func (w *Watch) Pin(d time.Duration) (*recorder.Recording, error) {
	now := kernel.Now()
	rec, err := w.ring.Pin(freezeframe.Span{Start: now.Add(-d), End: now})
	if err != nil {
		return nil, fmt.Errorf("pin the last %s: %w", d, err)
	}
	rec.Needs = w.missing()
	return rec, nil
}

// missing is everything that this machine did not give.
func (w *Watch) missing() []freezeframe.Need {
	w.mu.Lock()
	needs := slices.Clone(w.needs)
	w.mu.Unlock()
	if n := w.dropped.Load(); n > 0 {
		needs = append(needs, freezeframe.Need{What: fmt.Sprintf("take %d reports of probes", n), Lost: "some symptoms: too many came at once"})
	}
	if w.opts.Missing != nil {
		needs = append(needs, w.opts.Missing()...)
	}
	needs = append(needs, w.bpf.Needs()...)
	return append(needs, w.sampler.Missing()...)
}
