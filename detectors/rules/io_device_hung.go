package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

const (
	// hungLeast is how long nothing must have come back from a device that has
	// work: flushes and garbage collection of good ones take less.
	hungLeast = 250 * time.Millisecond
	// hungShare of the waits for it must lie in such times.
	hungShare = 0.5
)

func ioDeviceHung() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.device_hung",
		Title: "a disk that does not answer",
		Means: "The block device had requests and completed none: it, its controller, its path or whatever serves it (a network, a hypervisor, the file of a loop device) was gone for that time, or a device of the device mapper (LVM, LUKS, multipath) was suspended.",
		Proof: "The victims waited for a block device that had requests in flight while its counters of completed ones (/proc/diskstats) stood still; with BPF, the age of its oldest request and whose it is. A suspended device of the mapper says so itself (/sys/block/dm-N/dm/suspended), and counts nothing. Told from a saturated or slow device, which completes some, and from a throttled cgroup or a frozen filesystem, which leave the device nothing to do.",
		Remedy: []string{
			"Now: look at the kernel's log for resets and timeouts, at the paths (`multipath -ll`), at the server of a network disk, at the volume's state with the cloud provider; for a device of the mapper at `dmsetup info` (State: SUSPENDED; `dmsetup resume NAME` lets its requests go) and at what changes it (lvcreate, pvmove, multipathd); for a loop device at the filesystem of its file.",
			"So that it does not come back: shorter timeouts (`/sys/block/DEV/device/timeout`, `fast_io_fail_tmo`), a second path or a mirror; replace a disk that does so again.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "diskstats.in_flight", "diskstats.reads", "diskstats.writes", "diskstats.flushes", "diskstats.discards", "mounts.mountpoint", "mounts.dev", "block.oldest_age_ns", "block.oldest_pid", "mapper.suspended", "mapper.name"},
		Subsumes: bringsAbout("io.device_saturated", "io.device_slow", "io.flush_storm", "fs.journal_commit", "fs.dirty_throttled", "mem.file_thrash", "runtime.jvm_gc"),
		Judge:    judgeDeviceHung,
	}
}

// hangs returns when a device had work and completed nothing, each long enough.
func hangs(w freezeframe.Window, s freezeframe.Span, name string) freezeframe.Spans {
	return stills(w, s, name, true)
}

// stills returns when a device completed nothing, each long enough: all such
// times, or those in which it had work.
func stills(w freezeframe.Window, s freezeframe.Span, name string, atWork bool) freezeframe.Spans {
	series := w.Between("diskstats", s)
	var out []freezeframe.Span
	var since, last freezeframe.Instant
	var done uint64
	any := false
	end := func() {
		if any && last.Sub(since) >= hungLeast {
			out = append(out, freezeframe.Span{Start: since, End: last})
		}
	}
	series.Each([]string{"in_flight", "reads", "writes", "flushes", "discards"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if w.Text(uint64(key)) != name {
			return
		}
		sum := v[1] + v[2] + v[3] + v[4]
		busy := int64(v[0]) > 0
		switch {
		case atWork && !busy:
			end()
			any = false
		case !any || sum != done:
			end()
			any, since = true, at
		}
		done, last = sum, at
	})
	end()
	return freezeframe.Union(out...)
}

// suspensions returns when a device of the mapper was suspended, and its name
// there. One begins after the last reading that saw it at work, and not before
// the last request that it completed.
func suspensions(w freezeframe.Window, s freezeframe.Span, name string) (out freezeframe.Spans, called string) {
	var spans []freezeframe.Span
	var since, last freezeframe.Instant
	series := w.Between("mapper", s)
	series.Each([]string{"suspended", "name"}, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if w.Text(uint64(key)) != name {
			return
		}
		setText(w, &called, v[1])
		switch n := len(spans); {
		case v[0] == 0:
			since = at
		case n > 0 && spans[n-1].Start == since && spans[n-1].End == last:
			spans[n-1].End = at
		default:
			if since == 0 {
				since = at // it was so when we first looked
			}
			spans = append(spans, freezeframe.Span{Start: since, End: at})
		}
		last = at
	})
	if len(spans) == 0 {
		return nil, called
	}
	return freezeframe.Union(spans...).And(stills(w, s, name, false)), called
}

func judgeDeviceHung(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, onDevice)
	if worth(w, ms.spans()) == nil {
		return nil
	}
	s := ms.hull()
	all, mounted := disks(w, s), mounts(w, around(s))
	var out []freezeframe.Finding
	for _, b := range split(ms, func(m *moment) string {
		if d := deviceOf(w, all, mounted, m); d != nil {
			return d.name
		}
		return ""
	}) {
		waited := worth(w, b.spans())
		if waited == nil || b.key == "" {
			continue
		}
		// The requests of those who wait were made as they began to.
		hung := hangs(w, around(s), b.key)
		suspended, called := suspensions(w, around(s), b.key)
		if suspended.Length() < hungLeast {
			suspended = nil
		}
		if hung = freezeframe.Union(append(hung, suspended...)...); len(hung) == 0 {
			continue
		}
		for i := range hung {
			hung[i].Start = hung[i].Start.Add(-edge)
			hung[i].End = hung[i].End.Add(edge)
		}
		claim := worth(w, waited.And(freezeframe.Union(hung...)))
		if claim == nil || float64(claim.Length()) < hungShare*float64(waited.Length()) {
			continue
		}
		if float64(suspended.And(claim).Length()) >= hungShare*float64(claim.Length()) {
			out = append(out, freezeframe.Finding{
				Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: b.key}, Explains: claim, Confidence: proven, Chain: story(b.moments),
				Summary:  fmt.Sprintf("%s (%s of the device mapper) was suspended and kept what it was asked for; the work waited for it for %s.", b.key, orElse(called, "a device"), length(claim.Length())),
				Evidence: []freezeframe.Evidence{evidence("mapper", "suspended", "the device mapper says that %s was suspended, for some %s", b.key, length(suspended.Length()))},
			})
			continue
		}
		d := deviceNamed(all, b.key)
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: b.key}, Explains: claim, Confidence: 0.9, Chain: story(b.moments),
			Summary:  fmt.Sprintf("%s had requests and completed none; the work waited for it for %s.", b.key, length(claim.Length())),
			Evidence: []freezeframe.Evidence{evidence("diskstats", "in_flight", "%s had up to %d requests in flight, and its counters of completed ones stood still for %s", b.key, d.inFlight, length(hung.Length()))},
		}
		if in, known := insideOf(w, around(s), b.key); known {
			if in.age < hungLeast {
				continue // each of its requests was answered in time
			}
			f.Confidence = proven
			whose := "of the kernel"
			if in.pid != 0 {
				whose = "of " + named(in.comm, in.pid)
			}
			f.Evidence = append(f.Evidence, evidence("block", "oldest_age_ns", "a %s %s had been in %s for %s", orElse(in.op, "request"), whose, b.key, length(in.age)))
		}
		out = append(out, f)
	}
	return out
}

// edge is how far from the truth a reading may begin and end a hang.
const edge = 60 * time.Millisecond
