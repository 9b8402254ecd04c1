package rules

import (
	"fmt"
	"maps"
	"slices"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// stormFlushes a second, and stormFlushTimes more than before, are a storm.
	stormFlushes    = 20
	stormFlushTimes = 3
	// manyFlushes: one flush for so many requests is flushes, not bytes.
	manyFlushes = 8
	// flushTime is the share of its time from which on a device works for
	// flushes, however few there are: one that has much to write out takes long.
	flushTime = 0.3
	// syncing is how much of its time a process must be seen in a sync to be one
	// that flushes.
	syncing = 0.4
	// mainFlusher of a device's flushes is who asks for them.
	mainFlusher = 0.5
	// leastFlushes, and as many a second, are more than the end of one copy.
	leastFlushes = 4
	// largerLoad is how many times as much somebody else must move to be the
	// larger load.
	largerLoad = 4
)

// inSync is where a thread is that makes a disk write out its cache.
var inSync = []string{"do_fsync", "__x64_sys_fsync", "__x64_sys_fdatasync", "__do_sys_fsync", "vfs_fsync*", "ext4_sync_file", "xfs_file_fsync", "btrfs_sync_file", "f2fs_sync_file", "blkdev_fsync", "blkdev_issue_flush", "ksys_sync_file_range", "__do_sys_syncfs", "__x64_sys_syncfs", "ksys_sync", "__x64_sys_sync", "__x64_sys_msync", "__do_sys_msync", "generic_write_sync", "iomap_dio_complete", "sync_filesystem", "iterate_supers"}

var inJournal = []string{"jbd2_*", "wait_transaction_locked", "add_transaction_credits", "start_this_handle", "do_get_write_access", "xlog_*", "xfs_log_*", "__xfs_log_force*", "btrfs_commit_transaction", "btrfs_wait_for_commit", "wait_current_trans", "wait_for_commit", "btrfs_sync_log"}

// forJournalSpace is where a thread waits to begin a change of metadata.
var forJournalSpace = []string{"add_transaction_credits", "start_this_handle", "__jbd2_log_wait_for_space", "wait_transaction_locked", "xlog_grant_head*", "btrfs_start_transaction"}

func ioFlushStorm() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.flush_storm",
		Title: "another process that syncs without end",
		Means: "A process asked again and again for its data to be on disk for certain (fsync). Each time the device has to empty its cache, and everybody's requests wait for that.",
		Proof: "The victims waited for the device or its journal while it spent its time on flushes, or flushes ran far faster than before (/proc/diskstats), and another process was seen in fsync most of the time and wrote what was flushed. Told from io.device_saturated: it is flushes, not bytes, and nobody else moves far more.",
		Remedy: []string{
			"Now: stop it for a moment (`kill -STOP PID`, later `kill -CONT PID`), or `ionice -c 3 -p PID`.",
			"So that it does not come back: let it sync in batches (innodb_flush_log_at_trx_commit, synchronous_commit, appendfsync everysec), or give it a device of its own; a drive with power-loss protection makes flushes cheap.",
		},
		Reads:    []string{sourceLedger, "diskstats.flushes", "diskstats.flush_us", "diskstats.writes", "tasks.stack", "tasks.syscall", "tasks.file", "procs.write_bytes", "mounts.dev", "block_issuers.flushes"},
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
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if d := deviceOf(w, all, mounted, m); d != nil {
			return d.name
		}
		return ""
	}) {
		claim, d := worth(w, b.spans()), deviceNamed(all, b.key)
		if claim == nil || d == nil {
			continue
		}
		if f, ok := stormOn(w, s, b.moments, d, all, earlier, mounted); ok {
			f.Explains = claim
			f.Summary = fmt.Sprintf("%s made %s flush its cache %.0f times a second; the work waited for it for %s.", named(f.Culprit.Comm, f.Culprit.PID), d.name, flusher(all, d).flushes, length(claim.Length()))
			out = append(out, f)
		}
	}
	return out
}

