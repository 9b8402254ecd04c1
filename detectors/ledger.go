package detectors

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// lead is how far before and after a symptom samples are still used to
	// place its edges.
	lead = 1500 * time.Millisecond
	// maxAccounts bounds the ledger: a pool of hundreds of threads that all
	// wait for the same thing is judged by its first ones.
	maxAccounts = 160
	// maxChain is how many holders a wait chain is followed through.
	maxChain = 6
	// maxPassed is how many waits of one victim have a chain of their own.
	// maxPassed is how many waits of one victim have a chain of their own, and
	// maxChains how many chains one ledger follows.
	maxPassed = 24
	maxChains = 400
	// throttledShare: of the time a thread wanted a CPU, how much its cgroup
	// must have been throttled for the wait to be the quota's.
	throttledShare = 0.3
)

// Account builds the time ledger of a window's stall: an account for each
// victim thread of each symptom, in which every moment has one class.
func Account(w freezeframe.Window) freezeframe.Ledger {
	b := newBook(w)
	ledger := freezeframe.Ledger{Blocked: make([]freezeframe.Spans, len(w.Stall().Symptoms))}
	for i, sy := range w.Stall().Symptoms {
		if sy.Err != "" && sy.Worst == 0 {
			continue // refused at once: nobody's time is missing
		}
		if aside(w.Stall().Symptoms, i) {
			continue // whoever waits for news at another service is no victim
		}
		if sy.Probe == "listen" {
			continue // who should listen is no more
		}
		var accounts []freezeframe.Account
		for _, v := range sy.Victims {
			for _, a := range b.accounts(i, v, sy.Span) {
				// A thread may be named by itself and with all of its process.
				if !slices.ContainsFunc(accounts, func(o freezeframe.Account) bool { return o.Victim.PID == a.Victim.PID && o.Victim.TID == a.Victim.TID }) {
					accounts = append(accounts, a)
				}
			}
		}
		b.masters(accounts)
		weigh(accounts)
		slices.SortStableFunc(accounts, func(x, y freezeframe.Account) int { return cmp.Compare(y.Weight, x.Weight) })
		for j := range accounts {
			if len(ledger.Accounts) >= maxAccounts {
				break
			}
			if accounts[j].Weight > 0 {
				b.chains(&accounts[j])
			}
			ledger.Accounts = append(ledger.Accounts, accounts[j])
		}
		ledger.Blocked[i] = blocked(accounts)
	}
	return ledger
}

// aside tells whether a symptom is doubtful, of what nothing else says that it
// stalled, while others did for certain.
func aside(all []freezeframe.Symptom, i int) bool {
	if !all[i].Doubtful() {
		return false
	}
	felt := false
	for j := range all {
		if sy := &all[j]; !sy.Doubtful() && !sy.Own {
			if sy.Target == all[i].Target {
				return false
			}
			felt = true
		}
	}
	return felt
}

// sample is one row of the tasks source.
type sample struct {
	at                    freezeframe.Instant
	state                 byte
	run, wait, timeslices uint64
	syscall               int64
	wchan, stack, file    uint64
	cpu                   uint64
	since                 freezeframe.Instant // of its sleep; 0: not known
}

// thread is the samples of one task key over the window.
type thread struct {
	key     freezeframe.Key
	pid     int
	comm    uint64
	samples []sample
	exact   []exact // in order, apart from each other
}

// book is a window read once into what the accounts need.
type book struct {
	w        freezeframe.Window
	span     freezeframe.Span
	threads  map[int][]*thread             // by pid
	seen     map[int][]freezeframe.Instant // the readings with any thread of a pid
	sockets  map[uint64]socket             // by inode
	outgoing map[int][]socket              // client sides, by pid
	replies  map[int][]reply               // what was asked of other hosts, by pid
	locals   map[freezeframe.Key]string    // this end's addresses, by the socket's cookie
	locks    []lockWait
	// lockSleeps are waits for locks of programs with a known owner, by thread.
	lockSleeps map[freezeframe.Key][]lockSleep
	stops      map[int][]freezeframe.Span // when a process was stopped, by pid
	ends       []freezeframe.Event
	fuses      []fuseMount
	comms      map[int]string
	groups     map[int]string // /proc/PID/cgroup lines joined by ';'
	parents    map[int]int
	classes    map[place]freezeframe.Class // without the file
	chained    int                         // chains followed so far
}

