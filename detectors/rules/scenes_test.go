package rules_test

import (
	"fmt"
	"time"

	"freezeframe"
	"freezeframe/detectors/rules/windowtest"
)

const (
	us = time.Microsecond
	ms = time.Millisecond
	s  = time.Second

	stallFrom, stallTo = 6 * s, 8 * s

	service = 500 // the victim, "orders"
	hog     = 900 // who is to blame, mostly
)

type (
	window = windowtest.Window
	v      = windowtest.V
	wait   = freezeframe.Wait
)

// A scene is a window on which one rule must fire, and a near miss of it.
type scene struct {
	fire, miss func(*window)
	// whom the finding must blame: only the fields that are set are compared.
	culprit freezeframe.Culprit
	// explains is the share of the stall that must be claimed; 0: all of it.
	explains float64
}

func build(f func(*window)) *window {
	w := windowtest.New(12*s, stallFrom, stallTo)
	f(w)
	fill(w)
	return w
}

// fill gives every source that a scene left alone the readings of a machine
// with nothing to do.
func fill(w *window) {
	has := func(name string) bool {
		series := w.Phase(name, freezeframe.Whole)
		return len(series.Tables) > 0
	}
	if !has("stat") {
		stat(w, 20, 20, use{}, use{})
	}
	if !has("procs") {
		proc(w, service, "orders", nil)
	}
	if !has("diskstats") {
		device(w, "vda", 1<<20, load{})
	}
	if !has("mounts") {
		mount(w, 1, "/", "vda", 1<<20, nil)
	}
	if !has("vmstat") {
		vmstat(w, nil)
	}
	if !has("netstat") {
		netstat(w, nil)
	}
	if !has("limits") {
		w.Rows("limits", s, 0, func(time.Duration) v { return v{"conntrack_count": 10, "conntrack_max": 65536} })
	}
	clear(w.Accessed)
}

// use is the share of a CPU that goes to something, in the stall.
type use struct{ user, system, softirq, steal, irq float64 }

// stat writes CPU 0 and 1 and their sum, with forks a second before and in the
// stall.
func stat(w *window, forksBefore, forks float64, c0, c1 use) {
	w.Rows("stat", 50*ms, 0, func(at time.Duration) v { return statRow(w, at, c0) })
	w.Rows("stat", 50*ms, 1, func(at time.Duration) v { return statRow(w, at, c1) })
	w.Rows("stat", 50*ms, freezeframe.AllCPUs, func(at time.Duration) v {
		a, b, sum := statRow(w, at, c0), statRow(w, at, c1), v{"processes": w.Ran(at, forksBefore, forks)}
		for column := range a {
			sum[column] = a[column].(float64) + b[column].(float64)
		}
		return sum
	})
}

func statRow(w *window, at time.Duration, u use) v {
	const calm = 0.05
	return v{
		"user_us": w.Ran(at, calm*1e6, u.user*1e6), "system_us": w.Ran(at, 0, u.system*1e6), "softirq_us": w.Ran(at, 0, u.softirq*1e6), "steal_us": w.Ran(at, 0, u.steal*1e6),
		"irq_us": w.Ran(at, 0, u.irq*1e6), "idle_us": w.Ran(at, (1-calm)*1e6, (1-u.user-u.system-u.softirq-u.steal-u.irq)*1e6),
	}
}

// proc writes a process once a second; more adds to its row.
func proc(w *window, pid int, comm string, more func(at time.Duration) v) {
	w.Rows("procs", s, windowtest.Task(pid), func(at time.Duration) v {
		row := v{"pid": pid, "ppid": 1, "comm": comm, "cgroup": "0::/system.slice/" + comm + ".service", "state": 'S', "rss_bytes": 10 << 20, "threads": 4}
		if more != nil {
			extra := more(at)
			if extra == nil {
				return nil
			}
			for column, value := range extra {
				row[column] = value
			}
		}
		return row
	})
}

// thread writes a thread 20 times a second.
func thread(w *window, tid, pid int, comm string, more func(at time.Duration) v) {
	w.Rows("tasks", 50*ms, windowtest.Task(tid), func(at time.Duration) v {
		row := v{"pid": pid, "comm": comm, "state": 'S'}
		for column, value := range more(at) {
			row[column] = value
		}
		return row
	})
}

// spinning writes a thread that uses a share of a CPU in the stall.
func spinning(w *window, tid, pid int, comm string, share float64, more v) {
	thread(w, tid, pid, comm, func(at time.Duration) v {
		row := v{"run_ns": w.Ran(at, 0, share*1e9), "state": 'R'}
		for column, value := range more {
			row[column] = value
		}
		return row
	})
}

// handlers writes what BPF tells of an interrupt, or of a softirq, on a CPU: the
// share that it takes in the stall, in so many runs a second, of which one took
// 3 ms. It is attached a moment after the stall began.
func handlers(w *window, cpu, number int, softirq string, share, rate float64) {
	soft := 0
	if softirq != "" {
		soft = 1
	}
	w.Rows("interrupt_time", 50*ms, freezeframe.Key(cpu<<32|soft<<31|number), func(at time.Duration) v {
		if at < stallFrom+200*ms || at > stallTo+5*s {
			return nil
		}
		row := v{"cpu": cpu, "number": number, "softirq": softirq, "ns": w.Ran(at, 0, share*1e9), "count": w.Ran(at, 0, rate)}
		if at == stallFrom+s {
			row["longest_ns"], row["longest_began"] = 3e6, windowtest.At(at-4*ms)
		}
		return row
	})
}

// load is what a device does in the stall.
type load struct {
	busy, queue, done, flushes, flushing float64
	bytes                                float64 // a second
	inFlight                             int
}

func device(w *window, name string, dev int, l load) {
	w.Rows("diskstats", 50*ms, name, func(at time.Duration) v {
		row := v{"dev": dev, "io_us": w.Ran(at, 1000, l.busy*1e6), "weighted_us": w.Ran(at, 1000, l.queue*1e6), "reads": w.Ran(at, 2, l.done),
			"flushes": w.Ran(at, 1, l.flushes), "flush_us": w.Ran(at, 100, l.flushing*1e6), "read_bytes": w.Ran(at, 8192, l.bytes)}
		if w.InStall(at) {
			row["in_flight"] = l.inFlight
		}
		return row
	})
}

// spell is a stretch of a thread's time in getting memory, as BPF tells it.
func spell(w *window, n int, kind string, pid int, from, to time.Duration, device string) {
	w.Row("reclaim_intervals", to+20*ms, n, v{"began": windowtest.At(from), "ended": windowtest.At(to), "tid": pid, "pid": pid, "comm": "orders", "kind": kind, "device": device})
}

// timed writes vda with so many requests a second, of so many bytes, that take
// so long: before the stall and in it.
func timed(w *window, was, wasBytes float64, wasTook time.Duration, done, bytes float64, took time.Duration) {
	before, during := was*wasTook.Seconds(), done*took.Seconds()
	w.Rows("diskstats", 50*ms, "vda", func(at time.Duration) v {
		row := v{"dev": 1 << 20, "reads": w.Ran(at, was, done), "read_bytes": w.Ran(at, was*wasBytes, done*bytes), "read_us": w.Ran(at, before*1e6, during*1e6),
			"weighted_us": w.Ran(at, before*1e6, during*1e6), "io_us": w.Ran(at, min(before, 1)*1e6, min(during, 1)*1e6)}
		if w.InStall(at) {
			row["in_flight"] = int(during) + 1
		}
		return row
	})
}

// mapped writes what the device mapper says of a device that works or not, and that
// completes so many requests a second in the stall; none are in flight.
func mapped(w *window, disk string, done float64, suspended func(at time.Duration) bool) {
	w.Rows("diskstats", 50*ms, disk, func(at time.Duration) v {
		n := int(w.Ran(at, 100, done))
		return v{"dev": 1 << 20, "reads": n, "read_bytes": n * 4096}
	})
	w.Rows("mapper", 100*ms, disk, func(at time.Duration) v {
		row := v{"name": "vg-data"}
		if suspended(at) {
			row["suspended"] = 1
		}
		return row
	})
}

