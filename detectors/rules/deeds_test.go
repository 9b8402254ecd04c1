package rules_test

import (
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
)

// signal writes a signal as BPF tells it, in the reading after it.
func signal(w *window, at time.Duration, from, to int, comm string, nr int, more v) {
	row := v{"at_ns": freezeframe.Instant(1000*s + at), "kind": "signal", "signal": nr, "pid": to, "from_pid": from, "from_comm": comm, "from_parent_comm": "cron"}
	for column, value := range more {
		row[column] = value
	}
	w.Row("signals", (at/(50*ms)+1)*50*ms, int(at/ms), row)
}

const (
	sigSTOP = 19
	sigCONT = 18
)

// TestWhoDidIt: the sender of the signal is to blame, not the one who suffers
// it; and only the sender of the signal that matters.
func TestWhoDidIt(t *testing.T) {
	stopped := func(w *window) { asleep(w, wait{Class: freezeframe.Stopped}) }
	frozenGroup := func(w *window) {
		w.Suffers(service, "orders", wait{Class: freezeframe.Frozen, Wchan: "do_freezer_trap"})
		proc(w, service, "orders", func(time.Duration) v { return v{"cgroup": "0::/app/web"} })
		w.Rows("cgroups", 50*ms, "/app/web", func(at time.Duration) v {
			if w.InStall(at) {
				return v{"frozen": 1}
			}
			return v{}
		})
	}
	freeze := func(w *window, at time.Duration, from int, comm, kind, path string) {
		signal(w, at, from, 0, comm, 0, v{"kind": kind, "cgroup": path})
	}
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
		says    string
	}{
		"stopped by a script": {func(w *window) {
			stopped(w)
			signal(w, stallFrom-2*ms, hog, service, "backup.sh", sigSTOP, nil)
			signal(w, stallTo, hog+1, service, "resume.sh", sigCONT, nil)
		}, "app.stopped", process(hog), "started by cron"},
		"long before anybody asked for it": {func(w *window) {
			stopped(w)
			signal(w, 2*s, hog, service, "backup.sh", sigSTOP, nil)
		}, "app.stopped", process(hog), ""},
		"stopped, let go, and stopped by another": {func(w *window) {
			stopped(w)
			signal(w, 2*s, hog+1, service, "gcore", sigSTOP, nil)
			signal(w, 3*s, hog+1, service, "gcore", sigCONT, nil)
			signal(w, stallFrom-2*ms, hog, service, "backup.sh", sigSTOP, nil)
		}, "app.stopped", process(hog), ""},
		"what was stopped and let go before is not this": {func(w *window) {
			stopped(w)
			signal(w, 2*s, hog, service, "gcore", sigSTOP, nil)
			signal(w, 3*s, hog, service, "gcore", sigCONT, nil)
		}, "app.stopped", process(service), "was not seen"},
		"another process was stopped": {func(w *window) {
			stopped(w)
			signal(w, stallFrom-2*ms, hog, service+1, "backup.sh", sigSTOP, nil)
		}, "app.stopped", process(service), "was not seen"},
		"it only got a SIGTERM": {func(w *window) {
			stopped(w)
			signal(w, stallFrom-2*ms, hog, service, "systemd", 15, nil)
		}, "app.stopped", process(service), "was not seen"},
		"by itself": {func(w *window) {
			stopped(w)
			signal(w, stallFrom-2*ms, service, service, "orders", sigSTOP, nil)
		}, "app.stopped", process(service), "to itself"},
		"by its terminal": {func(w *window) {
			stopped(w)
			signal(w, stallFrom-2*ms, hog, service, "kworker/1:0", 20, v{"from_kernel": 1, "code": 128})
		}, "app.stopped", process(service), "as a terminal's does"},
		"a cgroup frozen by an agent": {func(w *window) {
			frozenGroup(w)
			freeze(w, stallFrom-5*ms, hog, "dockerd", "freeze", "/app")
			freeze(w, stallTo, hog, "dockerd", "thaw", "/app")
		}, "app.frozen", freezeframe.Culprit{Kind: freezeframe.CulpritProcess, PID: hog, Cgroup: "/app/web"}, "dockerd"},
		"another cgroup was frozen": {func(w *window) {
			frozenGroup(w)
			freeze(w, stallFrom-5*ms, hog, "dockerd", "freeze", "/app/webhooks")
		}, "app.frozen", freezeframe.Culprit{Kind: freezeframe.CulpritCgroup, Cgroup: "/app/web"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := verdict(t, build(x.scene), x.cause, x.culprit)
			if text := whole(f); !strings.Contains(text, x.says) {
				t.Errorf("%q is not said in %q", x.says, text)
			}
		})
	}
}

func whole(f freezeframe.Finding) string {
	text := f.Summary
	for _, e := range f.Evidence {
		text += "\n" + e.Text
	}
	return text
}

// breeds writes a parent as BPF counts it: so many children a second in the
// stall, which used so much CPU together.
func breeds(w *window, pid, ppid int, comm string, forks, cpus float64, life time.Duration) {
	w.Rows("parents", s, pid, func(at time.Duration) v {
		return v{"pid": pid, "ppid": ppid, "comm": comm, "parent_comm": "cron", "exec": "true", "forks": w.Ran(at, 1, forks), "exits": w.Ran(at, 1, forks),
			"run_ns": w.Ran(at, 0, cpus*1e9), "lived_ns": w.Ran(at, float64(life), forks*float64(life))}
	})
}