// stormOn judges the waits for one device.
func stormOn(w freezeframe.Window, s freezeframe.Span, ms moments, d *disk, all, earlier []disk, mounted []mount) (freezeframe.Finding, bool) {
	flushed := flusher(all, d)
	calm := 0.0
	if b := deviceNamed(earlier, flushed.name); b != nil {
		calm = b.flushes
	}
	risen := flushed.flushes >= stormFlushes && flushed.flushes >= stormFlushTimes*calm
	// Where each flush is told with who asked for it, that decides. A journal
	// asks for its own, whoever synced: then who was seen in a sync does.
	issuers := issuersOn(w, around(s), flushed.name)
	flushes := func(i *issuer) uint64 { return i.flushes }
	asker := largest(issuers, append(ms.pids(), ourPIDs(w)...), flushes)
	// A slow disk gets few flushes done, and the victims may ask for more of them;
	// but who has most of the disk's bytes moved by its own syncs is the reason.
	synced := asker != nil && float64(asker.flushes) >= max(leastFlushes, leastFlushes*around(s).Length().Seconds()) &&
		shareOf(issuers, asker, func(i *issuer) uint64 { return i.bytes }) >= mainFlusher
	if asker != nil && !synced && shareOf(issuers, asker, flushes) < mainFlusher {
		asker = nil
	}
	if !risen && !synced && flushed.flushes < stormFlushes && flushed.flushing < flushTime {
		return freezeframe.Finding{}, false
	}
	ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-writeBehind), End: s.End.Add(sweepMargin)})
	victims := map[int]bool{}
	rest := float64(d.bytes)
	for _, pid := range ms.pids() {
		victims[pid] = true
		if p := ps.byPID[pid]; p != nil {
			rest -= float64(p.moved())
		}
	}
	best := syncersOn(w, s, ps, victims, d, all, mounted)
	if asker != nil && (best == nil || !best.pids[asker.pid]) {
		best = &syncers{pid: asker.pid, comm: asker.comm, pids: map[int]bool{}}
		for _, pid := range asker.pids {
			best.pids[pid] = true
		}
		best.moved = asker.bytes
	}
	if best == nil {
		return freezeframe.Finding{}, false
	}
	// Whoever syncs a little as always is in its sync all the time, too, when
	// the device is full of somebody else's work.
	larger := false
	if bytes := func(i *issuer) uint64 { return i.bytes }; len(issuers) > 0 {
		// What was moved on this disk is known, and by whom.
		best.moved = 0
		for i := range issuers {
			if x := &issuers[i]; best.pids[x.pid] || x.comm == best.comm {
				best.moved += x.bytes
			}
		}
		other := largest(issuers, append(slices.Collect(maps.Keys(best.pids)), ms.pids()...), bytes)
		larger = other != nil && other.comm != best.comm && other.bytes > largerLoad*best.moved
	} else {
		for _, p := range ps.list {
			larger = larger || !victims[p.pid] && !p.kernel() && !best.pids[p.pid] && p.moved() > largerLoad*best.moved
		}
	}
	own := !larger && float64(best.moved) >= leastMover*rest
	if !own && !synced && !(risen && manyFlushes*flushed.flushes >= flushed.done) {
		return freezeframe.Finding{}, false
	}
	f := freezeframe.Finding{Culprit: ps.blame(freezeframe.Party{PID: best.pid, Comm: best.comm}), Confidence: seen, Chain: story(ms)}
	if risen || flushed.flushing >= flushTime {
		f.Confidence = proven
	}
	if len(best.pids) > 1 {
		f.Culprit.Count = len(best.pids)
	}
	f.Culprit.Device = d.name
	f.Evidence = []freezeframe.Evidence{
		{Text: "flushes of " + flushed.name + " a second", Source: "diskstats", Column: "flushes", Before: count(calm), During: count(flushed.flushes)},
		evidence("diskstats", "flush_us", "%s spent %s of the time on flushes", flushed.name, pct(flushed.flushing)),
	}
	if len(best.at) > 0 {
		f.Evidence = append(f.Evidence, evidence("tasks", "syscall", "%s was seen in fsync in %d of %d samples", named(best.comm, best.pid), len(best.in), len(best.at)))
	}
	if asker != nil {
		f.Confidence = proven
		f.Evidence = append(f.Evidence, evidence("block_issuers", "flushes", "%s asked %s for %d flushes, %s of all", named(asker.comm, asker.pid), flushed.name, asker.flushes, pct(shareOf(issuers, asker, flushes))))
	}
	if best.moved > 0 {
		f.Evidence = append(f.Evidence, evidence("procs", "write_bytes", "%s moved %s", named(best.comm, best.pid), size(best.moved)))
	}
	return f, true
}

