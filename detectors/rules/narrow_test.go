package rules_test

import (
	"fmt"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// TestOtherMakes are other ways to come by the same causes than the scenes':
// other programs, other sizes, less seen of them.
func TestOtherMakes(t *testing.T) {
	logging := wait{Class: freezeframe.PeerWait, Wchan: "sock_alloc_send_pskb", Stack: "sock_alloc_send_pskb<-unix_dgram_sendmsg<-__sys_sendto", Syscall: "sendto"}
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
	}{
		"refused descriptors that nobody had counted": {func(w *window) {
			refuses(w, service, 0, "orders", "accept4", "EMFILE", v{"fds": 90, "fds_max": 100})
		}, "limit.process_fds", process(service)},
		"a user's limit of processes, as /proc shows it": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
			proc(w, service, "orders", func(time.Duration) v { return v{"uid": 1000, "threads": 3, "processes_max": 60} })
			proc(w, hog, "pool", func(time.Duration) v { return v{"uid": 1000, "threads": 57} })
		}, "limit.user_processes", process(hog)},
		"memory maps, as they are counted": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
			proc(w, service, "orders", func(time.Duration) v { return v{"maps": 65531} })
			maps(w, 0, 1<<30)
		}, "limit.memory_maps", process(service)},
		"the only process of its user has all inotify instances": {func(w *window) {
			refuses(w, service, 1000, "orders", "inotify_init1", "EMFILE", v{"fds": 90, "fds_max": 1024})
		}, "limit.inotify", process(service)},
		"a child that cannot be started": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.ChildWait, Syscall: "wait4"})
			proc(w, service, "orders", func(time.Duration) v { return v{"uid": 1000, "threads": 58, "processes_max": 60} })
			proc(w, hog, "sh", func(time.Duration) v { return v{"uid": 1000, "threads": 1, "processes_max": 60, "ppid": service} })
			failing(w, hog, 1000, "sh", "vfork", "EAGAIN")
		}, "limit.user_processes", process(service)},
		"an interpreter for each line": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 120, use{user: 0.8, system: 0.2}, use{user: 0.8, system: 0.2})
			proc(w, hog, "loop.sh", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1.6e6)} })
		}, "cpu.fork_storm", process(hog)},
		"a parallel build": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 10, 40, use{user: 1}, use{user: 1})
			proc(w, hog, "make", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1.6e6)} })
		}, "cpu.contention", freezeframe.Culprit{}},
		"a parent whose one child has ended": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 10, 120, use{user: 0.8, system: 0.2}, use{user: 0.8, system: 0.2})
			spinning(w, hog, hog, "render", 0.95, v{"cpu": 0})
			spinning(w, hog+1, hog, "render", 0.95, v{"cpu": 1})
			proc(w, hog+2, "supervise", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1.6e6)} })
		}, "cpu.contention", process(hog)},
		"the only worker of a pool is killed": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping, Syscall: "clock_nanosleep"})
			proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "5:memory:/app"} })
			proc(w, hog, "orders", func(at time.Duration) v {
				if at > stallFrom+100*ms {
					return nil
				}
				return v{"ppid": service, "cgroup": "5:memory:/app", "rss_bytes": 1 << 28}
			})
			w.Kernel(stallFrom+90*ms, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/app,task_memcg=/app,task=orders,pid=900,uid=0")
			w.Kernel(stallFrom+100*ms, "Memory cgroup out of memory: Killed process 900 (orders) total-vm:1kB")
		}, "mem.cgroup_oom_kill", freezeframe.Culprit{Cgroup: "/app"}},
		"a build on a machine that always builds": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 110, 120, use{user: 1}, use{user: 1})
			proc(w, hog, "make", func(at time.Duration) v { return v{"cutime_us": w.Ran(at, 0, 1.6e6)} })
		}, "cpu.contention", freezeframe.Culprit{}},
		"half-open connections from one address": {func(w *window) {
			halfOpen(w, func(int) string { return "198.51.100.7" })
		}, "net.syn_flood", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "198.51.100.7"}},
		"half-open connections from many addresses": {func(w *window) {
			halfOpen(w, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) })
		}, "net.syn_flood", freezeframe.Culprit{Kind: freezeframe.CulpritAddress, Address: "many senders"}},
		"who fills it is not who writes most": {func(w *window) {
			refusedAt(w, "/srv", "ENOSPC")
			proc(w, service, "orders", nil)
			mount(w, 1, "/", "vda", 1<<20, nil)
			mount(w, 2, "/srv", "vdb", 3<<20, v{"avail_bytes": 0})
			writing(w, hog, "export", 5e6)
			thread(w, hog, hog, "export", func(time.Duration) v { return v{"file": "/srv/export.tmp"} })
			writing(w, hog+1, "backup", 50e6)
		}, "fs.full", freezeframe.Culprit{PID: hog}},
		"one descriptor is closed and opened again": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Idle})
			proc(w, service, "orders", func(at time.Duration) v {
				row := v{"fds": 40, "fds_max": 100}
				if at >= stallFrom && at <= stallTo {
					row["fds"] = 99
				}
				return row
			})
		}, "limit.process_fds", process(service)},
		"two log daemons": {func(w *window) {
			asleep(w, logging)
			proc(w, 332, "rsyslogd", nil)
			proc(w, 333, "systemd-journal", nil)
		}, "fs.log_socket_blocked", process(333)},
		"a log daemon with a name of its own": {func(w *window) {
			x := logging
			x.Holder = &freezeframe.Party{PID: 333, Comm: "vector"}
			asleep(w, x)
			proc(w, 333, "vector", nil)
		}, "fs.log_socket_blocked", process(333)},
		"a log daemon that was not found": {func(w *window) { asleep(w, logging) }, "fs.log_socket_blocked", culprit(freezeframe.CulpritHost)},
		"a real-time thread that was read before and after only": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 20, use{user: 1}, use{user: 1})
			spinning(w, journald, journald, "player", 0.45, v{"policy": 1, "cpu": 0})
			for _, at := range []time.Duration{stallFrom - s, stallTo + 200*ms} {
				w.Row("tasks", at, windowtest.Task(hog), v{"pid": hog, "comm": "audiod", "state": 'R', "policy": 1, "cpu": 0, "run_ns": w.Ran(at, 0, 9e8)})
			}
		}, "cpu.rt_starvation", process(hog)},
		"a loop device whose worker stands in line behind a real-time thread": {func(w *window) {
			hungBehind(w, 79)
		}, "cpu.rt_starvation", process(hog)},
		"a loop device whose worker stands in line behind an ordinary thread": {func(w *window) {
			hungBehind(w, 120)
		}, "io.device_hung", freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: "vda"}},
		"workers whose clients send half a request": {func(w *window) {
			pool(w, 4, wait{Class: freezeframe.Idle, Syscall: "recvfrom", File: "socket:[4001]", Wchan: "wait_woken"}, 9)
		}, "app.worker_pool_exhausted", freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: service, Count: 4}},
		"what is bound to the full CPU was not read since": {func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Runnable})
			proc(w, service, "orders", nil)
			stat(w, 20, 20, use{}, use{user: 1})
			spinning(w, service, service, "orders", 0.22, v{"cpu": 1, "allowed_cpus": "1"})
			proc(w, hog, "report", func(at time.Duration) v {
				if at > 5*s {
					return nil
				}
				return v{"allowed_cpus": "1"}
			})
		}, "cpu.affinity_hotspot", process(hog)},
	} {
		t.Run(name, func(t *testing.T) { verdict(t, build(x.scene), x.cause, x.culprit) })
	}
}

