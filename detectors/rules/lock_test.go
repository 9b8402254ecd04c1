package rules_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

func TestLocksOfPrograms(t *testing.T) {
	for name, x := range map[string]struct {
		scene func(*window)
		want  bool
		did   string
	}{
		"a holder that sleeps":                                {func(w *window) { atLock(w, freezeframe.Sleeping, "socket:[4001]") }, true, "slept"},
		"a holder that computes":                              {func(w *window) { atLock(w, freezeframe.OnCPU, "socket:[4001]") }, true, "computed"},
		"helpers that wait for what the event loop hands out": {func(w *window) { atLock(w, freezeframe.OnCPU, "") }, false, ""},
		"a thread that waits for work itself":                 {func(w *window) { atLock(w, freezeframe.Idle, "socket:[4001]") }, false, ""},
		"the holder waits for a disk":                         {func(w *window) { atLock(w, freezeframe.DeviceWait, "socket:[4001]") }, false, ""},
		"nobody was seen to wake them": {func(w *window) {
			asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
		}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(x.scene)
			var got *freezeframe.Finding
			for _, f := range detectors.Judge(w, rules.All()).Findings {
				if f.Cause == "app.lock_contention" {
					got = &f
				}
			}
			if (got != nil) != x.want {
				t.Fatalf("found %+v", got)
			}
			if got != nil && (got.Culprit.PID != service || !contains(got.Summary, "flusher", x.did)) {
				t.Errorf("%s (%+v)", got.Summary, got.Culprit)
			}
		})
	}
}

// atMutexes is threads of the service at mutexes of its own: each pair says who
// waits for whom. A thread that waits for none of these did the given.
func atMutexes(w *window, meanwhile freezeframe.Class, pairs ...[2]int) {
	i := w.Symptom(freezeframe.Symptom{Probe: "answer", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: service}}})
	waitOf := func(tid int) *wait {
		for _, p := range pairs {
			if p[0] == tid {
				lock := fmt.Sprintf("mutex at %#x", 0x7f00+p[1])
				return &wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex", Lock: lock,
					Holder: &freezeframe.Party{PID: service, TID: p[1], Comm: fmt.Sprint("t", p[1]), Why: "owns the " + lock}}
			}
		}
		return nil
	}
	for _, p := range pairs {
		own := waitOf(p[0])
		for holder, seen := own.Holder, map[int]bool{p[0]: true}; holder != nil && !seen[holder.TID]; {
			seen[holder.TID] = true
			next := waitOf(holder.TID)
			if next == nil {
				own.Chain = append(own.Chain, freezeframe.Link{Party: *holder, Waits: w.Spread(wait{Class: meanwhile})})
				break
			}
			own.Chain = append(own.Chain, freezeframe.Link{Party: *holder, Waits: w.Spread(*next)})
			holder = next.Holder
		}
		w.Account(i, freezeframe.Victim{PID: service, TID: p[0], Comm: fmt.Sprint("t", p[0])}, *own)
	}
	proc(w, service, "orders", nil)
}

// looked is what a look at futexes found: who waits for whom.
func looked(w *window, at time.Duration, pairs ...[2]int) {
	for _, p := range pairs {
		w.Row("futexes", at, windowtest.Task(p[0]), v{"pid": service, "comm": fmt.Sprint("t", p[0]), "address": 0x7f00 + p[1], "since_ns": windowtest.At(stallFrom), "at_ns": windowtest.At(at), "kind": "mutex", "owner_pid": service, "owner_tid": p[1], "owner_comm": fmt.Sprint("t", p[1])})
	}
}

