package detectors

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
)

const second = time.Second

// stalled returns a window with a stall from 2 s to 4 s, of which pid 7 is the
// victim, and whose tasks are read every 50 ms from 1.5 s on.
func stalled() *windowtest.Window {
	w := windowtest.New(6*second, 2*second, 4*second)
	w.Symptom(freezeframe.Symptom{Probe: "answer", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: 7, Comm: "orders"}}})
	return w
}

// sampled reads a task of pid 7 at the full rate.
func sampled(w *windowtest.Window, tid int, row func(at time.Duration) windowtest.V) {
	w.Rows("tasks", 50*ms, windowtest.Task(tid), func(at time.Duration) windowtest.V {
		if at < 1500*ms {
			return nil
		}
		v := row(at)
		if v != nil && v["pid"] == nil {
			v["pid"] = 7
		}
		return v
	})
}

func classes(a *freezeframe.Account) map[freezeframe.Class]time.Duration {
	sum := map[freezeframe.Class]time.Duration{}
	for _, w := range a.Waits {
		sum[w.Class] += w.Length()
	}
	return sum
}

// whole checks what every account must hold: its waits follow each other and
// cover its span.
func whole(t *testing.T, l freezeframe.Ledger) {
	t.Helper()
	if len(l.Accounts) == 0 {
		t.Fatal("no accounts")
	}
	for _, a := range l.Accounts {
		at := a.Span.Start
		for _, w := range a.Waits {
			if w.Start != at || w.End <= w.Start {
				t.Fatalf("thread %d: a wait begins at %d after one that ends at %d", a.Victim.TID, w.Start, at)
			}
			at = w.End
		}
		if at != a.Span.End {
			t.Fatalf("thread %d: the waits end at %d, the span at %d", a.Victim.TID, at, a.Span.End)
		}
	}
}

func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := (got - want).Abs(); d > 60*ms {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestLedgerOfAThreadStuckInTheKernel(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		if at < 2*second || at >= 4*second {
			return windowtest.V{"state": 'S', "wchan": "do_epoll_wait", "syscall": 232, "run_ns": int(at / 100), "timeslices": int(at / ms)}
		}
		return windowtest.V{"state": 'D', "wchan": "percpu_rwsem_wait", "stack": "percpu_rwsem_wait<-__percpu_down_read<-vfs_write", "file": "/data/log", "run_ns": 20_000_000, "timeslices": 2000}
	})
	l := Account(w)
	whole(t, l)
	a := &l.Accounts[0]
	near(t, "filesystem", classes(a)[freezeframe.FilesystemWait], 2*second)
	if a.Waits[len(a.Waits)-1].File != "/data/log" && a.Waits[0].File != "/data/log" {
		t.Errorf("waits %+v do not say on which file", a.Waits)
	}
}

// A connection's own thread that is gone after 200 ms did not wait for 2 s.
func TestLedgerOfAThreadThatEnded(t *testing.T) {
	w := stalled()
	stuck := windowtest.V{"state": 'D', "wchan": "percpu_rwsem_wait", "stack": "percpu_rwsem_wait<-vfs_write"}
	sampled(w, 7, func(time.Duration) windowtest.V { return windowtest.V{"state": 'S', "wchan": "futex_wait_queue"} })
	sampled(w, 8, func(at time.Duration) windowtest.V {
		if at > 2200*ms {
			return nil
		}
		return stuck
	})
	l := Account(w)
	whole(t, l)
	for i := range l.Accounts {
		if a := &l.Accounts[i]; a.Victim.TID == 8 {
			near(t, "filesystem", classes(a)[freezeframe.FilesystemWait], 200*ms)
			near(t, "idle", classes(a)[freezeframe.Idle], 1800*ms)
		}
	}
}

