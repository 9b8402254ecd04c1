package rules

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"
)

// An end is how a process ended, as the signals source says.
type end struct {
	at          freezeframe.Instant
	pid         int
	comm        string
	signal      syscall.Signal // that ended it; 0: it exited
	status      int
	dumped      bool // with a core dump
	lived       time.Duration
	parent      freezeframe.Party
	grandparent string // the name of the parent's parent
	group       string // the last part of its cgroup's path; "" with version 1
}

type endsOf struct{}

// endsIn returns how processes ended in the whole window, oldest first. It is
// shared: not to be changed.
func endsIn(w freezeframe.Window) []end {
	return freezeframe.Once(w, endsOf{}, func() []end {
		series := w.Phase("signals", freezeframe.Whole)
		var out []end
		columns := []string{"at_ns", "kind", "signal", "code", "result", "pid", "comm", "from_pid", "from_comm", "from_parent_comm", "lived_ns", "cgroup"}
		seen := map[freezeframe.Key]bool{}
		series.Each(columns, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
			if w.Text(v[1]) != "end" || seen[key] {
				return
			}
			seen[key] = true
			out = append(out, end{
				at: freezeframe.Instant(v[0]), signal: syscall.Signal(v[2]), status: int(v[3]), dumped: v[4] != 0, pid: int(v[5]), comm: w.Text(v[6]),
				parent: freezeframe.Party{PID: int(v[7]), Comm: w.Text(v[8])}, grandparent: w.Text(v[9]), lived: time.Duration(v[10]), group: w.Text(v[11]),
			})
		})
		slices.SortStableFunc(out, func(a, b end) int { return cmp.Compare(a.at, b.at) })
		return out
	})
}

// how says how it ended.
func (e *end) how() string {
	switch {
	case e.signal != 0 && e.dumped:
		return "was ended by " + kernel.Signal(e.signal) + ", with a core dump"
	case e.signal != 0:
		return "was ended by " + kernel.Signal(e.signal)
	}
	return fmt.Sprintf("ended with status %d", e.status)
}

// failed tells whether it ended as what is in order does not.
func (e *end) failed() bool {
	return e.status != 0 || e.signal != 0 && e.signal != syscall.SIGTERM
}

// unit is the unit of systemd that it was a process of, "" when that is not known:
// its cgroup may lie below the unit's own.
func (e *end) unit(ps *processes) string {
	if p := ps.byPID[e.pid]; p != nil {
		for _, line := range strings.Split(p.cgroup, ";") {
			for at := line; len(at) > 1; at = path.Dir(at) {
				if base := path.Base(at); strings.HasSuffix(base, ".service") {
					return base
				}
			}
		}
	}
	if strings.HasSuffix(e.group, ".service") {
		return e.group
	}
	return ""
}

// kin tells whether two were the same service's, one after the other: the same
// program of the same parent, of the same unit, or of the same container, which
// has another parent each time that it is started.
func kin(ps *processes, a, b *end) bool {
	if a.comm != b.comm {
		return false
	}
	if a.group == b.group && ofContainer(a.group) && a.parent.Comm == b.parent.Comm && hasPrefix(a.parent.Comm, "containerd-shim", "conmon") {
		return true
	}
	if a.parent.PID != 1 {
		return a.parent.PID == b.parent.PID
	}
	unit := a.unit(ps)
	return b.parent.PID == 1 && unit != "" && unit == b.unit(ps)
}

// ofContainer tells whether the last part of a cgroup's path is named after a
// container, as docker-ID.scope or ID.
func ofContainer(group string) bool {
	digits := 0
	for _, r := range group {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'f' {
			digits++
		} else {
			digits = 0
		}
		if digits == 64 {
			return true
		}
	}
	return false
}

// An outage is a service that was down for a part of the stall.
type outage struct {
	target string
	claim  freezeframe.Spans
	listen freezeframe.Spans // when nobody listened and clients were refused
	ends   []end             // of its processes, oldest first; the last of one that is of use
	first  int               // in ends: the first within the stall
	worker bool              // they are children of the one that holds the socket
	unit   string
	// What the kernel told of the listener.
	refused uint64
	closer  freezeframe.Party
	opened  freezeframe.Instant // when somebody listened again; 0: nobody did, or nobody saw
	opener  freezeframe.Party
}

