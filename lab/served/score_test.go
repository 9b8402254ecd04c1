package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"freezeframe/lab/victim"
)

const (
	milli   = int64(time.Millisecond)
	wallOff = int64(1_700_000_000_000_000_000)
	target  = "127.0.0.1:8080"
)

// users asks every 20 ms from 0 to 10 s and waits 1 ms; what it sends in
// [from, to) is answered at to. Times are ms.
func users(stalls ...[2]float64) []victim.Wait {
	var waits []victim.Wait
	for at := 0.0; at < 10_000; at += 20 {
		w := victim.Wait{Sent: int64(at * 1e6), Done: int64((at + 1) * 1e6)}
		for _, s := range stalls {
			if at >= s[0] && at < s[1] {
				w.Done = int64(s[1] * 1e6)
			}
		}
		waits = append(waits, w)
	}
	return waits
}

func stallAt(from, to int64) event {
	return event{Server: "threads", Family: "tcp", Stall: "sleep", Start: from * milli, End: to * milli, Target: target, PIDs: []int{42, 43}}
}

// sym is a symptom as the document has it.
func sym(probe, target string, worst float64, victims ...string) map[string]any {
	return map[string]any{"probe": probe, "target": target, "worst_ms": worst, "victims": victims}
}

// say makes a report of the document, from a moment to another in ms.
func say(from, to int64, symptoms ...map[string]any) map[string]any {
	wall := func(at int64) string { return time.Unix(0, wallOff+at*milli).UTC().Format(time.RFC3339Nano) }
	return map[string]any{
		"schema": "freezeframe.report/v1", "id": fmt.Sprintf("r%d", from),
		"stall":  map[string]any{"start": wall(from), "end": wall(to), "symptoms": symptoms},
		"causes": []any{map[string]any{"id": "app.stopped", "explained_pct": 90.0, "culprit": map[string]any{"kind": "process", "pid": 7, "comm": "x"}}},
	}
}

// scored goes the way of a real document: through JSON and the clocks.
func scored(t *testing.T, made []event, waits []victim.Wait, reports ...map[string]any) ([]row, []said) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"schema": "freezeframe.diagnosis/v1", "reports": reports})
	if err != nil {
		t.Fatal(err)
	}
	var d diagnosis
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return score(made, waits, d.onClock(wallOff), true)
}

// one scores a stall from 3 s to 4 s in which the longest wait is of 1000 ms.
func one(t *testing.T, reports ...map[string]any) (row, []said) {
	t.Helper()
	rows, extra := scored(t, []event{stallAt(3000, 4000)}, users([2]float64{3000, 4000}), reports...)
	if len(rows) != 1 || rows[0].Invalid != "" || rows[0].ClientMs != 1000 {
		t.Fatalf("rows %+v", rows)
	}
	return rows[0], extra
}

func TestToleranceIsTheLargerOfFiveMsAndTwoPercent(t *testing.T) {
	for _, c := range []struct {
		reported, measured float64
		want               bool
	}{
		{1000, 1000, true}, {1019.9, 1000, true}, {980.1, 1000, true}, {1020.1, 1000, false}, {979.9, 1000, false},
		{154.9, 150, true}, {145.1, 150, true}, {155.1, 150, false}, {144.9, 150, false},
	} {
		if got := within(c.reported, c.measured); got != c.want {
			t.Errorf("%.1f reported, %.1f measured: %v", c.reported, c.measured, got)
		}
	}
}

func TestLongestSymptomOfTheRightTargetIsCompared(t *testing.T) {
	r, extra := one(t, say(2990, 4010,
		sym("heartbeat", target, 3000),
		sym("delivery", target, 3000),
		sym("answer", "127.0.0.1:9", 2000, "orders (42)"),
		sym("accept", target, 700, "other (9)"),
		sym("receive", target, 1003, "evil (7) (43)")))
	if len(extra) != 0 || !r.Reported || r.Reports != 1 || r.Shared {
		t.Fatalf("extra %v, row %+v", extra, r)
	}
	if r.Probe != "receive" || r.WorstMs != 1003 || r.DiffMs != 3 || !r.Within || !r.InSpan || !r.Named {
		t.Errorf("%+v", r)
	}
	if r.StartMs != -10 || r.EndMs != 10 {
		t.Errorf("edges %v %v", r.StartMs, r.EndMs)
	}
}

