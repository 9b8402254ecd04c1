package rules_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

const (
	address    = "0.0.0.0:80"
	supervisor = 480
)

// ends writes how a process ended as BPF tells it, in the reading after it.
func ends(w *window, at time.Duration, pid, parent int, comm string, lived time.Duration, more v) {
	row := v{"at_ns": freezeframe.Instant(1000*s + at), "kind": "end", "pid": pid, "comm": comm, "from_pid": parent, "from_comm": "keepd", "lived_ns": uint64(lived)}
	if parent == 1 {
		row["from_comm"] = "systemd"
	}
	for column, value := range more {
		row[column] = value
	}
	w.Row("signals", (at/(50*ms)+1)*50*ms, 100_000+pid, row)
}

// down writes that nobody listened at a service in the stall.
func down(w *window, victim int, comm string) {
	w.Symptom(freezeframe.Symptom{Probe: "listen", Target: address, Victims: []freezeframe.Victim{{PID: victim, Comm: comm}}})
	absent := func(at time.Duration, state, pid, refused int) {
		w.Row("requests", (at/(50*ms)+1)*50*ms, 7_000+int(at/ms), v{"kind": 4, "state": state, "service": address, "pid": pid, "tid": pid, "comm": comm,
			"began_at": windowtest.At(stallFrom), "done_at": windowtest.At(at), "unanswered": refused})
	}
	absent(stallFrom, 0, victim, 0)
	absent(stallTo, 1, victim+50, 40)
}

// queues writes that the clients of a service that somebody else holds the socket
// of wait in the stall.
func queues(w *window, holder int, pids string) {
	w.Symptom(freezeframe.Symptom{Probe: "accept", Target: address, Victims: []freezeframe.Victim{{PID: holder, Comm: "keepd"}}})
	w.Rows("listeners", s, 9, func(time.Duration) v {
		return v{"address": address, "pid": holder, "comm": "keepd", "pids": pids, "queue": 10, "backlog": 128}
	})
}

// loops writes a program that ends each 200 ms, from before the stall on.
func loops(w *window, parent int, comm string, more v) {
	for i := range 9 {
		ends(w, stallFrom+time.Duration(i)*200*ms, 600+i, parent, comm, 60*ms, more)
	}
}

func restartedScene() scene {
	return scene{
		fire: func(w *window) {
			down(w, service, "orders")
			ends(w, stallFrom, service, supervisor, "orders", time.Hour, v{"signal": sigKILL})
			signal(w, stallFrom-10*ms, hog, service, "deploy", sigKILL, nil)
		},
		miss: func(w *window) { // a child of one that works is what ended
			w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait})
			ends(w, stallFrom+100*ms, 600, service, "convert", 300*ms, v{"code": 1})
		},
		culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: service, Comm: "orders"},
	}
}

func crashLoopScene() scene {
	return scene{
		fire: func(w *window) {
			down(w, service, "orders")
			ends(w, stallFrom, service, supervisor, "orders", time.Hour, v{"signal": sigKILL})
			loops(w, supervisor, "orders", v{"code": 3})
		},
		miss: func(w *window) { // nobody waits for what ends again and again
			w.Suffers(service, "orders", wait{Class: freezeframe.DeviceWait})
			loops(w, supervisor, "cron-job", v{"code": 1})
		},
		culprit: freezeframe.Culprit{Kind: freezeframe.CulpritProcess, Comm: "orders", Count: 10},
	}
}

const sigKILL = 9

