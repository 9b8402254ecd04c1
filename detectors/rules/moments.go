package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

const (
	// leastClaim is the shortest claim worth a finding: below it, the edges of
	// the samples decide more than the cause.
	leastClaim = 15 * time.Millisecond
	// leastShare is the part of the stall below which a claim is noise.
	leastShare = 0.03
)

// A moment is a stretch of a victim's time and the wait it comes down to: the
// victim's own, or that of whoever held it up.
type moment struct {
	freezeframe.Span
	account *freezeframe.Account
	own     *freezeframe.Wait // what the victim did
	wait    *freezeframe.Wait // what decides: own, or a wait further down the chain
	who     freezeframe.Party // whose wait that is
	depth   int               // how many holders lie between: 0 when wait is own
	beside  bool              // who is no holder that the chain knows, but was at work on the same file
}

// telling tells whether a holder's wait is itself a reason: one that computes,
// sleeps, idles or was not seen gives none, and then what is waited for is the
// holder.
func telling(w *freezeframe.Wait) bool {
	switch w.Class {
	case freezeframe.OnCPU, freezeframe.Sleeping, freezeframe.Idle, freezeframe.Unseen, freezeframe.MachineGone, "":
		return false
	case freezeframe.UserLock, freezeframe.ChildWait, freezeframe.PipeWait:
		return w.Holder != nil
	}
	return true
}

// deepest divides a victim's wait into moments by what decides them: the last
// holder of the chain whose own wait is a reason, else the one before it, else
// the victim's wait. It appends them to out.
func deepest(out []moment, a *freezeframe.Account, own *freezeframe.Wait) []moment {
	links := chainOf(a, own)
	if own.Holder == nil || len(links) == 0 {
		return append(out, moment{Span: own.Span, account: a, own: own, wait: own, who: victim(a)})
	}
	rest := freezeframe.Union(own.Span)
	for i := len(links) - 1; i >= 0 && len(rest) > 0; i-- {
		link := &links[i]
		var told []freezeframe.Span
		for j := range link.Waits {
			w := &link.Waits[j]
			if !telling(w) || w.Class == freezeframe.UserLock && w.Lock == "" {
				// A thread in a futex may have nothing to do by then.
				continue
			}
			for _, s := range rest.Within(w.Span) {
				out = append(out, moment{Span: s, account: a, own: own, wait: w, who: link.Party, depth: i + 1})
				told = append(told, s)
			}
		}
		rest = rest.Minus(freezeframe.Union(told...))
	}
	for _, s := range rest {
		out = append(out, moment{Span: s, account: a, own: own, wait: own, who: victim(a)})
	}
	return out
}

// chainOf is the chain behind a wait: its own, or that of the whole account.
func chainOf(a *freezeframe.Account, own *freezeframe.Wait) []freezeframe.Link {
	if len(own.Chain) > 0 {
		return own.Chain
	}
	return a.Chain
}

// links is the chain behind what the victim did.
func (m *moment) links() []freezeframe.Link { return chainOf(m.account, m.own) }

func victim(a *freezeframe.Account) freezeframe.Party {
	return freezeframe.Party{PID: a.Victim.PID, TID: a.Victim.TID, Comm: a.Victim.Comm}
}

// roots returns the moments, of all victims of weight, that come down to a
// wait for which keep is true.
func roots(w freezeframe.Window, keep func(*moment) bool) moments {
	var out moments
	all := freezeframe.Once(w, rootsOf{}, func() []root { return divide(w) })
	for i := range all {
		m := &all[i].moment
		if !keep(m) {
			continue
		}
		if len(all[i].hidden) == 0 {
			out = append(out, *m)
			continue
		}
		for _, s := range freezeframe.Union(m.Span).Minus(all[i].hidden) {
			cut := *m
			cut.Span = s
			out = append(out, cut)
		}
	}
	return out
}

type rootsOf struct{}

// A root is a moment, and when what it tells is beside the point.
type root struct {
	moment
	hidden freezeframe.Spans
}

// divide divides the waits of all victims of weight into moments.
func divide(w freezeframe.Window) []root {
	ledger := w.Ledger()
	stall := w.Stall()
	var told freezeframe.Spans
	if slices.ContainsFunc(ledger.Accounts, func(a freezeframe.Account) bool { return ours(&stall, &a) }) {
		told = felt(&stall, &ledger)
	}
	files := atWork(&ledger)
	var out []root
	var divided moments
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 {
			continue
		}
		own := ours(&stall, a)
		for j := range a.Waits {
			divided = behindLocks(deepest(divided[:0], a, &a.Waits[j]), files)
			for k := range divided {
				m := &divided[k]
				if m.Length() <= 0 {
					continue
				}
				hidden := told
				if !own {
					hidden = nil
					if onCPUs(m.wait) && a.Symptom >= 0 && a.Symptom < len(ledger.Blocked) {
						hidden = ledger.Blocked[a.Symptom]
					}
				}
				out = append(out, root{moment: *m, hidden: hidden})
			}
		}
	}
	return out
}

