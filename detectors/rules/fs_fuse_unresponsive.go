package rules

import (
	"fmt"
	"time"

	"freezeframe"
)

func fsFUSEUnresponsive() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "fs.fuse_unresponsive",
		Title: "a FUSE filesystem whose daemon does not answer",
		Means: "The filesystem is served by a program (sshfs, s3fs, rclone, glusterfs, mergerfs …). It did not answer, and everything that touches a file there waits.",
		Proof: "The victims slept in request_wait_answer or a fuse_ function, and the connection had requests waiting (/sys/fs/fuse/connections).",
		Remedy: []string{
			"Now: look at the daemon (`cat /proc/PID/stack`, its log, its network); to free those who wait: `echo 1 > /sys/fs/fuse/connections/N/abort`, then `umount -l MOUNTPOINT` and mount again.",
			"So that it does not come back: timeouts in the daemon's own options; no FUSE mounts in the path of a service's requests.",
		},
		Reads:    []string{sourceLedger, "fuse.waiting", "fuse.mountpoint", "fuse.pid", "fuse.comm"},
		Subsumes: bringsAbout("runtime.jvm_gc", "mem.file_thrash"),
		Judge:    judgeFUSE,
	}
}

// A fuseConnection is one served filesystem as seen over a span.
type fuseConnection struct {
	point, comm string
	pid         int
	waiting     uint64
}

func fuseConnections(w freezeframe.Window, s freezeframe.Span) []fuseConnection {
	series := w.Between("fuse", s)
	at := map[freezeframe.Key]int{}
	var out []fuseConnection
	series.Each([]string{"mountpoint", "comm", "pid", "waiting"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		i, ok := at[key]
		if !ok {
			i = len(out)
			at[key] = i
			out = append(out, fuseConnection{})
		}
		c := &out[i]
		setText(w, &c.point, v[0])
		setText(w, &c.comm, v[1])
		if v[2] != 0 {
			c.pid = int(v[2])
		}
		c.waiting = max(c.waiting, v[3])
	})
	return out
}

func judgeFUSE(w freezeframe.Window) []freezeframe.Finding {
	// The daemon's own wait decides where it is a reason; what is behind it
	// claims that.
	about := func(m *moment) bool {
		return inClass(freezeframe.FilesystemWait, freezeframe.SwapIn, freezeframe.DeviceWait, freezeframe.KernelLock)(m) && in(m.wait, "request_wait_answer", "fuse_*", "__fuse_*")
	}
	ms := roots(w, about)
	var out []freezeframe.Finding
	if worth(w, ms.spans()) != nil {
		all := fuseConnections(w, around(ms.hull()))
		for _, b := range split(ms, func(m *moment) int { return connectionOf(w, all, m) }) {
			claim := worth(w, b.spans())
			if claim == nil {
				continue
			}
			f := freezeframe.Finding{Explains: claim, Confidence: counted, Chain: story(b.moments), Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost}}
			where, daemon := "A FUSE filesystem", "its daemon"
			if b.key >= 0 {
				c := all[b.key]
				f.Confidence = seen
				f.Culprit = freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: c.point, PID: c.pid, Comm: c.comm}
				where = c.point
				if c.pid != 0 {
					daemon = named(c.comm, c.pid)
				}
				if c.waiting > 0 {
					f.Confidence = proven
					f.Evidence = append(f.Evidence, evidence("fuse", "waiting", "up to %d requests waited for %s", c.waiting, daemon))
				}
			}
			f.Summary = fmt.Sprintf("%s did not answer: %s left requests waiting for %s.", where, daemon, length(claim.Length()))
			out = append(out, f)
		}
	}
	return append(out, mention(w, about, func(m *moment) freezeframe.Culprit {
		all := fuseConnections(w, freezeframe.Span{Start: m.Start.Add(-time.Second), End: m.End.Add(time.Second)})
		if i := connectionOf(w, all, m); i >= 0 {
			return freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: all[i].point, PID: all[i].pid, Comm: all[i].comm}
		}
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost}
	}, "waited for a FUSE filesystem")...)
}

// connectionOf returns which connection a wait is about, by its file, its
// holder, or because only one has anything waiting; -1 when it is not known.
func connectionOf(w freezeframe.Window, all []fuseConnection, m *moment) int {
	best, waiting, only := -1, 0, -1
	for i, c := range all {
		if under(m.wait.File, c.point) && (best < 0 || len(c.point) > len(all[best].point)) {
			best = i
		}
		if c.waiting > 0 {
			waiting++
			only = i
		}
	}
	if best < 0 && m.wait.Holder != nil {
		for i, c := range all {
			if c.pid != 0 && c.pid == m.wait.Holder.PID {
				best = i
			}
		}
	}
	if best < 0 && waiting == 1 {
		best = only
	}
	return best
}
