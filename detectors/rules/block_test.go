package rules_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// using writes what one process has vda do in the stall, as BPF tells it: so
// many requests a second, of so many bytes, each so long in the device.
func using(w *window, pid int, comm, via string, requests, bytes float64, took time.Duration) {
	w.Rows("block_issuers", 100*ms, freezeframe.Key(1<<52|pid), func(at time.Duration) v {
		return v{"dev": 1 << 20, "device": "vda", "pid": pid, "comm": comm, "via": via, "writes": w.Ran(at, 0, requests), "write_bytes": w.Ran(at, 0, requests*bytes),
			"device_ns": w.Ran(at, 0, requests*float64(took))}
	})
}

// TestWhoFillsADiskByItsRequests: what was asked of the disk counts, not what
// processes moved somewhere.
func TestWhoFillsADiskByItsRequests(t *testing.T) {
	scene := func(more func(*window)) *window {
		return build(func(w *window) {
			asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
			device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 100e6, inFlight: 20})
			writing(w, hog, "elsewhere", 200e6) // on another disk
			using(w, service, "orders", "", 40, 4096, 30*ms)
			more(w)
		})
	}
	verdict(t, scene(func(w *window) { using(w, hog+1, "backup", "", 400, 1<<18, 40*ms) }), "io.device_saturated", process(hog+1))
	verdict(t, scene(func(w *window) { using(w, hog+2, "export", "writeback", 400, 1<<18, 40*ms) }), "io.device_saturated", process(hog+2))
	// Only the service itself is there: its own work fills the disk.
	verdict(t, scene(func(*window) {}), "io.device_saturated", process(service))
	// The kernel's own work has nobody to blame.
	verdict(t, scene(func(w *window) { using(w, 77, "md_resync", "kernel", 400, 1<<18, 40*ms) }), "io.device_saturated", freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"})
	// What a limit held back is passed on by the kernel: whose it was is told by
	// what processes moved.
	verdict(t, scene(func(w *window) { using(w, 77, "kthrotld", "kernel", 400, 1<<18, 40*ms) }), "io.device_saturated", process(hog))
	// Our own probe's requests are there to be timed.
	for _, f := range detectors.Judge(scene(func(w *window) {
		w.Symptom(freezeframe.Symptom{Probe: "fsync", Target: "/srv", Own: true, Victims: []freezeframe.Victim{{PID: 77, TID: 78, Comm: "ff-fsync"}}})
		using(w, 77, "freezeframe", "", 400, 1<<18, 40*ms)
	}), rules.All()).Findings {
		if f.Culprit.PID == 77 {
			t.Errorf("blames our own probe: %s", f.Summary)
		}
	}
	// Of one that appeared in the stall, all that it has is of then.
	verdict(t, scene(func(w *window) {
		w.Rows("block_issuers", 100*ms, freezeframe.Key(1<<52|(hog+3)), func(at time.Duration) v {
			if at < 7*s {
				return nil
			}
			return v{"dev": 1 << 20, "device": "vda", "pid": hog + 3, "comm": "burst", "reads": 900, "read_bytes": 100e6, "device_ns": 40e9, "since": windowtest.At(6950 * ms)}
		})
	}), "io.device_saturated", process(hog+3))
}

// TestADiskThatAnswersIsNotHung: counters may stand still between two readings
// of a disk whose requests BPF sees answered.
func TestADiskThatAnswersIsNotHung(t *testing.T) {
	w := build(func(w *window) {
		asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
		hanging(w, 0)
		w.Rows("block", 50*ms, "vda", func(at time.Duration) v {
			return v{"dev": 1 << 20, "in_flight": 3, "oldest_age_ns": 20_000_000}
		})
	})
	for _, f := range detectors.Judge(w, rules.All()).Findings {
		if f.Cause == "io.device_hung" {
			t.Errorf("%s", f.Summary)
		}
	}
}

