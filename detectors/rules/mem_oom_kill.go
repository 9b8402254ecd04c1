package rules

import (
	"fmt"
	"strings"
	"time"

	"freezeframe"
)

// oomReach is how long before the stall a kill may have been: what it ended
// is missed from then on.
const oomReach = 5 * time.Second

const ranOut = "Out of memory: Killed process "

func memOOMKill() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.oom_kill",
		Title: "a machine out of memory",
		Means: "The machine had no memory left at all, and the kernel killed a process to go on.",
		Proof: "The kernel's line \"Out of memory: Killed process …\", with victims that reclaimed memory up to it, or that it killed.",
		Remedy: []string{
			"Now: look at who was killed and who is the largest, `ps -eo pid,rss,comm --sort -rss | head`.",
			"So that it does not come back: limit whoever grew (MemoryMax= in its unit); OOMScoreAdjust=-500 for what must live; some swap and MemoryHigh=, so that it gets slow before it dies.",
		},
		Reads:    append([]string{sourceLedger, sourceSymptoms, freezeframe.EventKernelLog, "vmstat.oom_kill", "procs.rss_bytes", "signals.pid", "signals.from_pid"}, downReads...),
		Subsumes: bringsAbout("mem.direct_reclaim", "mem.swap_thrash", "mem.file_thrash", "io.device_saturated", "runtime.jvm_gc", "app.restarted", "app.crash_loop"),
		Judge: func(w freezeframe.Window) []freezeframe.Finding {
			return judgeOOM(w, func(text string) bool { return strings.HasPrefix(text, ranOut) }, nil)
		},
	}
}

// A kill is what the kernel says of a process that it killed for memory.
type kill struct {
	at         freezeframe.Instant
	pid        int
	comm, text string
}

// inOOM is where a thread is that found no memory, beside reclaim itself.
var inOOM = []string{"out_of_memory", "oom_kill_process", "__alloc_pages_may_oom", "pagefault_out_of_memory", "mem_cgroup_oom*", "mem_cgroup_out_of_memory", "oom_*", "exit_mmap", "oom_reap*"}

// fillTime is how long before it was killed a process may have been at filling
// memory, and at nothing else.
const fillTime = 2 * time.Second

// judgeOOM claims the memory waits before a kill, and what the killed process
// could not do after it, nor before while it grew. group names the cgroup that ran out; nil: none.
func judgeOOM(w freezeframe.Window, isKill func(string) bool, group func(*freezeframe.Finding, kill)) []freezeframe.Finding {
	var kills []kill
	for _, l := range kernelLog(w, oomReach) {
		if !isKill(l.Text) {
			continue
		}
		rest, _ := after(l.Text, "Killed process ")
		k := kill{at: l.At, pid: leadingInt(rest), text: l.Text}
		if comm, ok := after(rest, "("); ok {
			if i := strings.LastIndex(comm, ") "); i >= 0 {
				comm = comm[:i] // the name may hold brackets itself
			} else {
				comm = word(comm, "),")
			}
			k.comm = comm
		}
		kills = append(kills, k)
	}
	if len(kills) == 0 {
		return nil
	}
	first, last := kills[0].at, kills[len(kills)-1].at
	ms := roots(w, func(m *moment) bool {
		memory := inClass(freezeframe.Reclaim, freezeframe.SwapIn)(m) || in(m.wait, inOOM...) && !inClass(freezeframe.OnCPU, freezeframe.Idle)(m)
		return memory && m.Start <= last.Add(time.Second)
	})
	claim := ms.spans()
	claim = freezeframe.Union(append(claim, symptoms(w, func(sy *freezeframe.Symptom) bool { return refusal(sy, "oom_kill", "oom kill") })...)...)
	ps := processesIn(w, freezeframe.Span{Start: first.Add(-growTime), End: last})
	for _, k := range kills {
		// Or it was a worker of the service: until its master has another one,
		// nobody is there to work.
		master := 0
		if p := ps.byPID[k.pid]; p != nil && p.ppid > 1 && (k.comm == "" || p.comm == k.comm) {
			if up := ps.byPID[p.ppid]; up != nil && up.comm == p.comm && up.cgroup == p.cgroup {
				master = up.pid
			}
		}
		gone := symptoms(w, func(sy *freezeframe.Symptom) bool { return suffers(sy, k.pid) || master != 0 && suffers(sy, master) })
		// What it did before, while it filled memory, was on the way to it.
		from := k.at
		if p := processesIn(w, freezeframe.Span{Start: k.at.Add(-fillTime), End: k.at}).byPID[k.pid]; p != nil && p.grown() >= muchMemory {
			from = k.at.Add(-fillTime)
		}
		claim = freezeframe.Union(append(claim, gone.Within(freezeframe.Span{Start: from, End: w.Stall().End})...)...)
		claim = freezeframe.Union(append(claim, downWithout(w, k.pid, k.at)...)...)
	}
	if claim = worth(w, claim); claim == nil {
		return nil
	}
	k := kills[0]
	f := freezeframe.Finding{Explains: claim, Confidence: proven, Chain: story(ms), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: k.pid, Comm: k.comm}}
	if len(ms) == 0 {
		f.Confidence = seen
	}
	for _, k := range kills[:min(3, len(kills))] {
		f.Evidence = append(f.Evidence, evidence(freezeframe.EventKernelLog, "", "the kernel: %s", quote(k.text)))
	}
	if group != nil {
		group(&f, k)
	} else if p, how := taker(w, freezeframe.Span{Start: first.Add(-time.Second), End: first}, nil); p != nil && p.grown() >= muchMemory {
		f.Culprit = p.culprit()
		f.Evidence = append(f.Evidence, evidence("procs", "rss_bytes", "%s %s", p, how))
	}
	for _, d := range deeds(w, freezeframe.Span{Start: first.Add(-time.Second), End: last.Add(time.Second)}, "oom") {
		if d.pid == k.pid && !d.fromKernel {
			f.Evidence = append(f.Evidence, evidence("signals", "from_pid", "it was %s that asked for memory when none was left", named(d.from.Comm, d.from.PID)))
			break
		}
	}
	f.Summary = fmt.Sprintf("Memory ran out and the kernel killed %s.", named(k.comm, k.pid))
	return []freezeframe.Finding{f}
}
