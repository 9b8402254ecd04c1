package bpf

import (
	"fmt"

	"freezeframe"

	"github.com/cilium/ebpf"
)

// rate is struct rate of rate.h: one a CPU.
type rate struct{ _, _, lost uint64 } // its window, and how many were told in it

// rates says how many records a family left out, because there were too many.
type rates struct{ slots[rate] }

// mapRates maps the rates of a loaded object.
func (l *loading) mapRates(m *ebpf.Map) (*rates, error) {
	s, err := mapSlots[rate](m)
	if err != nil {
		return nil, err
	}
	r := &rates{s}
	l.closing(r)
	l.count = r.Lost
	return r, nil
}

// Lost returns how many records were left out so far.
func (r *rates) Lost() uint64 {
	var lost uint64
	for i := range r.values {
		lost += r.values[i].lost
	}
	return lost
}

// tooMuch is why a record was left out.
const tooMuch = "more came at once than there is room for"

// leftOut is the need of a family that had more to tell than it may.
func (l *loaded) leftOut() (need freezeframe.Need, any bool) {
	if l.count == nil {
		return need, false
	}
	n := l.count()
	return freezeframe.Need{
		What: fmt.Sprintf("take %d records of BPF %s", n, l.name), Lost: "in part: " + l.lost, Err: tooMuch,
	}, n > 0
}