func TestWrongTargetIsNoSymptom(t *testing.T) {
	r, _ := one(t, say(3000, 4000, sym("answer", "unix:/x", 1000, "orders (42)"), sym("fsync", target, 1000, "orders (42)")))
	if !r.Reported || r.Probe != "" || r.Within || r.Named {
		t.Errorf("%+v", r)
	}
}

func TestVictimOfAnotherProcessDoesNotName(t *testing.T) {
	for _, victims := range [][]string{nil, {"orders (4)"}, {"42 (1)"}, {"(42"}, {"orders"}} {
		r, _ := one(t, say(3000, 4000, sym("answer", target, 1000, victims...)))
		if r.Named {
			t.Errorf("victims %q name the server", victims)
		}
	}
}

func TestReportsOfWhatNobodyFeltAreExtra(t *testing.T) {
	waits := users([2]float64{3000, 4000}, [2]float64{7000, 7120}, [2]float64{8000, 8060})
	rows, extra := scored(t, []event{stallAt(3000, 4000)}, waits,
		say(2950, 4050, sym("answer", target, 1000, "orders (42)")),
		say(5000, 5500), // nobody
		say(7050, 7300), // a client, though no stall was made
		say(8000, 8100), // 60 ms are not worth a report
		say(1000, 2999)) // ends before the first of them waits
	var got []string
	for _, e := range extra {
		got = append(got, e.ID)
	}
	if !slices.Equal(got, []string{"r5000", "r8000", "r1000"}) {
		t.Errorf("extra %v", extra)
	}
	if n := elsewhere(rows, waits); n != 2 { // of those from 7 s on, 120 and 100 ms
		t.Errorf("%d waits elsewhere", n)
	}
	if rows[0].Reports != 1 || !rows[0].Within {
		t.Errorf("%+v", rows[0])
	}
}

func TestNearMissIsToldNotCounted(t *testing.T) {
	miss := stallAt(6000, 6200)
	miss.Stall = alone
	rows, extra := scored(t, []event{stallAt(3000, 4000), miss}, users([2]float64{3000, 4000}), say(6010, 6190, sym("answer", target, 190)))
	if len(extra) != 0 || !rows[1].Reported || rows[1].Invalid != "" {
		t.Fatalf("extra %v, rows %+v", extra, rows)
	}
	if tot := total(rows, extra); tot.Alone != 1 || tot.AloneSaid != 1 || tot.Valid != 1 || tot.Reported != 0 {
		t.Errorf("%+v", tot)
	}
}

func TestStallThatNoClientFeltIsInvalid(t *testing.T) {
	for name, waits := range map[string][]victim.Wait{
		"short":  users([2]float64{3000, 3090}),
		"nobody": nil,
	} {
		rows, _ := scored(t, []event{stallAt(3000, 4000)}, waits)
		if !strings.Contains(rows[0].Invalid, "no client waited") {
			t.Errorf("%s: %+v", name, rows[0])
		}
	}
	waits := users([2]float64{3000, 4000})
	waits[170].Err = "closed"
	if rows, _ := scored(t, []event{stallAt(3000, 4000)}, waits); !strings.Contains(rows[0].Invalid, "failed") {
		t.Errorf("%+v", rows[0])
	}
}

func TestLongestWaitIsOfThisStallOnly(t *testing.T) {
	waits := users([2]float64{3000, 3400}, [2]float64{6000, 7500})
	rows, _ := scored(t, []event{stallAt(3000, 3400), stallAt(6000, 7500)}, waits,
		say(3000, 7500, sym("answer", target, 1500, "orders (42)")))
	if rows[0].ClientMs != 400 || rows[1].ClientMs != 1500 {
		t.Fatalf("clients %v %v", rows[0].ClientMs, rows[1].ClientMs)
	}
	if rows[0].Within || !rows[1].Within || !rows[0].InSpan || rows[0].SpanMs != 1500 {
		t.Errorf("%+v", rows)
	}
	if tot := total(rows, nil); tot.Shared != 2 || tot.Split != 0 || tot.Within != 1 || tot.InSpan != 2 {
		t.Errorf("%+v", tot)
	}
}