// A connection's own thread that began in the middle of the stall waited for
// nothing before, whatever it did when it was first seen; and by its own life it
// counts as those that were there all the time.
func TestLedgerOfAThreadThatBegan(t *testing.T) {
	for _, first := range []rune{'R', 'D'} {
		for _, exact := range []bool{false, true} {
			w := stalled()
			stuck := windowtest.V{"state": 'D', "wchan": "percpu_rwsem_wait", "stack": "percpu_rwsem_wait<-vfs_write"}
			sampled(w, 7, func(time.Duration) windowtest.V { return stuck })
			sampled(w, 8, func(at time.Duration) windowtest.V {
				switch {
				case at < 3500*ms:
					return nil
				case at < 3550*ms:
					return windowtest.V{"state": first, "wchan": "percpu_rwsem_wait", "stack": "percpu_rwsem_wait<-vfs_write", "run_ns": 1, "timeslices": 1}
				}
				return stuck
			})
			if exact {
				told(w, 8, 3600*ms, 3900*ms, windowtest.V{"state": 'D', "wchan": "percpu_rwsem_wait", "stack": "percpu_rwsem_wait<-vfs_write"})
			}
			l := Account(w)
			whole(t, l)
			if len(l.Accounts) != 2 {
				t.Fatalf("%d accounts", len(l.Accounts))
			}
			for i := range l.Accounts {
				if a := &l.Accounts[i]; a.Victim.TID == 8 {
					near(t, "idle", classes(a)[freezeframe.Idle], 1450*ms)
					if a.Weight < 0.8 {
						t.Errorf("first %c, exact %v: weight %.2f of a thread that was stuck all its life", first, exact, a.Weight)
					}
				}
			}
		}
	}
}

func TestLedgerOfAThreadThatWantedACPU(t *testing.T) {
	w := stalled()
	// It gets 20 % of a CPU; the kernel counts the waiting.
	sampled(w, 7, func(at time.Duration) windowtest.V {
		in := max(min(at, 4*second)-2*second, 0)
		return windowtest.V{"state": 'R', "run_ns": int(in / 5), "wait_ns": int(in * 4 / 5), "timeslices": int(in / (10 * ms))}
	})
	l := Account(w)
	whole(t, l)
	near(t, "runnable", classes(&l.Accounts[0])[freezeframe.Runnable], 1600*ms)
	near(t, "on CPU", classes(&l.Accounts[0])[freezeframe.OnCPU], 400*ms)
}

func TestLedgerOfAThreadWhoseWaitIsNotCountedYet(t *testing.T) {
	w := stalled()
	// Runnable for two seconds without a slice: run_delay grows only at its end.
	sampled(w, 7, func(at time.Duration) windowtest.V {
		v := windowtest.V{"state": 'R', "run_ns": 5_000_000, "wait_ns": 1, "timeslices": 10}
		if at >= 4*second {
			v["wait_ns"], v["timeslices"] = int(2*second), 11
		}
		return v
	})
	l := Account(w)
	whole(t, l)
	near(t, "runnable", classes(&l.Accounts[0])[freezeframe.Runnable], 2*second)
}

func TestLedgerKnowsASpentQuota(t *testing.T) {
	throttled := func(group string) freezeframe.Ledger {
		w := stalled()
		w.Rows("procs", second, windowtest.Task(7), func(time.Duration) windowtest.V {
			return windowtest.V{"comm": "orders", "cgroup": "4:cpu,cpuacct:/app/web;0::/", "state": 'R'}
		})
		sampled(w, 7, func(at time.Duration) windowtest.V {
			in := max(min(at, 4*second)-2*second, 0)
			return windowtest.V{"state": 'R', "run_ns": int(in / 10), "wait_ns": int(in * 9 / 10), "timeslices": int(in / (10 * ms))}
		})
		w.Rows("cgroups", 50*ms, group, func(at time.Duration) windowtest.V {
			in := max(min(at, 4*second)-2*second, 0)
			return windowtest.V{"cpu_throttled_us": int(in * 9 / 10 / time.Microsecond)}
		})
		l := Account(w)
		whole(t, l)
		return l
	}
	for group, want := range map[string]freezeframe.Class{
		"cpu:/app/web": freezeframe.Throttled, "cpu:/app": freezeframe.Throttled, "cpu:/other": freezeframe.Runnable,
	} {
		l := throttled(group)
		near(t, group+" is throttled", classes(&l.Accounts[0])[want], 1800*ms)
	}
}

