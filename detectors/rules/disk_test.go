package rules_test

import (
	"slices"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

const (
	lockStack  = "fdget_pos<-ksys_write<-do_syscall_64"
	pacedStack = "balance_dirty_pages<-balance_dirty_pages_ratelimited_flags<-generic_perform_write<-ext4_buffered_write_iter"
	// cutStack is in a fsync whose own frames are below the twelfth.
	cutStack = "rq_qos_wait<-wbt_wait<-__rq_qos_throttle<-blk_mq_submit_bio<-__submit_bio<-submit_bio_noacct_nocheck<-ext4_io_submit<-ext4_do_writepages<-ext4_writepages<-do_writepages<-filemap_fdatawrite_wbc<-__filemap_fdatawrite_range"

	journald = 300
	fsyncNr  = 74 // on amd64
)

// flushing writes a device that flushes as often before the stall as in it.
func flushing(w *window, name string, dev int, l load) {
	w.Rows("diskstats", 50*ms, name, func(at time.Duration) v {
		row := v{"dev": dev, "io_us": w.Ran(at, 1000, l.busy*1e6), "weighted_us": w.Ran(at, 1000, l.queue*1e6), "writes": w.Ran(at, 2, l.done),
			"flushes": w.Ran(at, l.flushes, l.flushes), "flush_us": w.Ran(at, 100, l.flushing*1e6), "write_bytes": w.Ran(at, 8192, l.bytes)}
		if w.InStall(at) {
			row["in_flight"] = l.inFlight
		}
		return row
	})
}

// syncer is a thread that is in fsync all the time.
func syncer(w *window, tid, pid int, comm string) {
	thread(w, tid, pid, comm, func(time.Duration) v {
		return v{"state": 'D', "stack": cutStack, "syscall": fsyncNr, "file": "/srv/import"}
	})
}

// TestWhoFlushes tells a storm of flushes from a device that is full of work
// while somebody syncs a little, as always.
func TestWhoFlushes(t *testing.T) {
	waits := func(w *window) { asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"}) }
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
	}{
		"the victims flushed as often before": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 40, done: 3000, flushes: 55, flushing: 0.8, bytes: 1e9, inFlight: 40})
			writing(w, hog, "import", 1e9)
			for i := range 16 {
				syncer(w, hog+i, hog, "import")
			}
		}, "io.flush_storm", process(hog)},
		"few and long flushes": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 4, done: 60, flushes: 3, flushing: 0.9, bytes: 20e6, inFlight: 4})
			writing(w, hog, "checkpointer", 15e6)
			syncer(w, hog, hog, "checkpointer")
		}, "io.flush_storm", process(hog)},
		"a sync after a sync, a process each": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 4, done: 60, flushes: 30, flushing: 0.9, bytes: 4e6, inFlight: 4})
			for i := range 40 {
				from := stallFrom + time.Duration(i)*50*ms
				one := func(at time.Duration) bool { return at >= from && at < from+50*ms }
				w.Rows("procs", 50*ms, windowtest.Task(hog+i), func(at time.Duration) v {
					if !one(at) {
						return nil
					}
					return v{"pid": hog + i, "ppid": hog - 1, "comm": "dd", "state": 'D', "write_bytes": 1 << 20, "syscw": 9}
				})
				w.Rows("tasks", 50*ms, windowtest.Task(hog+i), func(at time.Duration) v {
					if !one(at) {
						return nil
					}
					return v{"pid": hog + i, "comm": "dd", "state": 'D', "stack": cutStack, "syscall": fsyncNr, "file": "/srv/import"}
				})
			}
		}, "io.flush_storm", freezeframe.Culprit{Kind: freezeframe.CulpritProcess, Comm: "dd"}},
		"files are made, and the journal is full": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, flushes: 90, flushing: 0.02, bytes: 44e6, inFlight: 20})
			writing(w, hog, "unpack", 44e6)
			thread(w, hog, hog, "unpack", func(time.Duration) v {
				return v{"state": 'D', "syscall": 257, "stack": "submit_bio_wait<-blkdev_issue_flush<-jbd2_cleanup_journal_tail<-jbd2_log_do_checkpoint<-__jbd2_log_wait_for_space<-add_transaction_credits<-start_this_handle<-jbd2__journal_start<-ext4_create"}
			})
		}, "io.device_saturated", process(hog)},
		"a volume counts no flushes of its own": {func(w *window) {
			waits(w)
			mount(w, 1, "/", "mapper/vg-root", 2<<20, nil)
			flushing(w, "dm-0", 2<<20, load{busy: 1, queue: 5, done: 300, bytes: 5e6, inFlight: 5})
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 5, done: 300, flushes: 100, flushing: 0.9, bytes: 5e6, inFlight: 5})
			writing(w, hog, "import", 2e6)
			syncer(w, hog, hog, "import")
		}, "io.flush_storm", process(hog)},
		"direct I/O, and the journal daemon syncs as always": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, flushes: 25, flushing: 1, bytes: 100e6, inFlight: 20})
			writing(w, hog, "backup", 100e6)
			writing(w, journald, "systemd-journal", 1e5)
			syncer(w, journald, journald, "systemd-journal")
		}, "io.device_saturated", process(hog)},
		"direct I/O, and a database syncs as always": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, flushes: 25, flushing: 1, bytes: 100e6, inFlight: 20})
			writing(w, hog, "backup", 88e6)
			writing(w, hog+50, "postgres", 12e6)
			syncer(w, hog+50, hog+50, "postgres")
		}, "io.device_saturated", process(hog)},
		"what was written long ago, and the journal daemon syncs as always": {func(w *window) {
			waits(w)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, flushes: 25, flushing: 1, bytes: 100e6, inFlight: 20})
			writing(w, journald, "systemd-journal", 1e5)
			syncer(w, journald, journald, "systemd-journal")
		}, "io.device_saturated", freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"}},
		"somebody syncs another disk": {func(w *window) {
			waits(w)
			mount(w, 1, "/", "vda", 1<<20, nil)
			mount(w, 2, "/srv/import", "vdb", 3<<20, nil)
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, flushes: 25, flushing: 1, bytes: 20e6, inFlight: 20})
			flushing(w, "vdb", 3<<20, load{busy: 0.5, queue: 2, done: 500, flushes: 25, flushing: 0.5, bytes: 20e6, inFlight: 2})
			writing(w, hog, "backup", 20e6)
			writing(w, hog+50, "import", 20e6)
			syncer(w, hog+50, hog+50, "import")
		}, "io.device_saturated", process(hog)},
		"our own probe syncs": {func(w *window) {
			waits(w)
			w.Symptom(freezeframe.Symptom{Probe: "fsync", Target: "/srv", Own: true, Victims: []freezeframe.Victim{{PID: 77, TID: 78, Comm: "ff-fsync"}}})
			flushing(w, "vda", 1<<20, load{busy: 1, queue: 4, done: 60, flushes: 30, flushing: 0.9, bytes: 1e5, inFlight: 4})
			writing(w, 77, "freezeframe", 2e4)
			syncer(w, 78, 77, "ff-fsync")
		}, "io.device_saturated", freezeframe.Culprit{}},
	} {
		t.Run(name, func(t *testing.T) {
			verdict(t, build(x.scene), x.cause, x.culprit)
		})
	}
}