// hungBehind is a device that completes nothing while a worker of the kernel
// stands in line behind a thread of that priority.
func hungBehind(w *window, prio int) {
	asleep(w, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"})
	hanging(w, 0)
	stat(w, 20, 20, use{user: 1}, use{user: 1})
	proc(w, hog, "audiod", nil)
	spinning(w, hog, hog, "audiod", 0.95, v{"cpu": 0, "policy": 1, "rt_priority": 20})
	w.Row("waits", stallTo, windowtest.Task(31), v{"pid": 31, "comm": "kworker/u8:4", "kind": 2, "other_pid": hog, "other_tid": hog, "other_comm": "audiod", "other_prio": prio,
		"began_ns": windowtest.At(stallFrom), "ended_ns": windowtest.At(stallTo)})
}

// Workers that sleep where new work would wake them are not occupied, however
// many stand in line.
func TestIdlePool(t *testing.T) {
	w := build(func(w *window) {
		pool(w, 4, wait{Class: freezeframe.Idle, Syscall: "epoll_wait", File: "anon_inode:[eventpoll]", Wchan: "ep_poll"}, 9)
	})
	for _, f := range detectors.Judge(w, rules.All()).Findings {
		if f.Cause == "app.worker_pool_exhausted" {
			t.Errorf("%s", f.Summary)
		}
	}
}

// TestPoolThatReadsFromItsClients: workers that read from clients which say
// nothing have nothing to do, to the ledger, and only one of them counts. A
// thread that a server has made for its one client is not of a pool.
func TestPoolThatReadsFromItsClients(t *testing.T) {
	scene := func(processes bool) *window {
		return build(func(w *window) {
			pool(w, 6, freezeframe.Wait{Class: freezeframe.Idle, Syscall: "recvfrom", File: "socket:[77]"}, 9)
			accounts := w.Ledger().Accounts
			for i := range accounts {
				if i > 0 {
					accounts[i].Weight = 0
				}
				if !processes {
					accounts[i].Victim.PID = service
				}
			}
		})
	}
	verdict(t, scene(true), "app.worker_pool_exhausted", freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: service, Count: 6})
	for _, f := range detectors.Judge(scene(false), rules.All()).Findings {
		if f.Cause == "app.worker_pool_exhausted" {
			t.Errorf("a thread for each client: %s", f.Summary)
		}
	}
}

