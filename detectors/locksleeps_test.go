package detectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
)

// inFutex samples a thread of pid 7 that sleeps in futex from a time on until
// another, and before and after waits for work. since says whether samples tell
// since when it sleeps, as they do with BPF.
func inFutex(w *windowtest.Window, tid int, from, to time.Duration, since bool) {
	sampled(w, tid, func(at time.Duration) windowtest.V {
		v := windowtest.V{"state": 'S', "wchan": "do_epoll_wait", "stack": "do_epoll_wait", "syscall": 232, "timeslices": 5}
		if at >= from && at < to {
			v["wchan"], v["stack"], v["syscall"], v["timeslices"] = "futex_wait_queue", "futex_wait_queue<-futex_wait", 202, 6
			if since {
				v["since_ns"] = windowtest.At(from)
			}
		} else if at >= to {
			v["timeslices"] = 7
		}
		return v
	})
}

// owned is looks at a thread of pid 7 at a mutex, four a second.
func owned(w *windowtest.Window, tid, owner int, from, to, since time.Duration) {
	for at := from; at <= to; at += 250 * ms {
		row := windowtest.V{"pid": 7, "address": 0x7f00 + owner, "at_ns": windowtest.At(at), "switches": tid, "kind": "mutex", "owner_pid": 7, "owner_tid": owner, "owner_comm": "other"}
		if since != 0 {
			row["since_ns"] = windowtest.At(since)
		}
		w.Row("futexes", at+20*ms, windowtest.Task(tid), row)
	}
}

func account(t *testing.T, l freezeframe.Ledger, tid int) *freezeframe.Account {
	t.Helper()
	for i := range l.Accounts {
		if l.Accounts[i].Victim.TID == tid {
			return &l.Accounts[i]
		}
	}
	t.Fatalf("no account of thread %d", tid)
	return nil
}

// lockTime is how long an account's waits are known to be for a lock of a
// thread.
func lockTime(a *freezeframe.Account, lock string, owner int) (d time.Duration) {
	for i := range a.Waits {
		if w := &a.Waits[i]; w.Class == freezeframe.UserLock && w.Lock == lock && w.Holder != nil && w.Holder.TID == owner {
			d += w.Length()
		}
	}
	return d
}

func TestLedgerOfADeadlock(t *testing.T) {
	for name, bpf := range map[string]bool{"with BPF": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			w := stalled()
			since := time.Duration(0)
			if bpf {
				since = 2100 * ms
			}
			for _, tid := range []int{7, 8} {
				inFutex(w, tid, 2100*ms, 6*second, bpf)
				owned(w, tid, 15-tid, 2500*ms, 3500*ms, since)
			}
			inFutex(w, 9, 6*second, 6*second, bpf)
			sampled(w, 10, func(time.Duration) windowtest.V {
				return windowtest.V{"state": 'S', "wchan": "wait_woken", "stack": "wait_woken<-sk_wait_data<-tcp_recvmsg", "file": "socket:[42]", "timeslices": 1}
			})
			l := Account(w)
			whole(t, l)
			for _, tid := range []int{7, 8} {
				a := account(t, l, tid)
				near(t, "at the mutex", lockTime(a, map[int]string{7: "mutex at 0x7f08", 8: "mutex at 0x7f07"}[tid], 15-tid), 1900*ms)
				if a.Weight < 0.9 {
					t.Errorf("thread %d weighs %v beside one that waits for work, and one for an answer", tid, a.Weight)
				}
				for i := range a.Waits {
					if x := &a.Waits[i]; x.Lock != "" && (len(x.Chain) != 1 || x.Chain[0].Party.TID != 15-tid) {
						t.Errorf("the chain of thread %d: %+v", tid, x.Chain)
					}
				}
			}
			if a := account(t, l, 9); a.Weight != 0 {
				t.Errorf("the thread that waits for work weighs %v", a.Weight)
			}
		})
	}
}

// A thread that slept in futex for something else before is not said to have
// waited for the mutex all the time.
func TestOnlyTheSleepThatWasLookedAtIsForTheLock(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		v := windowtest.V{"state": 'S', "wchan": "futex_wait_queue", "stack": "futex_wait_queue<-futex_wait", "syscall": 202, "timeslices": 5}
		if at >= 3*second {
			v["timeslices"] = 6
		}
		return v
	})
	owned(w, 7, 8, 3250*ms, 3750*ms, 0)
	a := account(t, Account(w), 7)
	near(t, "at the mutex", lockTime(a, "mutex at 0x7f08", 8), time.Second)
	var other time.Duration
	for i := range a.Waits {
		if x := &a.Waits[i]; x.Class == freezeframe.UserLock && x.Lock == "" {
			other += x.Length()
			if x.Holder != nil {
				t.Errorf("held by %+v", x.Holder)
			}
		}
	}
	near(t, "elsewhere in futex", other, time.Second)
}

// Between two waits at one mutex a thread may have done anything.
func TestTwoWaitsAtOneMutex(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		v := windowtest.V{"state": 'S', "wchan": "futex_wait_queue", "stack": "futex_wait_queue<-futex_wait", "syscall": 202, "timeslices": 5}
		if at >= 2500*ms && at < 3500*ms {
			v["wchan"], v["stack"], v["syscall"], v["timeslices"] = "hrtimer_nanosleep", "hrtimer_nanosleep", 35, 6
		} else if at >= 3500*ms {
			v["timeslices"] = 7
		}
		return v
	})
	for i, at := range []time.Duration{2250 * ms, 3750 * ms} {
		w.Row("futexes", at, windowtest.Task(7), windowtest.V{"pid": 7, "address": 0x7f08, "at_ns": windowtest.At(at), "switches": i, "kind": "mutex", "owner_pid": 7, "owner_tid": 8})
	}
	a := account(t, Account(w), 7)
	near(t, "of thread 8", lockTime(a, "mutex at 0x7f08", 8), time.Second)
	near(t, "asleep", classes(a)[freezeframe.Sleeping], time.Second)
}

// The owner is who had the lock for most of the looks.
func TestOwnerOfMostLooks(t *testing.T) {
	w := stalled()
	inFutex(w, 7, 2*second, 6*second, true)
	owned(w, 7, 8, 2200*ms, 2200*ms, 2*second)
	for at := 2500 * ms; at < 4*second; at += 250 * ms {
		w.Row("futexes", at, windowtest.Task(7), windowtest.V{"pid": 7, "address": 0x7f08, "since_ns": windowtest.At(2 * second), "at_ns": windowtest.At(at), "switches": 7, "kind": "mutex", "owner_pid": 7, "owner_tid": 9})
	}
	a := account(t, Account(w), 7)
	near(t, "of thread 9", lockTime(a, "mutex at 0x7f08", 9), 2*second)
}