// TestReadOnlyInAllButName: after an error newer kernels refuse writes to a
// filesystem that stays mounted as it was.
func TestReadOnlyInAllButName(t *testing.T) {
	verdict(t, build(func(w *window) {
		refusedAt(w, "/srv/data", "EROFS")
		mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
	}), "fs.readonly", freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/srv/data"})
}

// TestJournalOnAFullDevice: those who wait for a journal wait for the device
// when that is full of what does not go through the journal.
func TestJournalOnAFullDevice(t *testing.T) {
	scene := func(column, stack, jbd2 string) func(*window) {
		return func(w *window) {
			asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "jbd2_log_wait_commit", Stack: journalStack, File: "/srv/data", Syscall: "fsync"})
			device(w, "vda", 1<<20, load{busy: 1, queue: 30, done: 900, bytes: 100e6, inFlight: 30})
			proc(w, hog, "fio", func(at time.Duration) v { return v{column: w.Ran(at, 0, 100e6)} })
			thread(w, hog, hog, "fio", func(time.Duration) v { return v{"state": 'D', "stack": stack, "file": "/srv/fio"} })
			thread(w, journald, journald, "jbd2/vda-8", func(time.Duration) v { return v{"state": 'D', "stack": jbd2} })
		}
	}
	const (
		direct   = "blk_mq_get_tag<-__blk_mq_alloc_requests<-blk_mq_submit_bio<-__iomap_dio_rw<-ext4_file_write_iter"
		buffered = "balance_dirty_pages<-balance_dirty_pages_ratelimited_flags<-generic_perform_write"
		blocks   = "bit_wait_io<-__wait_on_buffer<-jbd2_journal_commit_transaction<-kjournald2"
		ordered  = "folio_wait_bit<-folio_wait_writeback<-__filemap_fdatawait_range<-jbd2_journal_finish_inode_data_buffers"
	)
	for name, x := range map[string]struct {
		scene func(*window)
		cause freezeframe.Cause
		who   freezeframe.Culprit
	}{
		"direct writes":                         {scene("write_bytes", direct, blocks), "io.device_saturated", process(hog)},
		"reads":                                 {scene("read_bytes", deviceStack, blocks), "io.device_saturated", process(hog)},
		"data that goes before the journal":     {scene("write_bytes", buffered, ordered), "fs.journal_commit", process(hog)},
		"such data, with somebody's reads":      {scene("read_bytes", deviceStack, ordered), "fs.journal_commit", culprit(freezeframe.CulpritMount)},
		"buffered writes, the journal's blocks": {scene("write_bytes", buffered, blocks), "fs.journal_commit", process(hog)},
	} {
		t.Run(name, func(t *testing.T) { verdict(t, build(x.scene), x.cause, x.who) })
	}
}

