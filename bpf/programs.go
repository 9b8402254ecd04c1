package bpf

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Options of Load. The zero value loads every family.
type Options struct {
	// Off says that BPF is not to be used at all.
	Off bool
	// Without lists families that are not to be loaded.
	Without []string
	// Budget is how much of one CPU all programs together may take (see Guard).
	Budget float64
}

// Programs is what was loaded. A nil *Programs is a kernel without BPF: every
// method works and says so.
type Programs struct {
	// Waits tells the waits of threads; nil where it could not be had. The same
	// holds for the other families.
	Waits    *Waits
	Profile  *Profile
	Block    *Block
	Reclaim  *Reclaims
	Journal  *Journals
	Teardown *Teardowns
	// Life tells who starts processes and who sends signals.
	Life *Life
	// Locks tells who holds the kernel's locks that others wait for.
	Locks *Locks
	// Packets counts what was dropped, sent again and reset, by whom.
	Packets *Packets
	// Failures counts the system calls that failed at a limit, by whom.
	Failures *Failures
	// Timers tells which CPUs were gone.
	Timers *Timers
	// Interrupts tells what interrupts and softirqs took of each CPU.
	Interrupts *Interrupts
	// Tasks goes over all threads.
	Tasks    *Tasks
	Requests *Requests

	mu     sync.Mutex
	loaded []*loaded
	needs  []freezeframe.Need
}

// family is one file of programs.
type family struct {
	name string
	at   string // what it attaches to, for people
	lost string // what cannot be told without it
	load func(*loading) error
}

// families lists them all, in the order in which they are loaded; the least
// dear to a verdict come last. A new one is one .bpf.c file, one Go file and one
// line here.
var families = []family{
	waitsFamily,
	tasksFamily,
	profileFamily,
	blockFamily,
	reclaimFamily,
	journalFamily,
	teardownFamily,
	lifeFamily,
	locksFamily,
	packetsFamily,
	failuresFamily,
	timersFamily,
	interruptsFamily,
	requestsFamily,
}

// Names returns the names of all families, in order.
func Names() []string {
	names := make([]string, len(families))
	for i := range families {
		names[i] = families[i].name
	}
	return names
}

// loaded is a family with what it holds in the kernel.
type loaded struct {
	family
	programs []*ebpf.Program
	links    []link.Link
	closers  []io.Closer
	count    func() uint64    // of the records that it left out; nil: it keeps none
	stops    []func()         // for what is no link: ends its running, keeps it readable
	demand   func(bool) error // starts and stops what runs only while a stall is open
	shed     string           // why it was taken out again; "" while it runs
	gone     atomic.Bool      // as shed, for readers on the lanes
}

// loading is what a family's load function is given.
type loading struct {
	*Programs
	*loaded
	kernel *btf.Spec
	more   []*btf.Spec // types of modules, for those that attach there
}

// Load loads and attaches every family that this machine takes. It never
// fails: what could not be had is in Needs. It takes the better part of a second
// and more than 10 MB of heap for a moment (the kernel's type information), so it
// is called once, before recording begins and before memory is locked.
func Load(o Options) *Programs {
	p := &Programs{}
	if o.Off {
		p.need(freezeframe.Need{What: "BPF", Lost: "exact waits, stacks and requests; they are inferred from samples", Fix: "bpf.enabled: true in the configuration", Err: "switched off"})
		return p
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		p.need(freezeframe.Need{
			What: "BPF type information (/sys/kernel/btf/vmlinux)", Lost: "exact waits, stacks and requests; they are inferred from samples",
			Fix: "a kernel with CONFIG_DEBUG_INFO_BTF (Debian 11, RHEL 8.2, Ubuntu 20.10 and newer have it)", Err: err.Error(),
		})
		return p
	}
	// Before Linux 5.11 maps count as locked memory. Where the limit cannot be
	// raised they may still fit.
	_ = rlimit.RemoveMemlock()
	for _, f := range families {
		if slices.Contains(o.Without, f.name) {
			p.need(freezeframe.Need{What: "BPF " + f.name, Lost: f.lost, Fix: "take it out of bpf.without in the configuration", Err: "switched off"})
			continue
		}
		l := &loaded{family: f}
		if err := l.tryLoad(p, kernel); err != nil {
			l.close()
			if errors.Is(err, errUnused) {
				continue
			}
			p.need(freezeframe.Need{What: "BPF " + f.name + " (" + f.at + ")", Lost: f.lost, Fix: fixFor(err), Err: brief(err)})
			continue
		}
		p.loaded = append(p.loaded, l)
	}
	return p
}