// flusher is the device that counts a device's flushes: one that is built on
// another (LVM, RAID) passes them on and counts none of its own.
func flusher(all []disk, d *disk) *disk {
	best := d
	for i := range all {
		if o := &all[i]; d.flushes == 0 && stacked(d.name) && o.flushes > best.flushes && 2*o.bytes >= d.bytes {
			best = o
		}
	}
	return best
}

// stacked tells whether a device is built on others.
func stacked(name string) bool { return hasPrefix(name, "dm-", "md", "loop", "drbd", "bcache") }

// syncCalls are the system calls that make a disk write out its cache.
var syncCalls = []string{"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync"}

// syncers are processes alike (one command in one cgroup) that sync.
type syncers struct {
	pid     int // the one seen in it most
	comm    string
	pids    map[int]bool
	at, in  map[freezeframe.Instant]bool // readings that have them; of those, in which one was in a sync
	samples map[int]int                  // in a sync, by pid
	moved   uint64
}

// syncersOn returns who, the victims left out, was in a sync of something on
// the device most of the time: of several, who moved most.
func syncersOn(w freezeframe.Window, s freezeframe.Span, ps *processes, victims map[int]bool, d *disk, all []disk, mounted []mount) *syncers {
	type id struct{ comm, cgroup string }
	groups := map[id]*syncers{}
	var order []*syncers
	stall := w.Stall()
	ours := func(pid int) bool {
		return slices.ContainsFunc(stall.Symptoms, func(sy freezeframe.Symptom) bool { return sy.Own && suffers(&sy, pid) })
	}
	series := w.Between("tasks", s)
	series.Each([]string{"pid", "comm", "syscall", "stack", "file"}, func(at freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		pid := int(v[0])
		p := ps.byPID[pid]
		if victims[pid] || p != nil && p.kernel() || p == nil && hasPrefix(w.Text(v[1]), "kworker/", "jbd2/") {
			return
		}
		k := id{comm: w.Text(v[1])}
		if p != nil {
			k = id{p.comm, p.cgroup}
		}
		g := groups[k]
		if g == nil {
			g = &syncers{comm: k.comm, pids: map[int]bool{}, at: map[freezeframe.Instant]bool{}, in: map[freezeframe.Instant]bool{}, samples: map[int]int{}}
			groups[k] = g
			order = append(order, g)
		}
		g.at[at] = true
		// Who waits for room in the journal empties the cache for the journal's
		// sake: it asked for no sync.
		if stack := w.Text(v[3]); !slices.Contains(syncCalls, kernel.Syscall(int64(v[2]))) && (!inFrames(stack, inSync...) || inFrames(stack, forJournalSpace...)) {
			return
		}
		if m := mountOf(mounted, w.Text(v[4])); m != nil {
			// A sync of another disk is not what is waited for here.
			if o := diskOf(all, m.dev); o != nil && o.name != d.name && !stacked(o.name) && !stacked(d.name) {
				return
			}
		}
		g.in[at], g.pids[pid] = true, true
		g.samples[pid]++
	})
	var best *syncers
	for _, g := range order {
		if len(g.at) < 2 || float64(len(g.in)) < syncing*float64(len(g.at)) {
			continue
		}
		for pid, n := range g.samples {
			if g.pid == 0 || n > g.samples[g.pid] || n == g.samples[g.pid] && pid < g.pid {
				g.pid = pid
			}
			if p := ps.byPID[pid]; p != nil {
				g.moved += p.moved()
			}
		}
		if ours(g.pid) {
			continue
		}
		if best == nil || g.moved > best.moved || g.moved == best.moved && len(g.in) > len(best.in) {
			best = g
		}
	}
	return best
}
