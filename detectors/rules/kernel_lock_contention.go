package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"freezeframe"
)

func kernelLockContention() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.lock_contention",
		Title: "a lock inside the kernel",
		Means: "Threads stood at a mutex or semaphore of the kernel (of a directory, an inode, a device, a cgroup) that another thread held.",
		Proof: "The victims' stacks end in a mutex or rwsem, asked for by something else than memory mapping. The holder is read from the lock itself (BPF, Linux 5.19), else named where the chain or a thread at work on the same file shows it.",
		Remedy: []string{
			"Now: look at the holder, `cat /proc/PID/task/TID/stack`, and at who else waits: `for t in /proc/[0-9]*/task/*; do grep -l rwsem_down $t/stack; done 2>/dev/null`.",
			"So that it does not come back: split huge directories, write one file from one thread, keep agents from polling /proc, /sys and cgroup files.",
		},
		Reads:    []string{sourceLedger, "tasks.file", "tasks.stack", "tasks.state", "procs.comm", "procs.stime_us", "contention.holder_pid", "contention.holder_tid", "profile.kernel_stack"},
		Subsumes: []freezeframe.Cause{"kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeLockContention,
	}
}

var lockWaits = []string{"rwsem_*", "__mutex_lock*", "mutex_lock*", "__down*", "down_*", "rt_mutex*", "fdget_pos", "__fdget_pos"}

// onKernelLock returns what tells whether a moment is a wait for a lock: by the
// functions that it sleeps in, or, where they are left out of the stack as
// /proc and the pass over all threads do, by BPF having seen the wait.
func onKernelLock(w freezeframe.Window) func(*moment) bool {
	told := map[int]freezeframe.Spans{}
	for _, x := range lockWaitsIn(w, w.Stall().Span) {
		if x.addressSpaceOf == 0 {
			told[x.tid] = append(told[x.tid], x.Span)
		}
	}
	for tid, spans := range told {
		told[tid] = freezeframe.Union(spans...)
	}
	return func(m *moment) bool {
		if m.wait.Class != freezeframe.KernelLock || onMmapLock(m) {
			return false
		}
		if in(m.wait, lockWaits...) {
			return true
		}
		return 2*told[m.who.TID].Within(m.Span).Length() >= m.Length()
	}
}

