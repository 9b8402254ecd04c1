package recorder

import (
	"freezeframe"
)

// Window is the recording around one stall.
type Window struct {
	rec    *Recording
	stall  freezeframe.Stall
	span   freezeframe.Span
	ledger freezeframe.Ledger
}

var _ freezeframe.Window = (*Window)(nil)

// Window returns the recording as seen from one stall.
func (rec *Recording) Window(stall freezeframe.Stall) *Window {
	w := &Window{rec: rec, stall: stall, span: rec.readings()}
	if w.span.Length() == 0 {
		w.span = rec.Span
	}
	w.span.Start = min(w.span.Start, stall.Start)
	w.span.End = max(w.span.End, stall.End)
	return w
}

// SetLedger gives the window its ledger; before any rule reads it.
func (w *Window) SetLedger(l freezeframe.Ledger) { w.ledger = l }

// Recording returns what the window looks at.
func (w *Window) Recording() *Recording { return w.rec }

func (w *Window) Clock() freezeframe.Clock   { return w.rec.Clock }
func (w *Window) Stall() freezeframe.Stall   { return w.stall }
func (w *Window) Span() freezeframe.Span     { return w.span }
func (w *Window) Text(id uint64) string      { return w.rec.Text(id) }
func (w *Window) Ledger() freezeframe.Ledger { return w.ledger }

// Missing says what this machine did not give.
func (w *Window) Missing() []freezeframe.Need { return w.rec.Missing() }

// Phase returns the readings of a source in a phase.
func (w *Window) Phase(source string, p freezeframe.Phase) freezeframe.Series {
	return w.rec.Series(source, w.phase(p))
}

// Between returns the readings of a source over any span.
func (w *Window) Between(source string, s freezeframe.Span) freezeframe.Series {
	return w.rec.Series(source, s)
}

// Events returns the events of a kind that touch a phase.
func (w *Window) Events(kind string, p freezeframe.Phase) []freezeframe.Event {
	span := w.phase(p)
	var out []freezeframe.Event
	for i := range w.rec.Events {
		if e := &w.rec.Events[i]; (kind == "" || e.Kind == kind) && touches(e, span) {
			out = append(out, *e)
		}
	}
	return out
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