const (
	// endSlack is how long before its process ended a service may have been missed:
	// it closes what it listens on first.
	endSlack = 100 * time.Millisecond
	// shutdown is how long a service may take to end once it has closed that.
	shutdown = 10 * time.Second
	// startsFor is the calm between two waits of a service that is just starting.
	startsFor = 300 * time.Millisecond
	// servesFor is how long a process must have lived to be one that served, where
	// nothing but the waits for its socket tells: a service has brief children too.
	servesFor = 2 * time.Second
	// askedEvery is how often it is told that our own request was refused.
	askedEvery = time.Second
	// loopLife is how long a process may live that ends again and again.
	loopLife = 10 * time.Second
	// loopGap is how long such a service may be left alone between: systemd waits
	// up to RestartMaxDelaySec, supervisors a few seconds.
	loopGap = 30 * time.Second
	// loopLeast ends make a loop.
	loopLeast = 3
)

// downReads is what outages reads.
var downReads = []string{
	"signals.kind", "signals.signal", "signals.code", "signals.result", "signals.pid", "signals.comm", "signals.from_pid", "signals.from_comm", "signals.lived_ns", "signals.cgroup",
	"requests.kind", "requests.state", "requests.service", "requests.pid", "requests.comm", "requests.done_at", "requests.unanswered", "listeners.address", "listeners.pid", "listeners.pids", "procs.ppid", "procs.comm", "procs.cgroup",
}

type outagesOf struct{}

// outages returns the services that were down in the stall. It is shared: not to
// be changed.
func outages(w freezeframe.Window) []outage {
	return freezeframe.Once(w, outagesOf{}, func() []outage {
		stall := w.Stall()
		var out []outage
		var done []string
		for _, known := range []bool{true, false} { // what a probe of ours asks is its address as somebody wrote it
			for i := range stall.Symptoms {
				sy := &stall.Symptoms[i]
				target := serviceOf(sy)
				if sy.Own || target == "" || (sy.Probe != "active") != known || slices.ContainsFunc(done, func(d string) bool { return sameService(d, target) }) {
					continue
				}
				done = append(done, target)
				if o, ok := outageOf(w, target); ok {
					out = append(out, o)
				}
			}
		}
		return out
	})
}

// downWithout returns when a service was down because a process of it had ended.
func downWithout(w freezeframe.Window, pid int, ended freezeframe.Instant) (out freezeframe.Spans) {
	for _, o := range outages(w) {
		if slices.ContainsFunc(o.ends, func(e end) bool { return e.pid == pid && e.at.Sub(ended).Abs() < shutdown }) {
			out = append(out, o.claim...)
		}
	}
	return out
}

// serviceOf is the address of the service whose clients a symptom is about, "" when
// it is about something else.
func serviceOf(sy *freezeframe.Symptom) string {
	switch sy.Probe {
	case "listen", "accept", "receive", "answer":
		return sy.Target
	case "active": // host:port, or a URL
		target := sy.Target
		if _, rest, url := strings.Cut(target, "://"); url {
			target, _, _ = strings.Cut(rest, "/")
		}
		return target
	}
	return ""
}

// sameService tells whether two addresses may be one service's.
func sameService(a, b string) bool {
	if a == b {
		return true
	}
	if strings.HasPrefix(a, "unix:") || strings.HasPrefix(b, "unix:") || portOf(a) != portOf(b) {
		return false
	}
	everywhere := func(host string) bool { return unspecified(host) || host == "localhost" }
	return everywhere(hostOf(a)) || everywhere(hostOf(b)) || hostOf(a) == hostOf(b)
}

