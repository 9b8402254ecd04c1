// Package windowtest builds windows for the tests of rules and of what judges
// them: readings over time as collectors would have taken them, a stall, and
// the ledger of its victims.
package windowtest

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"freezeframe"
	"freezeframe/collectors"
)

// Window is a freezeframe.Window that is made by hand.
type Window struct {
	span     freezeframe.Span
	stall    freezeframe.Stall
	ledger   freezeframe.Ledger
	sources  map[string]*source
	texts    map[uint64]string
	events   []freezeframe.Event
	Accessed map[string]bool // the sources and event kinds that were asked for
}

type source struct {
	freezeframe.Source
	tables map[freezeframe.Instant]*freezeframe.Table
	sorted []freezeframe.Table // nil when it has to be made
}

// V is the values of a row by column: integers, or strings for Text columns.
type V map[string]any

var _ freezeframe.Window = (*Window)(nil)

// Boot is the moment at which windows begin; a time within one is the time
// since then.
const Boot = freezeframe.Instant(1000 * time.Second)

// At returns the moment d after the window's beginning.
func At(d time.Duration) freezeframe.Instant { return Boot.Add(d) }

// Span returns the span between two times within a window.
func Span(from, to time.Duration) freezeframe.Span {
	return freezeframe.Span{Start: At(from), End: At(to)}
}

// schema is what the collectors say they yield.
var schema = sync.OnceValue(collectors.Sources)

// New returns a window of the given length with a stall in it and no readings
// at all: no source has a table.
func New(length, from, to time.Duration) *Window {
	w := &Window{
		span: Span(0, length), stall: freezeframe.Stall{Span: Span(from, to)},
		sources: map[string]*source{}, texts: map[uint64]string{}, Accessed: map[string]bool{},
	}
	for _, s := range schema() {
		w.sources[s.Name] = &source{Source: s, tables: map[freezeframe.Instant]*freezeframe.Table{}}
	}
	return w
}

func (w *Window) Clock() freezeframe.Clock {
	return freezeframe.Clock{Mono: Boot, WallNanos: 1_700_000_000_000_000_000}
}
func (w *Window) Stall() freezeframe.Stall    { return w.stall }
func (w *Window) Span() freezeframe.Span      { return w.span }
func (w *Window) Text(id uint64) string       { return w.texts[id] }
func (w *Window) Missing() []freezeframe.Need { return nil }
func (w *Window) Ledger() freezeframe.Ledger  { return w.ledger }

// SetLedger replaces the ledger.
func (w *Window) SetLedger(l freezeframe.Ledger) { w.ledger = l }

func (w *Window) Phase(name string, p freezeframe.Phase) freezeframe.Series {
	return w.Between(name, w.phase(p))
}

func (w *Window) phase(p freezeframe.Phase) freezeframe.Span {
	switch p {
	case freezeframe.Before:
		return freezeframe.Span{Start: w.span.Start, End: w.stall.Start}
	case freezeframe.During:
		return w.stall.Span
	case freezeframe.After:
		return freezeframe.Span{Start: w.stall.End, End: w.span.End}
	}
	return w.span
}

// Between returns the readings of a source with one before and one after.
func (w *Window) Between(name string, s freezeframe.Span) freezeframe.Series {
	w.Accessed[name] = true
	src := w.sources[name]
	if src == nil {
		return freezeframe.Series{Span: s}
	}
	if src.sorted == nil {
		for _, t := range src.tables {
			src.sorted = append(src.sorted, *t)
		}
		slices.SortFunc(src.sorted, func(a, b freezeframe.Table) int { return cmp.Compare(a.At, b.At) })
	}
	all := src.sorted
	from, to := 0, len(all)
	for from+1 < len(all) && all[from+1].At <= s.Start {
		from++
	}
	for to > 0 && all[to-1].At >= s.End {
		to--
	}
	to = min(to+1, len(all))
	return freezeframe.Series{Source: src.Source, Span: s, Tables: all[min(from, to):to]}
}

func (w *Window) Events(kind string, p freezeframe.Phase) []freezeframe.Event {
	w.Accessed[kind] = true
	span := w.phase(p)
	var out []freezeframe.Event
	for _, e := range w.events {
		if (kind == "" || e.Kind == kind) && (span.Contains(e.At) || e.At < span.Start && e.End > span.Start) {
			out = append(out, e)
		}
	}
	return out
}

// ID returns the id of a text.
func (w *Window) ID(text string) uint64 {
	if text == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(text))
	id := h.Sum64()
	w.texts[id] = text
	return id
}

// Task is the key of a thread or process in these windows.
func Task(tid int) freezeframe.Key { return freezeframe.TaskKey(tid, 77) }

// Row puts a row into the reading of a source at a time. key is a Key, an int
// (a CPU, a mount) or a string.
func (w *Window) Row(name string, at time.Duration, key any, values V) {
	src := w.sources[name]
	if src == nil {
		panic("windowtest: no source " + name)
	}
	src.sorted = nil
	t := src.tables[At(at)]
	if t == nil {
		t = &freezeframe.Table{Due: At(at), At: At(at)}
		src.tables[At(at)] = t
	}
	var k freezeframe.Key
	switch x := key.(type) {
	case freezeframe.Key:
		k = x
	case int:
		k = freezeframe.Key(x)
	case string:
		k = freezeframe.Key(w.ID(x))
	default:
		panic(fmt.Sprintf("windowtest: a key of type %T", key))
	}
	row := t.Row(k, len(src.Columns))
	for column, value := range values {
		i := src.Column(column)
		if i < 0 {
			panic("windowtest: " + name + " has no column " + column)
		}
		switch x := value.(type) {
		case string:
			row[i] = w.ID(x)
		case rune:
			row[i] = uint64(x)
		case int:
			row[i] = uint64(x)
		case float64:
			row[i] = uint64(max(x, 0))
		case uint64:
			row[i] = x
		case freezeframe.Instant:
			row[i] = uint64(x)
		default:
			panic(fmt.Sprintf("windowtest: a value of type %T", value))
		}
	}
}

