package reports_test

import (
	"strings"
	"testing"

	"freezeframe"
	"freezeframe/reports"
)

// That a service was gone is what people felt, before what our own work was late for.
func TestHeadlineOfAServiceThatIsGone(t *testing.T) {
	r := &freezeframe.Report{}
	r.Stall.Symptoms = []freezeframe.SymptomReport{
		{Probe: "fsync", Target: "/", WorstMs: 9000},
		{Probe: "listen", Target: "0.0.0.0:80", WorstMs: 1900, Victims: []string{"orders (500)"}},
	}
	if got := reports.Headline(r); !strings.Contains(got, "orders") || !strings.Contains(got, "on 0.0.0.0:80 was gone for 1.90 s, and its clients were refused.") {
		t.Errorf("headline %q", got)
	}
}
