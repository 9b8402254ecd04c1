package probes

import (
	"context"
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// limits notices work that the kernel refused at once because a limit was
// reached. Such work is not late, it fails, so every report has Err set; what
// was already so when the watch began is not reported. By Err:
//
//   - "EAGAIN": no process or thread can be started in a cgroup at its
//     pids.max, or on a host out of pids: logins, cron jobs and workers fail.
//   - "oom_kill": the kernel killed a process to free memory: a service is
//     gone, or restarts.
//   - "conntrack table full": packets of new connections are dropped: users
//     cannot connect, those connected go on.
//   - "neighbour table full": packets to hosts on the local network are
//     dropped.
//   - "ENFILE": the host is out of file handles; "EMFILE": a process has all
//     the descriptors that it may have, and cannot accept or open anything.
//   - "EADDRNOTAVAIL": all local ports to one destination are taken: requests
//     to a database or an upstream fail at once.
//   - "ENOSPC": a local filesystem has become full: whatever writes there fails
//     or tries again. Whether anybody writes there is not known here.
//
// Target names the cgroup, process, destination or kernel table.
type limits struct {
	hub *hub
	out chan refusal

	// cgroups, ports and procs are read on one thread, vmstat and limits on
	// another, mounts on a third: they share nothing.
	cgroups, ports, procs, vmstat, host, mounts watchedLimits
}

// refusal is what a sampling thread hands to Run.
type refusal struct {
	kind  int
	name  uint64 // text, where the kind's target is one
	pid   uint64
	began freezeframe.Instant
	done  freezeframe.Instant
	seen  freezeframe.Instant
}

const (
	refusedPIDs = iota
	refusedCgroupOOM
	refusedOOM
	refusedConntrack
	refusedNeighbours
	refusedFiles
	refusedThreads
	refusedPorts
	refusedFDs
	refusedSpace
)

// refusals say how each kind is reported.
var refusals = [...]struct {
	err     string
	target  string // with %s for the name
	quality float64
}{
	refusedPIDs: {"EAGAIN", "pids limit of %s", 0.9},
	// Whether anybody waits for what was killed is not known here: kernel_log
	// knows who it was.
	refusedCgroupOOM:  {"oom_kill", "memory of %s", 0.4},
	refusedOOM:        {"oom_kill", "memory of the host", 0.4},
	refusedConntrack:  {"conntrack table full", "conntrack", 0.9},
	refusedNeighbours: {"neighbour table full", "neighbours", 0.8},
	refusedFiles:      {"ENFILE", "file handles", 0.8},
	refusedThreads:    {"EAGAIN", "threads", 0.8},
	refusedPorts:      {"EADDRNOTAVAIL", "local ports to %s", 0.8},
	refusedFDs:        {"EMFILE", "descriptors of %s", 0.6},
	refusedSpace:      {"ENOSPC", "%s", 0.4},
}

func newLimits(h *hub) *limits { return &limits{hub: h, out: make(chan refusal, 256)} }

func (p *limits) Name() string { return "limits" }

// Observes names the sources whose readings Observe must get.
func (p *limits) Observes() []string {
	return []string{"cgroups", "ports", "procs", "vmstat", "limits", "mounts"}
}

// Run passes on what Observe finds until ctx ends.
func (p *limits) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-p.out:
			late(p.lateness(r))
		}
	}
}

func (p *limits) lateness(r refusal) freezeframe.Lateness {
	how := refusals[r.kind]
	name := p.hub.text(r.name)
	l := freezeframe.Lateness{Probe: p.Name(), Target: how.target, Err: how.err, Quality: how.quality,
		Began: r.began, Done: r.done, Seen: r.seen}
	switch r.kind {
	case refusedPIDs, refusedCgroupOOM, refusedPorts, refusedSpace:
		l.Target = fmt.Sprintf(how.target, name)
	case refusedFDs:
		l.Target = fmt.Sprintf(how.target, fmt.Sprintf("%s[%d]", name, r.pid))
	}
	if r.pid != 0 {
		l.Victims = []freezeframe.Victim{{PID: int(r.pid), Comm: name}}
		if r.kind == refusedPorts {
			l.Victims[0].Comm = ""
		}
	}
	return l
}