type socket struct {
	server         bool
	pid, peerPID   int
	peer           string
	sentAt, recvAt freezeframe.Instant
	seen           freezeframe.Instant
}

type lockWait struct {
	span           freezeframe.Span
	waiter, holder int
	kind, path     string
}

type fuseMount struct {
	mountpoint string
	pid        int
	comm       string
}

func newBook(w freezeframe.Window) *book {
	stall := w.Stall()
	span := freezeframe.Span{Start: stall.Start.Add(-lead), End: stall.End.Add(lead)}
	b := &book{
		w: w, span: span, threads: map[int][]*thread{}, seen: map[int][]freezeframe.Instant{}, sockets: map[uint64]socket{}, outgoing: map[int][]socket{},
		replies: map[int][]reply{}, locals: map[freezeframe.Key]string{},
		lockSleeps: map[freezeframe.Key][]lockSleep{}, stops: map[int][]freezeframe.Span{},
		comms: map[int]string{}, groups: map[int]string{}, parents: map[int]int{}, classes: map[place]freezeframe.Class{},
		ends: w.Events(freezeframe.EventEnds, freezeframe.Whole),
	}
	b.readTasks(w.Between("tasks", span))
	b.readProcs(w.Between("procs", span))
	b.readWaits(w.Between("waits", span))
	b.readSockets(w.Between("connections", span))
	b.readReplies(w.Between("requests", span), w.Between("services", span))
	b.readLocks(w.Between("locks", span))
	b.readFutexes(w.Between("futexes", span))
	b.readStops(w.Between("signals", w.Span()))
	fuse := w.Between("fuse", span)
	fuse.Each([]string{"mountpoint", "pid", "comm"}, func(_ freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		m := fuseMount{w.Text(v[0]), int(v[1]), w.Text(v[2])}
		if !slices.Contains(b.fuses, m) {
			b.fuses = append(b.fuses, m)
		}
	})
	return b
}

func (b *book) readTasks(s freezeframe.Series) {
	byKey := map[freezeframe.Key]*thread{}
	columns := []string{"pid", "comm", "state", "run_ns", "wait_ns", "timeslices", "syscall", "wchan", "stack", "file", "cpu", "since_ns"}
	s.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		th := byKey[key]
		if th == nil {
			th = &thread{key: key, pid: int(v[0])}
			byKey[key] = th
			b.threads[th.pid] = append(b.threads[th.pid], th)
		}
		th.comm = v[1]
		if seen := b.seen[th.pid]; len(seen) == 0 || seen[len(seen)-1] != at {
			b.seen[th.pid] = append(seen, at)
		}
		th.samples = append(th.samples, sample{
			at: at, state: byte(v[2]), run: v[3], wait: v[4], timeslices: v[5],
			syscall: int64(v[6]), wchan: v[7], stack: v[8], file: v[9], cpu: v[10],
			since: freezeframe.Instant(v[11]),
		})
	})
}

func (b *book) readProcs(s freezeframe.Series) {
	columns := []string{"comm", "cgroup", "ppid", "state"}
	single := map[freezeframe.Key]*thread{}
	s.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		pid := key.TID()
		b.comms[pid] = b.w.Text(v[0])
		if v[1] != 0 {
			b.groups[pid] = b.w.Text(v[1])
		}
		b.parents[pid] = int(v[2])
		if b.threads[pid] != nil && single[key] == nil {
			return // its threads were sampled
		}
		// Not sampled by thread: its once-a-second state is better than nothing.
		th := single[key]
		if th == nil {
			th = &thread{key: key, pid: pid, comm: v[0]}
			single[key] = th
			b.threads[pid] = append(b.threads[pid], th)
		}
		x := sample{at: at, state: byte(v[3]), syscall: -2}
		if n := len(th.samples); n > 1 && th.samples[n-1].state == x.state && th.samples[n-2].state == x.state {
			th.samples[n-1] = x // most do nothing: two say that
		} else {
			th.samples = append(th.samples, x)
		}
	})
}

