package detectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/detectors/rules/windowtest"
)

// told adds a row of waits, read at the next tick after its end.
func told(w *windowtest.Window, tid int, from, to time.Duration, v windowtest.V) {
	row := windowtest.V{"pid": 7, "kind": bpf.Slept, "state": 'S', "began_ns": windowtest.At(from), "ended_ns": windowtest.At(to)}
	for name, value := range v {
		row[name] = value
	}
	w.Row("waits", to/(50*ms)*50*ms+50*ms, windowtest.Task(tid), row)
}

// exactly checks a class's time to 100 microseconds.
func exactly(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := (got - want).Abs(); d > 100*time.Microsecond {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestLedgerOfExactWaits(t *testing.T) {
	w := stalled()
	// Awake in between for 10 ms, of which the counters say that it ran 4.
	told(w, 7, 1900*ms, 2733*ms, windowtest.V{"stack": "futex_wait_queue<-futex_wait", "syscall": 202, "other_pid": 7, "other_tid": 8, "other_comm": "writer"})
	told(w, 7, 2743*ms, 3512*ms, windowtest.V{"state": 'D', "stack": "jbd2_log_wait_commit<-ext4_sync_file"})
	told(w, 7, 3512*ms, 3600*ms, windowtest.V{"kind": bpf.Queued, "state": 'R', "other_comm": "hog"})
	told(w, 7, 3600*ms, 3700*ms, windowtest.V{"kind": bpf.Ran, "state": 'R'})
	sampled(w, 7, func(at time.Duration) windowtest.V {
		v := windowtest.V{"state": 'S', "wchan": "futex_wait_queue", "stack": "futex_wait_queue<-futex_wait", "syscall": 202, "run_ns": 1_000_000, "wait_ns": 0, "timeslices": 5}
		if at >= 2750*ms {
			v["state"], v["wchan"], v["stack"] = 'D', "jbd2_log_wait_commit", "jbd2_log_wait_commit<-ext4_sync_file"
			v["run_ns"], v["wait_ns"], v["timeslices"] = 5_000_000, 6_000_000, 6
		}
		if at > 3600*ms {
			v["state"], v["run_ns"], v["wait_ns"] = 'R', 5_000_000+int(min(at, 3700*ms)-3600*ms), 94_000_000
		}
		if at >= 3750*ms {
			v["state"], v["wchan"], v["stack"], v["syscall"] = 'S', "do_epoll_wait", "do_epoll_wait", 232
			v["run_ns"], v["timeslices"] = 110_000_000, 8
		}
		return v
	})
	l := Account(w)
	whole(t, l)
	a := &l.Accounts[0]
	sum := classes(a)
	exactly(t, "futex", sum[freezeframe.UserLock], 733*ms)
	exactly(t, "journal", sum[freezeframe.FilesystemWait], 769*ms)
	exactly(t, "waiting for a CPU", sum[freezeframe.Runnable], 88*ms+6*ms)
	exactly(t, "on a CPU", sum[freezeframe.OnCPU], 100*ms+4*ms+5*ms)
	if h := a.Waits[0].Holder; h == nil || h.TID != 8 || h.Comm != "writer" {
		t.Errorf("the futex was held by %+v, want thread 8, who woke it", h)
	}
	for _, x := range a.Waits[1:] {
		if x.Class == freezeframe.FilesystemWait && x.Holder != nil {
			t.Errorf("the journal's commit has a holder: %+v", x.Holder)
		}
	}
}

// A worker waits for a lock, whose holder waited for another's, who waited for
// the disk: three threads of one process.
func TestChainOfExactWaitsGoesThroughThreads(t *testing.T) {
	w := stalled()
	told(w, 7, 2000*ms, 3900*ms, windowtest.V{"stack": "futex_wait_queue", "syscall": 202, "other_pid": 7, "other_tid": 8, "other_comm": "b"})
	told(w, 8, 1990*ms, 3000*ms, windowtest.V{"stack": "futex_wait_queue", "syscall": 202, "other_pid": 7, "other_tid": 9, "other_comm": "c"})
	told(w, 8, 3000*ms, 3900*ms, windowtest.V{"state": 'D', "stack": "folio_wait_bit<-ext4_sync_file"})
	told(w, 9, 1980*ms, 2999*ms, windowtest.V{"state": 'D', "stack": "jbd2_log_wait_commit<-ext4_sync_file", "by_interrupt": 1, "other_tid": 99})
	w.Row("procs", 0, windowtest.Task(7), windowtest.V{"comm": "orders"})
	l := Account(w)
	whole(t, l)
	var victim *freezeframe.Account
	for i := range l.Accounts {
		if l.Accounts[i].Victim.TID == 7 {
			victim = &l.Accounts[i]
		}
	}
	if victim == nil || len(victim.Chain) != 2 {
		t.Fatalf("the chain of thread 7: %+v, want two links", victim)
	}
	for i, tid := range []int{8, 9} {
		if got := victim.Chain[i].Party.TID; got != tid {
			t.Errorf("link %d is thread %d, want %d", i, got, tid)
		}
	}
	var journal time.Duration
	for _, x := range victim.Chain[1].Waits {
		if x.Class == freezeframe.FilesystemWait {
			journal += x.Length()
		}
	}
	exactly(t, "the last holder's wait for the journal", journal, 999*ms)
}

// Nobody who was merely interrupted, and no device, holds a lock.
func TestAnInterruptHoldsNothing(t *testing.T) {
	w := stalled()
	told(w, 7, 2000*ms, 4000*ms, windowtest.V{"stack": "futex_wait_queue", "syscall": 202, "other_pid": 55, "other_tid": 55, "other_comm": "bystander", "by_interrupt": 1})
	l := Account(w)
	whole(t, l)
	if h := l.Accounts[0].Waits[0].Holder; h != nil {
		t.Errorf("held by %+v", h)
	}
}

// A sleep of Java's is a wait in a futex that a timer ends, whoever ran when it
// did; a wait that another thread ends is not.
func TestAWaitThatTimesOut(t *testing.T) {
	for name, x := range map[string]struct {
		wait windowtest.V
		want bool
	}{
		"a timer":            {windowtest.V{"by_interrupt": 1, "other_pid": 9, "other_tid": 9}, true},
		"a thread":           {windowtest.V{"other_pid": 7, "other_tid": 8}, false},
		"a worker alike":     {windowtest.V{"other_pid": 8, "other_tid": 8}, false},
		"a stranger's CPU":   {windowtest.V{"other_pid": 9, "other_tid": 9}, true},
		"nobody knows whose": {windowtest.V{"other_pid": 10, "other_tid": 10}, false},
	} {
		w := stalled()
		for pid, comm := range map[int]string{7: "postgres", 8: "postgres", 9: "cron"} {
			w.Rows("procs", second, windowtest.Task(pid), func(time.Duration) windowtest.V { return windowtest.V{"comm": comm, "ppid": 1, "state": 'S'} })
		}
		sampled(w, 7, func(time.Duration) windowtest.V {
			return windowtest.V{"state": 'S', "wchan": "futex_wait_queue", "syscall": 202}
		})
		x.wait["stack"], x.wait["syscall"] = "futex_wait_queue<-futex_wait", 202
		told(w, 7, 2100*ms, 3900*ms, x.wait)
		l := Account(w)
		whole(t, l)
		for i := range l.Accounts[0].Waits {
			if y := &l.Accounts[0].Waits[i]; y.Length() > second && (y.TimedOut != x.want || x.want && y.Holder != nil) {
				t.Errorf("%s: timed out %v, held by %+v", name, y.TimedOut, y.Holder)
			}
		}
	}
}