// limitRow is what is remembered of one key of a source.
type limitRow struct {
	key   freezeframe.Key
	seen  freezeframe.Instant
	since freezeframe.Instant // when a level reached its limit; 0: it has not
	old   bool                // it was there when we came
	times int
	count [2]uint64
}

// watchedLimits is a source with its keys, in fixed memory.
type watchedLimits struct {
	columns columns
	before  freezeframe.Instant // the reading before this one
	rows    []limitRow
	index   []int16
	swept   freezeframe.Instant
}

var (
	cgroupColumns = []string{"pids_max_events", "memory_oom_kills"}
	portColumns   = []string{"used", "range", "pid"}
	procColumns   = []string{"fds", "fds_max", "pid", "comm"}
	vmstatColumns = []string{"oom_kill"}
	mountColumns  = []string{"local", "readonly", "size_bytes", "avail_bytes", "mountpoint"}
	limitColumns  = []string{"conntrack_drop", "neigh_table_fulls", "files_allocated", "files_max", "threads", "threads_max", "pid_max"}
)

// Observe takes one reading, on the thread that took it.
func (p *limits) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	now := t.At
	switch src.Name {
	case "cgroups":
		w := &p.cgroups
		w.begin(src, cgroupColumns, maxLimitRows)
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			for i, kind := range [2]int{refusedPIDs, refusedCgroupOOM} {
				if r.grew(i, w.columns.get(row, i), fresh) {
					p.send(refusal{kind: kind, name: uint64(r.key), began: r.seen, done: now, seen: now})
				}
			}
		})
	case "vmstat":
		w := &p.vmstat
		w.begin(src, vmstatColumns, 1)
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			if r.grew(0, w.columns.get(row, 0), fresh) {
				p.send(refusal{kind: refusedOOM, began: r.seen, done: now, seen: now})
			}
		})
	case "limits":
		w := &p.host
		w.begin(src, limitColumns, 3)
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			for i, kind := range [2]int{refusedConntrack, refusedNeighbours} {
				if r.grew(i, w.columns.get(row, i), fresh) {
					p.send(refusal{kind: kind, began: r.seen, done: now, seen: now})
				}
			}
			get := func(i int) uint64 { return w.columns.get(row, i) }
			p.level(w.extra(1, now), refusedFiles, get(3) > 0 && get(2) >= get(3), 1, fresh, refusal{}, r.seen, now)
			full := get(5) > 0 && get(4) >= get(5) || get(6) > 0 && get(4)+1 >= get(6)
			p.level(w.extra(2, now), refusedThreads, full, 1, fresh, refusal{}, r.seen, now)
		})
	case "ports":
		w := &p.ports
		w.begin(src, portColumns, maxLimitRows)
		// The source has rows only near the limit, so a key that appears is
		// news unless it is in the first reading.
		first := w.before == 0
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			used, all := w.columns.get(row, 0), w.columns.get(row, 1)
			before := r.seen
			if fresh {
				before = w.before
			}
			p.level(r, refusedPorts, all > 0 && used+1 >= all, 1, first,
				refusal{name: uint64(r.key), pid: w.columns.get(row, 2)}, before, now)
		})
		w.gone(now, func(r *limitRow) {
			p.level(r, refusedPorts, false, 1, false, refusal{name: uint64(r.key)}, r.seen, now)
		})
	case "procs":
		w := &p.procs
		w.begin(src, procColumns, maxProcRows)
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			fds, most := w.columns.get(row, 0), w.columns.get(row, 1)
			if most == 0 {
				return
			}
			p.level(r, refusedFDs, fds >= most, 2, fresh,
				refusal{name: w.columns.get(row, 3), pid: w.columns.get(row, 2)}, r.seen, now)
		})
	case "mounts":
		w := &p.mounts
		w.begin(src, mountColumns, maxLimitRows)
		w.each(t, func(r *limitRow, row []uint64, fresh bool) {
			get := func(i int) uint64 { return w.columns.get(row, i) }
			full := get(0) != 0 && get(1) == 0 && get(2) > 0 && get(3) < fullMount
			p.level(r, refusedSpace, full, 1, fresh, refusal{name: get(4)}, r.seen, now)
		})
	}
}