func outageOf(w freezeframe.Window, target string) (o outage, ok bool) {
	stall := w.Stall()
	o.target = target
	of := func(sy *freezeframe.Symptom) bool { at := serviceOf(sy); return at != "" && sameService(at, target) }
	all := symptoms(w, of)
	asked := symptoms(w, func(sy *freezeframe.Symptom) bool { return of(sy) && refusal(sy, "ECONNREFUSED") })
	o.listen = symptoms(w, func(sy *freezeframe.Symptom) bool { return of(sy) && sy.Probe == "listen" })
	o.watched(w)
	late := all
	for _, s := range asked { // once a second: it was down before that
		late = freezeframe.Union(append(slices.Clone(late), freezeframe.Span{Start: s.Start.Add(-askedEvery), End: s.End})...)
	}
	if len(o.listen) == 0 && !slices.ContainsFunc(endsIn(w), func(e end) bool { return touches(late, e.at) }) {
		return o, false
	}
	ps := processesIn(w, freezeframe.Span{Start: stall.Start.Add(-2 * sweep), End: stall.End.Add(sweepMargin)})
	owners := serving(w, target)
	for i := range stall.Symptoms {
		if sy := &stall.Symptoms[i]; of(sy) {
			for _, v := range sy.Victims {
				owners[v.PID] = true
			}
		}
	}
	own, workers := o.seen(w, ps, owners, late)
	switch {
	case len(own) > 0:
		o.of(w, ps, own)
	case len(workers) > 0:
		o.worker = true
		o.of(w, ps, workers)
	case len(o.listen) == 0:
		return o, false
	}
	from := stall.End
	if len(o.ends) > 0 {
		from = o.ends[o.first].at.Add(-endSlack)
	}
	for _, s := range o.listen {
		from = min(from, s.Start)
	}
	o.claim = grow(all.Within(freezeframe.Span{Start: from, End: stall.End}), freezeframe.Union(append(o.down(from), asked...)...))
	return o, len(o.claim) > 0
}

// watched reads what the kernel told of the listener.
func (o *outage) watched(w freezeframe.Window) {
	series := w.Phase("requests", freezeframe.Whole)
	stall := w.Stall()
	columns := []string{"kind", "state", "service", "pid", "tid", "comm", "began_at", "done_at", "unanswered"}
	series.Each(columns, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		at := freezeframe.Instant(v[7])
		if v[0] != bpf.Absence || !sameService(w.Text(v[2]), o.target) || at < stall.Start.Add(-endSlack) || at > stall.End.Add(endSlack) {
			return
		}
		who := freezeframe.Party{PID: int(v[3]), TID: int(v[4]), Comm: w.Text(v[5])}
		switch v[1] {
		case bpf.ToldInFlight: // nobody listens any more
			if o.closer.PID == 0 {
				o.closer = who
			}
			o.opened = 0
		case bpf.ToldDone:
			o.opened, o.opener = at, who
			o.refused += v[8]
		}
	})
}

// serving returns who listened at an address in the window.
func serving(w freezeframe.Window, target string) map[int]bool {
	out := map[int]bool{}
	series := w.Phase("listeners", freezeframe.Whole)
	series.Each([]string{"address", "pid", "pids"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		if !sameService(w.Text(v[0]), target) {
			return
		}
		out[int(v[1])] = true
		for word := range strings.SplitSeq(w.Text(v[2]), ",") {
			out[leadingInt(word)] = true
		}
	})
	delete(out, 0)
	return out
}

// seen returns the ends that may be why nobody serves: of those who held the
// socket, and of the children of those.
func (o *outage) seen(w freezeframe.Window, ps *processes, owners map[int]bool, late freezeframe.Spans) (own, workers []end) {
	stall := w.Stall()
	within := freezeframe.Span{Start: stall.Start.Add(-askedEvery), End: stall.End}
	if len(o.listen) > 0 {
		within.End = within.End.Add(shutdown)
	}
	for _, e := range endsIn(w) {
		if !within.Contains(e.at) || !touches(late, e.at) && len(o.listen) == 0 {
			continue
		}
		to := &own
		switch {
		case e.pid == o.closer.PID && e.pid != 0:
		case owners[e.pid] && (e.lived >= servesFor || len(o.listen) > 0 && !owners[e.parent.PID]):
		case owners[e.parent.PID] && e.comm == e.parent.Comm && e.failed() && len(o.listen) == 0:
			to = &workers
		default:
			continue
		}
		if e.pid == o.closer.PID || !stays(ps, &e, stall.Span) { // it is not one of several that serve
			*to = append(*to, e)
		}
	}
	// A child for each connection does not keep the socket that it came by.
	if !slices.ContainsFunc(workers, func(e end) bool { return owners[e.pid] }) {
		workers = nil
	}
	return own, workers
}

// touches tells whether something was late at a moment or soon after: who ended
// then is missed.
func touches(late freezeframe.Spans, at freezeframe.Instant) bool {
	return slices.ContainsFunc(late, func(s freezeframe.Span) bool {
		return at >= s.Start.Add(-startsFor) && at < s.End
	})
}

