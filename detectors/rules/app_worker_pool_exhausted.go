package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

const (
	// poolLeast is how many workers make a pool.
	poolLeast = 2
	// poolBusy of a worker's time not waiting for work, at least, is a worker
	// that is occupied.
	poolBusy = 0.8
)

func appWorkerPoolExhausted() freezeframe.Rule {
	return freezeframe.Rule{
		Cause: "app.worker_pool_exhausted",
		Title: "a service whose workers are all occupied",
		Means: "Every worker of the service was occupied with a request that takes long, so nobody was left to take the next one. What they wait for is the deeper cause, where it can be named.",
		Proof: "All workers of the service were in the same kind of wait (or all computing) for nearly all of the time, and connections or requests stood waiting. It is the verdict only when what the workers waited for has no better name. Least sure, where nothing else fits: the threads that had requests (BPF) slept until a timer of their own.",
		Remedy: []string{
			"Now: see what the workers do (their slow log, `py-spy dump`, php-fpm's status page, `cat /proc/PID/task/*/wchan`).",
			"So that it does not come back: time limits on requests and on everything they call; slow work in a queue of its own; more workers where memory allows.",
		},
		Reads:    []string{sourceLedger, sourceSymptoms, "listeners.queue", "listeners.pid", "listeners.comm", "listeners.address", "connections.rqueue", "connections.listener", "procs.ppid", "procs.comm", "requests.kind", "requests.tid", "requests.began_at", "requests.done_at"},
		Subsumes: []freezeframe.Cause{"net.accept_queue_overflow"},
		Judge:    judgeWorkerPool,
	}
}

// reading is, here, the class of a worker that sits in a read of a client's
// connection. The ledger calls it idle, and so it is where others take what
// comes in; but while connections stand in line it has one that it waits on.
const reading freezeframe.Class = "reading"

// occupied are the classes of a worker that has a request, or waits for one
// from a client of its own.
var occupied = []freezeframe.Class{freezeframe.Sleeping, freezeframe.OnCPU, freezeframe.UserLock, freezeframe.PeerWait, freezeframe.ChildWait, freezeframe.DeviceWait, freezeframe.FilesystemWait, freezeframe.FileLock, freezeframe.PipeWait, freezeframe.KernelLock, freezeframe.Reclaim, freezeframe.SwapIn, freezeframe.Runnable, freezeframe.Throttled, reading}

func judgeWorkerPool(w freezeframe.Window) []freezeframe.Finding {
	ledger := w.Ledger()
	stall := w.Stall()
	bySymptom := map[int][]*freezeframe.Account{}
	for i := range ledger.Accounts {
		if a := &ledger.Accounts[i]; (a.Weight > 0 || a.Victim.TID == a.Victim.PID && readsClient(a)) && a.Symptom >= 0 && a.Symptom < len(stall.Symptoms) {
			bySymptom[a.Symptom] = append(bySymptom[a.Symptom], a)
		}
	}
	var out []freezeframe.Finding
	for i := range stall.Symptoms {
		sy := &stall.Symptoms[i]
		accounts := bySymptom[i]
		if sy.Own || sy.Err != "" && sy.Err != "overflow" || len(accounts) < poolLeast {
			continue
		}
		kind, workers, span := sameWait(accounts)
		switch kind {
		case freezeframe.UserLock:
			continue // threads at a lock of their own program are its idle pool as likely
		case freezeframe.Runnable, freezeframe.Throttled:
			continue // it is not their work that keeps them
		}
		if workers < poolLeast || workers*2 <= len(accounts) {
			continue
		}
		queued := waiting(w, sy)
		if queued == 0 {
			continue
		}
		claim := worth(w, symptoms(w, func(x *freezeframe.Symptom) bool { return sameSymptom(x, sy) }).And(span))
		if claim == nil {
			continue
		}
		ps := processesIn(w, around(stall.Span))
		pid := poolOwner(w, ps, sy, accounts)
		f := freezeframe.Finding{
			Culprit: ps.blame(freezeframe.Party{PID: pid, Comm: orElse(ps.name(pid), accounts[0].Victim.Comm)}), Explains: claim, Confidence: counted,
			Summary: fmt.Sprintf("All %d workers of %s %s; %d connections waited.", workers, sy.Target, doings[kind], queued),
			Evidence: []freezeframe.Evidence{
				evidence("tasks", "wchan", "%d of %d threads that count %s", workers, len(accounts), doings[kind]),
				evidence("listeners", "queue", "%d connections or requests waited for them", queued),
			},
		}
		f.Culprit.Count = workers
		f.Chain = []string{sy.Target, fmt.Sprintf("%d × %s %s", workers, orElse(accounts[0].Victim.Comm, "worker"), doings[kind])}
		out = append(out, f)
	}
	return append(out, asleepWithRequests(w)...)
}