// hanging writes vda with requests in flight, of which so many a second come
// back in the stall.
func hanging(w *window, done float64) {
	w.Rows("diskstats", 50*ms, "vda", func(at time.Duration) v {
		row := v{"dev": 1 << 20, "reads": int(w.Ran(at, 100, done)), "read_bytes": int(w.Ran(at, 100, done)) * 4096, "io_us": w.Ran(at, 1e4, 1e6), "weighted_us": w.Ran(at, 1e4, 3e6)}
		if w.InStall(at) {
			row["in_flight"] = 3
		}
		return row
	})
}

func mount(w *window, id int, point, source string, dev int, more v) {
	w.Rows("mounts", s, id, func(time.Duration) v {
		row := v{"dev": dev, "mountpoint": point, "fstype": "ext4", "source": "/dev/" + source, "local": 1, "sized": 1, "size_bytes": 10 << 30, "avail_bytes": 5 << 30, "files": 1000, "files_free": 500}
		for column, value := range more {
			row[column] = value
		}
		return row
	})
}

// vmstat writes counters that run at the given rates in the stall.
func vmstat(w *window, rates map[string]float64) {
	w.Rows("vmstat", 50*ms, 0, func(at time.Duration) v {
		row := v{"nr_dirty_threshold": 10000, "nr_dirty": 100}
		for column, rate := range rates {
			if len(column) > 3 && column[:3] == "nr_" {
				row[column] = rate
			} else {
				row[column] = w.Ran(at, 0, rate)
			}
		}
		return row
	})
}

func netstat(w *window, rates map[string]float64) {
	w.Rows("netstat", 50*ms, 0, func(at time.Duration) v {
		row := v{"TcpOutSegs": w.Ran(at, 1000, 1000)}
		for column, rate := range rates {
			row[column] = w.Ran(at, 0, rate)
		}
		return row
	})
}

// group writes a cgroup 20 times a second: columns that run in the stall, and
// levels that hold.
func group(w *window, name string, rates map[string]float64, levels v) {
	w.Rows("cgroups", 50*ms, name, func(at time.Duration) v {
		row := v{}
		for column, rate := range rates {
			row[column] = w.Ran(at, 0, rate)
		}
		for column, value := range levels {
			row[column] = value
		}
		return row
	})
}

// runnable is the victim that waits for a CPU, on CPU 0, and may run on the
// CPUs given.
func runnable(w *window, allowed string) {
	w.Suffers(service, "orders", wait{Class: freezeframe.Runnable})
	proc(w, service, "orders", nil)
	thread(w, service, service, "orders", func(at time.Duration) v {
		return v{"cpu": 0, "wait_ns": w.Ran(at, 0, 1e9), "allowed_cpus": allowed, "state": 'R'}
	})
}

// running is a process that uses CPU time, in CPUs, in the stall.
func running(w *window, pid int, comm string, user, system float64) {
	proc(w, pid, comm, func(at time.Duration) v {
		return v{"utime_us": w.Ran(at, 0, user*1e6), "stime_us": w.Ran(at, 0, system*1e6)}
	})
}

// writing is a process that writes in the stall, bytes a second.
func writing(w *window, pid int, comm string, bytes float64) {
	proc(w, pid, comm, func(at time.Duration) v {
		return v{"write_bytes": w.Ran(at, 0, bytes), "cgroup": fmt.Sprintf("0::/system.slice/%s.service;3:blkio:/%s", comm, comm)}
	})
}

// growing is a process that gains memory up to the stall's end.
func growing(w *window, pid int, comm string, to int, cgroup string) {
	proc(w, pid, comm, func(at time.Duration) v {
		return v{"rss_bytes": int(float64(to) * min(1, at.Seconds()/stallTo.Seconds())), "cgroup": cgroup}
	})
}

// asleep is a victim in one wait, with its process.
func asleep(w *window, x wait) {
	w.Suffers(service, "orders", x)
	proc(w, service, "orders", nil)
}

// held is a victim that waits for a holder, which meanwhile did the given.
func held(w *window, x wait, meanwhile wait) {
	x.Holder = &freezeframe.Party{PID: hog, TID: hog, Comm: "backup", Why: "holds it"}
	a := w.Suffers(service, "orders", x)
	a.Chain = []freezeframe.Link{{Party: *x.Holder, Waits: w.Spread(meanwhile)}}
	proc(w, service, "orders", nil)
	proc(w, hog, "backup", nil)
}

// fsync is our own probe's wait on a mount.
func refusedAt(w *window, target, err string) {
	w.Symptom(freezeframe.Symptom{Probe: "fsync", Target: target, Err: err, Own: true, Victims: []freezeframe.Victim{{PID: 77, TID: 78, Comm: "ff-fsync"}}})
	w.Event(stallFrom+ms, freezeframe.EventRefused, "fsync "+target+": "+err, "probe", "fsync", "target", target, "errno", err)
}

func conn(w *window, key int, more func(at time.Duration) v) {
	w.Rows("connections", 50*ms, key, func(at time.Duration) v {
		row := v{"state": 1, "inode": 4000 + key, "pid": service, "peer": "10.0.0.9:5432", "local": "10.0.0.1:40000", "rtt_us": 200}
		for column, value := range more(at) {
			row[column] = value
		}
		return row
	})
}

// atLock is four threads of the service that sleep in a futex until a fifth
// wakes them, which meanwhile did the given; file is what they had waited on
// before.
func atLock(w *window, meanwhile freezeframe.Class, file string) {
	holder := freezeframe.Party{PID: service, TID: service + 9, Comm: "flusher", Why: "woke it"}
	i := w.Symptom(freezeframe.Symptom{Probe: "answer", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{{PID: service}}})
	for n := range 4 {
		x := wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex", Holder: &holder, Woken: &holder}
		x.Chain = []freezeframe.Link{{Party: holder, Waits: w.Spread(wait{Class: meanwhile})}}
		w.Account(i, freezeframe.Victim{PID: service, TID: service + n, Comm: "orders"}, x)
		for at := s; at < stallFrom; at += s {
			w.Row("waits", at, windowtest.Task(service+n), v{"pid": service, "kind": 1, "began_ns": windowtest.At(at - 60*ms), "ended_ns": windowtest.At(at - ms), "file": file})
		}
	}
	proc(w, service, "orders", nil)
}

// asks is a socket that asks a name server.
func asks(w *window, key, pid int, server string, from, to time.Duration) {
	for at := from.Truncate(250 * ms); at <= to+250*ms; at += 250 * ms {
		if at <= from || at >= to {
			w.Row("udp", at, 999, v{"local": "127.0.0.1:9", "local_port": 9, "rqueue": 5})
			continue
		}
		w.Row("udp", at, key, v{"pid": pid, "peer": server, "peer_port": 53, "local": "10.0.0.1:40000", "local_port": 40000, "inode": 7000 + key, "since_ns": windowtest.At(from + 250*ms)})
	}
}

// outweighed is the victim, with more of its row, against so many threads that
// compute.
func outweighed(w *window, threads int, victim, rival v) {
	w.Suffers(service, "orders", wait{Class: freezeframe.Runnable})
	proc(w, service, "orders", func(time.Duration) v { return victim })
	thread(w, service, service, "orders", func(at time.Duration) v {
		row := v{"cpu": 0, "wait_ns": w.Ran(at, 0, 1e9), "state": 'R'}
		if nice, ok := victim["nice"]; ok {
			row["nice"] = nice
		}
		return row
	})
	stat(w, 20, 20, use{user: 1}, use{user: 1})
	proc(w, hog, "render", func(at time.Duration) v {
		row := v{"utime_us": w.Ran(at, 0, 1.9e6)}
		for column, value := range rival {
			row[column] = value
		}
		return row
	})
	for i := range threads {
		more := v{"cpu": i % 2}
		if nice, ok := rival["nice"]; ok {
			more["nice"] = nice
		}
		spinning(w, hog+i, hog, "render", 1.9/float64(threads), more)
	}
}