func (l *loaded) tryLoad(p *Programs, kernel *btf.Spec) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("defect in loading: %v", v)
		}
	}()
	loading := &loading{Programs: p, loaded: l, kernel: kernel}
	// What a family leaves running may keep loading, which must not keep
	// megabytes of types with it.
	defer func() { loading.kernel, loading.more = nil, nil }()
	return l.family.load(loading)
}

// collection loads a compiled object into objs (a pointer to a struct of
// *ebpf.Program and *ebpf.Map fields with ebpf tags), after its constants were
// set.
func (l *loading) collection(spec *ebpf.CollectionSpec, constants map[string]any, objs any) error {
	if err := prepare(spec, constants); err != nil {
		return err
	}
	opts := &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: l.kernel, ExtraRelocationTargets: l.more}}
	if err := spec.LoadAndAssign(objs, opts); err != nil {
		return fmt.Errorf("load %s: %w", l.name, err)
	}
	if c, ok := objs.(io.Closer); ok {
		l.closers = append(l.closers, c)
	}
	return nil
}

// prepare sets an object's constants, and gives it a rate for each CPU.
func prepare(spec *ebpf.CollectionSpec, constants map[string]any) error {
	if m := spec.Maps["rates"]; m != nil {
		m.MaxEntries = uint32(possibleCPUs())
	}
	for name, value := range constants {
		v := spec.Variables[name]
		if v == nil {
			return fmt.Errorf("set the constant %s: the object has none", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set the constant %s: %w", name, err)
		}
	}
	return nil
}

// trace attaches programs to the BTF tracepoints that their sections name.
func (l *loading) trace(programs ...*ebpf.Program) error {
	for _, prog := range programs {
		if prog.Type() == ebpf.SocketFilter {
			continue // stands for one that this kernel has no tracepoint for
		}
		lk, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach %s: %w", prog, err)
		}
		l.links = append(l.links, lk)
		l.programs = append(l.programs, prog)
	}
	return nil
}

// closing has c closed with the family, before its objects are.
func (l *loading) closing(c io.Closer) { l.closers = append(l.closers, c) }

// stopping has f called when the family is shed, beside closing its links.
func (l *loading) stopping(f func()) { l.stops = append(l.stops, f) }

func (l *loaded) close() {
	for _, lk := range slices.Backward(l.links) {
		_ = lk.Close() // it goes with the process in any case
	}
	for _, c := range slices.Backward(l.closers) {
		_ = c.Close()
	}
	l.links, l.closers, l.programs = nil, nil, nil
}

// Close takes every program out of the kernel.
func (p *Programs) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range slices.Backward(p.loaded) {
		if n, any := l.leftOut(); any {
			p.needs = append(p.needs, n) // it cannot be asked again
		}
		if l.shed == "" {
			l.close()
		}
	}
	p.loaded = nil
}

// Needs says which families could not be had, and which were shed.
func (p *Programs) Needs() []freezeframe.Need {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	needs := slices.Clone(p.needs)
	if p.Tasks != nil {
		if n, failed := p.Tasks.need(); failed {
			needs = append(needs, n)
		}
	}
	if n, any := p.Requests.crowded(); any {
		needs = append(needs, n)
	}
	if p.Interrupts != nil {
		if n, failed := p.Interrupts.need(); failed {
			needs = append(needs, n)
		}
	}
	for _, l := range p.loaded {
		if n, any := l.leftOut(); any {
			needs = append(needs, n)
		}
	}
	return needs
}