// atWork returns, by file, what threads of the victims' processes waited for in
// calls on it other than its lock: nil when nobody waits for the lock of a file.
// A thread that had its turn and left counts little as a victim, but what it
// waited for with the lock in its hand is why the others wait.
func atWork(ledger *freezeframe.Ledger) map[string]moments {
	var files map[string]moments
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		for j := range a.Waits {
			if w := &a.Waits[j]; a.Weight > 0 && onFileLock(w) {
				if files == nil {
					files = map[string]moments{}
				}
				files[w.File] = nil
			}
		}
	}
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		for j := range a.Waits {
			w := &a.Waits[j]
			if _, wanted := files[w.File]; !wanted {
				continue
			}
			switch w.Class {
			case freezeframe.DeviceWait, freezeframe.FilesystemWait, freezeframe.Reclaim:
				files[w.File] = append(files[w.File], moment{Span: w.Span, account: a, own: w, wait: w, who: victim(a)})
			}
		}
	}
	return files
}

// onFileLock tells whether a wait is for the kernel's lock of an open file or
// inode.
func onFileLock(w *freezeframe.Wait) bool {
	return w.Class == freezeframe.KernelLock && w.Holder == nil && len(w.File) > 0 && w.File[0] == '/' && in(w, lockWaits...)
}

// behindLocks puts in the place of waits for a file's lock, as far as they are
// known, the waits of those who were at work on the file meanwhile.
func behindLocks(ms moments, files map[string]moments) moments {
	for i, n := 0, len(ms); i < n && files != nil; i++ {
		m := ms[i]
		if !onFileLock(m.wait) {
			continue
		}
		rest := freezeframe.Union(m.Span)
		for k := range files[m.wait.File] {
			h := &files[m.wait.File][k]
			spans := rest.Within(h.Span)
			for _, s := range spans {
				ms = append(ms, moment{Span: s, account: m.account, own: m.own, wait: h.wait, who: h.who, depth: m.depth + 1, beside: true})
			}
			rest = rest.Minus(spans)
		}
		ms[i].Span = freezeframe.Span{}
		for _, s := range rest {
			m.Span = s
			ms = append(ms, m)
		}
	}
	return ms
}

// ours tells whether an account is that of a probe's own thread.
func ours(stall *freezeframe.Stall, a *freezeframe.Account) bool {
	return a.Symptom >= 0 && a.Symptom < len(stall.Symptoms) && stall.Symptoms[a.Symptom].Own
}

// felt returns when the threads of services say themselves what they waited
// for. What our own probes waited for then is beside the point.
func felt(stall *freezeframe.Stall, ledger *freezeframe.Ledger) freezeframe.Spans {
	var out []freezeframe.Span
	for i := range ledger.Accounts {
		a := &ledger.Accounts[i]
		if a.Weight <= 0 || ours(stall, a) {
			continue
		}
		for j := range a.Waits {
			switch w := &a.Waits[j]; w.Class {
			case freezeframe.Idle, freezeframe.Unseen, freezeframe.Sleeping, freezeframe.UserLock, "":
				if w.Lock != "" {
					out = append(out, w.Span)
				}
			default:
				out = append(out, w.Span)
			}
		}
	}
	return freezeframe.Union(out...)
}

// passed returns the moments in which a wait for which keep is true stands in
// the chain above the one that decides: there it is a symptom.
func passed(w freezeframe.Window, keep func(*moment) bool) moments {
	var out moments
	for _, m := range roots(w, func(m *moment) bool { return m.depth > 0 }) {
		above := m
		above.wait, above.who, above.depth = m.own, victim(m.account), 0
		if keep(&above) {
			out = append(out, above)
			continue
		}
		for i := 0; i < m.depth-1; i++ {
			link := &m.links()[i]
			for j := range link.Waits {
				step := moment{Span: link.Waits[j].Span.And(m.Span), account: m.account, own: m.own, wait: &link.Waits[j], who: link.Party, depth: i + 1}
				if step.Length() > 0 && keep(&step) {
					out = append(out, step)
				}
			}
		}
	}
	return out
}

