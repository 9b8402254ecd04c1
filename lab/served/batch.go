package main

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"freezeframe/lab"
	"freezeframe/lab/victim"
)

// run makes the stalls of one server, one after the other, under one watch.
func (b *batch) run(l *lab.Lab, seed uint64, w io.Writer) (rows []row, extra []said) {
	var made []event
	noise := 0
	err := l.Free(seed, func(s *lab.Scene) {
		// The lengths first: the same seed makes the same stalls.
		gc := shortest + time.Duration(s.Rand.Int64N(int64(longestGC-shortest)))
		todo := slices.Clone(b.stalls)
		s.Rand.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
		lengths := make([]time.Duration, len(todo))
		for i, st := range todo {
			// Short ones are the hard ones: half are below 550 ms.
			from := max(shortest, st.atLeast)
			span := math.Log(float64(longest) / float64(from))
			lengths[i] = time.Duration(float64(from) * math.Exp(span*s.Rand.Float64())).Round(time.Millisecond)
			if st.name == "gc" {
				lengths[i] = gc.Round(time.Millisecond)
			}
		}
		b.setUp(s, gc)
		meter := b.meter(s.Rand.Uint64())
		var watch *lab.Watcher
		if l.Bin != "" {
			watch = s.Diagnose(time.Duration(len(todo)+2)*(longest+2*quietFor)+time.Minute, b.dir(l, s, seed), l.Out != "")
			time.Sleep(time.Second) // its own start is not part of the test
		}
		s.Check(meter.Say("go"))
		time.Sleep(history)
		for i, st := range todo {
			b.prepare(st, lengths[i])
			e := event{Server: b.shape.name, Family: b.family, Stall: st.name, Seed: seed, Length: ms(int64(lengths[i])), Target: b.server.Address}
			var end func()
			e.PIDs = b.server.PIDs()
			length := lengths[i]
			if st.name == "gc" {
				length *= 2 // it ends by itself, about then
			}
			e.Start, e.End = s.Hold(length, func() { end = st.begin(b, lengths[i]) }, func() { end() })
			made = append(made, e)
			time.Sleep(quietFor)
		}
		if b.shape.alone != "" {
			made = append(made, b.slowAlone(seed))
			time.Sleep(quietFor)
		}
		var d diagnosis
		if watch != nil {
			s.Check(watch.End(&d))
			if d.Schema != "freezeframe.diagnosis/v1" {
				s.Fail("the diagnosis's schema is %q", d.Schema)
			}
		}
		if how, dead := b.server.Dead(); dead {
			s.Fail("the server ended by itself: %s", how)
		}
		waits := s.Waits(meter)
		rows, extra = score(made, waits, d.onClock(lab.WallOffset()), watch != nil)
		noise = elsewhere(rows, waits)
	})
	if err != nil {
		// None of them counts: what was made has not been scored.
		rows, extra = nil, nil
		for _, st := range b.stalls {
			e := event{Server: b.shape.name, Family: b.family, Stall: st.name, Seed: seed}
			rows = append(rows, row{event: e, Invalid: strings.ReplaceAll(err.Error(), "\n", "; ")})
		}
	}
	for i := range rows {
		rows[i].write(w)
	}
	for _, r := range extra {
		fmt.Fprintf(w, "%-30s EXTRA %s\n", b.shape.name+"/"+b.family, r)
	}
	if noise > 0 {
		fmt.Fprintf(w, "%-30s note: clients waited for 100 ms or more %d times outside of these stalls\n", b.shape.name+"/"+b.family, noise)
	}
	return rows, extra
}

// meter starts the clients of the server.
func (b *batch) meter(seed uint64) *lab.Proc {
	stay, fresh := 3, 2
	if b.shape.fresh {
		stay, fresh = 0, 4
	}
	m := b.scene.Start(lab.Cmd{Name: "client", Role: "meter", Place: lab.Place{RR: 80},
		Args: []string{"-stay", strconv.Itoa(stay), "-fresh", strconv.Itoa(fresh), "-seed", strconv.FormatUint(seed, 10), b.server.Address}})
	if m.Ready != "" {
		b.scene.Fail("the client %s", m.Ready)
	}
	return m
}

// slowAlone makes a near miss: one request takes 200 ms, all others are answered.
func (b *batch) slowAlone(seed uint64) event {
	e := event{Server: b.shape.name, Family: b.family, Stall: alone, Seed: seed, Length: 200, Target: b.server.Address, PIDs: b.server.PIDs()}
	c := victim.Client{Address: b.server.Address}
	e.Start = lab.Monotonic()
	err := c.Get(b.shape.alone, !b.shape.fresh)
	e.End = lab.Monotonic()
	c.Close()
	b.scene.Check(err)
	return e
}

// dir is where the watch writes.
func (b *batch) dir(l *lab.Lab, s *lab.Scene, seed uint64) string {
	if l.Out == "" {
		return s.Dir
	}
	return filepath.Join(l.Out, fmt.Sprintf("%s.%s.%d", b.shape.name, b.family, seed))
}

var header = sync.OnceFunc(func() {
	fmt.Printf("%-30s %7s %10s | %-8s %10s %9s %-5s %s\n", "server/family/stall", "length", "client ms", "probe", "worst ms", "diff ms", "named", "first cause")
})
