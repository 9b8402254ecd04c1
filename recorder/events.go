package recorder

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"freezeframe"
)

// Bounds of what is kept of events, so that a flood of one kind costs neither
// memory nor the events of the others.
const (
	maxEvents      = 8192
	maxEventBytes  = 4 << 20 // of all texts and attributes together
	maxEventText   = 1 << 10 // of a text or an attribute's value
	maxEventAttrs  = 16
	maxEventKinds  = 32  // further kinds are filed together
	eventBurst     = 500 // events of a kind at once
	eventRate      = 100 // and per second from then on
	otherEventKind = "other"
)

// eventLog keeps the newest events, each kind in its own row.
type eventLog struct {
	mu    sync.Mutex
	kinds map[string]*eventKind
	count int
	bytes int
	order uint64
}

type eventKind struct {
	kept []keptEvent // oldest first

	// A token bucket: what is beyond it is only counted.
	tokens     float64
	filled     freezeframe.Instant
	suppressed int
	since      freezeframe.Instant
}

type keptEvent struct {
	freezeframe.Event
	order uint64
	bytes int
}

func (l *eventLog) init() { l.kinds = make(map[string]*eventKind) }

func (l *eventLog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// add keeps an event, cut to its bounds and made valid UTF-8, so that it is the
// same live and read back from a file.
func (l *eventLog) add(e freezeframe.Event) {
	e.Kind = tidy(e.Kind, 64)
	e.Text = tidy(e.Text, maxEventText)
	e.Attrs = slices.Clone(e.Attrs[:min(len(e.Attrs), maxEventAttrs)])
	bytes := 128 + len(e.Text)
	for i := range e.Attrs {
		a := &e.Attrs[i]
		a.Name, a.Value = tidy(a.Name, 64), tidy(a.Value, maxEventText)
		bytes += 32 + len(a.Name) + len(a.Value)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	name := e.Kind
	k := l.kinds[name]
	if k == nil {
		if len(l.kinds) >= maxEventKinds {
			name = otherEventKind
			k = l.kinds[name]
		}
		if k == nil {
			k = &eventKind{tokens: eventBurst, filled: e.At}
			l.kinds[name] = k
		}
	}
	if e.At > k.filled {
		k.tokens = min(eventBurst, k.tokens+eventRate*e.At.Sub(k.filled).Seconds())
		k.filled = e.At
	}
	if k.tokens < 1 {
		if k.suppressed == 0 {
			k.since = e.At
		}
		k.suppressed++
		return
	}
	k.tokens--
	if k.suppressed > 0 {
		l.keep(k, k.suppression(name, e.At), 256)
	}
	l.keep(k, e, bytes)
}

// suppression is the event that stands for those that were only counted.
func (k *eventKind) suppression(kind string, until freezeframe.Instant) freezeframe.Event {
	n := k.suppressed
	k.suppressed = 0
	return freezeframe.Event{
		Kind: kind, At: k.since, End: until,
		Text:  fmt.Sprintf("suppressed %d events of kind %s within %s", n, kind, until.Sub(k.since).Round(time.Millisecond)),
		Attrs: []freezeframe.Attr{{Name: "suppressed", Value: fmt.Sprint(n)}},
	}
}

func (l *eventLog) keep(k *eventKind, e freezeframe.Event, bytes int) {
	l.order++
	k.kept = append(k.kept, keptEvent{e, l.order, bytes})
	l.count++
	l.bytes += bytes
	for l.count > maxEvents || l.bytes > maxEventBytes {
		most := k
		for _, other := range l.kinds {
			if len(other.kept) > len(most.kept) {
				most = other
			}
		}
		l.count--
		l.bytes -= most.kept[0].bytes
		most.kept[0] = keptEvent{}
		most.kept = most.kept[1:]
	}
}

// snapshot returns the events that touch the span, by their beginning.
func (l *eventLog) snapshot(span freezeframe.Span) []freezeframe.Event {
	l.mu.Lock()
	var kept []keptEvent
	for name, k := range l.kinds {
		for _, e := range k.kept {
			if touches(&e.Event, span) {
				kept = append(kept, e)
			}
		}
		// A flood that is still on has not yet left its trace.
		if k.suppressed > 0 && k.since < span.End {
			n := k.suppressed
			e := k.suppression(name, k.filled)
			k.suppressed = n
			kept = append(kept, keptEvent{Event: e, order: l.order + 1})
		}
	}
	l.mu.Unlock()
	slices.SortFunc(kept, func(a, b keptEvent) int {
		if a.At != b.At {
			return int(min(max(a.At-b.At, -1), 1))
		}
		return int(int64(a.order) - int64(b.order))
	})
	events := make([]freezeframe.Event, len(kept))
	for i := range kept {
		events[i] = kept[i].Event
	}
	return events
}

// since returns the events that were kept after the one of the given order, in
// that order, the order of the newest there is, and how many of them are gone
// already.
func (l *eventLog) since(order uint64) (events []freezeframe.Event, newest uint64, lost int) {
	l.mu.Lock()
	var kept []keptEvent
	for _, k := range l.kinds {
		for i := len(k.kept) - 1; i >= 0 && k.kept[i].order > order; i-- {
			kept = append(kept, k.kept[i])
		}
	}
	newest = l.order
	l.mu.Unlock()
	slices.SortFunc(kept, func(a, b keptEvent) int { return int(int64(a.order) - int64(b.order)) })
	events = make([]freezeframe.Event, len(kept))
	for i := range kept {
		events[i] = kept[i].Event
	}
	return events, newest, int(newest-order) - len(kept)
}

// touches tells whether an event lies in the span or reaches into it.
func touches(e *freezeframe.Event, span freezeframe.Span) bool {
	return e.At < span.End && max(e.At, e.End) >= span.Start
}

// tidy cuts s to at most n bytes and replaces what is not UTF-8.
func tidy(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
