package lab

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe/lab/victim"
)

const ms = int64(time.Millisecond)

// calm are users that ask every 20 ms from 0 to 8 s and wait 1 ms, except that
// a request wanted in [from, to) is answered at to. Times are ms.
func calm(from, to int64) []victim.Wait {
	var waits []victim.Wait
	for at := int64(0); at < 8000; at += 20 {
		w := victim.Wait{Intended: at * ms, Sent: at * ms, Done: (at + 1) * ms}
		if at >= from && at < to {
			w.Done = to * ms
		}
		waits = append(waits, w)
	}
	return waits
}

var testFault = Fault{Name: "fs.frozen/test", Cause: "fs.frozen", AlsoOK: []string{"fs.frozen_too"}}

const wallOff = int64(1_700_000_000_000_000_000)

type testReport struct {
	cause, kind string
	pid, count  int
	comm        string
	mount       string
	start, end  int64 // ms
	unexplained float64
	classes     map[string]float64 // ms; of a victim of a second
}

// scoreOf scores a run of a fault from 3 s to 4 s by process 77, a mount of
// which is guilty as well.
func scoreOf(t *testing.T, miss bool, waits []victim.Wait, reports ...testReport) Result {
	t.Helper()
	return scoreUntil(t, time.Time{}, miss, waits, reports...)
}