func judgeLockContention(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, onKernelLock(w))
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string { return lockCaller(m.wait.Stack) }) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		long := b.longest()
		ps := processesIn(w, around(core(claim)))
		f := freezeframe.Finding{Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}, Explains: claim, Confidence: inferred, Chain: story(b.moments)}
		lock := orElse(b.key, orElse(long.wait.Wchan, "the kernel"))
		if long.wait.Stack != "" {
			f.Evidence = append(f.Evidence, evidence("tasks", "stack", "waited in %s", quote(long.wait.Stack)))
		}
		if held := holdings(w, b.moments); len(held) > 0 && 2*held[0].waited >= b.spans().Length() {
			h := &held[0]
			f.Culprit, f.Confidence = ps.blame(h.holder), proven
			how := "had it when they began to wait"
			if h.shared {
				f.Confidence, how = seen, "was the last to take it for reading"
			}
			f.Evidence = append(f.Evidence, evidence("contention", "holder_pid", "%s, thread %d, %s (%s), for %s of the wait", named(f.Culprit.Comm, h.holder.PID), h.holder.TID, how, h.kind, length(h.waited)))
		} else if h := long.wait.Holder; h != nil && h.PID != 0 {
			f.Culprit, f.Confidence = ps.blame(*h), seen
		} else if t := worksOn(w, core(claim), long, b.pids()); t != nil {
			f.Culprit, f.Confidence = ps.blame(freezeframe.Party{PID: t.pid, Comm: orElse(ps.name(t.pid), t.comm)}), counted
			f.Evidence = append(f.Evidence, evidence("tasks", "file", "%s was at work on the same file, %s", named(t.comm, t.pid), long.wait.File))
		}
		// Who holds a lock and spins for the next one holds nobody up: whoever has
		// that one does, and runs, or it would sleep.
		r := runnerOf(w, core(claim), b.pids())
		if own := slices.Contains(b.pids(), f.Culprit.PID); r != nil && (f.Culprit.Kind == freezeframe.CulpritHost || own && r.spun > 0) {
			f.Culprit, f.Confidence = r.culprit(), counted
			if r.spun > 0 {
				f.Confidence = seen
				f.Evidence = append(f.Evidence, evidence("profile", "kernel_stack", "threads with the lock spun for another one, whose holder therefore ran, in %d samples", r.spun))
			}
			f.Evidence = append(f.Evidence, evidence("profile", "kernel_stack", "meanwhile %s spent %s of a CPU inside the kernel, in %s", r, pct(r.share), r.in))
		}
		if f.Culprit.Kind == freezeframe.CulpritHost {
			if p := kernelUser(ps, b.pids()); p != nil {
				f.Culprit, f.Confidence = p.culprit(), counted
				f.Evidence = append(f.Evidence, evidence("procs", "stime_us", "meanwhile %s spent %s of a CPU inside the kernel", p, pct(p.system.rate()/1e6)))
			}
		}
		f.Summary = fmt.Sprintf("Threads waited %s for a kernel lock in %s.", length(claim.Length()), lock)
		out = append(out, f)
	}
	return append(out, mention(w, onKernelLock(w), func(m *moment) freezeframe.Culprit {
		if r := runnerOf(w, w.Stall().Span, moments{*m}.pids()); r != nil && r.spun > 0 {
			return r.culprit()
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for a lock of the kernel")...)
}

// spinningIn is where a thread waits on its CPU for a lock, for as long as who
// has it runs (optimistic spinning, kernel/locking).
var spinningIn = []string{"rwsem_spin*", "rwsem_optimistic*", "rwsem_down*", "mutex_spin*", "mutex_optimistic*", "__mutex_lock*", "osq_lock"}

// A runner is who was on a CPU inside the kernel, by the samples of BPF: one
// process, or many alike that followed each other.
type runner struct {
	comm    string
	pid     int     // who was there most
	count   int     // of processes
	share   float64 // of one CPU
	in      string  // the function that was asked of the kernel
	samples int
	spun    int // samples in which the victims spun for a lock
}

func (r *runner) culprit() freezeframe.Culprit {
	c := freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: r.pid, Comm: r.comm}
	if r.count > 1 {
		c.Count = r.count
	}
	return c
}

func (r *runner) String() string {
	if r.count > 1 {
		return fmt.Sprintf("%d × %s", r.count, named(r.comm, r.pid))
	}
	return named(r.comm, r.pid)
}

// runnerOf returns who, the victims left out, was inside the kernel for most of
// the samples that were, and for a good part of a CPU; nil for nobody in
// particular, or without BPF.
func runnerOf(w freezeframe.Window, s freezeframe.Span, victims []int) *runner {
	type group struct {
		pids map[int]int
		in   map[string]int
		n    int
	}
	series := w.Between("profile", around(s))
	groups := map[string]*group{}
	onCPU := map[uint64]int{} // samples of each CPU
	all, spun := 0, 0
	series.Each([]string{"pid", "comm", "at_ns", "cpu", "kernel_stack"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if !s.Contains(freezeframe.Instant(v[2])) {
			return
		}
		onCPU[v[3]]++
		pid, stack := int(v[0]), w.Text(v[4])
		spins := inFrames(stack, spinningIn...)
		switch {
		case pid == 0 || stack == "":
		case slices.Contains(victims, pid):
			if spins {
				spun++
			}
		case !spins:
			comm := w.Text(v[1])
			g := groups[comm]
			if g == nil {
				g = &group{pids: map[int]int{}, in: map[string]int{}}
				groups[comm] = g
			}
			g.n++
			g.pids[pid]++
			g.in[asked(stack)]++
			all++
		}
	})
	most := 0
	for _, n := range onCPU {
		most = max(most, n)
	}
	var best *runner
	for comm, g := range sorted(groups) {
		if best == nil || g.n > best.samples {
			best = &runner{comm: comm, pid: commonest(g.pids), count: len(g.pids), in: commonest(g.in), samples: g.n, share: ratio(float64(g.n), float64(most))}
		}
	}
	if best == nil || best.samples < leastSamples || 2*best.samples < all || best.share < kernelLoad {
		return nil
	}
	best.spun = spun
	return best
}

// leastSamples is from how many on they say something.
const leastSamples = 8

// commonest is the key with the largest value, the smaller of two.
func commonest[K cmp.Ordered](m map[K]int) (most K) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > m[most] {
			most = k
		}
	}
	return most
}

// asked is the outermost function of a stack but for how the kernel is entered:
// what was asked of it.
func asked(stack string) string {
	frames := strings.Split(stack, "<-")
	for _, f := range slices.Backward(frames) {
		if f = plain(f); !hasPrefix(f, "entry_", "do_syscall", "x64_sys_call", "invoke_syscall", "el0", "asm_", "ret_from") {
			return f
		}
	}
	return plain(frames[0])
}

// kernelLoad is the share of a CPU that a process must spend inside the kernel
// to be the likely holder of a lock there.
const kernelLoad = 0.25

// kernelUser is the process that spent most time inside the kernel, when it is
// much and more than twice that of anyone else.
func kernelUser(ps *processes, victims []int) *process {
	list := ps.ranked(func(p *process) uint64 {
		if p.kernel() || slices.Contains(victims, p.pid) {
			return 0
		}
		return uint64(p.system.rate())
	})
	if len(list) == 0 || list[0].system.rate() < kernelLoad*1e6 || len(list) > 1 && list[0].system.rate() < 2*list[1].system.rate() {
		return nil
	}
	return list[0]
}

// worksOn finds a thread of a process that does not suffer, in a system call
// on the file that a waiter waits on, and does not wait for the lock itself.
func worksOn(w freezeframe.Window, s freezeframe.Span, m *moment, victims []int) *thread {
	if m.wait.File == "" {
		return nil
	}
	series := w.Between("tasks", s)
	on := map[int]bool{}
	series.Each([]string{"file"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[0] != 0 && w.Text(v[0]) == m.wait.File {
			on[key.TID()] = true
		}
	})
	var best *thread
	for _, t := range threadsIn(w, s) {
		if !on[t.tid] || slices.Contains(victims, t.pid) || 2*t.stackIn(w, lockWaits...) > t.seen {
			continue
		}
		if best == nil || t.stuck > best.stuck || t.stuck == best.stuck && t.run.sum > best.run.sum {
			best = t
		}
	}
	return best
}
