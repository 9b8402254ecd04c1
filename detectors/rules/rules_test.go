package rules_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/collectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// public is the public list of causes, as far as it can be named here.
var public = []freezeframe.Cause{
	"cpu.contention", "cpu.cgroup_throttled", "cpu.rt_starvation", "cpu.affinity_hotspot", "cpu.low_weight", "cpu.fork_storm", "cpu.frequency_throttled",
	"kernel.softirq_storm", "kernel.irq_storm", "kernel.irqs_off", "kernel.soft_lockup", "kernel.hard_lockup", "kernel.rcu_stall", "kernel.oops", "kernel.workqueue_hog",
	"kernel.hung_task", "kernel.lock_contention", "kernel.mmap_lock", "kernel.cgroup_lock", "kernel.rtnl_lock", "kernel.audit_backlog", "kernel.fanotify_wait", "kernel.console_flood",
	"virt.paused", "virt.steal", "time.suspended", "time.stepped", "time.clocksource_unstable",
	"mem.direct_reclaim", "mem.swap_thrash", "mem.file_thrash", "mem.cgroup_high", "mem.cgroup_max", "mem.oom_kill", "mem.cgroup_oom_kill", "mem.compaction", "mem.fork_cow", "mem.teardown", "mem.numa_reclaim", "mem.overcommit_refused",
	"io.device_saturated", "io.device_slow", "io.device_hung", "io.cgroup_throttled", "io.flush_storm", "io.device_error", "io.raid_rebuild", "io.discard",
	"fs.dirty_throttled", "fs.journal_commit", "fs.frozen", "fs.nfs_unresponsive", "fs.fuse_unresponsive", "fs.full", "fs.inodes_full", "fs.readonly", "fs.file_lock", "fs.pipe_full", "fs.log_socket_blocked",
	"limit.process_fds", "limit.system_fds", "limit.cgroup_pids", "limit.system_pids", "limit.user_processes", "limit.ephemeral_ports", "limit.conntrack", "limit.tcp_memory", "limit.neighbour_table", "limit.memory_maps", "limit.inotify",
	"net.accept_queue_overflow", "net.syn_flood", "net.packet_flood", "net.packet_loss", "net.delay", "net.link_down", "net.nic_reset", "net.firewall_drop", "net.receive_buffer_full", "net.bandwidth",
	"runtime.jvm_gc", "runtime.jvm_safepoint", "runtime.go_gc", "runtime.python_gc", "runtime.python_gil", "runtime.node_gc", "runtime.event_loop_blocked",
	"app.stopped", "app.frozen", "app.core_dump", "app.worker_pool_exhausted", "app.deadlock", "app.lock_contention", "app.busy_loop", "app.restarted", "app.crash_loop",
	"dep.dns", "dep.database_lock", "dep.connection_slots", "dep.redis_slow_command", "dep.redis_fork", "dep.broker_blocked", "dep.remote_unresponsive",
}

func TestEveryRuleIsWhole(t *testing.T) {
	columns := map[string]bool{
		"ledger": true, "symptoms": true, "suspended": true, freezeframe.EventStopped: true,
		freezeframe.EventKernelLog: true, freezeframe.EventClockStepped: true, freezeframe.EventRefused: true,
	}
	for _, src := range collectors.Sources() {
		for _, column := range src.Columns {
			columns[src.Name+"."+column.Name] = true
		}
	}
	seen := map[freezeframe.Cause]bool{}
	for _, r := range rules.All() {
		if !slices.Contains(public, r.Cause) {
			t.Errorf("%s is not a public id", r.Cause)
		}
		if seen[r.Cause] {
			t.Errorf("%s is listed twice", r.Cause)
		}
		seen[r.Cause] = true
		if r.Title == "" || r.Means == "" || r.Proof == "" || len(r.Remedy) < 2 || len(r.Reads) == 0 || r.Judge == nil {
			t.Errorf("%s: not whole: %+v", r.Cause, r)
		}
		for _, text := range append([]string{r.Means, r.Proof}, r.Remedy...) {
			if !strings.HasSuffix(text, ".") || strings.Contains(text, "  ") {
				t.Errorf("%s: not a sentence: %q", r.Cause, text)
			}
		}
		for _, read := range r.Reads {
			if !columns[read] {
				t.Errorf("%s reads %s, which no collector has", r.Cause, read)
			}
		}
		for _, c := range r.Subsumes {
			if !slices.Contains(public, c) || c == r.Cause {
				t.Errorf("%s subsumes %s", r.Cause, c)
			}
		}
	}
}

