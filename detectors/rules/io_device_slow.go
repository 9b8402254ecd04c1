package rules

import (
	"fmt"
	"slices"
	"time"

	"freezeframe"
)

const (
	// slowLatency of a request, slowTimes what it was before, is a device that
	// has become slow; slowAlone where it had nothing to do before.
	slowLatency = 20 * time.Millisecond
	slowAlone   = 50 * time.Millisecond
	slowTimes   = 4
	// sameLoad is how many times as much work as before is still the same.
	sameLoad = 1.5
	// littleLoad a second may come on top of it.
	littleLoad      = 20
	littleLoadBytes = 2 << 20
	// largeRequest takes its time by itself.
	largeRequest = 256 << 10
)

func ioDeviceSlow() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "io.device_slow",
		Title: "a disk that has become slow",
		Means: "Each request took the device many times as long as before, although nobody asked more of it: it is failing, collecting garbage, out of credits, rebuilding, or what serves it (a network, a hypervisor, the file of a loop device) is slow.",
		Proof: "The victims waited for a block device whose requests took at least four times as long as before the stall (/proc/diskstats; with BPF each of them), while it did no more of them, and no more bytes, than before. Told from io.device_saturated by that, and from io.device_hung, which completes nothing.",
		Remedy: []string{
			"Now: `smartctl -a /dev/DEV`, the kernel's log, the volume's metrics with the cloud provider (burst credits, throttling), the state of a RAID or thin pool behind it; move what must answer to another device.",
			"So that it does not come back: replace the disk; volumes with provisioned IOPS; `fstrim` at quiet hours, room left free on flash.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "diskstats.read_us", "diskstats.write_us", "diskstats.reads", "diskstats.writes", "diskstats.weighted_us", "mounts.mountpoint", "mounts.dev", "procs.read_bytes", "procs.write_bytes", "block.p50_ns", "block.p99_ns", "block_issuers.read_bytes", "cgroups.io_limited"},
		Subsumes: bringsAbout("io.device_saturated", "io.flush_storm", "fs.journal_commit", "mem.file_thrash", "runtime.jvm_gc"),
		Judge:    judgeDeviceSlow,
	}
}

func judgeDeviceSlow(w freezeframe.Window) []freezeframe.Finding {
	ms := roots(w, func(m *moment) bool { return onDevice(m) && !in(m.wait, paced...) })
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
		if claim == nil || d == nil || d.done == 0 || d.busy < idleDevice || d.latency < slowLatency || deviceLimited(w, around(s)) {
			continue
		}
		was := disk{}
		if x := deviceNamed(earlier, d.name); x != nil {
			was = *x
		}
		if was.done >= 1 {
			if d.latency < slowTimes*was.latency || d.done > sameLoad*was.done+littleLoad || d.rate > sameLoad*was.rate+littleLoadBytes ||
				d.flushes > sameLoad*was.flushes+littleLoad {
				continue
			}
		} else if d.queue >= deepQueue || d.latency < slowAlone || d.rate > largeRequest*d.done {
			continue
		}
		// Somebody else's work may weigh more than its number and size say.
		if d.queue >= deepQueue {
			if issuers := issuersOn(w, around(s), d.name); len(issuers) > 0 {
				if who := largest(issuers, append(b.pids(), ourPIDs(w)...), inDevice); who != nil && shareOf(issuers, who, inDevice) > 0.5 {
					continue
				}
			} else if p, _ := moverOf(w, s, writeBehind, b.moments, d.bytes); p != nil && !slices.Contains(b.pids(), p.pid) && 2*p.moved() > d.bytes {
				continue
			}
		}
		f := freezeframe.Finding{
			Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: d.name}, Explains: claim, Confidence: seen, Chain: story(b.moments),
			Summary: fmt.Sprintf("Each request took %s %s, with no more work than before; the work waited for it for %s.", d.name, length(d.latency), length(claim.Length())),
			Evidence: []freezeframe.Evidence{
				{Text: "a request of " + d.name + " took", Source: "diskstats", Column: "read_us", Before: length(was.latency), During: length(d.latency)},
				{Text: "requests that " + d.name + " completed a second", Source: "diskstats", Column: "reads", Before: count(was.done), During: count(d.done)},
				evidence("diskstats", "weighted_us", "%.1f requests were in it on average", d.queue),
			},
		}
		if was.done >= 1 {
			f.Confidence = 0.9
		}
		if now, known := insideOf(w, around(s), d.name); known {
			if was, _ := insideOf(w, before(w), d.name); now.median >= slowTimes*max(was.median, time.Millisecond) {
				f.Confidence = max(f.Confidence, proven)
				f.Evidence = append(f.Evidence, freezeframe.Evidence{Text: "half of the requests of " + d.name + " took more than", Source: "block", Column: "p50_ns", Before: length(was.median), During: length(now.median)})
			}
		}
		out = append(out, f)
	}
	return out
}
