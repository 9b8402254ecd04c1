package rules

import (
	"fmt"
	"strconv"
	"strings"

	"freezeframe"
)

// mmapCallers are the functions that take a process's mmap_lock; they stand
// right above the lock in a waiter's stack. An inode's rwsem taken inside a
// page fault does not, however deep in the fault it is.
var mmapCallers = []string{
	"do_user_addr_fault", "lock_mm_and_find_vma", "exc_page_fault", "do_page_fault", "handle_mm_fault", "get_mmap_lock_carefully", "fixup_user_fault",
	"vm_mmap_pgoff", "vm_brk_flags", "__vm_munmap", "__x64_sys_munmap", "__do_sys_munmap", "__do_sys_mremap", "__do_sys_brk", "__x64_sys_brk", "__x64_sys_mremap",
	"do_mprotect_pkey", "do_madvise", "madvise_lock", "do_mlock", "__do_sys_mlockall", "__mm_populate", "do_mincore", "__do_sys_mincore",
	"dup_mmap", "dup_mm", "exit_mmap", "exit_mm", "mm_release", "begin_new_exec", "setup_arg_pages",
	"__access_remote_vm", "access_remote_vm", "get_user_pages_remote", "process_vm_rw_core", "get_task_mm",
	"proc_pid_cmdline_read", "get_mm_cmdline", "environ_read", "m_start", "proc_get_vma", "show_smaps_rollup", "pagemap_read", "show_numa_map", "proc_map_files_lookup", "map_files_get_link",
	"task_numa_work", "khugepaged*", "collapse_huge_page", "userfaultfd*", "process_madvise",
}

// mmapWork is what the one who holds it may be at.
var mmapWork = []string{
	"exit_mmap", "unmap_*", "zap_*", "do_munmap", "do_vmi_*", "__do_munmap", "populate_vma_page_range", "__mm_populate", "faultin_page", "__get_user_pages",
	"mprotect_fixup", "change_protection*", "move_page_tables", "collapse_huge_page", "copy_page_range", "dup_mmap", "dup_mm", "smap_gather_stats", "walk_page_range", "handle_mm_fault", "mmap_region", "do_mmap",
}

func kernelMmapLock() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "kernel.mmap_lock",
		Title: "a process's address-space lock",
		Means: "All threads of a process share one lock over its memory map. While one of them changes the map (a big munmap, mprotect, fork) or fills it, the others stop at their next page fault or mmap; so do ps and others who look into that process.",
		Proof: "The victims slept in a rwsem that was asked for by a page fault, mmap, munmap, mprotect or a reader of /proc/PID/maps. Told from other kernel locks by the caller that stands right above the lock. The thread that held it is read from the lock itself (BPF, Linux 5.19).",
		Remedy: []string{
			"Now: look at what the holder does, `cat /proc/PID/task/TID/stack`.",
			"So that it does not come back: map and unmap in smaller pieces, use MADV_DONTNEED instead of munmap, an allocator with per-thread arenas, MAP_POPULATE at start only; keep monitoring from reading smaps of large processes.",
		},
		Reads:    []string{sourceLedger, "tasks.stack", "tasks.run_ns", "procs.comm", "procs.rss_bytes", "contention.holder_tid", "contention.address_space_of"},
		Subsumes: []freezeframe.Cause{"kernel.hung_task", "dep.remote_unresponsive", "app.worker_pool_exhausted", "net.accept_queue_overflow"},
		Judge:    judgeMmapLock,
	}
}

func onMmapLock(m *moment) bool {
	switch m.wait.Class {
	case freezeframe.KernelLock, freezeframe.SwapIn, freezeframe.Unseen:
		return inFrames(lockCaller(m.wait.Stack), mmapCallers...)
	}
	return false
}

func judgeMmapLock(w freezeframe.Window) []freezeframe.Finding {
	var out []freezeframe.Finding
	ms := roots(w, onMmapLock)
	for _, b := range split(ms, addressSpace) {
		claim := worth(w, b.spans())
		if claim == nil || b.key == 0 {
			continue
		}
		s := core(claim)
		ps := processesIn(w, around(s))
		f := freezeframe.Finding{
			Culprit: ps.blame(freezeframe.Party{PID: b.key}), Explains: claim, Confidence: seen, Chain: story(b.moments),
			Evidence: []freezeframe.Evidence{evidence("tasks", "stack", "asked for in %s", lockCaller(b.longest().wait.Stack))},
		}
		holder := ""
		var most uint64
		waiting := map[int]bool{}
		for i := range b.moments {
			waiting[b.moments[i].who.TID] = true
		}
		for _, t := range threadsIn(w, s) {
			if t.pid != b.key || waiting[t.tid] {
				continue
			}
			if n := t.stackIn(w, mmapWork...); n > 0 || t.load() >= 0.5 {
				if score := t.run.sum + uint64(n)*50e6; score > most {
					most, holder = score, fmt.Sprintf("thread %d (%s)", t.tid, t.comm)
				}
			}
		}
		if held := holdings(w, b.moments); len(held) > 0 && held[0].addressSpaceOf == b.key {
			h := &held[0]
			f.Confidence = proven
			what := fmt.Sprintf("thread %d (%s)", h.holder.TID, h.holder.Comm)
			if h.holder.PID != b.key {
				// It looks into the other's memory map, as ps and smaps do.
				f.Culprit = ps.blame(h.holder)
				what = named(f.Culprit.Comm, h.holder.PID)
			}
			f.Evidence = append(f.Evidence, evidence("contention", "holder_tid", "%s had the lock when they began to wait, for %s of it", what, length(h.waited)))
		} else if holder != "" {
			f.Confidence = proven
			f.Evidence = append(f.Evidence, evidence("tasks", "run_ns", "meanwhile %s of that process worked on its memory map", holder))
		}
		if p := ps.byPID[b.key]; p != nil {
			f.Evidence = append(f.Evidence, evidence("procs", "rss_bytes", "%s has %s resident in %d threads", p, size(p.rss), p.threads))
		}
		f.Summary = fmt.Sprintf("Threads waited %s for the address-space lock of %s.", length(claim.Length()), named(f.Culprit.Comm, b.key))
		out = append(out, f)
	}
	return append(out, mention(w, onMmapLock, func(m *moment) freezeframe.Culprit {
		return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: addressSpace(m), Comm: m.who.Comm}
	}, "waited for an address-space lock")...)
}

// addressSpace is the process whose lock it is: the waiter's own, or that
// whose /proc files it reads.
func addressSpace(m *moment) int {
	if rest, ok := strings.CutPrefix(m.wait.File, "/proc/"); ok {
		if pid, err := strconv.Atoi(word(rest, "/")); err == nil {
			return pid
		}
	}
	return m.who.PID
}
