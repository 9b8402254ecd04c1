package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"freezeframe"
)

// exactLeast is the part of a span that BPF must have seen for its word to
// count: it is attached when something is late.
const exactLeast = 0.25

// A handler is what the handlers of one interrupt, or one softirq, took of a CPU.
type handler struct {
	number  int
	softirq string  // "" for an interrupt
	share   float64 // of the CPU's time
	rate    float64 // a second
	longest freezeframe.Span
}

// handled is what interrupts and softirqs took of one CPU, as BPF tells it.
type handled struct {
	hard, soft     float64   // shares of its time
	irqs, softirqs []handler // who took most first
	over           time.Duration
}

type handledOver freezeframe.Span

// handledIn returns that of each CPU over a span; a CPU without interrupts has
// none. known is false where BPF did not see enough of the span.
func handledIn(w freezeframe.Window, s freezeframe.Span) (all map[freezeframe.Key]*handled, known bool) {
	all = freezeframe.Once(w, handledOver(s), func() map[freezeframe.Key]*handled { return readHandled(w, s) })
	return all, all != nil
}

func readHandled(w freezeframe.Window, s freezeframe.Span) map[freezeframe.Key]*handled {
	series := w.Between("interrupt_time", s)
	source := &series.Source
	column := func(name string) int { return source.Column(name) }
	cpu, number, softirq, ns, count, longest, began := column("cpu"), column("number"), column("softirq"), column("ns"), column("count"), column("longest_ns"), column("longest_began")
	if min(cpu, number, softirq, ns, count, longest, began) < 0 {
		return nil
	}
	type state struct {
		handler
		cpu                 freezeframe.Key
		ns, count           uint64 // at the last reading
		spent, times, worst uint64
	}
	states := map[freezeframe.Key]*state{}
	var keys []freezeframe.Key
	var over time.Duration
	var seen freezeframe.Spans
	for i := range series.Tables {
		t := &series.Tables[i]
		// A reading without rows is one without the programs: what they count
		// then goes on from the next.
		anew := i == 0 || len(series.Tables[i-1].Keys) == 0
		if !anew && len(t.Keys) > 0 {
			from := series.Tables[i-1].At
			over += t.At.Sub(from)
			seen = append(seen, freezeframe.Span{Start: from, End: t.At})
		}
		for r, key := range t.Keys {
			v := t.Values(r, len(source.Columns))
			x := states[key]
			if x == nil {
				x = &state{handler: handler{number: int(v[number]), softirq: w.Text(v[softirq])}, cpu: freezeframe.Key(v[cpu])}
				states[key] = x
				keys = append(keys, key)
			} else if !anew && v[ns] >= x.ns && v[count] >= x.count {
				x.spent += v[ns] - x.ns
				x.times += v[count] - x.count
				if v[longest] > x.worst && v[count] > x.count {
					at := freezeframe.Instant(v[began])
					x.worst, x.longest = v[longest], freezeframe.Span{Start: at, End: at.Add(time.Duration(v[longest]))}
				}
			}
			x.ns, x.count = v[ns], v[count]
		}
	}
	if freezeframe.Union(seen...).Within(s).Length().Seconds() < exactLeast*s.Length().Seconds() || over <= 0 {
		return nil
	}
	all := map[freezeframe.Key]*handled{}
	for _, key := range keys {
		x := states[key]
		c := all[x.cpu]
		if c == nil {
			c = &handled{over: over}
			all[x.cpu] = c
		}
		x.share, x.rate = ratio(float64(x.spent), float64(over)), ratio(float64(x.times), over.Seconds())
		if x.softirq == "" {
			c.hard += x.share
			c.irqs = append(c.irqs, x.handler)
		} else {
			c.soft += x.share
			c.softirqs = append(c.softirqs, x.handler)
		}
	}
	for _, c := range all {
		for _, list := range [][]handler{c.irqs, c.softirqs} {
			slices.SortStableFunc(list, func(a, b handler) int {
				return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.number, b.number))
			})
		}
	}
	return all
}

// took is a handler's time as evidence.
func (c *handled) took(h *handler, name string, cpu freezeframe.Key) freezeframe.Evidence {
	text := fmt.Sprintf("%s ran on CPU %d for %s of %s, %.0f times a second", name, cpu, length(time.Duration(h.share*float64(c.over))), length(c.over), h.rate)
	if h.longest.Length() > 0 {
		text += fmt.Sprintf(", at most for %s at a time", length(h.longest.Length()))
	}
	return evidence("interrupt_time", "ns", "%s", text)
}

