package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// largeFork is the memory from which on a fork is felt: the kernel copies
	// page tables at some 100 MB a millisecond.
	largeFork = 128 << 20
	// copying is the share of the time that the copying of pages must take.
	copying = 0.2
	// forkKernel is the share of a CPU that the process must spend in the
	// kernel for its time on the CPU to be that of the fork.
	forkKernel = 0.3
)

var inFork = []string{"copy_page_range", "copy_p4d_range", "copy_pud_range", "copy_pmd_range", "copy_pte_range", "copy_present_pte*", "dup_mmap", "dup_mm", "copy_mm", "copy_process"}
var inCopy = []string{"wp_page_copy", "do_wp_page", "copy_mc_user_highpage", "__wp_page_copy_user"}

func memForkCOW() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "mem.fork_cow",
		Title: "the fork of a large process",
		Means: "A process with much memory forked (to write a snapshot, or to start a program). It stood still while its page tables were copied, and then at each page that it wrote first, which had to be copied too.",
		Proof: "The victim was in fork or in write faults: by its stack, by the copy delay that the kernel counts for it, or by kernel time just before a child of its own size appeared.",
		Remedy: []string{
			"Now: wait; it ends with the child.",
			"So that it does not come back: huge pages make page tables small (but each copied page large); let a replica take the snapshots (Redis: no BGSAVE on the primary); start programs with posix_spawn or vfork; split the instance.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "procs.rss_bytes", "procs.ppid", "procs.stime_us", "procs.minflt", "tasks.wpcopy_delay_ns"},
		Subsumes: bringsAbout("app.busy_loop"),
		Judge:    judgeForkCOW,
	}
}

func judgeForkCOW(w freezeframe.Window) []freezeframe.Finding {
	stall := w.Stall()
	ps := processesIn(w, around(stall.Span))
	var out []freezeframe.Finding
	ms := roots(w, func(m *moment) bool { return true })
	for _, b := range split(ms, func(m *moment) int { return m.who.PID }) {
		p := ps.byPID[b.key]
		if p == nil || p.rssMost < largeFork {
			continue
		}
		// By its stack, whatever it waits for there.
		claim := b.where(func(m *moment) bool { return in(m.wait, inFork...) || in(m.wait, inCopy...) }).spans()
		sure := seen
		var proofs []freezeframe.Evidence
		if len(claim) > 0 {
			proofs = append(proofs, evidence("tasks", "stack", "it slept or waited in the copying of its memory"))
		}
		onCPU := b.where(inClass(freezeframe.OnCPU)).spans()
		if len(onCPU) > 0 {
			if copied := copyDelay(w, b.key); copied.Length() > 0 {
				claim = freezeframe.Union(append(claim, onCPU.And(copied)...)...)
				proofs = append(proofs, evidence("tasks", "wpcopy_delay_ns", "write faults copied pages for %s", length(copied.Length())))
				sure = proven
			}
			// The fork itself: on the CPU, in the kernel, until the child appears.
			// One that forks again and again, and waits for each child, spends
			// the rest in their exits, which take the copies down.
			child, heirs := forked(ps, p, stall.Span), heirs(&stall, ps, p)
			if (child != nil || heirs > 0) && p.system.sum*5 >= p.cpu.sum*3 {
				during := onCPU
				if heirs > 0 {
					during = b.where(inClass(freezeframe.OnCPU, freezeframe.ChildWait)).spans()
				} else {
					during = during.Within(freezeframe.Span{Start: stall.Start, End: child.last.Add(sweep)})
				}
				if system := float64(p.system.sum) * 1e3; system >= forkKernel*float64(during.Length()) {
					claim = freezeframe.Union(append(claim, during...)...)
					if child != nil {
						proofs = append(proofs, evidence("procs", "ppid", "its child %s appeared with %s resident; %s of kernel time went by", child, size(child.rssMost), length(nanoseconds(system))))
						if child.rssMost < p.rssMost/2 && heirs == 0 && sure == seen {
							sure = counted // it may have run another program since
						}
					}
					if heirs > 0 {
						proofs = append(proofs, evidence("listeners", "pids", "%d short-lived children shared its listening socket; %s of kernel time went by", heirs, length(nanoseconds(system))))
					}
				}
			}
		}
		if claim = worth(w, claim); claim == nil {
			continue
		}
		out = append(out, freezeframe.Finding{
			Culprit: p.culprit(), Explains: claim, Confidence: sure, Chain: story(b.moments), Evidence: proofs,
			Summary: fmt.Sprintf("%s forked with %s of memory and stood still for %s.", p, size(p.rssMost), length(claim.Length())),
		})
	}
	return out
}

// copyDelay returns when a process's threads spent a good part of the time
// copying pages on write.
func copyDelay(w freezeframe.Window, pid int) freezeframe.Spans {
	series := w.Between("tasks", w.Stall().Span)
	type last struct {
		at freezeframe.Instant
		ns uint64
	}
	seen := map[freezeframe.Key]last{}
	var out []freezeframe.Span
	series.Each([]string{"pid", "wpcopy_delay_ns"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if int(v[0]) != pid {
			return
		}
		was, ok := seen[key]
		seen[key] = last{at, v[1]}
		if ok && v[1] > was.ns && float64(v[1]-was.ns) >= copying*float64(at.Sub(was.at)) {
			out = append(out, freezeframe.Span{Start: was.at, End: at})
		}
	})
	return freezeframe.Union(out...)
}

// heirs counts the children that shared a process's sockets for a while in the
// stall: forks of itself that came and went between the sweeps.
func heirs(stall *freezeframe.Stall, ps *processes, parent *process) int {
	seen := map[int]bool{}
	for i := range stall.Symptoms {
		for _, v := range stall.Symptoms[i].Victims {
			q := ps.byPID[v.PID]
			if v.PID != parent.pid && v.Comm == parent.comm && (q == nil || q.ppid == parent.pid && q.first >= stall.Start) && suffers(&stall.Symptoms[i], parent.pid) {
				seen[v.PID] = true
			}
		}
	}
	return len(seen)
}

// forked finds a child that appeared in the stall, rather one with about as
// much memory as its parent: a fork without exec.
func forked(ps *processes, parent *process, s freezeframe.Span) *process {
	var child *process
	for _, p := range ps.list {
		if p.ppid == parent.pid && p.first >= s.Start && p.first <= s.End.Add(sweep) && (child == nil || p.rssMost > child.rssMost) {
			child = p
		}
	}
	return child
}