// The holder of a lock of an open file description is not in /proc/locks.
func TestHolderOfAnOpenFileDescriptionsLock(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "fcntl_setlk", "stack": "fcntl_setlk<-do_fcntl", "file": "/data/queue", "timeslices": 1}
	})
	w.Event(2500*ms, freezeframe.EventEnds, "lock:/data/queue", "file", "lock:/data/queue", "readers", "", "writers", "99")
	l := Account(w)
	whole(t, l)
	if h := l.Accounts[0].Waits[0].Holder; h == nil || h.PID != 99 {
		t.Errorf("holder %+v", h)
	}
}

func TestIdleSiblingsDoNotCount(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "locks_lock_inode_wait", "stack": "locks_lock_inode_wait<-__do_sys_flock", "timeslices": 1}
	})
	sampled(w, 8, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "futex_do_wait", "timeslices": 1}
	})
	w.Rows("locks", 50*ms, 1, func(at time.Duration) windowtest.V {
		if !w.InStall(at) {
			return nil
		}
		return windowtest.V{"waiter_pid": 7, "holder_pid": 99, "kind": "FLOCK", "path": "/x"}
	})
	w.Rows("procs", second, windowtest.Task(99), func(time.Duration) windowtest.V {
		return windowtest.V{"comm": "backup", "state": 'S'}
	})
	l := Account(w)
	whole(t, l)
	for _, a := range l.Accounts {
		if want := a.Victim.TID == 7; (a.Weight > 0) != want {
			t.Errorf("thread %d weighs %v", a.Victim.TID, a.Weight)
		}
	}
	if h := l.Accounts[0].Waits[0].Holder; h == nil || h.PID != 99 || h.Comm != "backup" {
		t.Errorf("holder %+v", h)
	}
	if n := l.Spans(freezeframe.UserLock).Length(); n != 0 {
		t.Errorf("an idle sibling's %v count", n)
	}
}

func TestChainIsFollowedToItsRoot(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "locks_lock_inode_wait", "timeslices": 1}
	})
	sampled(w, 20, func(at time.Duration) windowtest.V {
		return windowtest.V{"pid": 20, "comm": "rotate", "state": 'S', "wchan": "anon_pipe_write", "file": "pipe:[5]", "timeslices": 1}
	})
	sampled(w, 30, func(at time.Duration) windowtest.V {
		return windowtest.V{"pid": 30, "comm": "shipper", "state": 'D', "stack": "jbd2_log_wait_commit<-ext4_sync_file", "timeslices": 1}
	})
	w.Rows("locks", 50*ms, 1, func(at time.Duration) windowtest.V {
		return windowtest.V{"waiter_pid": 7, "holder_pid": 20, "kind": "FLOCK"}
	})
	w.Event(2500*ms, freezeframe.EventEnds, "pipe:[5]", "file", "pipe:[5]", "readers", "30", "writers", "20")
	l := Account(w)
	whole(t, l)
	chain := l.Accounts[0].Chain
	if len(chain) != 2 || chain[0].Party.PID != 20 || chain[1].Party.PID != 30 {
		t.Fatalf("chain %+v, want the lock's holder, then the pipe's reader", chain)
	}
	if chain[1].Waits[0].Class != freezeframe.FilesystemWait {
		t.Errorf("the root %+v does not wait for the filesystem", chain[1].Waits)
	}
}