// sameWait returns the class in which most workers spent nearly all of their
// time, how many they are, and when all of those were in it.
func sameWait(accounts []*freezeframe.Account) (freezeframe.Class, int, freezeframe.Spans) {
	count := map[freezeframe.Class]int{}
	var at = map[freezeframe.Class]freezeframe.Spans{}
	for _, a := range accounts {
		var all freezeframe.Spans
		in := map[freezeframe.Class][]freezeframe.Span{}
		for i := range a.Waits {
			x := &a.Waits[i]
			class := x.Class
			if class == freezeframe.Idle && onClient(x) {
				class = reading
			}
			in[class] = append(in[class], x.Span)
			all = append(all, x.Span)
		}
		for _, c := range occupied {
			if own := freezeframe.Union(in[c]...); own.Length() > 0 && float64(own.Length()) >= poolBusy*float64(freezeframe.Union(all...).Length()) {
				if count[c]++; count[c] == 1 {
					at[c] = own
				} else {
					at[c] = at[c].And(own)
				}
			}
		}
	}
	best := freezeframe.Class("")
	for _, c := range occupied {
		if count[c] > count[best] {
			best = c
		}
	}
	return best, count[best], at[best]
}

// readsClient tells whether a worker sat in a read of a client's connection for
// nearly all of the time; to the ledger it is one that has nothing to do.
func readsClient(a *freezeframe.Account) bool {
	var all, reads time.Duration
	for i := range a.Waits {
		x := &a.Waits[i]
		all += x.Length()
		if x.Class == freezeframe.Idle && onClient(x) {
			reads += x.Length()
		}
	}
	return all > 0 && float64(reads) >= poolBusy*float64(all)
}

// onClient tells whether a wait is for a client's connection to say something.
func onClient(x *freezeframe.Wait) bool {
	return strings.HasPrefix(x.File, "socket:[") && slices.Contains([]string{"read", "readv", "recvfrom", "recvmsg"}, x.Syscall)
}

// waiting is how many connections stood before the service of a symptom: in
// its accept queue, or accepted and not read.
func waiting(w freezeframe.Window, sy *freezeframe.Symptom) uint64 {
	var queued uint64
	for _, l := range listeners(w, sy.Span) {
		if l.of(sy) {
			queued = max(queued, l.queue)
		}
	}
	if queued > 0 {
		return queued
	}
	series := w.Between("connections", sy.Span)
	unread := map[freezeframe.Key]bool{}
	series.Each([]string{"rqueue", "server", "pid"}, func(_ freezeframe.Instant, key freezeframe.Key, v []uint64) {
		if v[0] > 0 && v[1] != 0 && (v[2] == 0 || suffers(sy, int(v[2]))) {
			unread[key] = true
		}
	})
	return uint64(len(unread))
}

// poolOwner is the process to name for a pool: the common parent of its
// workers where that serves the same listener, else its first owner.
func poolOwner(w freezeframe.Window, ps *processes, sy *freezeframe.Symptom, accounts []*freezeframe.Account) int {
	parents := map[int]bool{}
	parent := 0
	for _, a := range accounts {
		if p := ps.byPID[a.Victim.PID]; p != nil {
			parent = p.ppid
			parents[p.ppid] = true
		}
	}
	if len(parents) == 1 && suffers(sy, parent) {
		return parent
	}
	for _, l := range listeners(w, sy.Span) {
		if l.of(sy) && l.pid != 0 {
			return l.pid
		}
	}
	return accounts[0].Victim.PID
}