// scoreUntil is scoreOf with the moment at which freezeframe stopped looking.
func scoreUntil(t *testing.T, observed time.Time, miss bool, waits []victim.Wait, reports ...testReport) Result {
	t.Helper()
	doc := map[string]any{"schema": "freezeframe.diagnosis/v1"}
	list := []any{}
	for _, r := range reports {
		wall := func(at int64) string { return time.Unix(0, wallOff+at*ms).UTC().Format(time.RFC3339Nano) }
		list = append(list, map[string]any{
			"schema": "freezeframe.report/v1",
			"stall":  map[string]any{"start": wall(r.start), "end": wall(r.end)},
			"causes": []any{map[string]any{"id": r.cause, "explained_pct": 90.0,
				"culprit": map[string]any{"kind": r.kind, "pid": r.pid, "comm": r.comm, "count": r.count, "mount": r.mount}}},
			"unexplained_pct": r.unexplained,
			"ledger":          []any{map[string]any{"total_ms": 1000.0, "class_ms": r.classes}},
		})
	}
	doc["reports"] = list
	if !observed.IsZero() {
		doc["observed"] = map[string]any{"end": observed.Format(time.RFC3339Nano)}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "diagnosis.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	res := Result{Miss: miss, Waits: waits, Diagnosis: file, WallOffset: wallOff}
	score(&res, testFault, Truth{Start: 3000 * ms, End: 4000 * ms, Innocent: []int{99},
		Guilty: Guilty{PIDs: []int{77}, Swarms: []string{"dd"}, Mounts: []string{"/mnt/x"}}})
	return res
}

func good() testReport {
	return testReport{cause: "fs.frozen", kind: "process", pid: 77, start: 3000, end: 4000, unexplained: 10, classes: map[string]float64{"filesystem_wait": 790, "unseen": 200}}
}

func TestScore(t *testing.T) {
	stalled := calm(3000, 4000)
	with := func(change func(*testReport)) testReport { r := good(); change(&r); return r }
	for _, tc := range []struct {
		name    string
		reports []testReport
		check   func(Result) bool
	}{
		{"right in everything", []testReport{good()}, func(r Result) bool {
			return r.Invalid == "" && r.Detected && r.First && r.Top3 && r.Culprit && r.Sum && r.Reports == 1 &&
				len(r.Extra) == 0 && r.StartDiff == 0 && r.EndDiff == 0 && !r.Blamed && Total([]Result{r}).Edges == 1
		}},
		{"the other id that is true", []testReport{with(func(r *testReport) { r.cause = "fs.frozen_too" })}, func(r Result) bool { return r.First }},
		{"the mount instead of the process", []testReport{with(func(r *testReport) { r.kind, r.pid, r.mount = "mount", 0, "/mnt/x" })}, func(r Result) bool { return r.Culprit }},
		{"wrong cause", []testReport{with(func(r *testReport) { r.cause = "fs.full" })}, func(r Result) bool { return r.Detected && !r.First && !r.Top3 }},
		{"wrong process", []testReport{with(func(r *testReport) { r.pid = 78 })}, func(r Result) bool { return r.First && !r.Culprit }},
		{"wrong process, though it names the right mount as well", []testReport{with(func(r *testReport) { r.pid, r.mount = 78, "/mnt/x" })}, func(r Result) bool { return !r.Culprit }},
		{"one of a swarm", []testReport{with(func(r *testReport) { r.pid, r.comm, r.count = 78, "dd", 12 })}, func(r Result) bool { return r.Culprit }},
		{"one like a swarm, alone", []testReport{with(func(r *testReport) { r.pid, r.comm = 78, "dd" })}, func(r Result) bool { return !r.Culprit }},
		{"another swarm", []testReport{with(func(r *testReport) { r.pid, r.comm, r.count = 78, "cp", 12 })}, func(r Result) bool { return !r.Culprit }},
		{"wrong mount", []testReport{with(func(r *testReport) { r.kind, r.mount = "mount", "/mnt/y" })}, func(r Result) bool { return !r.Culprit }},
		{"nobody named", []testReport{with(func(r *testReport) { r.kind, r.pid = "", 0 })}, func(r Result) bool { return !r.Culprit }},
		{"an innocent bystander", []testReport{with(func(r *testReport) { r.pid = 99 })}, func(r Result) bool { return r.Blamed && !r.Culprit }},
		{"late edges", []testReport{with(func(r *testReport) { r.start, r.end = 3051, 4080 })}, func(r Result) bool {
			return r.StartDiff == 51 && r.EndDiff == 80 && Total([]Result{r}).Edges == 0
		}},
		{"a start between the users' requests", []testReport{with(func(r *testReport) { r.start = 2985 })}, func(r Result) bool { return r.StartDiff == 0 }},
		{"a start before one that was answered in time", []testReport{with(func(r *testReport) { r.start = 2900 })}, func(r Result) bool { return r.StartDiff == -80 }},
		{"shares that do not add up", []testReport{with(func(r *testReport) { r.unexplained = 10.2 })}, func(r Result) bool { return !r.Sum }},
		{"no report", nil, func(r Result) bool { return r.Invalid == "" && !r.Detected && !r.First && !r.Culprit }},
		{"a report of another time", []testReport{with(func(r *testReport) { r.start, r.end = 5000, 6000 })}, func(r Result) bool {
			return !r.Detected && len(r.Extra) == 1
		}},
		{"two reports of one stall", []testReport{good(), with(func(r *testReport) { r.start = 3600 })}, func(r Result) bool { return r.Reports == 2 && r.StartDiff == 0 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if r := scoreOf(t, false, stalled, tc.reports...); !tc.check(r) {
				t.Errorf("scored wrong: %+v", r.Score)
			}
		})
	}
}

func TestWaitsAfterTheWatchDoNotCount(t *testing.T) {
	still := good()
	still.start, still.end = 3000, 3900
	watched := time.Unix(0, wallOff+3900*ms).UTC()
	if r := scoreUntil(t, watched, false, calm(3000, 4000), still); r.EndDiff != 0 {
		t.Errorf("the end is off by %v ms", r.EndDiff)
	}
	if r := scoreOf(t, false, calm(3000, 4000), still); r.EndDiff != -100 {
		t.Errorf("the end is off by %v ms", r.EndDiff)
	}
}

func TestInvalidRunsAreNotPassed(t *testing.T) {
	for name, r := range map[string]Result{
		"nobody waited":               scoreOf(t, false, calm(0, 0), good()),
		"they waited before":          scoreOf(t, false, calm(2500, 4000), good()),
		"they waited at another time": scoreOf(t, false, calm(6000, 7000), good()),
		"a near miss that hit":        scoreOf(t, true, calm(3000, 4000)),
	} {
		if r.Invalid == "" {
			t.Errorf("%s: the run is valid: %+v", name, r.Score)
		}
		if total := Total([]Result{r}); total.Invalid != 1 || total.Valid+total.Misses+total.Detected+total.Quiet != 0 {
			t.Errorf("%s: counted: %+v", name, total)
		}
	}
	made := Result{Err: "no such device", Waits: calm(3000, 4000)}
	score(&made, testFault, Truth{Start: 3000 * ms, End: 4000 * ms})
	if made.Invalid == "" {
		t.Error("a fault that could not be made counts")
	}
}

func TestNearMiss(t *testing.T) {
	if r := scoreOf(t, true, calm(0, 0)); r.Invalid != "" || Total([]Result{r}).Quiet != 1 {
		t.Errorf("a quiet near miss: %+v", r.Score)
	}
	if r := scoreOf(t, true, calm(0, 0), good()); len(r.Extra) == 0 || Total([]Result{r}).Quiet != 0 {
		t.Errorf("a report in a near miss passes: %+v", r.Score)
	}
	// What users of a near miss felt, by the machine's own noise after the
	// event, may be reported.
	noise := good()
	noise.start, noise.end = 6000, 6500
	if r := scoreOf(t, true, calm(6000, 6500), noise); r.Invalid != "" || len(r.Extra) != 0 {
		t.Errorf("a report of noise that users felt: %q %+v", r.Invalid, r.Score)
	}
}

func TestBrokenDocument(t *testing.T) {
	file := filepath.Join(t.TempDir(), "diagnosis.json")
	for _, text := range []string{"", "{", `{"schema":"freezeframe.diagnosis/v2","reports":[]}`} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		r := Result{Waits: calm(3000, 4000), Diagnosis: file}
		score(&r, testFault, Truth{Start: 3000 * ms, End: 4000 * ms})
		if r.Diagnosed || Total([]Result{r}).Failed != 1 {
			t.Errorf("%q passes as a diagnosis", text)
		}
	}
}