func TestServicesThatWereDown(t *testing.T) {
	calm := func(w *window) {}
	for name, x := range map[string]struct {
		scene func(*window)
		cause freezeframe.Cause // "": neither of the two
		says  string
		unit  string
	}{
		"by whom it was killed": {restartedScene().fire, "app.restarted", "orders (pid 500) of orders.service was ended by SIGKILL from deploy (pid 900), started by cron; nobody served 0.0.0.0:80 for 2.0 s", "orders.service"},
		"it was asked to end": {func(w *window) {
			down(w, service, "orders")
			signal(w, stallFrom-s, 1, service, "systemd", 15, nil)
			ends(w, stallFrom+20*ms, service, 1, "orders", time.Hour, v{"cgroup": "orders.service"})
		}, "app.restarted", "orders (pid 500) of orders.service ended with status 0, asked to by systemd (pid 1)", "orders.service"},
		"it only closed what it listens on": {func(w *window) { down(w, service, "orders") }, "app.restarted", "had closed its socket", ""},
		"only we asked for it": {func(w *window) {
			w.Symptom(freezeframe.Symptom{Probe: "active", Target: "http://localhost:80/health", Err: "ECONNREFUSED", Victims: []freezeframe.Victim{{PID: service, Comm: "orders"}}})
			ends(w, stallFrom-700*ms, service, supervisor, "orders", time.Hour, v{"signal": 6})
		}, "app.restarted", "was ended by SIGABRT; nobody served localhost:80 for 2.0 s", "orders.service"},
		"we ask another's port": {func(w *window) {
			w.Symptom(freezeframe.Symptom{Probe: "active", Target: "http://localhost:8080/health", Err: "ECONNREFUSED"})
			w.Rows("listeners", s, 9, func(time.Duration) v { return v{"address": address, "pid": service, "comm": "orders"} })
			ends(w, stallFrom-700*ms, service, supervisor, "orders", time.Hour, v{"signal": 6})
		}, "", "", ""},
		"another holds its socket": {func(w *window) {
			queues(w, supervisor, "480,700")
			ends(w, stallFrom, 700, supervisor, "orders", time.Hour, v{"code": 1})
		}, "app.restarted", "orders (pid 700) ended with status 1", ""},
		"that its parent got another process is no loop": {func(w *window) {
			down(w, service, "orders")
			ends(w, stallFrom, service, supervisor, "orders", time.Hour, v{"code": 1})
			ends(w, stallFrom+100*ms, 601, supervisor, "orders", 50*ms, v{"code": 1})
		}, "app.restarted", "ended with status 1", "orders.service"},
		"a unit in a loop": {func(w *window) {
			down(w, service, "orders")
			ends(w, stallFrom, service, 1, "orders", time.Hour, v{"signal": 11, "cgroup": "orders.service"})
			loops(w, 1, "orders", v{"code": 2, "cgroup": "orders.service"})
		}, "app.crash_loop", "orders.service ended 10 times in 1.6 s, mostly so: it ended with status 2", "orders.service"},
		"another unit's loop": {func(w *window) {
			down(w, service, "orders")
			ends(w, stallFrom, service, 1, "orders", time.Hour, v{"signal": 11, "cgroup": "orders.service"})
			loops(w, 1, "orders", v{"code": 2, "cgroup": "orders-test.service"})
		}, "app.restarted", "orders (pid 500) of orders.service was ended by SIGSEGV", "orders.service"},
		"a container in a loop": {func(w *window) {
			group := "docker-" + strings.Repeat("0123456789abcdef", 4) + ".scope"
			down(w, 700, "orders")
			for i := range 4 {
				ends(w, stallFrom+time.Duration(i)*200*ms, 700+i, 490+i, "orders", 60*ms, v{"code": 1, "cgroup": group, "from_comm": "containerd-shim"})
			}
		}, "app.crash_loop", "ended 4 times in 600 ms", ""},
		"one container after the other": {func(w *window) {
			down(w, 700, "orders")
			for i := range 4 {
				group := "docker-" + strings.Repeat("0123456789abcde"+strconv.Itoa(i), 4) + ".scope"
				ends(w, stallFrom+time.Duration(i)*200*ms, 700+i, 490+i, "orders", 60*ms, v{"code": 1, "cgroup": group, "from_comm": "containerd-shim"})
			}
		}, "app.restarted", "orders (pid 700) ended with status 1", ""},
		"workers that die at once": {func(w *window) {
			queues(w, supervisor, "480,600,601,602")
			loops(w, supervisor, "keepd", v{"signal": 11})
		}, "app.crash_loop", "keepd, which keepd (pid 480) starts, ended 9 times in 1.6 s, mostly so: it was ended by SIGSEGV", ""},
		"one worker of several": {func(w *window) {
			queues(w, supervisor, "480,600,601,602,700")
			proc(w, 700, "keepd", func(time.Duration) v { return v{"ppid": supervisor} })
			loops(w, supervisor, "keepd", v{"signal": 11})
		}, "", "", ""},
		"workers that end in order": {func(w *window) {
			queues(w, supervisor, "480")
			loops(w, supervisor, "keepd", nil)
		}, "", "", ""},
		"brief children that have the socket": {func(w *window) {
			queues(w, supervisor, "480,600,601,602,603,604,605")
			loops(w, supervisor, "convert", v{"code": 1})
		}, "", "", ""},
		"a child for each connection, and they fail": {func(w *window) {
			queues(w, supervisor, "480")
			loops(w, supervisor, "keepd", v{"code": 255})
		}, "", "", ""},
		"the next one was there before": {func(w *window) {
			queues(w, supervisor, "480,700")
			proc(w, supervisor, "keepd", nil)
			proc(w, 750, "orders", func(at time.Duration) v {
				if at < stallFrom-500*ms {
					return nil
				}
				return v{"ppid": supervisor}
			})
			ends(w, stallFrom+200*ms, 700, supervisor, "orders", time.Hour, nil)
		}, "", "", ""},
		"it had ended long before": {func(w *window) {
			queues(w, supervisor, "480,700")
			ends(w, stallFrom-3*s, 700, supervisor, "orders", time.Hour, v{"code": 1})
		}, "", "", ""},
		"something else had been late": {func(w *window) {
			queues(w, supervisor, "480,700")
			w.Stall().Symptoms[0].Late = freezeframe.Union(windowtest.Span(stallFrom, stallFrom+500*ms))
			ends(w, stallFrom+1500*ms, 700, supervisor, "orders", time.Hour, v{"code": 1})
			ends(w, stallFrom+100*ms, hog, 1, "backup", time.Hour, nil)
		}, "", "", ""},
		"nothing": {calm, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(x.scene)
			v := detectors.Judge(w, rules.All())
			i := slices.IndexFunc(v.Findings, func(f freezeframe.Finding) bool { return strings.HasPrefix(string(f.Cause), "app.") })
			if x.cause == "" {
				if i >= 0 {
					t.Errorf("found %s: %s", v.Findings[i].Cause, v.Findings[i].Summary)
				}
				return
			}
			if i != 0 || v.Findings[0].Cause != x.cause || !strings.Contains(v.Findings[0].Summary, x.says) {
				t.Fatalf("verdict %+v", v.Findings)
			}
			if slices.ContainsFunc(v.Symptoms, func(f freezeframe.Finding) bool { return f.Cause == "app.restarted" }) {
				t.Errorf("said twice: %+v", v.Symptoms)
			}
			f := v.Findings[0]
			if f.Culprit.Unit != x.unit {
				t.Errorf("unit %q, want %q", f.Culprit.Unit, x.unit)
			}
			if got := f.Explains.Length(); got < 9*(stallTo-stallFrom)/10 {
				t.Errorf("explains %s of %s", got, time.Duration(stallTo-stallFrom))
			}
			check(t, w, f)
		})
	}
}

