package rules_test

import (
	"strings"
	"testing"

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
