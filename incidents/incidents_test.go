package incidents

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/recorder"
)

// want is the JSON beside a recording: the verdict of each of its stalls, in
// order. Empty stalls mean a near miss: no stall was recorded in it.
type want struct {
	About  string `json:"about"`
	Stalls []struct {
		Cause   freezeframe.Cause   `json:"cause"`
		Culprit freezeframe.Culprit `json:"culprit"` // only the fields set must match
		// ExplainedPct is the least share of the stall the cause must explain.
		ExplainedPct float64 `json:"explained_pct"`
	} `json:"stalls"`
}

func TestIncidentsKeepTheirVerdicts(t *testing.T) {
	paths, err := filepath.Glob("*.frz")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatal("no recordings: make lab writes them with -out")
	}
	for _, path := range paths {
		name := strings.TrimSuffix(path, ".frz")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var w want
			if err := json.Unmarshal(b, &w); err != nil {
				t.Fatal(err)
			}
			rec, err := recorder.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := detectors.Rejudge(rec, rules.All())
			if len(got) != len(w.Stalls) {
				t.Fatalf("%d stalls, want %d", len(got), len(w.Stalls))
			}
			for i, incident := range got {
				check(t, incident, w.Stalls[i].Cause, w.Stalls[i].Culprit, w.Stalls[i].ExplainedPct)
			}
		})
	}
}

func check(t *testing.T, i detectors.Incident, cause freezeframe.Cause, culprit freezeframe.Culprit, pct float64) {
	t.Helper()
	stall := i.Window.Stall()
	late := stall.Late().Length()
	var sum freezeframe.Spans
	for _, f := range i.Verdict.Findings {
		sum = freezeframe.Union(append(append([]freezeframe.Span{}, sum...), f.Explains...)...)
	}
	if got := sum.Length() + i.Verdict.Unexplained.Length(); got != late {
		t.Errorf("explained and unexplained are %v of %v", got, late)
	}
	if len(i.Verdict.Findings) == 0 {
		if cause != freezeframe.CauseUnknown {
			t.Errorf("unknown, want %s", cause)
		}
		return
	}
	f := i.Verdict.Findings[0]
	if f.Cause != cause {
		t.Fatalf("verdict %s (%s), want %s", f.Cause, f.Summary, cause)
	}
	if share := 100 * f.Explains.Length().Seconds() / late.Seconds(); share < pct {
		t.Errorf("%s explains %.0f %%, want %.0f", f.Cause, share, pct)
	}
	g := f.Culprit
	same := func(name, got, want string) {
		if want != "" && got != want {
			t.Errorf("culprit %s %q, want %q", name, got, want)
		}
	}
	same("kind", g.Kind, culprit.Kind)
	same("comm", g.Comm, culprit.Comm)
	same("cgroup", g.Cgroup, culprit.Cgroup)
	same("mount", g.Mount, culprit.Mount)
	same("device", g.Device, culprit.Device)
	same("address", g.Address, culprit.Address)
	if culprit.PID != 0 && g.PID != culprit.PID {
		t.Errorf("culprit pid %d, want %d", g.PID, culprit.PID)
	}
}