// verdict holds the first of the findings of all rules to what it must be.
func verdict(t *testing.T, w *window, cause freezeframe.Cause, culprit freezeframe.Culprit) freezeframe.Finding {
	t.Helper()
	found := detectors.Judge(w, rules.All()).Findings
	if len(found) == 0 {
		t.Fatalf("unknown, want %s", cause)
	}
	if got := found[0]; got.Cause != cause {
		t.Fatalf("%s (%.2f, %+v): %s; want %s", got.Cause, got.Confidence, got.Culprit, got.Summary, cause)
	}
	check(t, w, found[0])
	sameCulprit(t, found[0].Culprit, culprit)
	return found[0]
}

func TestPacedBehindALock(t *testing.T) {
	locked := wait{Class: freezeframe.KernelLock, Stack: lockStack, Syscall: "write", File: "/srv/log"}
	exporter := func(w *window, file string) {
		writing(w, hog, "export", 4e6)
		thread(w, hog, hog, "export", func(time.Duration) v { return v{"state": 'D', "stack": pacedStack, "file": file} })
	}
	mounted := func(w *window) {
		mount(w, 1, "/", "vda", 1<<20, nil)
		mount(w, 2, "/srv", "vdb", 3<<20, nil)
	}
	t.Run("its holder is a thread of the service that has left since", func(t *testing.T) {
		w := build(func(w *window) {
			mounted(w)
			w.Suffers(service, "orders", locked)
			a := w.Account(0, freezeframe.Victim{PID: service, TID: service + 1, Comm: "orders"},
				wait{Class: freezeframe.FilesystemWait, Stack: pacedStack, Syscall: "write", File: "/srv/log"})
			a.Weight = 0
			proc(w, service, "orders", nil)
			writing(w, hog, "export", 4e6)
		})
		verdict(t, w, "fs.dirty_throttled", process(hog))
		if f := detectors.Judge(w, rules.All()).Findings[0]; len(f.Chain) != 2 {
			t.Errorf("chain %q", f.Chain)
		}
	})
	t.Run("writers of the same filesystem are paced", func(t *testing.T) {
		verdict(t, build(func(w *window) {
			mounted(w)
			asleep(w, locked)
			exporter(w, "/srv/export.tmp")
		}), "fs.dirty_throttled", process(hog))
	})
	t.Run("writers of another filesystem are", func(t *testing.T) {
		verdict(t, build(func(w *window) {
			mounted(w)
			asleep(w, locked)
			exporter(w, "/var/export.tmp")
		}), "kernel.lock_contention", freezeframe.Culprit{})
	})
	t.Run("a parent that waits for what it started wrote nothing", func(t *testing.T) {
		verdict(t, build(func(w *window) {
			mounted(w)
			asleep(w, wait{Class: freezeframe.FilesystemWait, Stack: pacedStack, File: "/srv/log"})
			exporter(w, "/srv/export.tmp")
			writing(w, hog+1, "bash", 400e6)
		}), "fs.dirty_throttled", process(hog))
	})
	t.Run("the service itself writes", func(t *testing.T) {
		verdict(t, build(func(w *window) {
			mounted(w)
			w.Suffers(service, "orders", wait{Class: freezeframe.FilesystemWait, Stack: pacedStack, File: "/srv/log"})
			writing(w, service, "orders", 400e6)
			writing(w, hog, "cron", 1e6)
		}), "fs.dirty_throttled", process(service))
	})
}