// What ended a service is the deeper cause: memory that ran out, or the crash whose
// core dump it had to write first.
func TestWhatEndedItGoesFirst(t *testing.T) {
	for cause, also := range map[freezeframe.Cause]func(*window){
		"mem.oom_kill": func(w *window) {
			w.Kernel(stallFrom, "Out of memory: Killed process 500 (orders) total-vm:1kB, anon-rss:1kB")
		},
		"mem.cgroup_oom_kill": func(w *window) {
			w.Kernel(stallFrom-ms, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/app,task_memcg=/app,task=orders,pid=500,uid=0")
			w.Kernel(stallFrom, "Memory cgroup out of memory: Killed process 500 (orders) total-vm:1kB, anon-rss:1kB")
		},
	} {
		v := detectors.Judge(build(func(w *window) { restartedScene().fire(w); also(w) }), rules.All())
		if len(v.Findings) != 1 || v.Findings[0].Cause != cause {
			t.Errorf("%s: verdict %+v", cause, v.Findings)
		}
		if !slices.ContainsFunc(v.Symptoms, func(f freezeframe.Finding) bool { return f.Cause == "app.restarted" && f.SymptomOf == cause }) {
			t.Errorf("%s: symptoms %+v", cause, v.Symptoms)
		}
	}
}

// A worker that the kernel killed for memory leaves its clients to the next one,
// which has to start first: that time is memory's too.
func TestKilledWorkersClientsWaitForMemory(t *testing.T) {
	w := build(func(w *window) {
		w.Kernel(stallFrom-ms, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/app,task_memcg=/app,task=orders,pid=500,uid=0")
		w.Kernel(stallFrom, "Memory cgroup out of memory: Killed process 500 (orders) total-vm:1kB, anon-rss:1kB")
		queues(w, supervisor, "480,500")
		ends(w, stallFrom, service, supervisor, "orders", time.Hour, v{"signal": sigKILL})
	})
	v := detectors.Judge(w, rules.All())
	if len(v.Findings) != 1 || v.Findings[0].Cause != "mem.cgroup_oom_kill" || v.Findings[0].Explains.Length() < 9*(stallTo-stallFrom)/10 {
		t.Errorf("verdict %+v", v.Findings)
	}
}
