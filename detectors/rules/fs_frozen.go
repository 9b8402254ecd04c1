package rules

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"freezeframe"
)

// quietDevice is how little the device of a frozen filesystem may have to do.
const quietDevice = 0.2

// freezers are the programs that freeze a filesystem, for a snapshot mostly.
var freezers = []string{"fsfreeze", "xfs_freeze", "lvcreate", "lvm", "dmsetup", "qemu-ga", "vgcfgbackup", "snapper", "zfs", "btrfs", "vmtoolsd", "VGAuthService", "dattobd", "elastio-snap"}

func fsFrozen() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.frozen",
		Title: "a frozen filesystem",
		Means: "Someone froze the filesystem (for a snapshot or a backup) and had not thawed it. Until then everything that wants to write to it stands still and cannot be killed; reading goes on.",
		Proof: "The writers slept at the filesystem's freeze lock (percpu_rwsem_wait below __sb_start_write, a write or a page fault) while its device had nothing to do. Told from a busy or hung disk by the idle device.",
		Remedy: []string{
			"Now: `fsfreeze -u MOUNTPOINT` (on XFS also `xfs_freeze -u MOUNTPOINT`).",
			"So that it does not come back: look at the backup's hooks (qemu-guest-agent's fsfreeze-hook, pre and post scripts of the snapshot tool) for one that fails or takes long before it thaws.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "mounts.mountpoint", "mounts.source", "mounts.dev", "diskstats.io_us", "procs.comm", "procs.cmdline"},
		Subsumes: bringsAbout("fs.journal_commit", "runtime.jvm_gc", "mem.file_thrash"),
		Judge:    judgeFrozen,
	}
}

// isFrozen tells whether a wait is one for a thaw. Fork, exit and CPU hotplug
// sleep in the same kind of lock.
func isFrozen(m *moment) bool {
	if !inClass(freezeframe.FilesystemWait, freezeframe.KernelLock, freezeframe.SwapIn, freezeframe.DeviceWait, freezeframe.Unseen)(m) {
		return false
	}
	w := m.wait
	if in(w, "__sb_start_write", "sb_start_write", "sb_start_pagefault", "sb_start_intwrite", "ext4_journal_check_start", "vfs_check_frozen") {
		return true
	}
	if !in(w, "percpu_rwsem_wait", "__percpu_down_read", "percpu_down_read*") {
		return false
	}
	if in(w, "cgroup_*", "copy_process", "kernel_clone", "exit_signals", "do_exit", "cpus_read_lock", "cpuset_*", "threadgroup_*", "freeze_super", "thaw_super*") {
		return false
	}
	// Without a stack the system call has to say that it was about a file.
	return w.Stack != "" || strings.HasPrefix(w.File, "/") || slices.Contains([]string{"write", "pwrite64", "writev", "pwritev", "openat", "open", "rename", "unlink", "mkdir", "ftruncate", "fallocate"}, w.Syscall)
}

func judgeFrozen(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, isFrozen)
	if worth(w, ms.spans()) == nil {
		return nil
	}
	mounted := mounts(w, around(ms.hull()))
	// A wait without a file (a page fault, an open) was at the mount that
	// another one names.
	known := ""
	point := func(m *moment) string {
		if mt := mountOfMoment(w, mounted, m); mt != nil {
			return mt.point
		}
		return ""
	}
	for _, b := range split(ms, point) {
		if b.key != "" && known == "" {
			known = b.key
		}
	}
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string { return orElse(point(m), known) }) {
		claim := worth(w, b.spans())
		if claim == nil {
			continue
		}
		s := core(claim)
		f := freezeframe.Finding{Explains: claim, Confidence: seen, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: b.key}}
		long := b.longest()
		f.Evidence = append(f.Evidence, evidence("tasks", "stack", "writers slept in %s", quote(orElse(long.wait.Stack, long.wait.Wchan))))
		where := orElse(b.key, "a filesystem")
		if b.key == "" {
			f.Culprit, f.Confidence = freezeframe.Culprit{Kind: freezeframe.CulpritHost}, counted
		} else {
			f.Remedy = []string{"`fsfreeze -u " + b.key + "`"}
			mt := mountOf(mounted, b.key)
			f.Culprit.Device = mt.source
			if d := diskOf(disks(w, s), mt.dev); d != nil {
				f.Evidence = append(f.Evidence, evidence("diskstats", "io_us", "its device %s had work only %s of the time", d.name, pct(d.busy)))
				if d.busy <= quietDevice {
					f.Confidence = proven
				}
			}
		}
		for _, p := range processesIn(w, freezeframe.Span{Start: s.Start.Add(-growTime), End: s.End}).list {
			if slices.Contains(freezers, path.Base(p.comm)) && (b.key == "" || p.comm != "zfs" && p.comm != "btrfs" || strings.Contains(p.cmdline, b.key)) && p.first > s.Start.Add(-growTime+sweep) {
				f.Culprit.PID, f.Culprit.Comm = p.pid, p.comm
				f.Evidence = append(f.Evidence, evidence("procs", "comm", "%s began shortly before", p))
				break
			}
		}
		f.Summary = fmt.Sprintf("%s was frozen; writing to it stood still for %s.", where, length(claim.Length()))
		out = append(out, f)
	}
	return out
}
