package rules_test

import (
	"testing"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/detectors/rules"
	"freezeframe/detectors/rules/windowtest"
)

// With all rules at once, the verdict on a rule's own window must be that rule.
func TestVerdicts(t *testing.T) {
	// Where a scene is as true of another cause, that may come first.
	also := map[freezeframe.Cause]freezeframe.Cause{}
	for cause, sc := range scenes() {
		t.Run(string(cause), func(t *testing.T) {
			w := build(sc.fire)
			v := detectors.Judge(w, rules.All())
			if len(v.Findings) == 0 {
				t.Fatal("unknown")
			}
			if got := v.Findings[0]; got.Cause != cause && got.Cause != also[cause] {
				t.Errorf("verdict %s (%.2f, %s): %s", got.Cause, got.Confidence, got.Explains.Length(), got.Summary)
			}
			for _, f := range v.Findings[1:] {
				t.Errorf("and %s (%.2f): %s", f.Cause, f.Confidence, f.Summary)
			}
		})
	}
}

// On a near miss another rule may well be right, but the machine as such is
// well in most of them, and then nothing is the answer.
func TestNearMissesBlameNobodyElse(t *testing.T) {
	// What is true of a near miss.
	right := map[freezeframe.Cause]freezeframe.Cause{
		"net.packet_flood": "kernel.softirq_storm", "mem.direct_reclaim": "", "io.flush_storm": "io.device_saturated", "io.cgroup_throttled": "io.device_saturated",
	}
	for cause, sc := range scenes() {
		w := build(sc.miss)
		for _, f := range detectors.Judge(w, rules.All()).Findings {
			t.Logf("near miss of %s: %s (%.2f): %s", cause, f.Cause, f.Confidence, f.Summary)
			if want, ok := right[cause]; ok && want != "" && f.Cause != want {
				t.Errorf("near miss of %s: %s", cause, f.Cause)
			}
		}
	}
}

// crowdedMachine is a window as large as a busy server's: 300 processes, 200
// threads sampled, 10 s of a stall in which everything waits for a disk.
func crowdedMachine() *window {
	w := windowtest.New(40*s, 25*s, 35*s)
	var accounts []freezeframe.Wait
	for i := range 40 {
		from := 25*s + time.Duration(i)*250*ms
		accounts = append(accounts,
			wait{Span: windowtest.Span(from, from+100*ms), Class: freezeframe.DeviceWait, Stack: deviceStack, File: "/srv/data"},
			wait{Span: windowtest.Span(from+100*ms, from+150*ms), Class: freezeframe.Runnable},
			wait{Span: windowtest.Span(from+150*ms, from+250*ms), Class: freezeframe.FilesystemWait, Stack: journalStack, File: "/srv/data"})
	}
	for i := range 100 {
		w.Suffers(service+i, "orders", accounts...)
	}
	for i := range 300 {
		writing(w, service+i, "orders", 1e4*float64(i))
	}
	for i := range 200 {
		spinning(w, service+i, service+i, "orders", 0.01, v{"stack": deviceStack, "file": "/srv/data"})
	}
	for i := range 100 {
		group(w, "/system.slice/u"+string(rune('a'+i)), map[string]float64{"cpu_throttled_us": 0}, nil)
	}
	device(w, "vda", 1<<20, load{busy: 1, queue: 20, done: 500, bytes: 100e6, inFlight: 20})
	fill(w)
	return w
}

func BenchmarkRules(b *testing.B) {
	w := crowdedMachine()
	all := rules.All()
	for b.Loop() {
		for _, r := range all {
			r.Judge(w)
		}
	}
}

func BenchmarkEachRule(b *testing.B) {
	w := crowdedMachine()
	for _, r := range rules.All() {
		b.Run(string(r.Cause), func(b *testing.B) {
			for b.Loop() {
				r.Judge(w)
			}
		})
	}
}