func TestSwarmsHaveParents(t *testing.T) {
	swarm := func(w *window) {
		runnable(w, "0-1")
		stat(w, 20, 900, use{user: 0.5, system: 0.5}, use{user: 0.5, system: 0.5})
	}
	for name, x := range map[string]struct {
		scene   func(*window)
		cause   freezeframe.Cause
		culprit freezeframe.Culprit
	}{
		"a parent that never waits for them and is gone itself": {func(w *window) {
			swarm(w)
			breeds(w, hog, 1, "import.sh", 800, 1.5, 20*ms)
			breeds(w, hog+1, 1, "sshd", 2, 0, 20*ms)
		}, "cpu.fork_storm", process(hog)},
		"many parents alike": {func(w *window) {
			swarm(w)
			for i := range 6 {
				breeds(w, hog+i, 1, "xargs", 130, 0.25, 20*ms)
			}
		}, "cpu.fork_storm", freezeframe.Culprit{PID: hog, Count: 6}},
		"parents that live as briefly as their children": {func(w *window) {
			swarm(w)
			breeds(w, hog-1, 1, "find", 400, 0.1, 20*ms)
			for i := range 30 { // a shell for each line, which runs two programs
				began := stallFrom + time.Duration(i)*50*ms
				for at := began.Truncate(s) + s; at <= 12*s; at += s {
					w.Row("parents", at, hog+i, v{"pid": hog + i, "ppid": hog - 1, "comm": "sh", "parent_comm": "find", "exec": "gzip",
						"since_ns": freezeframe.Instant(1000*s + began), "forks": 2, "exits": 2, "run_ns": 8e7, "lived_ns": 1e8})
				}
			}
		}, "cpu.fork_storm", process(hog - 1)},
		"many parents alike, of as many shells, beside a build": {func(w *window) {
			swarm(w)
			for i := range 6 {
				breeds(w, hog+i, hog+100+i, "xargs", 130, 0.2, 20*ms)
			}
			breeds(w, hog+50, 1, "go", 5, 0.9, 800*ms)
		}, "cpu.fork_storm", freezeframe.Culprit{PID: hog, Comm: "xargs", Count: 6}},
		"few starts on a machine that is full of them": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 75, use{user: 1}, use{user: 1})
			breeds(w, hog, 1, "xargs", 70, 1.2, 700*ms)
			running(w, hog+5, "rsync", 0.5, 0)
		}, "cpu.fork_storm", process(hog)},
		"few starts beside somebody who uses more": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 75, use{user: 1}, use{user: 1})
			breeds(w, hog, 1, "configure", 70, 0.55, 20*ms)
			running(w, hog+5, "render", 1.4, 0)
		}, "cpu.contention", process(hog + 5)},
		"children that live for long are a build": {func(w *window) {
			runnable(w, "0-1")
			stat(w, 20, 60, use{user: 1}, use{user: 1})
			breeds(w, hog, 1, "make", 30, 1.5, 5*s)
			running(w, hog+5, "cc1", 1.9, 0)
			spinning(w, hog+5, hog+5, "cc1", 0.95, v{"cpu": 0})
			spinning(w, hog+6, hog+5, "cc1", 0.95, v{"cpu": 1})
		}, "cpu.contention", process(hog + 5)},
	} {
		t.Run(name, func(t *testing.T) { verdict(t, build(x.scene), x.cause, x.culprit) })
	}
}

// Who asked for the memory is told, and another process's end is not.
func TestWhoseMemory(t *testing.T) {
	scene := func(victim int) *window {
		return build(func(w *window) {
			asleep(w, wait{Class: freezeframe.Reclaim, Stack: reclaimStack})
			w.Kernel(stallTo-100*ms, "Out of memory: Killed process 900 (java) total-vm:1kB, anon-rss:1kB")
			growing(w, hog, "java", 1<<30, "")
			signal(w, stallTo-110*ms, 77, victim, "importer", 0, v{"kind": "oom", "pid": victim})
		})
	}
	for victim, told := range map[int]bool{hog: true, hog + 1: false} {
		for _, f := range detectors.Judge(scene(victim), rules.All()).Findings {
			if f.Cause == "mem.oom_kill" && strings.Contains(whole(f), "importer (pid 77) that asked") != told {
				t.Errorf("the victim is %d: %s", victim, whole(f))
			}
		}
	}
}

// A program that is refused a thread is no proof of a full machine.
func TestRefusedBelowTheLimit(t *testing.T) {
	for used, want := range map[int]bool{32700: true, 20000: false} {
		w := build(func(w *window) {
			w.Symptom(freezeframe.Symptom{Probe: "fork", Target: "/bin/true", Err: "EAGAIN", Own: true})
			w.Rows("limits", s, 0, func(time.Duration) v { return v{"threads": used, "threads_max": 100000, "pid_max": 32768} })
		})
		got := false
		for _, f := range detectors.Judge(w, rules.All()).Findings {
			got = got || f.Cause == "limit.system_pids"
		}
		if got != want {
			t.Errorf("%d threads of 32768: limit.system_pids %t", used, got)
		}
	}
}
