package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

const (
	// busyDevice is the share of the time a device must have had work.
	busyDevice = 0.75
	// deepQueue is how many requests must have stood in it on average, when no
	// process is seen to have moved the bytes.
	deepQueue = 2
	// mainMover is the share of a device's bytes from which on a process is
	// named for them.
	mainMover = 0.2
	// leastMover is the share of a device's bytes without which no process is,
	// were it the only one seen to move any: journals and metadata multiply what
	// small writes cost, but not beyond that.
	leastMover = 0.05
	// writeBehind is how long before the wait written data may have been
	// written to the page cache and still be what the device works on.
	writeBehind = 2 * time.Second
)

func ioDeviceSaturated() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.device_saturated",
		Title: "a disk that was busy with others' work",
		Means: "The block device had more requests than it can do at once, so those of the victim stood behind the others'.",
		Proof: "The victims waited for a block device while it was busy all the time and completed requests (/proc/diskstats), most of them another process's (each request by BPF, else the bytes of /proc/PID/io). Told from a throttled cgroup (device idle), from a hung device (nothing completes) and from swapping (pages from swap).",
		Remedy: []string{
			"Now: `ionice -c 3 -p PID`, or stop it for a moment (`kill -STOP PID`, later `kill -CONT PID`).",
			"So that it does not come back: `systemctl set-property UNIT IOWeight=10` or IOReadBandwidthMax=/IOWriteBandwidthMax= for batch work, `--bwlimit` for rsync, backups at another hour or from a snapshot elsewhere; the bfq or mq-deadline scheduler.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "diskstats.io_us", "diskstats.in_flight", "diskstats.weighted_us", "diskstats.reads", "diskstats.writes", "procs.read_bytes", "procs.write_bytes", "mounts.mountpoint", "mounts.dev", "cgroups.io_limited", "tasks.stack", "tasks.run_ns", "block_issuers.device_ns", "block_issuers.read_bytes"},
		Subsumes: bringsAbout("runtime.jvm_gc"),
		Judge:    judgeDeviceSaturated,
	}
}

// deviceOf finds the device a moment waits for: that of its file's mount, else
// the busiest.
func deviceOf(w freezeframe.Window, all []disk, ms []mount, m *moment) *disk {
	if name, ok := strings.CutPrefix(m.wait.File, "/dev/"); ok {
		if d := deviceNamed(all, name); d != nil {
			return d
		}
	}
	if mt := mountOfMoment(w, ms, m); mt != nil {
		if d := diskOf(all, mt.dev); d != nil {
			return d
		}
	}
	if len(all) > 0 && all[0].busy > 0 {
		return &all[0]
	}
	return nil
}

