package rules_test

import (
	"testing"
	"time"

	"freezeframe"
)

// lockedBy writes a wait for a lock of the kernel as BPF tells it when it is
// over, and while it goes on.
func lockedBy(w *window, tid int, from, to time.Duration, holder, holderTID int, comm string, more v) {
	row := v{"pid": service, "tid": tid, "kind": "rwsem write", "lock": 7, "began_ns": freezeframe.Instant(1000*s + from), "holder_pid": holder, "holder_tid": holderTID, "holder_comm": comm}
	for column, value := range more {
		row[column] = value
	}
	key := tid * 1000
	for at := from.Truncate(50*ms) + 50*ms; at < to; at += 50 * ms {
		if at-from >= 20*ms {
			w.Row("contention", at, key, row)
			key++
		}
	}
	over := v{"ended_ns": freezeframe.Instant(1000*s + to)}
	for column, value := range row {
		over[column] = value
	}
	w.Row("contention", to.Truncate(50*ms)+50*ms, key, over)
}

func TestLockHolders(t *testing.T) {
	inode := wait{Class: freezeframe.KernelLock, Wchan: "rwsem_down_write_slowpath", Stack: "rwsem_down_write_slowpath<-down_write<-generic_file_write_iter<-vfs_write", Syscall: "write", File: "/srv/log"}
	fault := wait{Class: freezeframe.KernelLock, Wchan: "rwsem_down_read_slowpath", Stack: "rwsem_down_read_slowpath<-down_read_killable<-lock_mm_and_find_vma<-do_user_addr_fault"}
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
	}{
		"a holder that sleeps": {func(w *window) {
			asleep(w, inode)
			running(w, hog+1, "busy", 0, 0.9) // the likeliest without BPF
			lockedBy(w, service, stallFrom, stallTo, hog, hog+7, "archive", nil)
		}, "kernel.lock_contention", freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: hog, Comm: "archive"}},
		"one holder after the other: who had it longest": {func(w *window) {
			asleep(w, inode)
			lockedBy(w, service, stallFrom, stallFrom+200*ms, hog+1, hog+1, "quick", nil)
			lockedBy(w, service, stallFrom+200*ms, stallTo, hog, hog, "archive", nil)
		}, "kernel.lock_contention", process(hog)},
		"another thread waited for it": {func(w *window) {
			asleep(w, inode)
			running(w, hog+1, "busy", 0, 0.9)
			lockedBy(w, service+3, stallFrom, stallTo, hog, hog, "archive", nil)
		}, "kernel.lock_contention", process(hog + 1)},
		"a short wait long before": {func(w *window) {
			asleep(w, inode)
			running(w, hog+1, "busy", 0, 0.9)
			lockedBy(w, service, 2*s, 2*s+5*ms, hog, hog, "archive", nil)
		}, "kernel.lock_contention", process(hog + 1)},
		"a sibling holds the address space": {func(w *window) {
			asleep(w, fault)
			lockedBy(w, service, stallFrom, stallTo, service, service+4, "mapper", v{"address_space_of": service, "holder_reads": 1})
		}, "kernel.mmap_lock", process(service)},
		"a monitor reads the victim's smaps": {func(w *window) {
			asleep(w, fault)
			lockedBy(w, service, stallFrom, stallTo, hog, hog, "smem", v{"address_space_of": service, "holder_reads": 1})
		}, "kernel.mmap_lock", process(hog)},
	} {
		t.Run(name, func(t *testing.T) { verdict(t, build(x.scene), x.cause, x.culprit) })
	}
}