func TestMutexesInACircle(t *testing.T) {
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause // "": none
		summary []string
	}{
		"two": {func(w *window) {
			atMutexes(w, "", [2]int{501, 502}, [2]int{502, 501})
			looked(w, 7*s, [2]int{501, 502}, [2]int{502, 501})
		}, "app.deadlock", []string{"Threads 501 (t501) and 502 (t502) of orders (pid 500)", "0x80f6", "0x80f5", "none of them"}},
		"three, and another that waits for one of them": {func(w *window) {
			atMutexes(w, "", [2]int{501, 502}, [2]int{502, 503}, [2]int{503, 501}, [2]int{504, 502})
			looked(w, 7*s, [2]int{501, 502}, [2]int{502, 503}, [2]int{503, 501}, [2]int{504, 502})
		}, "app.deadlock", []string{"501", "502", "503"}},
		"its own": {func(w *window) {
			atMutexes(w, "", [2]int{501, 501})
			looked(w, 7*s, [2]int{501, 501})
		}, "app.deadlock", []string{"501 (t501)", "owns itself"}},
		"with a timeout": {func(w *window) {
			atMutexes(w, "", [2]int{501, 502}, [2]int{502, 501})
			looked(w, 7*s, [2]int{501, 502})
			w.Row("futexes", 7*s, windowtest.Task(502), v{"pid": service, "comm": "t502", "address": 0x80f5, "at_ns": windowtest.At(7 * s), "timeout": 1, "kind": "mutex", "owner_pid": service, "owner_tid": 501, "owner_comm": "t501"})
		}, "app.deadlock", []string{"gives up"}},
		"long waits that end, for one that sleeps": {func(w *window) {
			atMutexes(w, freezeframe.Sleeping, [2]int{501, 502}, [2]int{503, 502})
			looked(w, 7*s, [2]int{501, 502}, [2]int{503, 502})
		}, "app.lock_contention", []string{"Thread 502 (t502)", "slept"}},
		"for one that waits for something of which nobody knows who ends it": {func(w *window) {
			atMutexes(w, freezeframe.UserLock, [2]int{501, 502})
			looked(w, 7*s, [2]int{501, 502})
		}, "app.lock_contention", []string{"Thread 502 (t502)"}},
		"from hand to hand": {func(w *window) {
			atMutexes(w, freezeframe.OnCPU, [2]int{501, 502}, [2]int{502, 503})
			looked(w, 7*s, [2]int{501, 502}, [2]int{502, 503})
		}, "app.lock_contention", []string{"Thread 503 (t503)", "computed"}},
		"the owner waits for a frozen filesystem": {func(w *window) {
			atMutexes(w, freezeframe.Idle, [2]int{501, 502})
			l := w.Ledger()
			l.Accounts[0].Waits[0].Chain[0].Waits = w.Spread(frozen("/srv/data/x"))
			mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
			looked(w, 7*s, [2]int{501, 502})
		}, "fs.frozen", nil},
		// Each was seen to wait for the other, but not at the same time.
		"one after the other": {func(w *window) {
			atMutexes(w, freezeframe.Sleeping, [2]int{501, 502})
			looked(w, 6500*ms, [2]int{501, 502})
			looked(w, 7500*ms, [2]int{502, 501})
		}, "app.lock_contention", nil},
		"a circle of which nobody that is late is part": {func(w *window) {
			asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
			looked(w, 7*s, [2]int{501, 502}, [2]int{502, 501})
		}, "", nil},
		"a helper at a lock, beside threads that serve": {func(w *window) {
			atMutexes(w, freezeframe.Sleeping, [2]int{501, 502})
			w.Account(0, freezeframe.Victim{PID: service, TID: 600, Comm: "worker"}, wait{Class: freezeframe.Unseen})
			w.Row("waits", 2*s, windowtest.Task(600), v{"pid": service, "kind": 1, "began_ns": windowtest.At(s), "ended_ns": windowtest.At(2*s - ms), "file": "socket:[4001]"})
			looked(w, 7*s, [2]int{501, 502})
		}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(x.scene)
			found := detectors.Judge(w, rules.All()).Findings
			if x.cause == "" {
				if len(found) > 0 {
					t.Fatalf("%s: %s", found[0].Cause, found[0].Summary)
				}
				return
			}
			if len(found) != 1 || found[0].Cause != x.cause {
				t.Fatalf("found %+v, want %s", found, x.cause)
			}
			f := &found[0]
			check(t, w, *f)
			if !contains(f.Summary, x.summary...) {
				t.Errorf("%s", f.Summary)
			}
			if x.cause == "app.deadlock" && (f.Culprit.PID != service || f.Culprit.Comm != "orders" || len(f.Evidence) == 0 || len(f.Chain) != len(f.Evidence)+1 || f.Explains.Length() != stallTo-stallFrom) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// samples writes what ran on a CPU in the stall, 50 times a second; who is given
// the pid of a sample.
func samples(w *window, cpu int, comm, stack string, who func(i int) int) {
	i := 0
	for at := stallFrom; at < stallTo; at += 20 * ms {
		pid := who(i)
		w.Row("profile", at, windowtest.Task(pid), v{"pid": pid, "comm": comm, "at_ns": windowtest.At(at), "cpu": cpu, "kernel_stack": stack})
		i++
	}
}

// TestWhoRunsBehindALock: threads wait for a lock that a sibling has, who spins
// for another one; who has that one runs, in one process after the other.
func TestWhoRunsBehindALock(t *testing.T) {
	const (
		cause   = "kernel.lock_contention"
		spins   = "rwsem_spin_on_owner<-rwsem_down_write_slowpath<-down_write<-shmem_file_write_iter<-vfs_write<-ksys_write<-do_syscall_64"
		works   = "clear_page_erms<-shmem_fallocate<-vfs_fallocate<-__x64_sys_fallocate<-do_syscall_64<-entry_SYSCALL_64_after_hwframe"
		sibling = service + 7
	)
	me := func(int) int { return service }
	swarm := func(i int) int { return hog + i/40 }
	waiting := func(w *window) {
		asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "fdget_pos", Stack: "fdget_pos<-ksys_write<-do_syscall_64", Syscall: "write", File: "/dev/shm/log"})
	}
	held := func(w *window) {
		waiting(w)
		w.Row("contention", stallTo, service<<8, v{"pid": service, "tid": service, "kind": "mutex", "lock": 1, "began_ns": windowtest.At(stallFrom), "ended_ns": windowtest.At(stallTo), "holder_pid": service, "holder_tid": sibling, "holder_comm": "orders"})
	}
	f := finding(cause, func(w *window) {
		held(w)
		samples(w, 0, "orders", spins, me)
		samples(w, 1, "fallocate", works, swarm)
	})
	if f == nil || f.Culprit.Comm != "fallocate" || f.Culprit.Count != 3 || f.Culprit.PID != hog || f.Confidence < 0.7 || !says(f, "profile", "3 × fallocate (pid 900) spent 100 % of a CPU inside the kernel, in __x64_sys_fallocate") {
		t.Errorf("a sibling that spins: %+v", f)
	}
	f = finding(cause, func(w *window) {
		held(w)
		samples(w, 0, "orders", "copy_from_user<-vfs_write<-ksys_write", me)
		samples(w, 1, "fallocate", works, swarm)
	})
	if f == nil || f.Culprit.PID != service {
		t.Errorf("a sibling that works with the lock is who holds it: %+v", f)
	}
	f = finding(cause, func(w *window) {
		waiting(w)
		samples(w, 1, "fallocate", works, func(int) int { return hog })
	})
	if f == nil || f.Culprit.PID != hog || f.Culprit.Count != 0 || f.Confidence > 0.7 {
		t.Errorf("nobody is known to hold it, and one works in the kernel: %+v", f)
	}
	for what, scene := range map[string]func(*window){
		"who runs runs its own program": func(w *window) {
			waiting(w)
			samples(w, 1, "fallocate", "", swarm)
		},
		"who runs spins as well": func(w *window) {
			waiting(w)
			samples(w, 1, "fallocate", spins, swarm)
		},
		"three share the kernel": func(w *window) {
			waiting(w)
			samples(w, 1, "fallocate", works, swarm)
			samples(w, 1, "tar", works, func(int) int { return hog + 20 })
			samples(w, 1, "cp", works, func(int) int { return hog + 21 })
		},
	} {
		if f := finding(cause, scene); f == nil || f.Culprit.Kind != freezeframe.CulpritHost {
			t.Errorf("%s: %+v", what, f)
		}
	}

	// The pass over all threads leaves the lock's functions out of a stack.
	bare := func(w *window) {
		asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "shmem_file_write_iter", Stack: "shmem_file_write_iter<-vfs_write<-ksys_write", Syscall: "write", File: "/dev/shm/log"})
	}
	row := v{"pid": service, "tid": service, "kind": "rwsem", "lock": 1, "began_ns": windowtest.At(stallFrom), "ended_ns": windowtest.At(stallTo), "holder_pid": hog, "holder_tid": hog, "holder_comm": "fallocate"}
	f = finding(cause, func(w *window) {
		bare(w)
		w.Row("contention", stallTo, service<<8, row)
	})
	if f == nil || f.Culprit.PID != hog || f.Confidence < 0.9 {
		t.Errorf("a stack without the lock: %+v", f)
	}
	row["ended_ns"] = windowtest.At(stallFrom + 200*ms)
	if f = finding(cause, func(w *window) {
		bare(w)
		w.Row("contention", stallTo, service<<8, row)
	}); f != nil {
		t.Errorf("a lock for a tenth of the wait: %+v", f)
	}
}