func judgeDeviceSaturated(w freezeframe.Window) []freezeframe.Finding {
	journal := func(m *moment) bool { return m.wait.Class == freezeframe.FilesystemWait && in(m.wait, inJournal...) }
	ms := roots(w, func(m *moment) bool {
		return m.wait.Class == freezeframe.DeviceWait && !in(m.wait, inSwap...) && !in(m.wait, throttling...) || journal(m)
	})
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	all, mounted := disks(w, s), mounts(w, around(s))
	// A journal is slow on a device that is full of what never goes through it;
	// else it is a matter of its own.
	past := map[string]bool{}
	ms = ms.where(func(m *moment) bool {
		if !journal(m) {
			return true
		}
		d := deviceOf(w, all, mounted, m)
		if d == nil {
			return false
		}
		if _, known := past[d.name]; !known {
			past[d.name] = pastJournal(w, s, ms, d)
		}
		return past[d.name]
	})
	if claim = worth(w, ms.spans()); claim == nil {
		return nil
	}
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if d := deviceOf(w, all, mounted, m); d != nil {
			return d.name
		}
		return ""
	}) {
		claim := worth(w, b.spans())
		d := deviceNamed(all, b.key)
		if claim == nil || d == nil || d.done == 0 {
			continue
		}
		// What the root cgroup's limit holds back does not count as the device's
		// work, but then the device as a whole is as slow as that.
		capped := d.busy < busyDevice && deviceLimited(w, around(s))
		if !capped && (d.busy < busyDevice || d.inFlight == 0) {
			continue
		}
		f := freezeframe.Finding{Explains: claim, Chain: story(b.moments), Evidence: []freezeframe.Evidence{
			evidence("diskstats", "io_us", "%s had work %s of the time, %.1f requests on average, and completed %.0f a second", d.name, pct(d.busy), d.queue, d.done),
		}}
		if was := deviceNamed(disks(w, before(w)), d.name); was != nil {
			f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: d.name + " busy", Source: "diskstats", Column: "io_us", Before: pct(was.busy), During: pct(d.busy)})
		}
		who, known := moverOn(w, s, b.moments, d)
		if !known {
			who = moverAmong(w, s, b.moments, d)
		}
		switch {
		case capped && (who == nil || slices.Contains(awaited(w, b.moments).pids(), who.culprit.PID)):
			continue
		case who == nil && d.queue < deepQueue:
			continue // busy, but with next to nothing: slow, not saturated
		case who == nil:
			f.Culprit, f.Confidence = freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: d.name}, counted
		default:
			f.Culprit, f.Confidence = who.culprit, who.confidence
			f.Culprit.Device = d.name
			f.Evidence = append(f.Evidence, who.evidence)
			if len(b.pids()) == 1 && b.pids()[0] == who.culprit.PID {
				f.Confidence = counted // its own work filled the device
			}
		}
		f.Summary = fmt.Sprintf("%s was busy %s of the time; the work waited for it for %s.", d.name, pct(d.busy), length(claim.Length()))
		if capped {
			f.Confidence = min(f.Confidence, seen)
			f.Summary = fmt.Sprintf("%s is limited for the whole machine, and %s used it up; the work waited for it for %s.", d.name, named(f.Culprit.Comm, f.Culprit.PID), length(claim.Length()))
			f.Evidence = append(f.Evidence, evidence("cgroups", "io_limited", "the root cgroup has an I/O limit, which holds for everybody"))
		}
		out = append(out, f)
	}
	return out
}

// A mover is who filled a device, and how that is known.
type mover struct {
	culprit    freezeframe.Culprit
	confidence float64
	evidence   freezeframe.Evidence
}

// moverOn is who filled a device by the requests that were made of it; known
// tells that they were told, and mover may be nil for nobody in particular.
func moverOn(w freezeframe.Window, s freezeframe.Span, ms moments, d *disk) (who *mover, known bool) {
	issuers := issuersOn(w, around(s), d.name)
	if len(issuers) == 0 {
		return nil, false
	}
	best := largest(issuers, append(awaited(w, ms).pids(), ourPIDs(w)...), inDevice)
	share := 0.0
	if best != nil {
		share = shareOf(issuers, best, inDevice)
	}
	if share < mainMover {
		// Nobody else did much: those who wait may have filled it themselves.
		if own := largest(issuers, ourPIDs(w), inDevice); own != nil && shareOf(issuers, own, inDevice) >= 0.5 {
			best, share = own, shareOf(issuers, own, inDevice)
		} else {
			return nil, true
		}
	}
	how := ""
	if best.via != "" {
		how = ", most of it written back from memory"
		if best.via == "loop" {
			how = ", through a loop device"
		}
	}
	return &mover{best.culprit(), proven, evidence("block_issuers", "device_ns", "%s had %s do %d requests of %s, %s of the time of all%s",
		named(best.comm, best.pid), d.name, best.requests, size(best.bytes), pct(share), how)}, true
}

// moverAmong is who filled a device by what processes moved anywhere; nil for
// nobody in particular.
func moverAmong(w freezeframe.Window, s freezeframe.Span, ms moments, d *disk) *mover {
	confidence := proven
	p, share := moverOf(w, s, writeBehind, ms, d.bytes)
	if p == nil {
		// A disk may write out for long what was written to memory at once.
		confidence = seen
		if p, share = moverOf(w, s, s.Start.Sub(w.Span().Start), ms, d.bytes); p == nil {
			return nil
		}
	}
	return &mover{p.culprit(), confidence, evidence("procs", "write_bytes", "%s read %s and wrote %s, %s of what all processes moved", p, size(p.read.sum), size(p.written.sum), pct(share))}
}

// inDirect is where a thread is that reads or writes past the page cache, and
// so past the journal.
var inDirect = []string{"iomap_dio_*", "__iomap_dio_rw", "ext4_dio_*", "xfs_file_dio_*", "btrfs_direct_*", "__blkdev_direct_IO*", "blkdev_direct_*", "dio_*", "do_blockdev_direct_IO", "__blockdev_direct_IO"}