// fullMount is the space below which a filesystem is full: less than a page.
const fullMount = 4096

// level follows something that is at its limit or not; it is reported when it
// has been in times readings, as long as it lasts.
func (p *limits) level(r *limitRow, kind int, full bool, times int, first bool, out refusal, before, now freezeframe.Instant) {
	out.kind, out.seen = kind, now
	switch {
	case !full:
		if r.since != 0 && !r.old && r.times >= times {
			out.began, out.done = r.since, now
			p.send(out)
		}
		r.since, r.old, r.times = 0, false, 0
	case r.since == 0:
		r.since, r.old = before, first
		if before == 0 {
			r.since = now
		}
		fallthrough
	default:
		r.times++
		if r.times >= times && !r.old {
			out.began = r.since
			p.send(out)
		}
	}
}

func (p *limits) send(r refusal) {
	if r.kind != refusedSpace {
		// A disk may stay full for a weekend, and nobody waits for it.
		p.hub.suspect(r.seen)
	}
	select {
	case p.out <- r:
	default:
	}
}

// grew tells whether a counter has grown since the last reading.
func (r *limitRow) grew(i int, v uint64, fresh bool) bool {
	old := r.count[i]
	r.count[i] = v
	return !fresh && v > old
}

const (
	maxLimitRows = 1024
	maxProcRows  = 8192
	// limitRowGone is how long a key may be missing: some are read seldom.
	limitRowGone = 5 * time.Second
)

func (w *watchedLimits) begin(src *freezeframe.Source, names []string, rows int) {
	w.columns.of(src, names)
	if w.rows == nil {
		// Once, at the first reading.
		w.rows = kernel.Slots[limitRow](w, rows)[:0]
		size := 4
		for size < 2*rows {
			size *= 2
		}
		w.index = make([]int16, size)
	}
}

// each calls f for each row with what is remembered of its key; r.seen is the
// reading before.
func (w *watchedLimits) each(t *freezeframe.Table, f func(r *limitRow, row []uint64, fresh bool)) {
	for i, key := range t.Keys {
		r, fresh := w.find(key)
		if r == nil {
			continue
		}
		f(r, t.Values(i, w.columns.width), fresh)
		r.seen = t.At
	}
	w.before = t.At
	w.sweep(t.At)
}

// find returns what is remembered of a key. Key 0 is that of the only row of a
// source, so the index is asked for key+1.
func (w *watchedLimits) find(key freezeframe.Key) (r *limitRow, fresh bool) {
	x := slotIndex(w.index)
	i := x.probe(key + 1)
	for ; x[i] != 0; i = x.next(i) {
		if w.rows[x[i]-1].key == key {
			return &w.rows[x[i]-1], false
		}
	}
	if len(w.rows) == cap(w.rows) {
		return nil, false
	}
	w.rows = append(w.rows, limitRow{key: key})
	x[i] = int16(len(w.rows))
	return &w.rows[len(w.rows)-1], true
}

// extra returns a row beside the one of key 0, for a source of one row.
func (w *watchedLimits) extra(n freezeframe.Key, now freezeframe.Instant) *limitRow {
	r, _ := w.find(n)
	r.seen = now
	return r
}

// gone calls f for the keys that are not in this reading.
func (w *watchedLimits) gone(now freezeframe.Instant, f func(r *limitRow)) {
	for i := range w.rows {
		if w.rows[i].seen != now {
			f(&w.rows[i])
		}
	}
}

func (w *watchedLimits) sweep(now freezeframe.Instant) {
	if now.Sub(w.swept) < limitRowGone {
		return
	}
	w.swept = now
	kept := w.rows[:0]
	for _, r := range w.rows {
		if now.Sub(r.seen) < limitRowGone {
			kept = append(kept, r)
		}
	}
	if len(kept) == len(w.rows) {
		return
	}
	w.rows = kept
	clear(w.index)
	x := slotIndex(w.index)
	for slot := range w.rows {
		i := x.probe(w.rows[slot].key + 1)
		for x[i] != 0 {
			i = x.next(i)
		}
		x[i] = int16(slot + 1)
	}
}
