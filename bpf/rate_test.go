package bpf

import (
	"strings"
	"testing"
)

// What a family left out stands under "not seen", also when it is closed.
func TestWhatWasLeftOutIsTold(t *testing.T) {
	lost := uint64(0)
	p := &Programs{loaded: []*loaded{{family: family{name: "waits", lost: "who woke it"}, count: func() uint64 { return lost }}, {family: family{name: "quiet"}}}}
	if n := p.Needs(); len(n) != 0 {
		t.Fatalf("nothing was left out: %+v", n)
	}
	lost = 7
	if n := p.Needs(); len(n) != 1 || n[0].What != "take 7 records of BPF waits" || !strings.Contains(n[0].Lost, "who woke it") {
		t.Errorf("needs: %+v", n)
	}
	p.Close()
	if n := p.Needs(); len(n) != 1 {
		t.Errorf("after it was closed: %+v", n)
	}
}

func TestRatesOfEveryCPUAreAddedUp(t *testing.T) {
	r := rates{slots[rate]{values: []rate{{lost: 2}, {}, {lost: 5}}}}
	if r.Lost() != 7 {
		t.Errorf("lost %d, want 7", r.Lost())
	}
}