// inOrdered is where a journal's thread waits for the data that must be on disk
// before it: then others' written data is what the journal itself waits for.
var inOrdered = []string{"filemap_fdatawait*", "__filemap_fdatawait*", "folio_wait_writeback", "journal_finish_inode_data*", "jbd2_journal_finish_inode_data*"}

// pastJournal tells whether a device is full of the reads or direct I/O of one
// process that does not suffer itself.
func pastJournal(w freezeframe.Window, s freezeframe.Span, ms moments, d *disk) bool {
	if d.busy < busyDevice || d.queue < deepQueue {
		return false
	}
	mover, _ := moverOf(w, s, writeBehind, ms, d.bytes)
	if mover == nil || slices.Contains(ms.pids(), mover.pid) {
		return false
	}
	direct, seen := 0, 0
	for _, t := range threadsIn(w, s) {
		switch {
		case t.pid == mover.pid:
			seen += t.seen
			direct += t.stackIn(w, inDirect...)
		case hasPrefix(t.comm, "jbd2/") && 2*t.stackIn(w, inOrdered...) > t.seen:
			return false
		}
	}
	return mover.read.sum > mover.written.sum || direct > 0 && 5*direct >= seen
}

// deviceLimited tells whether the root cgroup has an I/O limit: then it is a
// property of the device, and not of any cgroup.
func deviceLimited(w freezeframe.Window, s freezeframe.Span) bool {
	series := w.Between("cgroups", s)
	for name, key := range textKeys(w, &series) {
		if cgroupPath(name) == "/" && series.Max(key, "io_limited") != 0 {
			return true
		}
	}
	return false
}

func deviceNamed(all []disk, name string) *disk {
	for i := range all {
		if all[i].name == name && name != "" {
			return &all[i]
		}
	}
	return nil
}

// awaited returns the moments of those whom users waited for, or all when users
// waited for nobody: who fills a disk waits for it longest.
func awaited(w freezeframe.Window, ms moments) moments {
	all := w.Stall().Symptoms
	users := ms.where(func(m *moment) bool {
		i := m.account.Symptom
		return i >= 0 && i < len(all) && all[i].Probe != "stuck" && !all[i].Own
	})
	if len(users) == 0 {
		return ms
	}
	return users
}

// moverOf returns the process that moved most bytes, other than the victims
// unless they are the only ones, with its share of what all processes moved.
// It is nil when what it moved is next to nothing of the device's work: one
// that writes a line now and then is no reason for a full device, even when no
// other process is seen to have moved anything.
func moverOf(w freezeframe.Window, s freezeframe.Span, behind time.Duration, ms moments, deviceBytes uint64) (*process, float64) {
	ps := processesIn(w, freezeframe.Span{Start: s.Start.Add(-behind), End: s.End.Add(time.Second)})
	list := ps.ranked((*process).moved)
	var sum uint64
	for _, p := range list {
		sum += p.moved()
	}
	victims := map[int]bool{}
	for _, pid := range awaited(w, ms).pids() {
		victims[pid] = true
	}
	// Eight processes of a parallel copy are one mover: those alike count together,
	// and the one that moved most stands for them.
	type kind struct{ comm, cgroup string }
	alike := map[kind]uint64{}
	for _, p := range list {
		if !p.kernel() && !victims[p.pid] {
			alike[kind{p.comm, p.cgroup}] += p.moved()
		}
	}
	var best *process
	var moved uint64
	for _, p := range list {
		if m := alike[kind{p.comm, p.cgroup}]; !p.kernel() && !victims[p.pid] && m > moved {
			best, moved = p, m
		}
	}
	if best == nil || len(list) > 0 && moved < list[0].moved()/2 && victims[list[0].pid] {
		if len(list) > 0 && !list[0].kernel() {
			best, moved = list[0], list[0].moved() // nobody else did much
		}
	}
	if best == nil || float64(moved) < leastMover*float64(deviceBytes) ||
		float64(moved) < mainMover*float64(max(deviceBytes, sum)) && float64(moved) < 0.5*float64(sum) {
		return nil, 0
	}
	return best, ratio(float64(moved), float64(sum))
}