func TestTargets(t *testing.T) {
	ok := scoreOf(t, false, calm(3000, 4000), good())
	var out strings.Builder
	if !Total([]Result{ok, ok}).Write(&out) {
		t.Errorf("all right, but a target is missed:\n%s", out.String())
	}
	missed := scoreOf(t, false, calm(3000, 4000))
	if Total([]Result{ok, ok, ok, missed}).Write(&out) {
		t.Error("a stall that was not detected is within the targets")
	}
}

func TestViews(t *testing.T) {
	waits := calm(3000, 4000)
	rand.Shuffle(len(waits), func(i, j int) { waits[i], waits[j] = waits[j], waits[i] })
	views := Views(waits)
	if len(views) != 1 || views[0].Start != 3000*ms || views[0].End != 4000*ms || views[0].Worst != time.Second || views[0].Calm != 2980*ms {
		t.Errorf("views of one stall: %+v", views)
	}
	// What comes to its turn in its client only when the stall is over was late,
	// but nothing was late in serving it.
	waits = calm(3000, 4000)
	for i := range waits {
		if w := &waits[i]; w.Intended >= 4000*ms && w.Intended < 4500*ms {
			w.Sent, w.Done = w.Intended+100*ms, w.Intended+101*ms
		}
	}
	if views := Views(waits); len(views) != 1 || views[0].Served != 4000*ms || views[0].End <= 4500*ms {
		t.Errorf("views of a stall with queues behind it: %v", views)
	}
	if views := Views(calm(3000, 3090)); len(views) != 0 {
		t.Errorf("90 ms is a stall: %v", views)
	}
	// Two stalls with nothing asked between them: what was in time before the first
	// says nothing of the second.
	two := slices.DeleteFunc(append(calm(3000, 4000), victim.Wait{Intended: 5000 * ms, Sent: 5000 * ms, Done: 5500 * ms}), func(w victim.Wait) bool {
		return w.Intended >= 4000*ms && w.Intended != 5000*ms || w.Intended == 5000*ms && w.Done != 5500*ms
	})
	if views := Views(two); len(views) != 2 || views[1].Calm != 4000*ms {
		t.Errorf("views of two stalls: %+v", views)
	}
	failed := calm(0, 0)
	failed[150].Err = "refused"
	if views := Views(failed); len(views) != 1 || views[0].Errors != 1 {
		t.Errorf("a request that failed fast is not late: %v", views)
	}
}

