package rules

import (
	"fmt"

	"freezeframe"
)

// idleDevice is how little a device may have had to do for the waiting to be
// the limit's.
const idleDevice = 0.5

// throttling is where a thread sleeps that its cgroup's I/O limit holds back.
var throttling = []string{"blk_throtl*", "__blk_throtl*", "tg_*", "blkcg_maybe_throttle*", "blkcg_schedule_throttle", "ioc_rqos_throttle", "iolatency_*", "blkcg_iolatency_throttle", "io_schedule_prepare_throttle"}

func ioCgroupThrottled() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.cgroup_throttled",
		Title: "a cgroup's I/O limit",
		Means: "The cgroup (the unit or container) may only read or write so much a second, and had used that up. Its requests were held back although the device was free.",
		Proof: "The victims waited for a block device while it was mostly idle, and their own cgroup, or one above it, has an io.max or blkio.throttle limit.",
		Remedy: []string{
			"Now: lift the limit, `systemctl set-property UNIT IOReadBandwidthMax= IOWriteBandwidthMax= IOReadIOPSMax= IOWriteIOPSMax=`, on cgroup v1 write `MAJ:MIN 0` to the blkio.throttle.* files.",
			"So that it does not come back: prefer IOWeight=, which only counts while others want the device too; set limits by measured need.",
		},
		Reads:    []string{sourceLedger, "procs.cgroup", "cgroups.io_limited", "cgroups.io_read_bytes", "cgroups.io_write_bytes", "diskstats.io_us", "mounts.dev"},
		Subsumes: bringsAbout("io.device_saturated", "fs.journal_commit", "fs.dirty_throttled", "runtime.jvm_gc"),
		Judge:    judgeIOThrottled,
	}
}

func judgeIOThrottled(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool {
		waits := m.wait.Class == freezeframe.DeviceWait || m.wait.Class == freezeframe.FilesystemWait && (in(m.wait, inJournal...) || in(m.wait, "folio_wait*", "wait_on_page*"))
		return waits && !in(m.wait, inSwap...)
	})
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	s := core(claim)
	all, mounted, ps := disks(w, s), mounts(w, around(s)), processesIn(w, around(s))
	limits := map[int]*control{}
	cs := cgroupsIn(w, around(s))
	for _, pid := range ms.pids() {
		// The root's limit is everybody's: that makes a slow device.
		limited := func(c *control) bool { return c.path() != "/" && c.max("io_limited") != 0 }
		limits[pid] = cs.of(ps.byPID[pid], "blkio", limited) // on v2 it is the one tree
	}
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		c := limits[m.who.PID]
		if c == nil {
			return ""
		}
		if d := deviceOf(w, all, mounted, m); d != nil && d.busy >= idleDevice && !in(m.wait, throttling...) {
			return ""
		}
		return c.name
	}) {
		claim := worth(w, b.spans())
		if b.key == "" || claim == nil {
			continue
		}
		c := limits[b.moments[0].who.PID]
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: c.path()}, Explains: claim, Confidence: seen, Chain: story(b.moments),
			Summary: fmt.Sprintf("The I/O limit of %s held its requests back for %s while the device was free.", c.path(), length(claim.Length())),
			Evidence: []freezeframe.Evidence{evidence("cgroups", "io_limited", "%s has an I/O limit; it read %s and wrote %s meanwhile",
				c.path(), size(c.grew("io_read_bytes")), size(c.grew("io_write_bytes")))},
		}
		if d := deviceOf(w, all, mounted, b.longest()); d != nil {
			f.Confidence = proven
			f.Evidence = append(f.Evidence, evidence("diskstats", "io_us", "%s had work only %s of the time", d.name, pct(d.busy)))
		}
		if b.share(func(m *moment) bool { return in(m.wait, throttling...) }) > 0.3 {
			f.Confidence = proven
		}
		out = append(out, f)
	}
	return out
}