// TestASuspendedDeviceIsHung: it counts nothing, neither done nor in flight.
func TestASuspendedDeviceIsHung(t *testing.T) {
	hung := func(done float64, suspended func(at time.Duration) bool) (found freezeframe.Finding) {
		w := build(func(w *window) {
			asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
			mapped(w, "dm-1", done, suspended)
		})
		for _, f := range detectors.Judge(w, rules.All()).Findings {
			if f.Cause == "io.device_hung" {
				found = f
			}
		}
		return found
	}
	// Between stalls it is looked at once a second: the first reading that tells
	// may come late.
	late := func(at time.Duration) bool { return at >= stallFrom+300*ms && at < stallTo }
	f := hung(0, late)
	if f.Culprit.Device != "dm-1" || !strings.Contains(f.Summary, "vg-data") || f.Explains.Length() < (stallTo-stallFrom)*8/10 {
		t.Errorf("%+v", f)
	}
	for what, suspended := range map[string]func(at time.Duration) bool{
		"never":  func(time.Duration) bool { return false },
		"before": func(at time.Duration) bool { return at < stallFrom-200*ms },
		"since":  func(at time.Duration) bool { return at > stallTo+200*ms },
	} {
		if f := hung(0, suspended); f.Cause != "" {
			t.Errorf("suspended %s: %s", what, f.Summary)
		}
	}
	if f := hung(100, late); f.Cause != "" {
		t.Errorf("suspended, and at work: %s", f.Summary)
	}
}