func TestLedgerIsHeldAgainstItsSum(t *testing.T) {
	stalled := calm(3000, 4000)
	r := scoreOf(t, false, stalled, good())
	if !r.Ledger || r.Unseen != 20 || r.Unexplained != 10 {
		t.Errorf("990 of 1000 ms: whole %v, unseen %v %%, unexplained %v %%", r.Ledger, r.Unseen, r.Unexplained)
	}
	short := good()
	short.classes = map[string]float64{"filesystem_wait": 900}
	s := scoreOf(t, false, stalled, short)
	if s.Ledger {
		t.Error("900 of 1000 ms is called whole")
	}
	total := Total([]Result{r, r, s})
	if total.LedgerWrong != 1 || total.Unseen != 20 || total.Unexplained != 10 || total.Sharp != 3 {
		t.Errorf("total: %+v", total)
	}
}

func TestUnitsHaveToBeNamed(t *testing.T) {
	g := Guilty{Units: []string{"orders.service"}, Cgroups: []string{"/system.slice/orders.service"}, PIDs: []int{7}, Devices: []string{"dm-0"}}
	for want, all := range map[bool][]culprit{
		true: {
			{Kind: "cgroup", Cgroup: "/system.slice/orders.service", Unit: "orders.service"},
			{Kind: "process", PID: 7, Unit: "orders.service"},
			{Kind: "device", Device: "/dev/dm-0"},
		},
		false: {
			{Kind: "cgroup", Cgroup: "/system.slice/orders.service"},
			{Kind: "process", PID: 7, Unit: "lab.service"},
			{Kind: "process", PID: 8, Unit: "orders.service"},
		},
	} {
		for _, c := range all {
			if g.has(c) != want {
				t.Errorf("%v with unit %q: %v, want %v", c, c.Unit, !want, want)
			}
		}
	}
}

func TestOnlyWhoStoppedTheMachineIsItsHypervisor(t *testing.T) {
	for _, g := range []Guilty{{Hypervisor: true}, {Host: true}} {
		for _, kind := range []string{"hypervisor", "host"} {
			if want := g.Hypervisor == (kind == "hypervisor"); g.has(culprit{Kind: kind}) != want {
				t.Errorf("%+v: %s is right: %v", g, kind, !want)
			}
		}
	}
}

func TestFaultBeforeTheWatchIsInvalid(t *testing.T) {
	for began, want := range map[int64]bool{2900: false, 3100: true} {
		file := filepath.Join(t.TempDir(), "diagnosis.json")
		doc := `{"schema":"freezeframe.diagnosis/v1","observed":{"start":"` + time.Unix(0, wallOff+began*ms).UTC().Format(time.RFC3339Nano) + `"},"reports":[]}`
		if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		r := Result{Waits: calm(3000, 4000), Diagnosis: file, WallOffset: wallOff}
		score(&r, testFault, Truth{Start: 3000 * ms, End: 4000 * ms})
		if (r.Invalid != "") != want {
			t.Errorf("watching from %d ms on, a fault at 3000 ms: %q", began, r.Invalid)
		}
	}
}