// A cause that brought itself about would settle nothing.
func TestSubsumesHasNoCircle(t *testing.T) {
	below := map[freezeframe.Cause][]freezeframe.Cause{}
	for _, r := range rules.All() {
		below[r.Cause] = r.Subsumes
	}
	var visit func(path []freezeframe.Cause)
	visit = func(path []freezeframe.Cause) {
		for _, next := range below[path[len(path)-1]] {
			if slices.Contains(path, next) {
				t.Fatalf("a circle: %v %s", path, next)
			}
			visit(append(slices.Clone(path), next))
		}
	}
	for c := range below {
		visit([]freezeframe.Cause{c})
	}
}

func TestEveryRuleFiresAndDoesNot(t *testing.T) {
	all := scenes()
	for _, r := range rules.All() {
		t.Run(string(r.Cause), func(t *testing.T) {
			sc, ok := all[r.Cause]
			if !ok {
				t.Fatal("no scene: a rule needs a window on which it fires and a near miss")
			}
			w := build(sc.fire)
			found := r.Judge(w)
			if len(found) == 0 {
				t.Fatal("did not fire")
			}
			f := found[0]
			check(t, w, f)
			stall := w.Stall()
			want := max(sc.explains, 0)
			if want == 0 {
				want = 1
			}
			if got := f.Explains.Length().Seconds() / stall.Length().Seconds(); got < want-0.08 || got > want+0.08 {
				t.Errorf("explains %.2f of the stall, want %.2f: %v", got, want, f.Explains)
			}
			if f.Confidence < 0.4 {
				t.Errorf("confidence %.2f", f.Confidence)
			}
			sameCulprit(t, f.Culprit, sc.culprit)
			declared(t, r, w)

			miss := build(sc.miss)
			for _, f := range r.Judge(miss) {
				t.Errorf("fired on the near miss: %+v", f)
			}
			declared(t, r, miss)
		})
	}
	for c := range all {
		if !slices.ContainsFunc(rules.All(), func(r freezeframe.Rule) bool { return r.Cause == c }) {
			t.Errorf("a scene for %s, which has no rule", c)
		}
	}
}

// check holds any finding to what all must be.
func check(t *testing.T, w freezeframe.Window, f freezeframe.Finding) {
	t.Helper()
	within(t, w, f)
	if strings.Contains(f.Summary, "%!") {
		t.Errorf("summary %q", f.Summary)
	}
	for _, e := range f.Evidence {
		if strings.Contains(e.Text, "%!") {
			t.Errorf("evidence %+v", e)
		}
	}
}

// within is what even the strangest window must not break.
func within(t *testing.T, w freezeframe.Window, f freezeframe.Finding) {
	t.Helper()
	stall := w.Stall()
	if out := f.Explains.Minus(stall.Late()); out.Length() > 0 || f.Explains.Length() == 0 {
		t.Errorf("claims %v, not within the lateness %v", f.Explains, stall.Late())
	}
	if f.Confidence <= 0 || f.Confidence > 1 || f.Summary == "" || f.Culprit.Kind == "" {
		t.Errorf("not whole: %+v", f)
	}
	for _, e := range f.Evidence {
		if e.Text == "" {
			t.Errorf("evidence %+v", e)
		}
	}
}

func sameCulprit(t *testing.T, got, want freezeframe.Culprit) {
	t.Helper()
	g, x := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range x.NumField() {
		if !x.Field(i).IsZero() && !g.Field(i).Equal(x.Field(i)) {
			t.Errorf("blames %+v, want %+v", got, want)
			return
		}
	}
}

// declared tells whether a rule read a source that it does not say it reads.
func declared(t *testing.T, r freezeframe.Rule, w *window) {
	t.Helper()
	says := map[string]bool{}
	for _, read := range r.Reads {
		source, _, _ := strings.Cut(read, ".")
		says[source] = true
	}
	for name := range w.Accessed {
		if !says[name] {
			t.Errorf("reads %s without saying so", name)
		}
	}
}

func TestNothingToFindInNothing(t *testing.T) {
	empty := windowtest.New(10*s, 5*s, 6*s)
	for _, name := range empty.Sources() {
		empty.Drop(name)
	}
	noStall := build(func(*window) {})
	quiet := build(func(w *window) { w.Suffers(service, "orders", wait{Class: freezeframe.Idle}) })
	unseen := build(func(w *window) { w.Suffers(service, "orders", wait{Class: freezeframe.Unseen}) })
	for name, w := range map[string]*window{"empty": empty, "no symptoms": noStall, "quiet": quiet, "unseen": unseen} {
		for _, r := range rules.All() {
			if found := r.Judge(w); len(found) > 0 {
				t.Errorf("%s: %s finds %+v", name, r.Cause, found)
			}
		}
	}
}