// TestHungWithoutBPF: the kernel's counters alone prove it.
func TestHungWithoutBPF(t *testing.T) {
	w := build(func(w *window) {
		asleep(w, wait{Class: freezeframe.FilesystemWait, Stack: journalStack, File: "/srv/data", Syscall: "fsync"})
		hanging(w, 0)
	})
	verdict(t, w, "io.device_hung", freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"})
}

// TestTeardownWithoutBPF: a process that has no memory left, and is still there.
func TestTeardownWithoutBPF(t *testing.T) {
	for _, x := range []struct {
		name  string
		rss   int
		cause freezeframe.Cause
	}{{"its memory is gone", 0, "mem.teardown"}, {"it has all its memory", 3 << 30, "fs.file_lock"}} {
		t.Run(x.name, func(t *testing.T) {
			verdict(t, build(func(w *window) {
				lock := wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/run/x.lock", Holder: &freezeframe.Party{PID: hog, TID: hog, Comm: "backup", Why: "holds it"}}
				w.Suffers(service, "orders", lock).Chain = []freezeframe.Link{{Party: *lock.Holder, Waits: w.Spread(wait{Class: freezeframe.OnCPU})}}
				proc(w, service, "orders", nil)
				w.Rows("procs", 200*ms, windowtest.Task(hog), func(at time.Duration) v {
					if at > stallTo {
						return nil
					}
					rss := 3 << 30
					if at > stallFrom {
						rss = x.rss
					}
					return v{"pid": hog, "ppid": 1, "comm": "backup", "state": 'R', "rss_bytes": rss}
				})
			}), x.cause, process(hog))
		})
	}
}

// TestTeardownThatWantsACPU: who ends may itself have to wait for a CPU.
func TestTeardownThatWantsACPU(t *testing.T) {
	verdict(t, build(func(w *window) {
		held(w, wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/run/x.lock"}, wait{Class: freezeframe.Runnable})
		w.Row("teardown", stallTo+100*ms, 1, v{"began": windowtest.At(stallFrom), "ended": windowtest.At(stallTo), "pid": hog, "comm": "backup", "rss_bytes": 3 << 30, "by_pid": hog})
	}), "mem.teardown", process(hog))
}

// TestUnmapping: a service that gives memory back itself, and one whose memory
// was taken.
func TestUnmapping(t *testing.T) {
	scene := func(swapped int) *window {
		return build(func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
			w.Rows("procs", 200*ms, windowtest.Task(service), func(at time.Duration) v {
				row := v{"pid": service, "ppid": 1, "comm": "orders", "state": 'R', "stime_us": w.Ran(at, 0, 9e5), "utime_us": w.Ran(at, 0, 1e5), "rss_bytes": 3 << 30}
				if at >= stallTo {
					row["rss_bytes"], row["swap_bytes"] = 64<<20, swapped
				}
				return row
			})
		})
	}
	if f := detectors.Judge(scene(0), rules.All()).Findings; len(f) == 0 || f[0].Cause != "mem.teardown" || f[0].Culprit.PID != service {
		t.Errorf("memory given back: %+v", f)
	}
	for _, f := range detectors.Judge(scene(3<<30), rules.All()).Findings {
		if f.Cause == "mem.teardown" {
			t.Errorf("memory swapped out: %s", f.Summary)
		}
	}
}

// TestWhoAsksForFlushes: each flush is told with who asked for it, also when no
// sample caught him in a sync.
func TestWhoAsksForFlushes(t *testing.T) {
	scene := func(via string) *window {
		return build(func(w *window) {
			asleep(w, wait{Class: freezeframe.DeviceWait, Stack: "submit_bio_wait<-blkdev_issue_flush<-ext4_sync_file<-do_fsync", File: "/srv/data"})
			device(w, "vda", 1<<20, load{busy: 1, queue: 5, done: 300, flushes: 200, flushing: 0.8, bytes: 1e6, inFlight: 5})
			w.Rows("block_issuers", 100*ms, freezeframe.Key(1<<52|hog), func(at time.Duration) v {
				return v{"dev": 1 << 20, "device": "vda", "pid": hog, "comm": "import", "via": via, "flushes": w.Ran(at, 1, 190), "flush_ns": w.Ran(at, 0, 8e8),
					"writes": w.Ran(at, 1, 200), "write_bytes": w.Ran(at, 1, 1e6), "device_ns": w.Ran(at, 0, 3e8)}
			})
		})
	}
	verdict(t, scene(""), "io.flush_storm", process(hog))
	for _, f := range detectors.Judge(scene("kernel"), rules.All()).Findings {
		if f.Cause == "io.flush_storm" {
			t.Errorf("a journal's own flushes: %s", f.Summary)
		}
	}
}

// TestWhoFillsAJournal: nobody is seen to write much, and one process makes the
// changes.
func TestWhoFillsAJournal(t *testing.T) {
	w := build(func(w *window) {
		asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "jbd2_log_wait_commit", Stack: journalStack, File: "/srv/data", Syscall: "fsync"})
		for pid, rate := range map[int]float64{service: 10, hog: 2000} {
			w.Rows("journal_users", 100*ms, freezeframe.Key(1<<52|pid), func(at time.Duration) v {
				return v{"dev": 1 << 20, "pid": pid, "comm": map[int]string{service: "orders", hog: "unpack"}[pid], "handles": w.Ran(at, 0, rate), "blocks": w.Ran(at, 0, 2*rate)}
			})
		}
		w.Row("journal_commits", stallTo+100*ms, 1, v{"dev": 1 << 20, "transaction": 77, "began": windowtest.At(stallFrom), "ended": windowtest.At(stallTo),
			"locking_ns": 1e6, "flushing_ns": 15e8, "logging_ns": 5e8, "logged_blocks": 900})
	})
	verdict(t, w, "fs.journal_commit", process(hog))
	f := detectors.Judge(w, rules.All()).Findings[0]
	if !slices.ContainsFunc(f.Evidence, func(e freezeframe.Evidence) bool { return strings.Contains(e.Text, "commit 77 took 2.0 s") }) {
		t.Errorf("evidence %+v", f.Evidence)
	}
}