func TestTwoReportsOfOneStall(t *testing.T) {
	r, _ := one(t, say(3000, 3400, sym("answer", target, 390, "orders (42)")), say(3500, 4000, sym("answer", target, 480, "orders (42)")))
	if r.Reports != 2 || r.WorstMs != 480 || r.Within {
		t.Errorf("%+v", r)
	}
	if tot := total([]row{r}, nil); tot.Split != 1 {
		t.Errorf("%+v", tot)
	}
}

func TestTotalsAreMetOnlyWhenAllIsRight(t *testing.T) {
	good := func() row {
		r, _ := one(t, say(3000, 4000, sym("answer", target, 1001, "orders (42)")))
		return r
	}
	met := func(extra []said, rows ...row) (bool, string) {
		var out bytes.Buffer
		tot := total(rows, extra)
		return tot.write(&out, true), out.String()
	}
	if ok, text := met(nil, good(), good()); !ok || strings.Contains(text, "MISSED") {
		t.Errorf("two good stalls:\n%s", text)
	}
	for name, spoil := range map[string]func(*row){
		"not reported":   func(r *row) { r.Reported = false },
		"no symptom":     func(r *row) { r.Probe = "" },
		"not within":     func(r *row) { r.Within = false },
		"not named":      func(r *row) { r.Named = false },
		"two reports":    func(r *row) { r.Reports = 2 },
		"a shared one":   func(r *row) { r.Shared = true },
		"an invalid one": func(r *row) { r.Invalid = "x" },
	} {
		bad := good()
		spoil(&bad)
		if ok, text := met(nil, good(), bad); ok {
			t.Errorf("%s is met:\n%s", name, text)
		}
	}
	if ok, _ := met([]said{{}}, good()); ok {
		t.Error("an extra report is met")
	}
	if ok, _ := met(nil); ok {
		t.Error("no stalls are met")
	}
	worse := good()
	worse.DiffMs = -9
	tot := total([]row{good(), worse, good()}, nil)
	if tot.MedianMs != 1 || tot.WorstMs != 9 || tot.By["tcp"].Valid != 3 || tot.By["sleep"].Within != 3 {
		t.Errorf("%+v", tot)
	}
}

func TestMedianAndRatios(t *testing.T) {
	if m := median([]float64{9, 1, 5}); m != 5 {
		t.Error(m)
	}
	if m := median([]float64{4, 1, 3, 9}); m != 3.5 {
		t.Error(m)
	}
	r := rates{With: []float64{75, 50, 100, 25}, Without: []float64{100, 100, 100, 100}}
	r.compare()
	if r.Ratio != 0.625 || r.Round != 0.625 || r.Low != 0.5 || r.High != 0.75 {
		t.Errorf("%+v", r)
	}
}

// Every combination either is made or has a reason, and there are enough.
func TestEveryStallIsMadeOrHasAReason(t *testing.T) {
	n := 0
	for _, b := range batches(regexp.MustCompile("."), false) {
		n += len(b.stalls)
	}
	reasons := 0
	for i := range shapes {
		for name, why := range shapes[i].cannot {
			if why == "" || !slices.ContainsFunc(stalls, func(s stall) bool { return s.name == name }) {
				t.Errorf("%s: %q is no reason for %q", shapes[i].name, why, name)
			}
			reasons++
		}
		if shapes[i].heap == (shapes[i].cannot["gc"] != "") {
			t.Errorf("%s: a heap that stops it and the reason against gc exclude each other", shapes[i].name)
		}
	}
	if want := len(families) * (len(shapes)*len(stalls) - reasons); n != want || n < 40 {
		t.Errorf("%d combinations, want %d", n, want)
	}
}

func TestEveryQuietServiceIsWhole(t *testing.T) {
	for _, c := range customs {
		if (c.handle == nil) == (c.speak == nil) || c.visit == nil || c.clients == 0 {
			t.Errorf("%s: needs one of handle and speak, and clients", c.name)
		}
	}
}