func (p *Programs) need(n freezeframe.Need) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.needs = append(p.needs, n)
}

// Cost is what one family has cost, as the kernel counts it (bpf_stats, see
// Documentation/admin-guide/sysctl/kernel.rst) over the last time that it was
// measured.
type Cost struct {
	Name    string
	At      string
	Runs    uint64        // of its programs
	RunTime time.Duration // of all of them together
	Over    time.Duration // of wall time
	Shed    string        // why it does not run any more
}

// Share is the part of one CPU that the family took, 0.01 for a percent.
func (c Cost) Share() float64 {
	if c.Over <= 0 {
		return 0
	}
	return float64(c.RunTime) / float64(c.Over)
}

// Measure counts for d what every family costs. Counting itself makes each run
// some 40 ns dearer, so it is done now and then.
func (p *Programs) Measure(d time.Duration) ([]Cost, error) {
	if p == nil {
		return nil, nil
	}
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("count what BPF programs cost: %w", err)
	}
	defer stats.Close()
	before := p.totals()
	begun := time.Now()
	time.Sleep(d)
	after := p.totals()
	over := time.Since(begun)
	for i := range after {
		after[i].Over = over
		if i < len(before) && before[i].Name == after[i].Name && after[i].Shed == "" {
			after[i].Runs -= before[i].Runs
			after[i].RunTime -= before[i].RunTime
		}
	}
	return after, nil
}

// Rehearse runs what otherwise runs only while a stall is open, so that its cost
// can be measured, until end is called.
func (p *Programs) Rehearse() (end func()) {
	if p == nil {
		return func() {}
	}
	var running []func(bool) error
	for _, l := range p.loaded {
		if l.demand != nil && l.demand(true) == nil { // else it is a need
			running = append(running, l.demand)
		}
	}
	return func() {
		for _, run := range running {
			_ = run(false) // as above
		}
	}
}

func (p *Programs) totals() []Cost {
	p.mu.Lock()
	defer p.mu.Unlock()
	costs := make([]Cost, len(p.loaded))
	for i, l := range p.loaded {
		costs[i] = Cost{Name: l.name, At: l.at, Shed: l.shed}
		for _, prog := range l.programs {
			if st, err := prog.Stats(); err == nil {
				costs[i].Runs += st.RunCount
				costs[i].RunTime += st.Runtime
			}
		}
	}
	return costs
}

// Shed takes one family out of the kernel, because it costs too much. Its
// readers find nothing new from then on.
func (p *Programs) Shed(name, why string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.loaded {
		if l.name != name || l.shed != "" {
			continue
		}
		l.shed = why
		l.gone.Store(true)
		// Maps stay open: readers on the lanes may be in them.
		for _, lk := range l.links {
			_ = lk.Close()
		}
		for _, stop := range l.stops {
			stop()
		}
		l.links, l.stops = nil, nil
		p.needs = append(p.needs, freezeframe.Need{What: "BPF " + l.name + " (" + l.at + ")", Lost: l.lost, Err: why})
		return
	}
}

// fixFor says what an administrator can do about a program that was refused.
func fixFor(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "run as root, or grant CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8)"
	case errors.Is(err, ebpf.ErrNotSupported):
		return "a newer kernel"
	}
	return ""
}

// brief keeps the end of a verifier's log: why it said no.
func brief(err error) string {
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		return strings.TrimSpace(fmt.Sprintf("%v", v))
	}
	return err.Error()
}

// possibleCPUs is how many values a per-CPU map has.
func possibleCPUs() int {
	if n, err := ebpf.PossibleCPU(); err == nil {
		return n
	}
	return runtime.NumCPU()
}