func inClass(classes ...freezeframe.Class) func(*moment) bool {
	return func(m *moment) bool { return slices.Contains(classes, m.wait.Class) }
}

type moments []moment

func (ms moments) spans() freezeframe.Spans {
	all := make([]freezeframe.Span, len(ms))
	for i := range ms {
		all[i] = ms[i].Span
	}
	return freezeframe.Union(all...)
}

// hull is the time from the first moment to the last.
func (ms moments) hull() freezeframe.Span {
	var h freezeframe.Span
	for i, m := range ms {
		if i == 0 || m.Start < h.Start {
			h.Start = m.Start
		}
		if i == 0 || m.End > h.End {
			h.End = m.End
		}
	}
	return h
}

func (ms moments) longest() *moment {
	var most *moment
	for i := range ms {
		if most == nil || ms[i].Length() > most.Length() {
			most = &ms[i]
		}
	}
	return most
}

func (ms moments) where(keep func(*moment) bool) moments {
	var out moments
	for i := range ms {
		if keep(&ms[i]) {
			out = append(out, ms[i])
		}
	}
	return out
}

// pids returns whose waits these are, without repetition.
func (ms moments) pids() []int {
	var out []int
	for i := range ms {
		if p := ms[i].who.PID; p != 0 && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// share returns which part of the moments keep is true for.
func (ms moments) share(keep func(*moment) bool) float64 {
	var yes, all time.Duration
	for i := range ms {
		all += ms[i].Length()
		if keep(&ms[i]) {
			yes += ms[i].Length()
		}
	}
	return ratio(float64(yes), float64(all))
}

type batch[K comparable] struct {
	key K
	moments
}

// split sorts moments by a property of theirs, the one with the most time
// first.
func split[K comparable](ms moments, key func(*moment) K) []batch[K] {
	at := map[K]int{}
	var out []batch[K]
	for i := range ms {
		k := key(&ms[i])
		j, ok := at[k]
		if !ok {
			j = len(out)
			at[k] = j
			out = append(out, batch[K]{key: k})
		}
		out[j].moments = append(out[j].moments, ms[i])
	}
	slices.SortStableFunc(out, func(a, b batch[K]) int { return cmp.Compare(b.spans().Length(), a.spans().Length()) })
	return out
}

// worth cuts a claim to the stall and returns nil when too little is left.
func worth(w freezeframe.Window, claim freezeframe.Spans) freezeframe.Spans {
	stall := w.Stall()
	late := stall.Late()
	claim = claim.And(late)
	least := max(leastClaim, time.Duration(leastShare*float64(late.Length())))
	if claim.Length() < least {
		return nil
	}
	return claim
}

// in tells whether a wait lies in one of the named kernel functions, by its
// stack and wait channel. A name that ends with * matches what begins so;
// suffixes that compilers add (.isra.0, .part.0) do not count.
func in(w *freezeframe.Wait, names ...string) bool {
	return inFrames(w.Stack, names...) || inFrames(w.Wchan, names...)
}

func inFrames(stack string, names ...string) bool {
	if stack == "" {
		return false
	}
	for frame := range strings.SplitSeq(stack, "<-") {
		frame = plain(frame)
		for _, n := range names {
			if p, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(frame, p) || frame == n {
				return true
			}
		}
	}
	return false
}

// plain is a frame's function without offset and compiler suffix.
func plain(frame string) string {
	frame = strings.TrimSpace(frame)
	if i := strings.IndexAny(frame, ".+"); i > 0 {
		frame = frame[:i]
	}
	return frame
}

// lockCaller is the function that wanted the kernel lock a stack sleeps on:
// which lock it is follows from who asks for it. Kernels that leave the lock's
// own functions out of /proc/PID/stack, as they do the scheduler's, show it
// innermost.
func lockCaller(stack string) string {
	locking, first := false, ""
	for frame := range strings.SplitSeq(stack, "<-") {
		f := plain(frame)
		if first == "" {
			first = f
		}
		switch {
		case hasPrefix(f, "rwsem_", "down_", "__down", "mutex_lock", "__mutex", "mmap_read_lock", "mmap_write_lock", "rt_mutex", "schedule", "__schedule", "io_schedule", "preempt_schedule"):
			locking = true
		case locking:
			return f
		}
	}
	if locking {
		return ""
	}
	return first
}

func hasPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// onCPUs tells whether a wait is about a CPU: used, or wanted.
func onCPUs(w *freezeframe.Wait) bool {
	return w.Class == freezeframe.OnCPU || w.Class == freezeframe.Runnable || w.Class == freezeframe.Throttled
}

// story tells the longest of the moments as a chain, victim first.
func story(ms moments) []string {
	m := ms.longest()
	if m == nil {
		return nil
	}
	steps := []string{fmt.Sprintf("%s %s", who(victim(m.account)), doing(m.own))}
	links := m.depth
	if m.beside {
		links--
	}
	for i, chain := 0, m.links(); i < links && i < len(chain); i++ {
		link := &chain[i]
		step := who(link.Party)
		if link.Party.Why != "" {
			step += " " + link.Party.Why
		}
		if i+1 == m.depth {
			step += " and " + doing(m.wait)
		}
		steps = append(steps, step)
	}
	if m.beside {
		steps = append(steps, fmt.Sprintf("%s was at work on the same file and %s", who(m.who), doing(m.wait)))
	}
	if h := m.wait.Holder; h != nil && (h.PID != 0 || h.Address != "") && (h.PID != m.who.PID || h.TID != m.who.TID) {
		steps = append(steps, strings.TrimSpace(who(*h)+" "+h.Why))
	}
	return steps
}

var doings = map[freezeframe.Class]string{
	freezeframe.OnCPU: "computed", freezeframe.Runnable: "wanted a CPU", freezeframe.Throttled: "had spent its CPU quota", freezeframe.DeviceWait: "waited for a block device",
	freezeframe.FilesystemWait: "waited in a filesystem", freezeframe.KernelLock: "waited for a lock of the kernel", freezeframe.Reclaim: "had to free memory first",
	freezeframe.SwapIn: "waited for memory to be read back", freezeframe.UserLock: "waited for another thread", freezeframe.FileLock: "waited for a file lock",
	freezeframe.PipeWait: "waited for a pipe", freezeframe.PeerWait: "waited for an answer", freezeframe.ChildWait: "waited for a child process",
	freezeframe.Sleeping: "slept on its own account", freezeframe.Stopped: "was stopped", freezeframe.Frozen: "was frozen", freezeframe.Idle: "waited for work",
	freezeframe.MachineGone: "did not run, like everything else", freezeframe.Unseen: "was not seen",
	reading: "waited for a client to send its request",
}

// doing describes a wait in words, with where in the kernel it was and what
// it was about.
func doing(w *freezeframe.Wait) string {
	text := doings[w.Class]
	if text == "" {
		text = "waited"
	}
	var about []string
	if w.Syscall != "" {
		about = append(about, "in "+w.Syscall)
	}
	if w.File != "" {
		about = append(about, "on "+w.File)
	}
	if w.Wchan != "" {
		about = append(about, "at "+w.Wchan)
	}
	if len(about) > 0 {
		text += " (" + strings.Join(about, " ") + ")"
	}
	return text
}

// symptoms returns when work of the kept symptoms was late.
func symptoms(w freezeframe.Window, keep func(*freezeframe.Symptom) bool) freezeframe.Spans {
	stall := w.Stall()
	var out []freezeframe.Span
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		if !keep(sy) {
			continue
		}
		if len(sy.Late) == 0 {
			out = append(out, sy.Span)
		}
		out = append(out, sy.Late...)
	}
	return freezeframe.Union(out...).Within(stall.Span)
}

// refusal tells whether a symptom is work refused with one of the errors.
func refusal(sy *freezeframe.Symptom, errs ...string) bool {
	return sy.Err != "" && slices.ContainsFunc(errs, func(e string) bool { return sy.Err == e || strings.Contains(sy.Err, e) })
}

// suffers tells whether one of the processes is a victim of the symptom.
func suffers(sy *freezeframe.Symptom, pids ...int) bool {
	return slices.ContainsFunc(sy.Victims, func(v freezeframe.Victim) bool { return v.PID != 0 && slices.Contains(pids, v.PID) })
}

// mention returns a finding for what stands in the chain above a deeper wait:
// it is listed, but must not be preferred to what decides.
func mention(w freezeframe.Window, keep func(*moment) bool, blame func(*moment) freezeframe.Culprit, what string) []freezeframe.Finding {
	ms := passed(w, keep)
	claim := worth(w, ms.spans())
	if claim == nil {
		return nil
	}
	m := ms.longest()
	return []freezeframe.Finding{{
		Culprit: blame(m), Explains: claim, Confidence: mentioned, Chain: story(moments{*m}),
		Summary: fmt.Sprintf("%s %s for %s, because of what held up the other side.", who(m.who), what, length(claim.Length())),
	}}
}