func TestLockCycleEnds(t *testing.T) {
	w := stalled()
	for _, tid := range []int{7, 8} {
		sampled(w, tid, func(at time.Duration) windowtest.V {
			return windowtest.V{"pid": tid, "state": 'S', "wchan": "fcntl_setlk", "timeslices": 1}
		})
	}
	w.Rows("locks", 50*ms, 1, func(time.Duration) windowtest.V {
		return windowtest.V{"waiter_pid": 7, "holder_pid": 8, "kind": "POSIX"}
	})
	w.Rows("locks", 50*ms, 2, func(time.Duration) windowtest.V {
		return windowtest.V{"waiter_pid": 8, "holder_pid": 7, "kind": "POSIX"}
	})
	l := Account(w)
	whole(t, l)
	if n := len(l.Accounts[0].Chain); n > 2 {
		t.Errorf("a cycle of two gives a chain of %d", n)
	}
}

func TestEventLoopThatWaitsForItsUpstream(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "do_epoll_wait", "timeslices": 1}
	})
	// A request sent in the stall that has no answer, and an old subscription
	// that never gets one.
	w.Rows("connections", 50*ms, 1, func(at time.Duration) windowtest.V {
		if at < 2*second {
			return nil
		}
		return windowtest.V{"pid": 7, "inode": 11, "peer": "10.0.0.9:5432", "sent_at": windowtest.At(2010 * ms), "received_at": windowtest.At(second)}
	})
	w.Rows("connections", 50*ms, 2, func(at time.Duration) windowtest.V {
		return windowtest.V{"pid": 7, "inode": 12, "peer": "10.0.0.8:6379", "sent_at": windowtest.At(100 * ms), "received_at": windowtest.At(0)}
	})
	l := Account(w)
	whole(t, l)
	if h := l.Accounts[0].Waits[0].Holder; h == nil || h.Address != "10.0.0.9:5432" {
		t.Fatalf("waits %+v, want the upstream of this request", l.Accounts[0].Waits)
	}
	near(t, "peer", classes(&l.Accounts[0])[freezeframe.PeerWait], 2*second)
}

func TestWaitingForItsOwnClientIsIdle(t *testing.T) {
	w := stalled()
	sampled(w, 7, func(at time.Duration) windowtest.V {
		return windowtest.V{"state": 'S', "wchan": "wait_woken", "stack": "wait_woken<-sk_wait_data<-tcp_recvmsg", "file": "socket:[42]", "timeslices": 1}
	})
	w.Rows("connections", 50*ms, 1, func(time.Duration) windowtest.V {
		return windowtest.V{"pid": 7, "inode": 42, "server": 1, "peer": "10.0.0.1:9999"}
	})
	l := Account(w)
	whole(t, l)
	near(t, "idle", classes(&l.Accounts[0])[freezeframe.Idle], 2*second)
}

func TestVictimThatIsNotSampledByThread(t *testing.T) {
	w := stalled()
	w.Rows("procs", second, windowtest.Task(7), func(time.Duration) windowtest.V { return windowtest.V{"comm": "orders", "state": 'T'} })
	l := Account(w)
	whole(t, l)
	near(t, "stopped", classes(&l.Accounts[0])[freezeframe.Stopped], 2*second)
}

func TestReadingAPipeIsIdleUnlessAChildWritesIt(t *testing.T) {
	for parent, want := range map[int]freezeframe.Class{1: freezeframe.Idle, 7: freezeframe.PipeWait} {
		w := stalled()
		sampled(w, 7, func(at time.Duration) windowtest.V {
			return windowtest.V{"state": 'S', "wchan": "anon_pipe_read", "file": "pipe:[5]", "timeslices": 1}
		})
		w.Rows("procs", second, windowtest.Task(40), func(time.Duration) windowtest.V {
			return windowtest.V{"comm": "convert", "ppid": parent, "state": 'R'}
		})
		w.Event(2500*ms, freezeframe.EventEnds, "pipe:[5]", "file", "pipe:[5]", "readers", "7", "writers", "40")
		l := Account(w)
		whole(t, l)
		near(t, "written by a child of "+string(rune('0'+parent)), classes(&l.Accounts[0])[want], 2*second)
	}
}