func (b *book) readSockets(s freezeframe.Series) {
	columns := []string{"inode", "server", "pid", "peer_pid", "peer", "sent_at", "received_at", "local"}
	s.Each(columns, func(at freezeframe.Instant, key freezeframe.Key, v []uint64) {
		b.locals[key] = b.w.Text(v[7])
		so := socket{
			server: v[1] != 0, pid: int(v[2]), peerPID: int(v[3]), peer: b.w.Text(v[4]),
			sentAt: freezeframe.Instant(v[5]), recvAt: freezeframe.Instant(v[6]), seen: at,
		}
		if v[0] != 0 {
			b.sockets[v[0]] = so
		}
		if !so.server && so.pid != 0 && so.sentAt > so.recvAt {
			list := b.outgoing[so.pid]
			if n := len(list); n == 0 || list[n-1].sentAt != so.sentAt || list[n-1].peer != so.peer {
				b.outgoing[so.pid] = append(list, so)
			} else {
				list[n-1] = so
			}
		}
	})
}

func (b *book) readLocks(s freezeframe.Series) {
	byKey := map[[3]uint64]int{}
	s.Each([]string{"waiter_pid", "holder_pid", "kind", "path", "inode"}, func(at freezeframe.Instant, _ freezeframe.Key, v []uint64) {
		id := [3]uint64{v[0], v[1], v[4]}
		i, ok := byKey[id]
		if !ok {
			i = len(b.locks)
			byKey[id] = i
			b.locks = append(b.locks, lockWait{
				span: freezeframe.Span{Start: at, End: at}, waiter: int(v[0]), holder: int(v[1]), kind: b.w.Text(v[2]), path: b.w.Text(v[3]),
			})
		}
		b.locks[i].span.End = at
	})
}

func (b *book) comm(pid int) string { return b.comms[pid] }

// accounts returns an account for each thread that a victim means: the one
// thread, or every sampled thread of the process.
func (b *book) accounts(symptom int, v freezeframe.Victim, span freezeframe.Span) []freezeframe.Account {
	var out []freezeframe.Account
	for _, th := range b.threads[v.PID] {
		tid := th.key.TID()
		if v.TID != 0 && v.TID != tid {
			continue
		}
		waits := b.waits(th, span)
		if waits == nil {
			continue
		}
		comm := b.w.Text(th.comm)
		if comm == "" {
			comm = v.Comm
		}
		out = append(out, freezeframe.Account{
			Symptom: symptom, Span: span, Waits: waits,
			Victim: freezeframe.Victim{PID: v.PID, TID: tid, Comm: comm},
		})
	}
	return out
}

// waits lays a thread's samples over the span: each interval between two
// samples is divided by what the scheduler counted (ran, waited for a CPU)
// and what is left goes to the place where the thread was seen to sleep.
func (b *book) waits(th *thread, span freezeframe.Span) []freezeframe.Wait {
	l := layer{span: span, at: span.Start}
	if n := len(th.exact); n > 0 && th.exact[0].Start < span.End && th.exact[n-1].End > span.Start {
		b.layExact(&l, th)
	} else if !b.laySampled(&l, th) {
		return nil
	}
	waits := b.stopped(th, b.cutByReplies(th, b.locked(th, l.waits)))
	b.throttle(th, span, waits)
	b.peers(th, span, waits)
	for i := range waits {
		b.hold(th, &waits[i])
	}
	return waits
}

// laySampled lays what samples alone tell; false when none lies near.
func (b *book) laySampled(l *layer, th *thread) bool {
	span, s := l.span, th.samples
	from := 0
	for from+1 < len(s) && s[from+1].at <= span.Start {
		from++
	}
	to := len(s)
	for to > 0 && s[to-1].at >= span.End {
		to--
	}
	if to < len(s) {
		to++ // the first one after the span closes its last interval
	}
	s = s[from:max(from, to)]
	if len(s) == 0 || s[0].at >= span.End {
		return false
	}
	place := func(x *sample) place { return b.place(x) }
	if s[0].at > span.Start {
		// First seen inside the span. What it was doing when it was found it
		// had been doing, unless it was running; but a thread that has not begun
		// has nothing to wait for.
		l.lay(b.began(th, s[0].at, span.Start), freezeframe.Wait{Class: freezeframe.Idle})
		p := place(&s[0])
		l.lay(s[0].at, b.wait(th, &p, s[0].state == 'R', false))
	}
	for i := 0; i+1 < len(s); i++ {
		b.interval(l, th, &s[i], &s[i+1])
	}
	if l.at < span.End {
		last := &s[len(s)-1]
		p := place(last)
		l.lay(b.ended(th, last.at, span.End), b.wait(th, &p, last.state == 'R', false))
		// A thread that has ended has nothing to wait for.
		l.lay(span.End, freezeframe.Wait{Class: freezeframe.Idle})
	}
	return true
}

