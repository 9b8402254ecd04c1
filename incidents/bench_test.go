package incidents

import (
	"path/filepath"
	"testing"
	"time"

	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/recorder"
)

// BenchmarkVerdict measures the analysis of a window that is decoded already,
// ledger and rules, over all recordings; worst-ms is the longest one's.
func BenchmarkVerdict(b *testing.B) {
	paths, err := filepath.Glob("*.frz")
	if err != nil {
		b.Fatal(err)
	}
	var windows []*recorder.Window
	for _, path := range paths {
		rec, err := recorder.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		for _, i := range detectors.Rejudge(rec, rules.All()) {
			windows = append(windows, i.Window.(*recorder.Window))
		}
	}
	var worst time.Duration
	for b.Loop() {
		worst = 0
		for _, w := range windows {
			began := time.Now()
			w.SetLedger(detectors.Account(w))
			detectors.Judge(w, rules.All())
			worst = max(worst, time.Since(began))
		}
	}
	b.ReportMetric(worst.Seconds()*1e3, "worst-ms")
	b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N*len(windows)), "ms/verdict")
}