// TestMovedFromNothing: a process that had never touched a disk is read with
// zeros until it does; what it then moves in one reading is its own.
func TestMovedFromNothing(t *testing.T) {
	verdict(t, build(func(w *window) {
		asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
		device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 25e6, inFlight: 20})
		proc(w, hog, "backup", func(at time.Duration) v {
			if at <= stallFrom {
				return v{"syscw": 1}
			}
			return v{"syscw": 1, "read_bytes": 50_000_000}
		})
	}), "io.device_saturated", process(hog))
}

// TestTheMoverWaitsToo: who fills a disk that is limited as a whole waits for it
// longest, and is seen stuck; it is to blame all the same when users wait for
// somebody else.
func TestTheMoverWaitsToo(t *testing.T) {
	stuck := wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/dev/vda"}
	verdict(t, build(func(w *window) {
		asleep(w, stuck)
		mover := freezeframe.Victim{PID: hog, TID: hog, Comm: "backup"}
		w.Account(w.Symptom(freezeframe.Symptom{Probe: "stuck", Victims: []freezeframe.Victim{mover}}), mover, stuck)
		device(w, "vda", 1<<20, load{busy: 0.1, queue: 1, done: 20, bytes: 20e6})
		group(w, "blkio:/", nil, v{"io_limited": 1})
		writing(w, hog, "backup", 20e6)
	}), "io.device_saturated", process(hog))
}

// TestALoopAmongOthers: a thread that computes is kept from it now and then by
// whoever else wants the CPU, and still waits for nothing of its own.
func TestALoopAmongOthers(t *testing.T) {
	scene := func(computes, other int, class freezeframe.Class) *window {
		return build(func(w *window) {
			waits := slices.Repeat([]freezeframe.Wait{{Class: freezeframe.OnCPU}}, computes)
			w.Suffers(service, "orders", append(waits, slices.Repeat([]freezeframe.Wait{{Class: class}}, other)...)...)
			running(w, service, "orders", 0.7, 0.02)
		})
	}
	verdict(t, scene(7, 3, freezeframe.Runnable), "app.busy_loop", process(service))
	for _, c := range []struct {
		computes, other int
		class           freezeframe.Class
	}{{6, 4, freezeframe.Runnable}, {7, 3, freezeframe.Idle}} {
		for _, f := range detectors.Judge(scene(c.computes, c.other, c.class), rules.All()).Findings {
			if f.Cause == "app.busy_loop" {
				t.Errorf("%d of %d computing, else %v: %s", c.computes, c.computes+c.other, c.class, f.Summary)
			}
		}
	}
}

// TestOldWritesAreOld: a process is not young because the readings begin later
// than the time that is looked at.
func TestOldWritesAreOld(t *testing.T) {
	verdict(t, build(func(w *window) {
		asleep(w, wait{Class: freezeframe.FilesystemWait, Stack: journalStack, File: "/srv/data", Syscall: "fsync"})
		writing(w, hog, "export", 50e6)
		proc(w, hog+1, "mirror", func(time.Duration) v { return v{"write_bytes": 4 << 30} })
	}), "fs.journal_commit", process(hog))
}