// began returns the last moment before it was first seen at which a thread was
// missing from a reading that had others of its process, at least start.
func (b *book) began(th *thread, first, start freezeframe.Instant) freezeframe.Instant {
	seen := b.seen[th.pid]
	i, _ := slices.BinarySearch(seen, first)
	if i > 0 {
		return max(seen[i-1], start)
	}
	return start
}

// ended returns when a thread that was seen last at a moment was missing from
// a reading that had others of its process, at most end.
func (b *book) ended(th *thread, last, end freezeframe.Instant) freezeframe.Instant {
	seen := b.seen[th.pid]
	i, found := slices.BinarySearch(seen, last)
	if found {
		i++
	}
	if i < len(seen) {
		return min(seen[i], end)
	}
	return end
}

// interval lays what happened between two samples.
func (b *book) interval(l *layer, th *thread, x, y *sample) {
	if y.at <= l.span.Start {
		return
	}
	length := y.at.Sub(x.at)
	ran := min(time.Duration(y.run-min(x.run, y.run)), length)
	queued := min(time.Duration(y.wait-min(x.wait, y.wait)), length-ran)
	rest := length - ran - queued
	px, py := b.place(x), b.place(y)
	cpu := b.wait(th, &place{state: 'R'}, true, true)
	queue := b.wait(th, &place{state: 'R'}, true, false)
	switch {
	case x.state != 'R' && y.state != 'R' && sameSlices(x, y):
		l.lay(y.at, b.wait(th, &px, false, false))
	case x.state != 'R':
		// It slept, was woken, waited for a CPU, ran (and may sleep again).
		l.lay(x.at.Add(rest), b.wait(th, &px, false, false))
		l.lay(x.at.Add(rest+queued), queue)
		l.lay(y.at, cpu)
	case y.state != 'R':
		l.lay(x.at.Add(queued), queue)
		l.lay(x.at.Add(queued+ran), cpu)
		l.lay(y.at, b.wait(th, &py, false, false))
	case x.run == 0 && y.run == 0 && x.wait == 0 && y.wait == 0:
		// No schedstat to tell running from waiting to run.
		l.lay(y.at, b.wait(th, &place{state: 'R'}, true, true))
	default:
		// Runnable at both ends: what it did not run it waited, counted by
		// the kernel only when the wait is over.
		l.lay(x.at.Add(length-ran), queue)
		l.lay(y.at, cpu)
	}
}

// sameSlices tells whether the thread was never put on a CPU in between.
func sameSlices(x, y *sample) bool {
	return x.timeslices == y.timeslices && (x.timeslices != 0 || x.run == y.run)
}

func (b *book) place(x *sample) place {
	return place{
		state: x.state, wchan: b.w.Text(x.wchan), stack: b.w.Text(x.stack),
		syscall: kernel.Syscall(x.syscall), file: b.w.Text(x.file),
	}
}

// wait describes a place; runnable places are on a CPU or waiting for one.
func (b *book) wait(th *thread, p *place, runnable, onCPU bool) freezeframe.Wait {
	if runnable {
		if onCPU {
			return freezeframe.Wait{Class: freezeframe.OnCPU}
		}
		return freezeframe.Wait{Class: freezeframe.Runnable}
	}
	w := freezeframe.Wait{Class: b.class(p), Wchan: p.wchan, Stack: p.stack, Syscall: p.syscall, File: p.file}
	if w.Class == freezeframe.PeerWait || w.Class == freezeframe.Idle {
		if so, ok := b.sockets[socketInode(p.file)]; ok && so.server && !strings.Contains(p.stack, "sk_stream_wait_memory") {
			w.Class = freezeframe.Idle // it waits for its client's next request
		}
	}
	return w
}