// A machine may lack any source, or a column of it: no rule may fall over, and
// none may claim what lies outside of the stall.
func TestSourcesMayBeMissing(t *testing.T) {
	for cause, sc := range scenes() {
		for _, name := range build(sc.fire).Sources() {
			w := build(sc.fire)
			w.Drop(name)
			judgeAll(t, fmt.Sprintf("%s without %s", cause, name), w)
		}
		w := build(sc.fire)
		for _, name := range w.Sources() {
			for i, column := range w.Columns(name) {
				if i%3 == 0 {
					w.DropColumn(name, column.Name)
				}
			}
		}
		judgeAll(t, string(cause)+" without a third of all columns", w)
	}
}

func judgeAll(t *testing.T, what string, w *window) {
	t.Helper()
	for _, r := range rules.All() {
		for _, f := range r.Judge(w) {
			check(t, w, f)
			if t.Failed() {
				t.Fatalf("%s: %s", what, r.Cause)
			}
		}
	}
}

func TestJudgingTwiceGivesTheSame(t *testing.T) {
	for cause, sc := range scenes() {
		w := build(sc.fire)
		for _, r := range rules.All() {
			first := r.Judge(w)
			for range 3 {
				if again := r.Judge(w); !reflect.DeepEqual(first, again) {
					t.Fatalf("%s on %s: %+v and then %+v", r.Cause, cause, first, again)
				}
			}
		}
	}
}

// Whatever is behind a lock, a pipe or a peer is what has to be named.
func TestTheDeepestWaitDecides(t *testing.T) {
	find := func(w *window, cause freezeframe.Cause) (freezeframe.Finding, bool) {
		for _, r := range rules.All() {
			if r.Cause == cause {
				for _, f := range r.Judge(w) {
					return f, true
				}
			}
		}
		return freezeframe.Finding{}, false
	}
	links := map[freezeframe.Cause]wait{
		"fs.file_lock":            {Class: freezeframe.FileLock, Syscall: "flock", File: "/srv/lock"},
		"fs.pipe_full":            {Class: freezeframe.PipeWait, Wchan: "pipe_write", Syscall: "write"},
		"dep.remote_unresponsive": {Class: freezeframe.PeerWait, Syscall: "recvfrom"},
		"kernel.lock_contention":  {Class: freezeframe.KernelLock, Wchan: "fdget_pos", Stack: "__mutex_lock<-fdget_pos<-ksys_write"},
	}
	for link, x := range links {
		w := build(func(w *window) {
			held(w, x, frozen("/srv/data/records"))
			mount(w, 2, "/srv/data", "loop3", 7<<20|3, nil)
		})
		deep, ok := find(w, "fs.frozen")
		if !ok {
			t.Errorf("behind %s: the frozen filesystem is not seen", link)
			continue
		}
		if len(deep.Chain) < 2 || !strings.Contains(deep.Chain[0], "orders") || !strings.Contains(deep.Chain[1], "backup") {
			t.Errorf("behind %s: chain %q", link, deep.Chain)
		}
		shallow, ok := find(w, link)
		if !ok || shallow.Confidence >= deep.Confidence {
			t.Errorf("behind %s: it must be listed, and be less sure than what decides: %+v", link, shallow)
		}
		subsumed := false
		for _, r := range rules.All() {
			subsumed = subsumed || r.Cause == "fs.frozen" && slices.Contains(r.Subsumes, link)
		}
		if !subsumed {
			t.Errorf("fs.frozen does not subsume %s", link)
		}
	}
	// A holder that computes gives no reason of its own: then it is the holder.
	w := build(func(w *window) { held(w, links["fs.file_lock"], wait{Class: freezeframe.OnCPU}) })
	if f, ok := find(w, "fs.file_lock"); !ok || f.Culprit.PID != hog || f.Confidence < 0.9 {
		t.Errorf("a holder that computes: %+v", f)
	}
}

// Where a service's own threads say what they waited for, what our probes
// waited for meanwhile is beside the point.
func TestProbesDoNotOverruleServices(t *testing.T) {
	w := build(func(w *window) {
		asleep(w, wait{Class: freezeframe.FileLock, Syscall: "flock"})
		own := w.Symptom(freezeframe.Symptom{Probe: "fsync", Target: "/", Own: true})
		w.Account(own, freezeframe.Victim{PID: 77, TID: 78}, wait{Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/x"})
		device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 100e6, inFlight: 20})
		writing(w, hog, "backup", 100e6)
	})
	for _, r := range rules.All() {
		if found := r.Judge(w); r.Cause == "io.device_saturated" && len(found) > 0 {
			t.Errorf("%+v", found)
		}
	}
}

var update = flag.Bool("update", false, "write docs/causes.md anew")

func TestCausesDoc(t *testing.T) {
	const path = "../../docs/causes.md"
	want := rules.Doc()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the rules say (%v): go test ./detectors/rules -run TestCausesDoc -update", path, err)
	}
}