// An irq is one line of /proc/interrupts over a span.
type irq struct {
	label string // "36 virtio1-req.0", "LOC Local timer interrupts"
	cpu   freezeframe.Key
	rate  float64 // a second, on all CPUs
	was   float64 // before
}

// number is that of the interrupt, -1 for one of a CPU's own.
func (x *irq) number() int {
	first, _, _ := strings.Cut(x.label, " ")
	n, err := strconv.Atoi(first)
	if err != nil {
		return -1
	}
	return n
}

// name is what stands behind the number: who handles it.
func (x *irq) name() string {
	_, name, _ := strings.Cut(x.label, " ")
	return orElse(strings.TrimSpace(name), "interrupt "+x.label)
}

// irqsIn returns the interrupts that came over a span, whose rate grew most first.
func irqsIn(w freezeframe.Window, s freezeframe.Span) []irq {
	series := w.Between("interrupts", around(s))
	var out []irq
	for _, key := range series.Keys() {
		g := one(w, "interrupts", around(s), key, "count")
		b := one(w, "interrupts", before(w), key, "count")
		cpu, _ := series.Last(key, "busiest_cpu")
		if g.sum > 0 {
			out = append(out, irq{label: w.Text(uint64(key)), cpu: freezeframe.Key(cpu), rate: g.rate(), was: b.rate()})
		}
	}
	slices.SortStableFunc(out, func(a, b irq) int {
		return cmp.Or(cmp.Compare(b.rate-b.was, a.rate-a.was), cmp.Compare(a.label, b.label))
	})
	return out
}

// numbered finds an interrupt by its number.
func numbered(all []irq, number int) *irq {
	for i := range all {
		if all[i].number() == number {
			return &all[i]
		}
	}
	return nil
}

// A face is a network interface over a span, with its packets a second now and
// before.
type face struct {
	name      string
	rate, was float64
}

// busiestFace is the interface whose traffic grew most, either way: what is
// sent into a virtual pair is received by its other end on the same CPU.
func busiestFace(w freezeframe.Window, s freezeframe.Span) (most face) {
	series := w.Between("netdev", around(s))
	for _, key := range series.Keys() {
		for _, column := range []string{"rx_packets", "tx_packets"} {
			g, b := one(w, "netdev", around(s), key, column), one(w, "netdev", before(w), key, column)
			if g.rate()-b.rate() > most.rate-most.was {
				most = face{w.Text(uint64(key)), g.rate(), b.rate()}
			}
		}
	}
	return most
}

// handledBy is who an interrupt is to be blamed on by its name: the interface
// that the name begins with ("eth0-rx-1"), or whose queue it is by its looks
// ("virtio2-input.0", "mlx5_comp3@pci:…") and that has the packets, else the
// device.
func handledBy(w freezeframe.Window, s freezeframe.Span, x *irq) freezeframe.Culprit {
	if x.number() < 0 {
		return freezeframe.Culprit{Kind: freezeframe.CulpritHost} // a CPU's own
	}
	name := x.name()
	best := ""
	series := w.Between("netdev", around(s))
	for _, key := range series.Keys() {
		face := w.Text(uint64(key))
		if rest, ok := strings.CutPrefix(name, face); ok && len(face) > len(best) && (rest == "" || strings.ContainsAny(rest[:1], "-:@_., ")) {
			best = face
		}
	}
	if best == "" && inQueue(name) {
		if f := busiestFace(w, s); f.rate-f.was > x.rate/10 {
			best = f.name
		}
	}
	if best != "" {
		return freezeframe.Culprit{Kind: freezeframe.CulpritInterface, Interface: best}
	}
	return freezeframe.Culprit{Kind: freezeframe.CulpritDevice, Device: name}
}

// inQueue tells whether an interrupt looks like that of a network device's queue.
func inQueue(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"-input.", "-output.", "-rx", "-tx", "txrx", "_comp", "-queue"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// onHot leaves those of the moments whose threads were on one of the CPUs, as
// far as that is known.
func onHot(w freezeframe.Window, s freezeframe.Span, ms moments, hot map[freezeframe.Key]bool) moments {
	on := map[int][]freezeframe.Key{}
	for _, t := range threadsIn(w, s) {
		for c := range t.byCPU {
			on[t.tid] = append(on[t.tid], c)
		}
	}
	return ms.where(func(m *moment) bool {
		return len(on[m.who.TID]) == 0 || slices.ContainsFunc(on[m.who.TID], func(c freezeframe.Key) bool { return hot[c] })
	})
}