// sending is a victim that has no room to send into.
func sending(w *window) {
	asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", Stack: "wait_woken<-sk_stream_wait_memory<-tcp_sendmsg_locked<-tcp_sendmsg", File: "socket:[4001]", Syscall: "sendto"})
	proc(w, hog, "collector", nil)
}

// refusedLimit is what the limits probe says of work that was refused.
func refusedLimit(w *window, target, err string) {
	w.Symptom(freezeframe.Symptom{Probe: "limits", Target: target, Err: err})
	proc(w, service, "orders", nil)
}

// refuses is a process whose system calls fail, as they are counted while the
// stall is open, and whose work waits for what it tries to get.
func refuses(w *window, pid, uid int, comm, call, errno string, more v) {
	w.Suffers(pid, comm, wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
	proc(w, pid, comm, func(time.Duration) v {
		row := v{"uid": uid}
		for column, value := range more {
			row[column] = value
		}
		return row
	})
	failing(w, pid, uid, comm, call, errno)
}

func failing(w *window, pid, uid int, comm, call, errno string) {
	const begins = 200 * ms // after the stall: it has to be noticed first
	w.Rows("failures", 250*ms, pid, func(at time.Duration) v {
		if at < stallFrom+begins || at > stallTo+500*ms {
			return nil
		}
		last := min(at, stallTo)
		return v{"pid": pid, "uid": uid, "comm": comm, "syscall": call, "errno": errno, "failures": int((last - stallFrom - begins) / (20 * ms)),
			"first_ns": windowtest.At(stallFrom + begins), "last_ns": windowtest.At(last)}
	})
}

// maps is how many memory maps there may be, and how memory is promised.
func maps(w *window, overcommit, committed int) {
	w.Rows("limits", s, 0, func(time.Duration) v { return v{"max_map_count": 65530, "overcommit_memory": overcommit} })
	w.Rows("meminfo", s, 0, func(time.Duration) v {
		return v{"committed_bytes": committed, "commit_limit_bytes": 8 << 30, "mem_available_bytes": 5 << 30}
	})
}

// deaf is a CPU whose timer fired late.
func deaf(w *window, cpu, pid int, comm, stack string, due, fired time.Duration) {
	w.Row("timers", fired.Truncate(50*ms)+50*ms, cpu, v{"cpu": cpu, "due_ns": windowtest.At(due), "fired_ns": windowtest.At(fired), "pid": pid, "tid": pid, "comm": comm, "stack": stack})
}

// resending is a victim that waits for an answer on a connection whose request
// is sent again.
func resending(w *window) {
	asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4001]", Syscall: "recvfrom"})
	conn(w, 1, func(at time.Duration) v {
		if w.InStall(at) {
			return v{"retransmits": 3, "total_retrans": 3, "sent_at": windowtest.At(stallFrom - 200*ms)}
		}
		return v{}
	})
}

// lost writes what BPF counts of packets between two ends, so many a second in
// the stall.
func lost(w *window, key int, what, from string, fromPort int, to string, toPort int, rate float64) {
	w.Rows("packets", 250*ms, key, func(at time.Duration) v {
		return v{"what": what, "protocol": 6, "from_address": from, "from_port": fromPort, "to_address": to, "to_port": toPort, "packets": w.Ran(at, 0, rate),
			"first_ns": windowtest.At(0), "last_ns": windowtest.At(min(at, stallTo))}
	})
}

func listener(w *window, pid int, comm string, queue int, drops float64) {
	w.Rows("listeners", 50*ms, 1, func(at time.Duration) v {
		row := v{"address": "0.0.0.0:80", "port": 80, "pid": pid, "comm": comm, "backlog": 16, "drops": w.Ran(at, 0, drops)}
		if w.InStall(at) {
			row["queue"] = queue
		}
		return row
	})
}

func culprit(kind string) freezeframe.Culprit { return freezeframe.Culprit{Kind: kind} }

func process(pid int) freezeframe.Culprit {
	return freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: pid}
}

var (
	frozenStack  = "percpu_rwsem_wait<-__percpu_down_read<-vfs_write<-ksys_write<-do_syscall_64"
	journalStack = "jbd2_log_wait_commit<-ext4_sync_file<-do_fsync<-do_syscall_64"
	deviceStack  = "io_schedule<-folio_wait_bit_common<-filemap_read<-vfs_read"
	memcgStack   = "try_to_free_mem_cgroup_pages<-try_charge_memcg<-charge_memcg<-__mem_cgroup_charge<-do_anonymous_page"
	reclaimStack = "shrink_node<-do_try_to_free_pages<-try_to_free_pages<-__alloc_pages_slowpath<-alloc_pages"
	swapStack    = "folio_wait_bit_common<-do_swap_page<-handle_mm_fault<-exc_page_fault"
	faultStack   = "folio_wait_bit_common<-filemap_fault<-__do_fault<-do_read_fault<-handle_mm_fault"
)

func frozen(file string) wait {
	return wait{Class: freezeframe.FilesystemWait, Wchan: "percpu_rwsem_wait", Stack: frozenStack, Syscall: "write", File: file}
}