// stays tells whether another like the one that ended, of the same parent, was
// there before that, and still is: it serves, or has taken over.
func stays(ps *processes, e *end, s freezeframe.Span) bool {
	return slices.ContainsFunc(ps.list, func(p *process) bool {
		return p.pid != e.pid && p.comm == e.comm && p.ppid == e.parent.PID && p.ppid > 1 && p.first < e.at && p.last >= s.End
	})
}

// of takes the ends of the service's own, with those of its kin before and after.
func (o *outage) of(w freezeframe.Window, ps *processes, own []end) {
	e := &own[0]
	o.unit = e.unit(ps)
	for _, k := range endsIn(w) {
		if k.at <= w.Stall().End && (k.pid == e.pid && k.at == e.at || kin(ps, e, &k)) {
			o.ends = append(o.ends, k)
		}
	}
	if len(o.ends) == 0 { // it took longer to end than the stall lasted
		o.ends = own[:1]
	}
	for o.first = range o.ends {
		if o.ends[o.first].at >= e.at {
			break
		}
	}
}

// down is when one of its processes ended or nobody listened.
func (o *outage) down(from freezeframe.Instant) freezeframe.Spans {
	out := slices.Clone(o.listen)
	for i := range o.ends {
		if at := o.ends[i].at; at >= from {
			out = append(out, freezeframe.Span{Start: at.Add(-endSlack), End: at.Add(endSlack)})
		}
	}
	return freezeframe.Union(out...)
}

// grow returns the spans that follow on each other from one of the seeds on.
func grow(late, seeds freezeframe.Spans) freezeframe.Spans {
	var out freezeframe.Spans
	reach := freezeframe.Instant(0)
	for _, s := range late {
		meets := slices.ContainsFunc(seeds, func(d freezeframe.Span) bool { return s.Start <= d.End.Add(startsFor) && s.End >= d.Start })
		if !meets && (reach == 0 || s.Start > reach.Add(startsFor)) {
			continue
		}
		out = append(out, s)
		reach = max(reach, s.End)
	}
	return out
}

// loop returns the ends that are one service's that ends again and again, up to
// the stall's: nil when it is not.
func (o *outage) loop() []end {
	if len(o.ends) == 0 {
		return nil
	}
	from := len(o.ends) - 1
	for from > 0 && o.ends[from].lived < loopLife && o.ends[from].at.Sub(o.ends[from-1].at) < loopGap {
		from--
	}
	if run := o.ends[from:]; len(run) >= loopLeast {
		return run
	}
	return nil
}

// culprit blames the process that ended, with its unit.
func (o *outage) culprit(e *end) freezeframe.Culprit {
	return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: e.pid, Comm: e.comm, Unit: o.unit}
}

// subject is what the service is called in a sentence.
func (o *outage) subject(e *end) string {
	if o.unit != "" {
		return named(e.comm, e.pid) + " of " + o.unit
	}
	return named(e.comm, e.pid)
}

// sender is who sent a process the signal that ended it, or that asked it to end;
// nil: nobody, or it was not seen.
func (e *end) sender(w freezeframe.Window) *deed {
	var last *deed
	for _, d := range deeds(w, freezeframe.Span{Start: e.at.Add(-shutdown), End: e.at.Add(time.Millisecond)}, "signal") {
		if d.pid != e.pid {
			continue
		}
		asked := d.signal == syscall.SIGTERM || d.signal == syscall.SIGINT || d.signal == syscall.SIGQUIT || d.signal == syscall.SIGHUP
		if e.signal != 0 && d.signal == e.signal || e.signal == 0 && asked {
			last = &d
		}
	}
	return last
}

// told is the evidence of an outage that both causes share.
func (o *outage) told(w freezeframe.Window) []freezeframe.Evidence {
	var out []freezeframe.Evidence
	if len(o.listen) > 0 {
		out = append(out, evidence("requests", "unanswered", "nobody listened at %s for %s; clients were refused", o.target, length(o.listen.Length())))
	}
	if o.refused > 0 {
		out = append(out, evidence("requests", "unanswered", "%d requests for a connection to %s were refused", o.refused, o.target))
	}
	if queued := o.claim.Minus(o.listen).Length(); queued > 0 {
		out = append(out, evidence("requests", "kind", "clients of %s waited for %s that nobody took or answered them while its socket was open", o.target, length(queued)))
	}
	return out
}