// Empty puts a reading without rows at a time.
func (w *Window) Empty(name string, at time.Duration) {
	src := w.sources[name]
	src.sorted = nil
	src.tables[At(at)] = &freezeframe.Table{Due: At(at), At: At(at)}
}

// Rows puts rows of one key into readings every so often over the window.
// values gets the time; nil leaves the reading out.
func (w *Window) Rows(name string, every time.Duration, key any, values func(at time.Duration) V) {
	for at := time.Duration(0); at <= w.span.Length(); at += every {
		if v := values(at); v != nil {
			w.Row(name, at, key, v)
		}
	}
}

// Ran returns a counter's value at a time when it grows by calm a second and
// by busy a second in the stall.
func (w *Window) Ran(at time.Duration, calm, busy float64) float64 {
	in := w.stall.And(Span(0, at)).Length().Seconds()
	return 1000 + calm*(at.Seconds()-in) + busy*in
}

// InStall tells whether a time lies in the stall.
func (w *Window) InStall(at time.Duration) bool { return w.stall.Contains(At(at)) }

// Event adds an event.
func (w *Window) Event(at time.Duration, kind, text string, attrs ...string) {
	e := freezeframe.Event{Kind: kind, At: At(at), Text: text}
	for i := 0; i+1 < len(attrs); i += 2 {
		e.Attrs = append(e.Attrs, freezeframe.Attr{Name: attrs[i], Value: attrs[i+1]})
	}
	w.events = append(w.events, e)
}

// EventOf adds an event of a process that lasted.
func (w *Window) EventOf(pid int, from, to time.Duration, kind string) {
	w.events = append(w.events, freezeframe.Event{Kind: kind, At: At(from), End: At(to), PID: pid})
}

// Kernel adds a line of the kernel's log.
func (w *Window) Kernel(at time.Duration, text string) {
	w.Event(at, freezeframe.EventKernelLog, text, "level", "3", "facility", "0")
}

// Symptom adds a symptom over the whole stall and returns its index.
func (w *Window) Symptom(sy freezeframe.Symptom) int {
	sy.Span = w.stall.Span
	sy.Late = freezeframe.Union(sy.Span)
	if sy.Quality == 0 {
		sy.Quality = 1
	}
	sy.Count = 1
	if sy.Err == "" {
		sy.Worst = sy.Span.Length()
	}
	w.stall.Symptoms = append(w.stall.Symptoms, sy)
	return len(w.stall.Symptoms) - 1
}

// Suffers adds a symptom ("answer" at 0.0.0.0:80) of one victim thread that
// did the given waits one after the other: each without a span gets an equal
// share of the stall.
func (w *Window) Suffers(pid int, comm string, waits ...freezeframe.Wait) *freezeframe.Account {
	v := freezeframe.Victim{PID: pid, TID: pid, Comm: comm}
	i := w.Symptom(freezeframe.Symptom{Probe: "answer", Target: "0.0.0.0:80", Victims: []freezeframe.Victim{v}})
	return w.Account(i, v, waits...)
}

// Account adds an account of a symptom.
func (w *Window) Account(symptom int, v freezeframe.Victim, waits ...freezeframe.Wait) *freezeframe.Account {
	a := freezeframe.Account{Symptom: symptom, Victim: v, Span: w.stall.Span, Waits: w.Spread(waits...), Weight: 1}
	w.ledger.Accounts = append(w.ledger.Accounts, a)
	return &w.ledger.Accounts[len(w.ledger.Accounts)-1]
}

// Spread gives waits without a span an equal share of the stall each.
func (w *Window) Spread(waits ...freezeframe.Wait) []freezeframe.Wait {
	out := slices.Clone(waits)
	for i := range out {
		if out[i].Length() == 0 {
			part := w.stall.Length() / time.Duration(len(out))
			out[i].Span = freezeframe.Span{Start: w.stall.Start.Add(part * time.Duration(i)), End: w.stall.Start.Add(part * time.Duration(i+1))}
		}
	}
	return out
}

// Drop takes a source's readings away.
func (w *Window) Drop(name string) { delete(w.sources, name) }

// DropColumn takes a column of a source away, with its values.
func (w *Window) DropColumn(name, column string) {
	src := w.sources[name]
	c := src.Column(column)
	width := len(src.Columns)
	src.sorted = nil
	src.Columns = slices.Delete(slices.Clone(src.Columns), c, c+1)
	for _, t := range src.tables {
		var vals []uint64
		for r := range t.Keys {
			row := t.Values(r, width)
			vals = append(append(vals, row[:c]...), row[c+1:]...)
		}
		t.Vals = vals
	}
}

// Sources returns the names of the sources.
func (w *Window) Sources() []string {
	var out []string
	for name := range w.sources {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Columns returns the columns of a source.
func (w *Window) Columns(name string) []freezeframe.Column { return w.sources[name].Columns }