func scenes() map[freezeframe.Cause]scene {
	return map[freezeframe.Cause]scene{
		"cpu.contention": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 1}, use{user: 1})
				running(w, hog, "hog", 1.9, 0)
				spinning(w, hog, hog, "hog", 0.95, v{"cpu": 0})
				spinning(w, hog+1, hog, "hog", 0.95, v{"cpu": 1})
			},
			miss: func(w *window) { // the same wait with a CPU to spare
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 1}, use{user: 0.2})
				spinning(w, hog, hog, "hog", 1, v{"cpu": 0})
			},
			culprit: process(hog),
		},
		"cpu.cgroup_throttled": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Throttled})
				group(w, "/system.slice/orders.service", map[string]float64{"cpu_throttled_us": 900e3, "cpu_throttled": 10}, v{"cpu_quota_us": 10000, "cpu_period_us": 100000})
				group(w, "/system.slice", nil, nil)
			},
			miss: func(w *window) { // another cgroup is throttled
				asleep(w, wait{Class: freezeframe.Runnable})
				group(w, "/system.slice/orders.service", nil, nil)
				group(w, "/system.slice/batch.service", map[string]float64{"cpu_throttled_us": 900e3}, v{"cpu_quota_us": 10000})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/system.slice/orders.service"},
		},
		"cpu.rt_starvation": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 1}, use{user: 0.9})
				proc(w, hog, "rthog", nil)
				spinning(w, hog, hog, "rthog", 0.95, v{"cpu": 0, "policy": 1, "rt_priority": 50})
			},
			miss: func(w *window) { // it keeps another CPU
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 1}, use{user: 0.9})
				proc(w, hog, "rthog", nil)
				spinning(w, hog, hog, "rthog", 0.95, v{"cpu": 1, "policy": 1})
			},
			culprit: process(hog),
		},
		"cpu.affinity_hotspot": {
			fire: func(w *window) {
				runnable(w, "0")
				stat(w, 20, 20, use{user: 1}, use{user: 0.1})
				proc(w, hog, "pinned", nil)
				spinning(w, hog, hog, "pinned", 0.7, v{"cpu": 0, "allowed_cpus": "0"})
			},
			miss: func(w *window) { // both CPUs are full
				runnable(w, "0")
				stat(w, 20, 20, use{user: 1}, use{user: 1})
				spinning(w, hog, hog, "pinned", 0.7, v{"cpu": 0, "allowed_cpus": "0"})
			},
			culprit: process(hog),
		},
		"cpu.low_weight": {
			fire:    func(w *window) { outweighed(w, 4, v{"nice": 19}, v{}) },
			miss:    func(w *window) { outweighed(w, 40, v{"nice": 0}, v{}) },
			culprit: process(hog),
		},
		"cpu.fork_storm": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 1500, use{user: 0.5, system: 0.5}, use{user: 0.5, system: 0.5})
				proc(w, hog, "loop.sh", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1e6), "cstime_us": w.Ran(at, 0, 8e5)} })
			},
			miss: func(w *window) { // a build's worth of processes
				runnable(w, "0-1")
				stat(w, 20, 60, use{user: 1}, use{user: 1})
				proc(w, hog, "make", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1e6)} })
			},
			culprit: process(hog),
		},
		"kernel.softirq_storm": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{softirq: 0.8, user: 0.2}, use{user: 0.2})
				w.Rows("softirqs", 50*ms, 0, func(at time.Duration) v { return v{"net_rx": w.Ran(at, 10, 20000)} })
				w.Rows("softnet", 50*ms, 0, func(at time.Duration) v { return v{"time_squeeze": w.Ran(at, 0, 300)} })
				w.Rows("netdev", 250*ms, "veth0", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 400000)} })
			},
			miss: func(w *window) { // the CPU is busy for processes
				runnable(w, "0-1")
				stat(w, 20, 20, use{softirq: 0.1, user: 0.9}, use{user: 0.2})
				w.Rows("softirqs", 50*ms, 0, func(at time.Duration) v { return v{"net_rx": w.Ran(at, 10, 20000)} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: "veth0"},
		},
		"kernel.irq_storm": {
			fire: func(w *window) {
				runnable(w, "0-1")
				handlers(w, 0, 36, "", 0.7, 90000)
				handlers(w, 0, 3, "net_rx", 0.1, 20000)
				w.Rows("interrupts", s, "36 eth0-rx-1", func(at time.Duration) v { return v{"count": w.Ran(at, 100, 90000)} })
				w.Rows("netdev", 250*ms, "eth0", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 100)} })
			},
			miss: func(w *window) { // an eighth of the CPU
				runnable(w, "0-1")
				handlers(w, 0, 36, "", 0.12, 90000)
				w.Rows("interrupts", s, "36 eth0-rx-1", func(at time.Duration) v { return v{"count": w.Ran(at, 100, 90000)} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: "eth0"},
		},
		"net.packet_flood": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{softirq: 0.8, user: 0.2}, use{user: 0.2})
				w.Rows("softirqs", 50*ms, 0, func(at time.Duration) v { return v{"net_rx": w.Ran(at, 10, 20000)} })
				w.Rows("softnet", 50*ms, 0, func(at time.Duration) v { return v{"dropped": w.Ran(at, 0, 300)} })
				w.Rows("netdev", 250*ms, "eth0", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 400000)} })
			},
			miss: func(w *window) { // who sends is on this machine
				runnable(w, "0-1")
				stat(w, 20, 20, use{softirq: 0.8, user: 0.2}, use{user: 0.2})
				w.Rows("softirqs", 50*ms, 0, func(at time.Duration) v { return v{"net_rx": w.Ran(at, 10, 20000)} })
				w.Rows("softnet", 50*ms, 0, func(at time.Duration) v { return v{"dropped": w.Ran(at, 0, 300)} })
				w.Rows("netdev", 250*ms, "veth0", func(at time.Duration) v { return v{"rx_packets": w.Ran(at, 100, 400000)} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: "eth0"},
		},
		"kernel.mmap_lock": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "rwsem_down_read_slowpath", Stack: "rwsem_down_read_slowpath<-down_read_killable<-lock_mm_and_find_vma<-do_user_addr_fault"})
				spinning(w, service+1, service, "mapper", 0.9, nil)
			},
			miss: func(w *window) { // an inode's lock inside a page fault
				asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "rwsem_down_read_slowpath", Stack: "rwsem_down_read_slowpath<-down_read<-ext4_filemap_fault<-__do_fault<-handle_mm_fault<-do_user_addr_fault"})
			},
			culprit: process(service),
		},
		"kernel.lock_contention": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "rwsem_down_write_slowpath", Stack: "rwsem_down_write_slowpath<-down_write<-generic_file_write_iter<-vfs_write", Syscall: "write", File: "/dev/shm/log"})
				running(w, hog, "export", 0, 0.9)
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
				running(w, hog, "export", 0, 0.9)
			},
			culprit: process(hog),
		},
		"kernel.hung_task": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "ipmi_wait", Stack: "ipmi_wait<-ipmi_ioctl<-do_vfs_ioctl"})
				thread(w, service, service, "orders", func(at time.Duration) v { return v{"state": 'D', "wchan": "ipmi_wait"} })
			},
			miss: func(w *window) { // it can be killed: not stuck
				asleep(w, wait{Class: freezeframe.KernelLock, Wchan: "ipmi_wait"})
				thread(w, service, service, "orders", func(at time.Duration) v { return v{"state": 'S', "wchan": "ipmi_wait"} })
			},
			culprit: process(service),
		},
		"kernel.soft_lockup": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Runnable})
				w.Kernel(stallTo, "watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [kworker/1:2:812]")
			},
			miss: func(w *window) { // a process wrote the line
				asleep(w, wait{Class: freezeframe.Runnable})
				w.Event(stallTo, freezeframe.EventKernelLog, "watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [kworker/1:2:812]", "facility", "1")
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: 812, Comm: "kworker/1:2"},
		},
		"kernel.rcu_stall": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Runnable})
				w.Kernel(stallTo, "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.PeerWait})
				w.Kernel(stallTo, "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:")
			},
			culprit: culprit(freezeframe.CulpritHost),
		},
		"kernel.oops": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.KernelLock})
				w.Kernel(stallFrom-s, "BUG: kernel NULL pointer dereference, address: 0000000000000000")
				w.Kernel(stallFrom-s, "CPU: 1 PID: 4711 Comm: mount Tainted: G")
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.KernelLock})
				w.Kernel(stallFrom-s, "a driver says: BUGs are fixed")
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: 4711, Comm: "mount"},
		},
		"virt.steal": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 0.3, steal: 0.6}, use{user: 0.3, steal: 0.6})
			},
			miss: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 0.9, steal: 0.05}, use{user: 0.9, steal: 0.05})
			},
			culprit: culprit(freezeframe.CulpritHypervisor),
		},
		"kernel.irqs_off": {
			fire: func(w *window) {
				runnable(w, "0-1")
				stat(w, 20, 20, use{user: 0.3}, use{system: 1})
				deaf(w, 1, hog, "modprobe", "slow_loop<-do_init_module", stallFrom, stallTo)
			},
			miss: func(w *window) { // both at once: the machine was gone
				runnable(w, "0-1")
				deaf(w, 0, hog, "modprobe", "x", stallFrom, stallTo)
				deaf(w, 1, 0, "", "", stallFrom, stallTo)
			},
			culprit: process(hog),
		},
		"virt.paused": {
			fire: func(w *window) { asleep(w, wait{Class: freezeframe.MachineGone}) },
			miss: func(w *window) { // something ran
				asleep(w, wait{Class: freezeframe.MachineGone})
				stat(w, 20, 20, use{system: 1}, use{system: 1})
			},
			culprit: culprit(freezeframe.CulpritHypervisor),
		},
		"time.suspended": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.MachineGone})
				w.Event(stallTo, "suspended", "the machine slept for 1h", "suspended_ns", "3600000000000")
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.MachineGone})
				w.Event(stallTo+3*s, "suspended", "the machine slept for 1h", "suspended_ns", "3600000000000")
			},
			culprit: culprit(freezeframe.CulpritHost),
		},
		"time.stepped": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
				w.Event(stallFrom, freezeframe.EventClockStepped, "jumped", "step_ns", "-5000000000")
			},
			miss: func(w *window) { // a step forward holds nobody who slept before
				asleep(w, wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
				w.Event(stallFrom+s/2, freezeframe.EventClockStepped, "jumped", "step_ns", "5000000000")
			},
			culprit: culprit(freezeframe.CulpritHost),
		},
		"mem.direct_reclaim": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: reclaimStack})
				vmstat(w, map[string]float64{"allocstall": 500, "pgscan_direct": 50000})
				growing(w, hog, "leak", 2<<30, "0::/leak")
			},
			miss: func(w *window) { // a cgroup's own limit
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: memcgStack})
				vmstat(w, map[string]float64{"allocstall": 500})
			},
			culprit: process(hog),
		},
		"mem.swap_thrash": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.SwapIn, Stack: swapStack})
				vmstat(w, map[string]float64{"pswpin": 5000, "pswpout": 5000})
				growing(w, hog, "leak", 2<<30, "0::/leak")
			},
			miss: func(w *window) { // program text, not swap
				asleep(w, wait{Class: freezeframe.SwapIn, Stack: faultStack})
				vmstat(w, map[string]float64{"pswpin": 5000})
			},
			culprit: process(hog),
		},
		"mem.file_thrash": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.SwapIn, Stack: faultStack})
				vmstat(w, map[string]float64{"workingset_refault_file": 5000, "pgmajfault": 900})
				growing(w, hog, "leak", 2<<30, "0::/leak")
			},
			miss: func(w *window) { // read for the first time
				asleep(w, wait{Class: freezeframe.SwapIn, Stack: faultStack})
				vmstat(w, map[string]float64{"pgmajfault": 900})
			},
			culprit: process(hog),
		},
		"mem.cgroup_high": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Reclaim, Wchan: "mem_cgroup_handle_over_high", Stack: "mem_cgroup_handle_over_high<-resume_user_mode_work"})
				group(w, "/system.slice/orders.service", map[string]float64{"memory_high_events": 50}, v{"memory_high_bytes": 1 << 30, "memory_bytes": 1 << 30})
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: memcgStack})
				group(w, "/system.slice/orders.service", map[string]float64{"memory_high_events": 50}, v{"memory_high_bytes": 1 << 30})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/system.slice/orders.service"},
		},
		"mem.cgroup_max": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Reclaim, Stack: memcgStack})
				growing(w, service, "orders", 10<<20, "5:memory:/app")
				growing(w, hog, "helper", 1<<30, "5:memory:/app")
				group(w, "memory:/app", map[string]float64{"memory_max_events": 500}, v{"memory_max_bytes": 1 << 30, "memory_bytes": 1 << 30})
			},
			miss: func(w *window) { // somebody else's limit, and plain reclaim
				w.Suffers(service, "orders", wait{Class: freezeframe.Reclaim, Stack: reclaimStack})
				growing(w, service, "orders", 10<<20, "5:memory:/")
				group(w, "memory:/app", map[string]float64{"memory_max_events": 500}, v{"memory_max_bytes": 1 << 30})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/app", PID: hog},
		},
		"mem.oom_kill": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: reclaimStack})
				w.Kernel(stallTo-100*ms, "Out of memory: Killed process 900 (le)ak) total-vm:1kB, anon-rss:1kB, file-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0")
				growing(w, hog, "le)ak", 2<<30, "0::/leak")
			},
			miss: func(w *window) { // that was a cgroup's
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: reclaimStack})
				w.Kernel(stallTo-100*ms, "Memory cgroup out of memory: Killed process 900 (leak) total-vm:1kB")
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: hog, Comm: "le)ak"},
		},
		"mem.cgroup_oom_kill": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Reclaim, Stack: memcgStack})
				w.Kernel(stallTo-110*ms, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/app,task_memcg=/app,task=helper,pid=900,uid=0")
				w.Kernel(stallTo-100*ms, "Memory cgroup out of memory: Killed process 900 (helper) total-vm:1kB, anon-rss:1kB")
				growing(w, hog, "helper", 1<<30, "5:memory:/app")
			},
			miss: func(w *window) { // long before the stall, and nobody reclaims
				asleep(w, wait{Class: freezeframe.PeerWait})
				w.Kernel(stallFrom-s, "Memory cgroup out of memory: Killed process 900 (helper) total-vm:1kB")
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/app", PID: hog},
		},
		"mem.fork_cow": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				proc(w, service, "redis-server", func(at time.Duration) v {
					return v{"rss_bytes": 2 << 30, "stime_us": w.Ran(at, 0, 9e5), "utime_us": w.Ran(at, 0, 1e5)}
				})
				proc(w, hog, "redis-server", func(at time.Duration) v {
					if at < 7*s {
						return nil
					}
					return v{"ppid": service, "rss_bytes": 2 << 30}
				})
			},
			miss: func(w *window) { // in user space: a slow command
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				proc(w, service, "redis-server", func(at time.Duration) v {
					return v{"rss_bytes": 2 << 30, "utime_us": w.Ran(at, 0, 9e5)}
				})
			},
			culprit: process(service),
		},
		"mem.compaction": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				proc(w, service, "orders", nil)
				spell(w, 1, "compaction", service, stallFrom, stallTo-10*ms, "")
				vmstat(w, map[string]float64{"compact_stall": 200})
			},
			miss: func(w *window) { // another process was
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				proc(w, service, "orders", nil)
				spell(w, 1, "compaction", hog, stallFrom, stallTo-10*ms, "")
			},
			culprit: process(service),
		},
		"mem.teardown": {
			fire: func(w *window) {
				held(w, wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/run/x.lock"}, wait{Class: freezeframe.OnCPU})
				w.Row("teardown", stallTo+100*ms, 1, v{"began": windowtest.At(stallFrom), "ended": windowtest.At(stallTo), "pid": hog, "comm": "backup", "rss_bytes": 3 << 30, "by_pid": hog})
			},
			miss: func(w *window) { // who holds it is not the one that ends
				held(w, wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/run/x.lock"}, wait{Class: freezeframe.OnCPU})
				w.Row("teardown", stallTo+100*ms, 1, v{"began": windowtest.At(stallFrom), "ended": windowtest.At(stallTo), "pid": hog + 1, "comm": "other", "rss_bytes": 3 << 30, "by_pid": hog + 1})
			},
			culprit: process(hog),
		},
		"io.device_saturated": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Wchan: "folio_wait_bit_common", Stack: deviceStack, File: "/srv/data"})
				device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 100e6, inFlight: 20})
				writing(w, hog, "backup", 100e6)
			},
			miss: func(w *window) { // nothing completes: it hangs
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				w.Rows("diskstats", 50*ms, "vda", func(at time.Duration) v {
					return v{"dev": 1 << 20, "io_us": w.Ran(at, 0, 1e6), "in_flight": 3, "weighted_us": w.Ran(at, 0, 3e6)}
				})
			},
			culprit: process(hog),
		},
		"io.device_slow": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				timed(w, 40, 4096, 300*us, 40, 4096, 90*ms)
				writing(w, hog, "cron", 1e4)
			},
			miss: func(w *window) { // ten times the work
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				timed(w, 40, 4096, 300*us, 400, 131072, 90*ms)
				writing(w, hog, "backup", 50e6)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"},
		},
		"io.device_hung": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				hanging(w, 0)
				w.Rows("block", 50*ms, "vda", func(at time.Duration) v {
					row := v{"dev": 1 << 20}
					if w.InStall(at) {
						row["in_flight"], row["oldest_age_ns"], row["oldest_pid"], row["oldest_comm"], row["oldest_op"] = 3, int(at-stallFrom), service, "orders", "read"
					}
					return row
				})
			},
			miss: func(w *window) { // something comes back again and again
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				hanging(w, 10)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"},
		},
		"io.flush_storm": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: "submit_bio_wait<-blkdev_issue_flush<-ext4_sync_file<-do_fsync", File: "/srv/data"})
				device(w, "vda", 1<<20, load{busy: 1, queue: 5, done: 300, flushes: 200, flushing: 0.8, bytes: 1e6, inFlight: 5})
				writing(w, hog, "import", 1e6)
				thread(w, hog, hog, "import", func(time.Duration) v {
					return v{"state": 'D', "stack": "submit_bio_wait<-blkdev_issue_flush<-ext4_sync_file<-do_fsync"}
				})
			},
			miss: func(w *window) { // bytes, not flushes
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				device(w, "vda", 1<<20, load{busy: 1, queue: 5, done: 300, flushes: 1, bytes: 100e6, inFlight: 5})
				writing(w, hog, "import", 100e6)
				thread(w, hog, hog, "import", func(time.Duration) v {
					return v{"state": 'D', "stack": "submit_bio_wait<-blkdev_issue_flush<-ext4_sync_file<-do_fsync"}
				})
			},
			culprit: process(hog),
		},
		"io.cgroup_throttled": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				writing(w, service, "orders", 1e6)
				device(w, "vda", 1<<20, load{busy: 0.05, done: 20, bytes: 1e6})
				group(w, "blkio:/orders", map[string]float64{"io_read_bytes": 1e6}, v{"io_limited": 1})
			},
			miss: func(w *window) { // the device is busy, whoever is limited
				w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				writing(w, service, "orders", 1e6)
				device(w, "vda", 1<<20, load{busy: 1, queue: 9, done: 20, bytes: 1e8, inFlight: 9})
				group(w, "blkio:/orders", nil, v{"io_limited": 1})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/orders"},
		},
		"io.device_error": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack})
				w.Kernel(stallFrom+s, "blk_update_request: I/O error, dev sdb, sector 12345 op 0x0:(READ)")
			},
			miss: func(w *window) { // nobody waits for a disk
				asleep(w, wait{Class: freezeframe.PeerWait})
				w.Kernel(stallFrom+s, "blk_update_request: I/O error, dev sdb, sector 12345 op 0x0:(READ)")
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "sdb"},
		},
		"fs.dirty_throttled": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "balance_dirty_pages", Stack: "balance_dirty_pages<-balance_dirty_pages_ratelimited_flags<-generic_perform_write"})
				vmstat(w, map[string]float64{"nr_dirty": 9500, "nr_dirty_threshold": 10000})
				writing(w, hog, "export", 100e6)
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Stack: journalStack})
				vmstat(w, map[string]float64{"nr_dirty": 9500, "nr_dirty_threshold": 10000})
			},
			culprit: process(hog),
		},
		"fs.journal_commit": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "jbd2_log_wait_commit", Stack: journalStack, File: "/srv/data", Syscall: "fsync"})
				writing(w, hog, "export", 50e6)
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
				writing(w, hog, "export", 50e6)
			},
			culprit: process(hog),
		},
		"fs.frozen": {
			fire: func(w *window) {
				asleep(w, frozen("/srv/data/records"))
				mount(w, 1, "/", "vda", 1<<20, nil)
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
				device(w, "loop3", 7<<20|3, load{})
			},
			miss: func(w *window) { // fork waits in the same kind of lock
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "percpu_rwsem_wait", Stack: "percpu_rwsem_wait<-__percpu_down_read<-cgroup_can_fork<-copy_process<-kernel_clone", Syscall: "clone"})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/srv/data"},
		},
		"fs.fuse_unresponsive": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "request_wait_answer", Stack: "request_wait_answer<-__fuse_simple_request<-fuse_lookup_name", File: "/mnt/s3/x"})
				w.Rows("fuse", 50*ms, 44, func(at time.Duration) v {
					row := v{"mountpoint": "/mnt/s3", "pid": hog, "comm": "s3fs"}
					if w.InStall(at) {
						row["waiting"] = 3
					}
					return row
				})
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "percpu_rwsem_wait", Stack: frozenStack, File: "/srv/x"})
				w.Rows("fuse", 50*ms, 44, func(at time.Duration) v { return v{"mountpoint": "/mnt/s3", "pid": hog, "waiting": 3} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/mnt/s3", PID: hog},
		},
		"fs.nfs_unresponsive": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FilesystemWait, Wchan: "rpc_wait_bit_killable", Stack: "rpc_wait_bit_killable<-__rpc_execute<-nfs4_proc_getattr", File: "/home/x"})
				mount(w, 1, "/", "vda", 1<<20, nil)
				mount(w, 2, "/home", "vda", 0, v{"fstype": "nfs4", "source": "nas:/home", "local": 0})
			},
			miss: func(w *window) {
				asleep(w, frozen("/home/x"))
				mount(w, 2, "/home", "vda", 0, v{"fstype": "nfs4", "source": "nas:/home", "local": 0})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/home", Address: "nas"},
		},
		"fs.full": {
			fire: func(w *window) {
				refusedAt(w, "/srv/data", "ENOSPC")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, v{"avail_bytes": 0})
				writing(w, hog, "filler", 50e6)
			},
			miss: func(w *window) { // a quota, or something else
				refusedAt(w, "/srv/data", "ENOSPC")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/srv/data", PID: hog},
		},
		"fs.inodes_full": {
			fire: func(w *window) {
				refusedAt(w, "/srv/data", "ENOSPC")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, v{"files_free": 0})
			},
			miss: func(w *window) {
				refusedAt(w, "/srv/data", "ENOSPC")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, v{"avail_bytes": 0})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/srv/data"},
		},
		"fs.readonly": {
			fire: func(w *window) {
				refusedAt(w, "/srv/data", "EROFS")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, v{"readonly": 1})
				w.Kernel(stallFrom, "EXT4-fs (loop3): Remounting filesystem read-only")
			},
			miss: func(w *window) {
				refusedAt(w, "/srv/data", "EIO")
				mount(w, 2, "/srv/data", "loop3", 7<<20|3, v{"readonly": 1})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritMount, Mount: "/srv/data"},
		},
		"fs.file_lock": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FileLock, Wchan: "flock_lock_inode_wait", Syscall: "flock", File: "/srv/queue.lock"})
				proc(w, hog, "backup", nil)
				w.Rows("locks", 50*ms, service, func(at time.Duration) v {
					if !w.InStall(at) {
						return nil
					}
					return v{"waiter_pid": service, "holder_pid": hog, "kind": "FLOCK"}
				})
			},
			miss: func(w *window) { // the holder itself waits for a frozen disk
				held(w, wait{Class: freezeframe.UserLock, Syscall: "futex"}, frozen("/srv/x"))
			},
			culprit: process(hog),
		},
		"fs.pipe_full": {
			fire: func(w *window) {
				held(w, wait{Class: freezeframe.PipeWait, Wchan: "pipe_write", Syscall: "write", File: "pipe:[7]"}, wait{Class: freezeframe.Sleeping})
			},
			miss: func(w *window) { // an empty pipe
				held(w, wait{Class: freezeframe.PipeWait, Wchan: "pipe_read", Syscall: "read", File: "pipe:[7]"}, wait{Class: freezeframe.Sleeping})
			},
			culprit: process(hog),
		},
		"fs.log_socket_blocked": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "sock_alloc_send_pskb", Stack: "sock_alloc_send_pskb<-unix_dgram_sendmsg<-__sys_sendto", Syscall: "sendto"})
				proc(w, 333, "systemd-journal", nil)
			},
			miss: func(w *window) { // TCP, which has such a name on its stack too
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "sk_stream_wait_memory", Stack: "sk_stream_wait_memory<-tcp_sendmsg_locked<-tcp_sendmsg", Syscall: "sendto"})
				proc(w, 333, "systemd-journal", nil)
			},
			culprit: process(333),
		},
		"limit.process_fds": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Idle})
				proc(w, service, "orders", func(at time.Duration) v {
					row := v{"fds": 40, "fds_max": 100}
					if at >= stallFrom && at <= stallTo {
						row["fds"] = 100
					}
					return row
				})
			},
			miss: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Idle})
				proc(w, service, "orders", func(at time.Duration) v { return v{"fds": 90, "fds_max": 100} })
			},
			culprit: process(service),
		},
		"limit.cgroup_pids": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping})
				proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "4:pids:/app"} })
				group(w, "pids:/app", map[string]float64{"pids_max_events": 20}, v{"pids": 64, "pids_max": 64})
			},
			miss: func(w *window) { // in a cgroup that the victim is not in
				w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping})
				proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "4:pids:/other"} })
				group(w, "pids:/app", map[string]float64{"pids_max_events": 20}, v{"pids": 64, "pids_max": 64})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/app"},
		},
		"limit.ephemeral_ports": {
			fire: func(w *window) {
				w.Symptom(freezeframe.Symptom{Probe: "limits", Target: "local ports to 10.0.0.9:5432", Err: "EADDRNOTAVAIL", Victims: []freezeframe.Victim{{PID: service}}})
				proc(w, service, "orders", nil)
				w.Rows("ports", s, "4026531840|10.0.0.9:5432", func(time.Duration) v { return v{"used": 28200, "range": 28232, "pid": service} })
			},
			miss: func(w *window) {
				w.Symptom(freezeframe.Symptom{Probe: "active", Target: "10.0.0.9:5432", Err: "ECONNREFUSED"})
				w.Rows("ports", s, "4026531840|10.0.0.9:5432", func(time.Duration) v { return v{"used": 2000, "range": 28232, "pid": service} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: service, Address: "10.0.0.9:5432"},
		},
		"limit.conntrack": {
			fire: func(w *window) {
				w.Symptom(freezeframe.Symptom{Probe: "connect", Target: "10.0.0.9:5432"})
				w.Rows("limits", 50*ms, 0, func(at time.Duration) v {
					return v{"conntrack_count": 1000, "conntrack_max": 1000, "conntrack_drop": w.Ran(at, 0, 50)}
				})
				w.Kernel(stallFrom, "nf_conntrack: nf_conntrack: table full, dropping packet")
			},
			miss: func(w *window) { // drops of another kind, in a table with room
				w.Symptom(freezeframe.Symptom{Probe: "connect", Target: "10.0.0.9:5432"})
				w.Rows("limits", 50*ms, 0, func(at time.Duration) v {
					return v{"conntrack_count": 100, "conntrack_max": 1000, "conntrack_drop": w.Ran(at, 0, 50)}
				})
			},
			culprit: culprit(freezeframe.CulpritTable),
		},
		"net.accept_queue_overflow": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping})
				listener(w, service, "orders", 17, 10)
			},
			miss: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping})
				listener(w, service, "orders", 9, 0)
			},
			culprit: process(service),
		},
		"net.syn_flood": {
			fire: func(w *window) {
				w.Symptom(freezeframe.Symptom{Probe: "active", Target: "10.0.0.1:80"})
				netstat(w, map[string]float64{"TcpExtTCPReqQFullDrop": 2000})
				w.Kernel(stallFrom, "TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:80. Dropping request.")
			},
			miss: func(w *window) { // the accept queue is full, which stops handshakes too
				w.Symptom(freezeframe.Symptom{Probe: "active", Target: "10.0.0.1:80"})
				netstat(w, map[string]float64{"TcpExtTCPReqQFullDrop": 2000, "TcpExtListenOverflows": 3000})
			},
			culprit: culprit(freezeframe.CulpritAddress),
		},
		"net.packet_loss": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4001]", Syscall: "recvfrom"})
				conn(w, 1, func(at time.Duration) v {
					if w.InStall(at) {
						return v{"retransmits": 3, "total_retrans": 3, "sent_at": windowtest.At(stallFrom - 200*ms)}
					}
					return v{}
				})
			},
			miss: func(w *window) { // its peer's kernel acknowledges, and it is silent
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4001]", Syscall: "recvfrom"})
				conn(w, 1, func(at time.Duration) v { return v{} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.9"},
		},
		"limit.system_fds": {
			fire: func(w *window) {
				refusedLimit(w, "file handles", "ENFILE")
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"files_allocated": 1000, "files_max": 1000} })
				proc(w, hog, "leaky", func(time.Duration) v { return v{"fds": 700, "fds_max": 4096} })
			},
			miss: func(w *window) { // one process is at its own limit
				refusedLimit(w, "descriptors of leaky[900]", "EMFILE")
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"files_allocated": 800, "files_max": 1000} })
			},
			culprit: process(hog),
		},
		"limit.system_pids": {
			fire: func(w *window) {
				refusedLimit(w, "threads", "EAGAIN")
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"threads": 32700, "threads_max": 100000, "pid_max": 32768} })
				proc(w, hog, "spawner", func(time.Duration) v { return v{"threads": 30000} })
			},
			miss: func(w *window) {
				refusedLimit(w, "pids limit of /x", "EAGAIN")
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"threads": 30700, "threads_max": 100000, "pid_max": 32768} })
			},
			culprit: process(hog),
		},
		"limit.user_processes": {
			fire: func(w *window) {
				refuses(w, service, 1000, "orders", "clone3", "EAGAIN", v{"threads": 3, "processes_max": 60})
				proc(w, hog, "cron", func(time.Duration) v { return v{"uid": 1000, "threads": 1} })
				for i := range 56 {
					proc(w, hog+1+i, "sleep", func(time.Duration) v { return v{"uid": 1000, "threads": 1, "ppid": hog} })
				}
			},
			miss: func(w *window) { // its cgroup was at its limit
				refuses(w, service, 1000, "orders", "clone3", "EAGAIN", v{"threads": 3, "processes_max": 60, "cgroup": "4:pids:/app"})
				for i := range 57 {
					proc(w, hog+i, "sleep", func(time.Duration) v { return v{"uid": 1000, "threads": 1} })
				}
				group(w, "pids:/app", map[string]float64{"pids_max_events": 20}, v{"pids": 64, "pids_max": 64})
			},
			culprit: process(hog),
		},
		"limit.memory_maps": {
			fire: func(w *window) {
				refuses(w, service, 0, "orders", "mmap", "ENOMEM", v{"maps": 65530})
				maps(w, 0, 1<<30)
			},
			miss: func(w *window) { // it asks for more than there is
				refuses(w, service, 0, "orders", "mmap", "ENOMEM", v{"maps": 300})
				maps(w, 0, 1<<30)
			},
			culprit: process(service),
		},
		"limit.inotify": {
			fire: func(w *window) {
				refuses(w, service, 1000, "orders", "inotify_add_watch", "ENOSPC", nil)
				proc(w, hog, "indexer", func(time.Duration) v { return v{"uid": 1000} })
			},
			miss: func(w *window) { // it is out of descriptors of any kind
				refuses(w, service, 1000, "orders", "inotify_init1", "EMFILE", v{"fds": 1024, "fds_max": 1024})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritTable, User: "uid 1000"},
		},
		"limit.tcp_memory": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "sendto", File: "socket:[4001]", Wchan: "sk_stream_wait_memory"})
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"tcp_mem_max_pages": 20000} })
				w.Rows("sockstat", 250*ms, 0, func(at time.Duration) v {
					if w.InStall(at) {
						return v{"tcp_mem_pages": 19990}
					}
					return v{"tcp_mem_pages": 9000}
				})
				proc(w, hog, "consumer", nil)
				conn(w, 2, func(time.Duration) v { return v{"pid": hog, "rqueue": 40 << 20} })
			},
			miss: func(w *window) { // there is room; the other side does not answer
				asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", File: "socket:[4001]", Wchan: "wait_woken"})
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"tcp_mem_max_pages": 20000} })
				w.Rows("sockstat", 250*ms, 0, func(time.Duration) v { return v{"tcp_mem_pages": 12000} })
			},
			culprit: process(hog),
		},
		"mem.overcommit_refused": {
			fire: func(w *window) {
				refuses(w, service, 0, "orders", "mmap", "ENOMEM", v{"maps": 300, "vsize_bytes": 6 << 30})
				maps(w, 2, 79<<30/10)
			},
			miss: func(w *window) { // only what is used up is refused
				refuses(w, service, 0, "orders", "mmap", "ENOMEM", v{"maps": 300})
				maps(w, 0, 79<<30/10)
			},
			culprit: culprit(freezeframe.CulpritHost),
		},
		"limit.neighbour_table": {
			fire: func(w *window) {
				refusedLimit(w, "neighbours", "neighbour table full")
				w.Rows("limits", s, 0, func(at time.Duration) v { return v{"neigh_entries": 1024, "neigh_table_fulls": w.Ran(at, 0, 50)} })
			},
			miss: func(w *window) { // it was full yesterday
				asleep(w, wait{Class: freezeframe.PeerWait, Syscall: "recvfrom", File: "socket:[4001]", Wchan: "wait_woken"})
				w.Rows("limits", s, 0, func(time.Duration) v { return v{"neigh_entries": 900, "neigh_table_fulls": 5000} })
			},
			culprit: culprit(freezeframe.CulpritTable),
		},
		"net.receive_buffer_full": {
			fire: func(w *window) {
				sending(w)
				conn(w, 1, func(at time.Duration) v { return v{"wqueue": 3 << 20, "probes": 1, "peer_pid": hog} })
				conn(w, 2, func(at time.Duration) v {
					return v{"local": "10.0.0.9:5432", "peer": "10.0.0.1:40000", "pid": hog, "rqueue": 2 << 20, "server": 1}
				})
			},
			miss: func(w *window) { // what it sends gets lost
				sending(w)
				conn(w, 1, func(at time.Duration) v {
					if !w.InStall(at) {
						return v{}
					}
					return v{"wqueue": 3 << 20, "retransmits": 4, "total_retrans": 4, "unacked": 10, "sent_at": windowtest.At(stallFrom)}
				})
			},
			culprit: process(hog),
		},
		"net.firewall_drop": {
			fire: func(w *window) {
				resending(w)
				lost(w, 1, "netfilter_drop", "10.0.0.9", 5432, "10.0.0.1", 0, 20)
				lost(w, 2, "netfilter_drop", "198.51.100.4", 0, "10.0.0.1", 23, 900)
			},
			miss: func(w *window) { // what it drops is a port scan
				resending(w)
				lost(w, 2, "netfilter_drop", "198.51.100.4", 0, "10.0.0.1", 23, 900)
				lost(w, 3, "retransmit", "10.0.0.1", 0, "10.0.0.9", 5432, 3)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.1"},
		},
		"runtime.jvm_gc": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
				w.Rows("jvm", 50*ms, windowtest.Task(service), func(at time.Duration) v {
					row := v{"stop_the_world": 1, "collector": "MarkSweepCompact", "cause": "No GC", "safepoint_us": 0, "gc_count": 3}
					switch {
					case w.InStall(at):
						row["in_gc"], row["in_safepoint"], row["cause"], row["gc_entry_at"] = 1, 1, "Allocation Failure", windowtest.At(stallFrom)
					case at >= stallTo:
						row["gc_count"], row["safepoint_us"] = 4, 2000000
						row["gc_entry_at"], row["gc_exit_at"] = windowtest.At(stallFrom), windowtest.At(stallTo)
					}
					return row
				})
			},
			miss: func(w *window) { // a concurrent collector at work
				asleep(w, wait{Class: freezeframe.UserLock, Wchan: "futex_wait_queue", Syscall: "futex"})
				w.Rows("jvm", 50*ms, windowtest.Task(service), func(at time.Duration) v {
					row := v{"collector": "Shenandoah", "gc_count": 3}
					if w.InStall(at) {
						row["in_gc"], row["gc_entry_at"] = 1, windowtest.At(stallFrom)
					}
					return row
				})
			},
			culprit: process(service),
		},
		"app.stopped": {
			fire: func(w *window) { asleep(w, wait{Class: freezeframe.Stopped}) },
			miss: func(w *window) { // the backup is stopped, and nobody waits for it
				asleep(w, wait{Class: freezeframe.Sleeping})
				thread(w, hog, hog, "backup", func(time.Duration) v { return v{"state": 'T'} })
			},
			culprit: process(service),
		},
		"app.frozen": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Frozen, Wchan: "__refrigerator"})
				proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "7:freezer:/app"} })
				w.Rows("cgroups", 50*ms, "freezer:/app", func(at time.Duration) v {
					if w.InStall(at) {
						return v{"frozen": 1}
					}
					return v{}
				})
			},
			miss: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.Idle})
				proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "7:freezer:/"} })
				group(w, "freezer:/app", nil, v{"frozen": 1})
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/app"},
		},
		"app.core_dump": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait, Stack: deviceStack})
				proc(w, service, "orders", func(time.Duration) v { return v{"coredumping": 1} })
			},
			miss:    func(w *window) { asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack}) },
			culprit: process(service),
		},
		"app.restarted":  restartedScene(),
		"app.crash_loop": crashLoopScene(),
		"app.busy_loop": {
			fire: func(w *window) {
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				running(w, service, "orders", 0.95, 0.05)
			},
			miss: func(w *window) { // the kernel is busy for it
				w.Suffers(service, "orders", wait{Class: freezeframe.OnCPU})
				running(w, service, "orders", 0.1, 0.9)
			},
			culprit: process(service),
		},
		"dep.dns": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.Idle, Wchan: "do_epoll_wait", Syscall: "epoll_wait"})
				asks(w, 1, service, "10.0.0.53:53", stallFrom, stallTo)
			},
			miss: func(w *window) { // another process's questions
				asleep(w, wait{Class: freezeframe.Idle, Wchan: "do_epoll_wait", Syscall: "epoll_wait"})
				asks(w, 1, hog, "10.0.0.53:53", stallFrom, stallTo)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.53:53"},
		},
		"app.lock_contention": {
			fire: func(w *window) { atLock(w, freezeframe.Sleeping, "socket:[4001]") },
			miss: func(w *window) { // workers that wait for what one of them hands out
				atLock(w, freezeframe.Idle, "socket:[4001]")
			},
			culprit: process(service),
		},
		"app.deadlock": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/a"})
				proc(w, hog, "backup", nil)
				deadlock := func(waiter, holder int) {
					w.Rows("locks", 50*ms, waiter, func(time.Duration) v { return v{"waiter_pid": waiter, "holder_pid": holder, "kind": "FLOCK"} })
				}
				deadlock(service, hog)
				deadlock(hog, service)
			},
			miss: func(w *window) {
				asleep(w, wait{Class: freezeframe.FileLock, Syscall: "flock", File: "/a"})
				w.Rows("locks", 50*ms, service, func(time.Duration) v { return v{"waiter_pid": service, "holder_pid": hog, "kind": "FLOCK"} })
			},
			culprit: process(service),
		},
		"app.worker_pool_exhausted": {
			fire: func(w *window) { pool(w, 4, wait{Class: freezeframe.Sleeping}, 9) },
			miss: func(w *window) { // nobody stands in line
				pool(w, 4, wait{Class: freezeframe.Sleeping}, 0)
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: service, Count: 4},
		},
		"dep.remote_unresponsive": {
			fire: func(w *window) {
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4001]", Syscall: "recvfrom"})
				conn(w, 1, func(time.Duration) v { return v{} })
			},
			miss: func(w *window) { // a server that waits for its client
				asleep(w, wait{Class: freezeframe.PeerWait, Wchan: "wait_woken", File: "socket:[4001]", Syscall: "recvfrom"})
				conn(w, 1, func(time.Duration) v { return v{"server": 1} })
			},
			culprit: freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "10.0.0.9:5432"},
		},
	}
}

// pool is a service of n workers in one wait, below one parent, with so many
// connections before it.
func pool(w *window, n int, x wait, queue int) {
	victims := []freezeframe.Victim{{PID: service, Comm: "orders"}}
	for i := range n {
		victims = append(victims, freezeframe.Victim{PID: service + 1 + i, TID: service + 1 + i, Comm: "orders"})
	}
	sy := w.Symptom(freezeframe.Symptom{Probe: "accept", Target: "0.0.0.0:80", Victims: victims})
	proc(w, service, "orders", nil)
	for _, victim := range victims[1:] {
		w.Account(sy, victim, x)
		proc(w, victim.PID, "orders", func(time.Duration) v { return v{"ppid": service} })
	}
	listener(w, service, "orders", queue, 0)
}