// class is place.class; threads sleep in few places, again and again.
func (b *book) class(p *place) freezeframe.Class {
	key := *p
	key.file = "" // it does not matter
	class, ok := b.classes[key]
	if !ok {
		class = p.class()
		b.classes[key] = class
	}
	return class
}

// socketInode returns N of "socket:[N]", or 0.
func socketInode(file string) uint64 {
	digits, ok := strings.CutPrefix(file, "socket:[")
	if !ok {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return n
}

// layer appends waits one after the other and cuts them to the span.
type layer struct {
	span  freezeframe.Span
	at    freezeframe.Instant
	waits []freezeframe.Wait
}

// lay fills the time up to end with a wait; waits alike are joined.
func (l *layer) lay(end freezeframe.Instant, w freezeframe.Wait) {
	end = min(end, l.span.End)
	if end <= l.at {
		return
	}
	w.Start, w.End = l.at, end
	l.at = end
	if n := len(l.waits); n > 0 {
		last := &l.waits[n-1]
		if last.Class == w.Class && last.Wchan == w.Wchan && last.File == w.File && last.TimedOut == w.TimedOut && sameParty(last.Woken, w.Woken) && (last.Stack == w.Stack || w.Stack == "" || last.Stack == "") {
			last.End = end
			if last.Stack == "" {
				last.Stack, last.Syscall = w.Stack, w.Syscall
			}
			return
		}
	}
	l.waits = append(l.waits, w)
}

// sameParty tells whether two are one, or nobody.
func sameParty(a, b *freezeframe.Party) bool {
	return a == b || a != nil && b != nil && a.PID == b.PID && a.TID == b.TID
}

// throttle turns waiting for a CPU into waiting for the quota where the
// thread's own cgroup, or one above it, spent its quota meanwhile.
func (b *book) throttle(th *thread, span freezeframe.Span, waits []freezeframe.Wait) {
	var wanted time.Duration
	for i := range waits {
		if waits[i].Class == freezeframe.Runnable {
			wanted += waits[i].Length()
		}
	}
	if wanted == 0 {
		return
	}
	series := b.w.Between("cgroups", freezeframe.Span{Start: span.Start, End: span.End.Add(150 * time.Millisecond)})
	for _, path := range freezeframe.CgroupPaths(b.groups[th.pid], "cpu") {
		key, ok := textKey(b.w, &series, path)
		if !ok {
			continue
		}
		// The kernel counts the throttled time of each CPU's queue.
		spent := time.Duration(series.Delta(key, "cpu_throttled_us")) * time.Microsecond
		if spent > 0 && float64(spent) >= throttledShare*float64(wanted) {
			for i := range waits {
				if waits[i].Class == freezeframe.Runnable {
					waits[i].Class = freezeframe.Throttled
				}
			}
			return
		}
	}
}

// textKey finds the key of a series whose text is name.
func textKey(w freezeframe.Window, s *freezeframe.Series, name string) (freezeframe.Key, bool) {
	for _, k := range s.Keys() {
		if w.Text(uint64(k)) == name {
			return k, true
		}
	}
	return 0, false
}

// peers turns an event loop's idle wait into a wait for a peer where the
// process had sent a request of its own during the stall, and no answer came:
// that is what its loop was waiting for.
func (b *book) peers(th *thread, span freezeframe.Span, waits []freezeframe.Wait) {
	for i := range waits {
		w := &waits[i]
		if w.Class == freezeframe.PeerWait {
			so, ok := b.sockets[socketInode(w.File)]
			if ok {
				w.Holder = peerParty(b, so)
			}
			// A connection that no reading of sockets shows, or whose other end is not
			// known by them.
			if !ok || so.peerPID == 0 {
				if r := b.replying(th, w, 0); r != nil && r.tid == th.key.TID() && (!ok || r.address == so.peer) {
					w.Holder = r.party()
				}
			}
			continue
		}
		if w.Class != freezeframe.Idle || strings.Contains(w.Stack, "accept") {
			continue
		}
		for _, so := range b.outgoing[th.pid] {
			pending := freezeframe.Span{Start: so.sentAt, End: so.seen}
			if so.sentAt < span.Start.Add(-sentBefore) || pending.And(w.Span).Length() < w.Length()/2 {
				continue
			}
			w.Class = freezeframe.PeerWait
			w.Holder = peerParty(b, so)
			break
		}
		if w.Class == freezeframe.PeerWait {
			continue
		}
		if r := b.replying(th, w, span.Start.Add(-sentBefore)); r != nil {
			w.Class = freezeframe.PeerWait
			w.Holder = r.party()
		}
	}
}

// sentBefore is how long before its own client began to wait a request to a
// peer may have been sent and still be what the wait is for.
const sentBefore = 100 * time.Millisecond

func peerParty(b *book, so socket) *freezeframe.Party {
	p := &freezeframe.Party{PID: so.peerPID, Address: so.peer, Why: "has not answered on " + so.peer}
	if so.peerPID != 0 {
		p.Comm = b.comm(so.peerPID)
	}
	return p
}

// hold finds who must act for the wait to end. Who was seen to end it knows
// best, where it is somebody's own doing and not a device's.
func (b *book) hold(th *thread, w *freezeframe.Wait) {
	if w.Holder != nil {
		return
	}
	b.holdByName(th, w)
	if w.Holder != nil || w.Woken == nil || w.Woken.TID == th.key.TID() {
		return
	}
	switch w.Class {
	case freezeframe.UserLock, freezeframe.KernelLock, freezeframe.FileLock, freezeframe.ChildWait, freezeframe.PipeWait:
		w.Holder = w.Woken
	}
}

// holdByName finds the holder by what the wait is for.
func (b *book) holdByName(th *thread, w *freezeframe.Wait) {
	switch w.Class {
	case freezeframe.FileLock:
		for i := range b.locks {
			l := &b.locks[i]
			if l.holder > 0 && (l.waiter == th.pid || l.waiter == th.key.TID()) && l.span.End.Add(lead) > w.Start && l.span.Start < w.End {
				what := l.path
				if what == "" {
					what = w.File
				}
				w.Holder = &freezeframe.Party{PID: l.holder, Comm: b.comm(l.holder), Why: "holds the " + strings.ToLower(l.kind) + " lock on " + what}
				return
			}
		}
		if pid := b.end(lockName(w.File), "writers", th.pid); w.File != "" && pid != 0 {
			w.Holder = &freezeframe.Party{PID: pid, Comm: b.comm(pid), Why: "holds the lock on " + w.File}
		}
	case freezeframe.PipeWait:
		if pid := b.end(w.File, "readers", th.pid); pid != 0 {
			w.Holder = &freezeframe.Party{PID: pid, Comm: b.comm(pid), Why: "reads " + w.File}
		}
	case freezeframe.Idle:
		// Reading a pipe is waiting for work, unless a child writes it: then
		// the child is what is waited for.
		if !strings.HasPrefix(w.File, "pipe:") {
			return
		}
		if pid := b.end(w.File, "writers", th.pid); pid != 0 && b.parents[pid] == th.pid {
			w.Class = freezeframe.PipeWait
			w.Holder = &freezeframe.Party{PID: pid, Comm: b.comm(pid), Why: "writes " + w.File}
		}
	case freezeframe.PeerWait:
		// A Unix socket: the table of TCP connections does not know it.
		if pid := b.end(w.File, "peers", th.pid); pid != 0 {
			w.Holder = &freezeframe.Party{PID: pid, Comm: b.comm(pid), Why: "is the other end of " + w.File}
		}
	case freezeframe.ChildWait:
		child := 0
		for pid, parent := range b.parents {
			if parent == th.pid && pid > child {
				child = pid
			}
		}
		if child != 0 {
			w.Holder = &freezeframe.Party{PID: child, Comm: b.comm(child), Why: "is the child it waits for"}
		}
	case freezeframe.FilesystemWait:
		if !strings.Contains(w.Stack+w.Wchan, "request_wait_answer") && !strings.Contains(w.Stack, "fuse_") {
			return
		}
		best := -1
		for i, m := range b.fuses {
			if under(w.File, m.mountpoint) || w.File == "" && len(b.fuses) == 1 {
				best = i
			}
		}
		if best >= 0 && b.fuses[best].pid != 0 {
			m := b.fuses[best]
			w.Holder = &freezeframe.Party{PID: m.pid, Comm: m.comm, Why: "serves the FUSE mount " + m.mountpoint}
		}
	}
}

// under tells whether a path lies below a mount point.
func under(path, mountpoint string) bool {
	return mountpoint != "" && (path == mountpoint || strings.HasPrefix(path, strings.TrimSuffix(mountpoint, "/")+"/"))
}

// end returns the first process at a side of a pipe or socket that is not the
// waiter itself.
func (b *book) end(file, side string, not int) int {
	for i := range b.ends {
		if b.ends[i].Attr("file") != file {
			continue
		}
		for word := range strings.SplitSeq(b.ends[i].Attr(side), ",") {
			if pid, err := strconv.Atoi(word); err == nil && pid != not {
				return pid
			}
		}
	}
	return 0
}

// masters makes the waits of a process for children that are victims like
// itself idle: it is the master of a pool, and waiting for them is its work.
func (b *book) masters(accounts []freezeframe.Account) {
	for i := range accounts {
		pid := accounts[i].Victim.PID
		if !slices.ContainsFunc(accounts, func(a freezeframe.Account) bool { return b.parents[a.Victim.PID] == pid }) {
			continue
		}
		for j := range accounts[i].Waits {
			if w := &accounts[i].Waits[j]; w.Class == freezeframe.ChildWait {
				w.Class, w.Holder = freezeframe.Idle, nil
			}
		}
	}
}

// strong classes keep a thread from work that it has; a thread in a weak one
// may as well have nothing to do.
var strong = map[freezeframe.Class]float64{
	freezeframe.Stopped: 1, freezeframe.Frozen: 1, freezeframe.DeviceWait: 1, freezeframe.FilesystemWait: 1,
	freezeframe.KernelLock: 1, freezeframe.Reclaim: 1, freezeframe.SwapIn: 1, freezeframe.FileLock: 1,
	freezeframe.PipeWait: 1, freezeframe.Throttled: 1, freezeframe.Runnable: 1, freezeframe.OnCPU: 1,
	freezeframe.PeerWait: 1, freezeframe.ChildWait: 0.9,
	freezeframe.Sleeping: 0.3, freezeframe.UserLock: 0.3,
}

// share is how much of a thread's span was spent in classes that keep it from
// its work.
func share(waits []freezeframe.Wait) float64 {
	var sum, all float64
	for i := range waits {
		if absent(&waits[i]) {
			continue // it counts by its own life, as the thread of one connection does
		}
		d := float64(waits[i].Length())
		all += d
		if waits[i].Lock != "" {
			sum += d // it is no wait for work
			continue
		}
		sum += d * strong[waits[i].Class]
	}
	if all == 0 {
		return 0
	}
	return sum / max(all, float64(leastLife))
}

// leastLife is the life of a thread from which on all that it did counts.
const leastLife = 100 * time.Millisecond

// absent tells whether a wait is the time before a thread began, or after its
// end: it waits for work in no place at all.
func absent(w *freezeframe.Wait) bool {
	return w.Class == freezeframe.Idle && w.Wchan == "" && w.Stack == "" && w.Syscall == "" && w.File == ""
}

// weigh gives the accounts of one symptom their weights: those that were kept
// from work count, and their idle siblings do not.
func weigh(accounts []freezeframe.Account) {
	most := 0.0
	for i := range accounts {
		most = max(most, share(accounts[i].Waits))
	}
	for i := range accounts {
		a := &accounts[i]
		s := share(a.Waits)
		switch {
		case most == 0:
			// All idle: the process did not see its work.
			a.Weight = 1
		case s >= 0.4*most:
			a.Weight = min(s/most, 1)
		}
	}
}

// blocked returns when the victims of a symptom were kept from their work more
// by what they slept on than by a CPU that they used or wanted.
func blocked(accounts []freezeframe.Account) freezeframe.Spans {
	type edge struct {
		at    freezeframe.Instant
		slept float64 // how much more weight sleeps from here on
	}
	var edges []edge
	for i := range accounts {
		a := &accounts[i]
		if a.Weight <= 0 {
			continue
		}
		for j := range a.Waits {
			w := &a.Waits[j]
			weight := a.Weight
			switch w.Class {
			case freezeframe.OnCPU, freezeframe.Runnable, freezeframe.Throttled:
				weight = -weight
			case freezeframe.Idle, freezeframe.UserLock, freezeframe.Sleeping, freezeframe.ChildWait, freezeframe.Unseen, freezeframe.MachineGone:
				if w.Lock == "" {
					continue
				}
			}
			edges = append(edges, edge{w.Start, weight}, edge{w.End, -weight})
		}
	}
	slices.SortStableFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	var out []freezeframe.Span
	sum := 0.0
	for i, e := range edges {
		sum += e.slept
		if sum > 1e-9 && i+1 < len(edges) {
			out = append(out, freezeframe.Span{Start: e.at, End: edges[i+1].at})
		}
	}
	return freezeframe.Union(out...)
}

// chains follows the waits of an account through whoever held them up: each of
// the longest that ended by a thread's doing, or are for a lock with a known
// owner, for itself, since a lock passes from hand to hand, and all of them together through the one that held them
// up most.
func (b *book) chains(a *freezeframe.Account) {
	a.Chain = b.chain(a.Victim, a.Waits)
	var passed []*freezeframe.Wait
	for i := range a.Waits {
		if w := &a.Waits[i]; w.Holder != nil && (w.Holder == w.Woken || w.Lock != "") {
			passed = append(passed, w)
		}
	}
	slices.SortStableFunc(passed, func(x, y *freezeframe.Wait) int { return cmp.Compare(y.Length(), x.Length()) })
	for _, w := range passed[:min(len(passed), maxPassed)] {
		if b.chained++; b.chained > maxChains {
			return
		}
		w.Chain = b.chain(a.Victim, []freezeframe.Wait{*w})
	}
}

// chain follows waits through whoever held them up longest, and through
// whoever held up that one.
func (b *book) chain(victim freezeframe.Victim, waits []freezeframe.Wait) []freezeframe.Link {
	var links []freezeframe.Link
	type id struct{ pid, tid int }
	seen := map[id]bool{{victim.PID, 0}: true, {victim.PID, victim.TID}: true}
	for len(links) < maxChain {
		holder, spans := mostHeld(waits)
		if holder == nil || holder.PID == 0 || holder.PID == victim.PID && holder.TID == victim.TID {
			return links
		}
		best := b.meanwhile(holder, spans)
		links = append(links, freezeframe.Link{Party: *holder, Waits: best})
		who := id{holder.PID, holder.TID}
		if seen[who] || best == nil {
			return links
		}
		seen[who] = true
		waits = best
	}
	return links
}

// meanwhile is what a holder did in the given times: the thread, where it is
// known, else the thread of the process that was kept from its work most.
func (b *book) meanwhile(holder *freezeframe.Party, spans []freezeframe.Span) []freezeframe.Wait {
	var best []freezeframe.Wait
	most := -1.0
	for _, th := range b.threads[holder.PID] {
		if holder.TID != 0 && th.key.TID() != holder.TID {
			continue
		}
		var got []freezeframe.Wait
		for _, s := range spans {
			got = append(got, b.waits(th, s)...)
		}
		if got != nil {
			if s := share(got); s > most {
				best, most = got, s
			}
		}
	}
	if holder.TID == 0 {
		// Any thread of a process: one at a lock is as likely one of its idle ones.
		for i := range best {
			if w := &best[i]; w.Class == freezeframe.UserLock && w.Holder == w.Woken {
				w.Holder = nil
			}
		}
	}
	return best
}

// mostHeld returns who held up the waits for the longest time, and when. Waits
// of one party in a row are one time, so that its own account is not cut.
func mostHeld(waits []freezeframe.Wait) (*freezeframe.Party, []freezeframe.Span) {
	type id struct {
		pid, tid int
		address  string
	}
	held := map[id]time.Duration{}
	var best *freezeframe.Party
	var who id
	for i := range waits {
		if w := &waits[i]; w.Holder != nil {
			p := id{w.Holder.PID, w.Holder.TID, w.Holder.Address}
			held[p] += w.Length()
			if best == nil || held[p] > held[who] {
				best, who = w.Holder, p
			}
		}
	}
	var spans []freezeframe.Span
	for i := range waits {
		w := &waits[i]
		if w.Holder == nil || (id{w.Holder.PID, w.Holder.TID, w.Holder.Address}) != who {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].End == w.Start {
			spans[n-1].End = w.End
			continue
		}
		spans = append(spans, w.Span)
	}
	return best, spans
}