// halfOpen is a flood of connection requests; a sample of them is seen.
func halfOpen(w *window, from func(i int) string) {
	w.Symptom(freezeframe.Symptom{Probe: "active", Target: "10.0.0.1:80"})
	netstat(w, map[string]float64{"TcpExtTCPReqQFullDrop": 2000})
	for i := range 16 {
		conn(w, 10+i, func(time.Duration) v {
			return v{"state": 3, "inode": 0, "pid": 0, "local": "10.0.0.1:80", "peer": fmt.Sprintf("%s:%d", from(i), 1024+i)}
		})
	}
}

// A count of processes that is read once a second may miss that there were as
// many as may be; what was refused is counted. Whose limit it was the counter of
// an older kernel does not say.
func TestRefusedForksWhateverTheLevel(t *testing.T) {
	scene := func(above int) *window {
		return build(func(w *window) {
			w.Suffers(service, "orders", wait{Class: freezeframe.Sleeping})
			proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "4:pids:/app/web"} })
			group(w, "pids:/app/web", map[string]float64{"pids_max_events": 20}, v{"pids": 12, "pids_max": 64})
			group(w, "pids:/app", map[string]float64{"pids_max_events": 1}, v{"pids": above, "pids_max": 100})
		})
	}
	for above, want := range map[int]string{30: "/app/web", 100: "/app"} {
		w := scene(above)
		verdict(t, w, "limit.cgroup_pids", freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: want})
		v := detectors.Judge(w, rules.All())
		for _, f := range append(v.Findings, v.Symptoms...) {
			if f.Cause == "limit.cgroup_pids" && f.Culprit.Cgroup != want {
				t.Errorf("the limit of %s, too", f.Culprit.Cgroup)
			}
		}
	}
}

// Many short processes one after the other are one CPU's worth, not one
// each; and the root of a hierarchy of version 1 beside version 2 is nobody.
func TestWhoCrowdsTheCPUs(t *testing.T) {
	const groups = "1:cpu:/;0::/"
	w := build(func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 20, use{user: 1}, use{user: 1})
		for i := range 40 {
			began := stallFrom + time.Duration(i)*50*ms
			for at := began; at < began+40*ms; at += 20 * ms {
				w.Row("procs", at, windowtest.Task(hog+10+i), v{"pid": hog + 10 + i, "ppid": hog, "comm": "true", "state": 'R', "cgroup": groups, "utime_us": int((at - began) / time.Microsecond)})
			}
		}
		proc(w, hog, "render", func(at time.Duration) v { return v{"cgroup": groups, "utime_us": w.Ran(at, 0, 9e5), "state": 'R'} })
		for i, comm := range []string{"encode", "scan"} {
			proc(w, hog+1+i, comm, func(at time.Duration) v { return v{"cgroup": groups, "utime_us": w.Ran(at, 0, 5e5), "state": 'R'} })
		}
	})
	verdict(t, w, "cpu.contention", process(hog))
}