// TestPausesWithoutStacks: the stack could not be read, and each pause is told.
func TestPausesWithoutStacks(t *testing.T) {
	scene := func(kind string) *window {
		return build(func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Unseen})
			proc(w, service, "orders", nil)
			vmstat(w, map[string]float64{"nr_dirty": 9000})
			writing(w, hog, "export", 40e6)
			for i := range 10 {
				from := stallFrom + time.Duration(i)*200*ms
				spell(w, i+1, kind, service, from, from+195*ms, "254:0")
			}
		})
	}
	verdict(t, scene("dirty"), "fs.dirty_throttled", process(hog))
	for _, f := range detectors.Judge(scene("cgroup"), rules.All()).Findings {
		if f.Cause == "fs.dirty_throttled" {
			t.Errorf("another kind of spell: %s", f.Summary)
		}
	}
}

// TestWhoPushedItOut: who needed the pages that others lost, not who is largest.
func TestWhoPushedItOut(t *testing.T) {
	verdict(t, build(func(w *window) {
		asleep(w, wait{Class: freezeframe.SwapIn, Stack: "folio_wait_bit_common<-filemap_fault<-__do_fault<-do_read_fault", Syscall: ""})
		vmstat(w, map[string]float64{"workingset_refault_file": 5000, "pgmajfault": 3000})
		growing(w, hog+1, "cache", 8<<30, "")
		w.Rows("reclaim", 100*ms, freezeframe.Key(hog), func(at time.Duration) v {
			return v{"pid": hog, "comm": "scan", "pages": w.Ran(at, 0, 50000), "direct_ns": w.Ran(at, 0, 5e8)}
		})
	}), "mem.file_thrash", process(hog))
}

// TestSlowIsNotBusy: many small requests are a load, though they move nothing.
func TestSlowIsNotBusy(t *testing.T) {
	for _, x := range []struct {
		requests, bytes float64
		slow            bool
	}{{40, 4096, true}, {400, 512, false}, {40, 1 << 18, false}} {
		w := build(func(w *window) {
			asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
			timed(w, 40, 4096, 300*us, x.requests, x.bytes, 90*ms)
		})
		slow := slices.ContainsFunc(detectors.Judge(w, rules.All()).Findings, func(f freezeframe.Finding) bool { return f.Cause == "io.device_slow" })
		if slow != x.slow {
			t.Errorf("%.0f requests a second of %.0f bytes, after 40 of 4096: slow %v", x.requests, x.bytes, slow)
		}
	}
}

// TestWhoMovesADiskByItsSyncs: the service itself asks for more flushes, as it
// does all day; but nearly all bytes are of somebody's syncs. One flush at the
// end of a copy is none of that.
func TestWhoMovesADiskByItsSyncs(t *testing.T) {
	for flushes, cause := range map[float64]freezeframe.Cause{12: "io.flush_storm", 0.5: "io.device_saturated"} {
		w := build(func(w *window) {
			asleep(w, wait{Class: freezeframe.DeviceWait, Stack: "submit_bio_wait<-blkdev_issue_flush<-ext4_sync_file<-do_fsync", File: "/srv/data"})
			device(w, "vda", 1<<20, load{busy: 1, queue: 5, done: 60, flushes: 15, flushing: 0.1, bytes: 2e8, inFlight: 5})
			for pid, x := range map[int]struct {
				comm           string
				flushes, bytes float64
			}{service: {"orders", 30, 1e5}, hog: {"dd", flushes, 2e8}} {
				w.Rows("block_issuers", 100*ms, freezeframe.Key(1<<52|pid), func(at time.Duration) v {
					return v{"dev": 1 << 20, "device": "vda", "pid": pid, "comm": x.comm, "flushes": w.Ran(at, 0, x.flushes), "flush_ns": w.Ran(at, 0, 1e8),
						"writes": w.Ran(at, 1, 200), "write_bytes": w.Ran(at, 0, x.bytes), "device_ns": w.Ran(at, 0, 8e8)}
				})
			}
		})
		verdict(t, w, cause, process(hog))
	}
}
