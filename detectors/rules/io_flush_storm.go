package rules

import (
	"fmt"

	"freezeframe"
)

const (
	// stormFlushes a second, and stormFlushTimes more than before, are a storm.
	stormFlushes    = 20
	stormFlushTimes = 3
	// syncing is how much of its time a thread must be seen in a sync for its
	// process to be the one that flushes.
	syncing = 0.4
)

// inSync is where a thread is that makes a disk write out its cache.
var inSync = []string{"do_fsync", "__x64_sys_fsync", "__x64_sys_fdatasync", "__do_sys_fsync", "vfs_fsync*", "ext4_sync_file", "xfs_file_fsync", "btrfs_sync_file", "f2fs_sync_file", "blkdev_fsync", "blkdev_issue_flush", "ksys_sync_file_range", "__do_sys_syncfs", "__x64_sys_syncfs", "ksys_sync", "__x64_sys_sync", "__x64_sys_msync", "__do_sys_msync", "generic_write_sync", "iomap_dio_complete", "sync_filesystem", "iterate_supers"}

var inJournal = []string{"jbd2_*", "wait_transaction_locked", "add_transaction_credits", "start_this_handle", "do_get_write_access", "xlog_*", "xfs_log_*", "__xfs_log_force*", "btrfs_commit_transaction", "btrfs_wait_for_commit", "wait_current_trans", "wait_for_commit", "btrfs_sync_log"}

func ioFlushStorm() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.flush_storm",
		Title: "another process that syncs without end",
		Means: "A process asked again and again for its data to be on disk for certain (fsync). Each time the device has to empty its cache, and everybody's requests wait for that.",
		Proof: "The victims waited for the device or its journal while flushes ran far faster than before (/proc/diskstats), and another process's threads were seen in fsync most of the time. Told from io.device_saturated: it is flushes, not bytes.",
		Remedy: []string{
			"Now: stop it for a moment (`kill -STOP PID`, later `kill -CONT PID`), or `ionice -c 3 -p PID`.",
			"So that it does not come back: let it sync in batches (innodb_flush_log_at_trx_commit, synchronous_commit, appendfsync everysec), or give it a device of its own; a drive with power-loss protection makes flushes cheap.",
		},
		Reads:    []string{sourceLedger, "diskstats.flushes", "diskstats.flush_us", "tasks.stack", "procs.write_bytes", "mounts.dev"},
		Subsumes: bringsAbout("io.device_saturated", "fs.journal_commit", "runtime.jvm_gc"),
		Judge:    judgeFlushStorm,
	}
}

func judgeFlushStorm(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.DeviceWait && !in(m.wait, inSwap...) || m.wait.Class == freezeframe.FilesystemWait && in(m.wait, inJournal...)
	})
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	all, mounted := disks(w, s), mounts(w, around(s))
	earlier := disks(w, before(w))
	ms = ms.where(func(m *moment) bool {
		d := deviceOf(w, all, mounted, m)
		if d == nil {
			return false
		}
		was := deviceNamed(earlier, d.name)
		return d.flushes >= stormFlushes && (was == nil || d.flushes >= stormFlushTimes*was.flushes)
	})
	if claim = worth(w, ms.spans()); claim == nil {
		return nil
	}
	d := deviceOf(w, all, mounted, ms.longest())
	victims := map[int]bool{}
	for _, pid := range ms.pids() {
		victims[pid] = true
	}
	syncers := map[int]int{}
	var best *thread
	for _, t := range threadsIn(w, s) {
		n := t.stackIn(w, inSync...)
		if victims[t.pid] || t.seen < 2 || float64(n) < syncing*float64(t.seen) {
			continue
		}
		syncers[t.pid] += n
		if best == nil || syncers[t.pid] > syncers[best.pid] {
			best = t
		}
	}
	if best == nil {
		return nil
	}
	// Somebody else who moves nearly all the bytes is the larger load.
	ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-writeBehind), End: s.End})
	if list := ps.ranked((*process).moved); len(list) > 0 && list[0].pid != best.pid && d.flushing < 0.5 {
		mine := uint64(0)
		if p := ps.byPID[best.pid]; p != nil {
			mine = p.moved()
		}
		if list[0].moved() > 4*mine && !victims[list[0].pid] {
			return nil
		}
	}
	f := freezeframe.Finding{
		Culprit: ps.blame(freezeframe.Party{PID: best.pid, Comm: orElse(ps.name(best.pid), best.comm)}), Explains: claim, Confidence: proven, Chain: story(ms),
		Summary: fmt.Sprintf("%s made %s flush its cache %.0f times a second; the work waited for it for %s.", named(best.comm, best.pid), d.name, d.flushes, length(claim.Length())),
	}
	f.Culprit.Device = d.name
	was := 0.0
	if b := deviceNamed(earlier, d.name); b != nil {
		was = b.flushes
	}
	f.Evidence = []freezeframe.Evidence{
		{Text: "flushes of " + d.name + " a second", Source: "diskstats", Column: "flushes", Before: count(was), During: count(d.flushes)},
		evidence("tasks", "stack", "%s was seen in fsync in %d of %d samples", named(best.comm, best.tid), best.stackIn(w, inSync...), best.seen),
	}
	return []freezeframe.Finding{f}
}