func TestMasterOfAPoolIsIdle(t *testing.T) {
	w := windowtest.New(6*second, 2*second, 4*second)
	w.Symptom(freezeframe.Symptom{Probe: "accept", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: 6}, {PID: 7}}})
	sampled(w, 6, func(time.Duration) windowtest.V {
		return windowtest.V{"pid": 6, "state": 'S', "wchan": "do_wait", "timeslices": 1}
	})
	sampled(w, 7, func(time.Duration) windowtest.V {
		return windowtest.V{"pid": 7, "state": 'S', "wchan": "hrtimer_nanosleep", "timeslices": 1}
	})
	w.Rows("procs", second, windowtest.Task(7), func(time.Duration) windowtest.V { return windowtest.V{"comm": "worker", "ppid": 6, "state": 'S'} })
	l := Account(w)
	whole(t, l)
	for _, a := range l.Accounts {
		if (a.Weight > 0) != (a.Victim.PID == 7) {
			t.Errorf("pid %d weighs %v", a.Victim.PID, a.Weight)
		}
	}
}

func TestSleepersOutweighWhoeverWantsACPU(t *testing.T) {
	span := windowtest.Span(0, 4*second)
	at := func(class freezeframe.Class, from, to time.Duration) freezeframe.Wait {
		return freezeframe.Wait{Span: windowtest.Span(from, to), Class: class}
	}
	got := blocked([]freezeframe.Account{
		{Span: span, Weight: 1, Waits: []freezeframe.Wait{at(freezeframe.DeviceWait, 0, 2*second), at(freezeframe.Runnable, 2*second, 4*second)}},
		{Span: span, Weight: 1, Waits: []freezeframe.Wait{at(freezeframe.FileLock, 0, 1*second), at(freezeframe.OnCPU, 1*second, 4*second)}},
		{Span: span, Weight: 0.9, Waits: []freezeframe.Wait{at(freezeframe.Runnable, 0, 3*second), at(freezeframe.Idle, 3*second, 4*second)}},
		{Span: span, Weight: 0, Waits: []freezeframe.Wait{at(freezeframe.Stopped, 0, 4*second)}},
	})
	if len(got) != 1 || got[0] != windowtest.Span(0, 1*second) {
		t.Errorf("blocked %v, want the first second", got)
	}
}

// Whoever waits for news at one service while another stalls is no victim; at the
// one that stalls he may be.
func TestDoubtfulSymptomsAreNotAccountedFor(t *testing.T) {
	for target, victims := range map[string]int{"0.0.0.0:81": 1, "0.0.0.0:80": 2} {
		w := windowtest.New(6*second, 2*second, 4*second)
		w.Symptom(freezeframe.Symptom{Probe: "answer", Target: "0.0.0.0:80", Quality: 0.9, Victims: []freezeframe.Victim{{PID: 7, Comm: "orders"}}})
		w.Symptom(freezeframe.Symptom{Probe: "receive", Target: target, Quality: 0.3, Victims: []freezeframe.Victim{{PID: 8, Comm: "queue"}}})
		for pid := range 2 {
			sampled(w, 7+pid, func(time.Duration) windowtest.V {
				return windowtest.V{"state": int('D'), "wchan": "io_schedule", "pid": 7 + pid}
			})
		}
		pids := map[int]bool{}
		for _, a := range Account(w).Accounts {
			pids[a.Victim.PID] = true
		}
		if len(pids) != victims || !pids[7] {
			t.Errorf("doubtful at %s: accounts of %v, want %d", target, pids, victims)
		}
	}
}

// Of a process that is gone no time is accounted for: what it was last seen at says
// nothing of the time without it.
func TestLedgerOfAServiceThatIsGone(t *testing.T) {
	w := windowtest.New(6*second, 2*second, 4*second)
	w.Symptom(freezeframe.Symptom{Probe: "listen", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: 7, Comm: "orders"}}})
	sampled(w, 7, func(at time.Duration) windowtest.V {
		if at > 2*second {
			return nil
		}
		return windowtest.V{"state": 'R', "run_ns": int(at / 100)}
	})
	if l := Account(w); len(l.Accounts) != 0 || len(l.Blocked) != 1 {
		t.Errorf("accounts %+v", l.Accounts)
	}
}
