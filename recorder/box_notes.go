package recorder

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"freezeframe"
)

const (
	// stallAttr names the attributes that hold a stall: the pieces of one JSON
	// text, in order.
	stallAttr = "stall"
	// stallPiece is the longest piece, below what an attribute may hold.
	stallPiece = maxEventText - utf8.UTFMax
	// stallMost is the longest text of a stall. Of a larger one victims and pauses
	// between waits are left out, then symptoms: the last ones, which are the
	// least.
	stallMost = (stallPiece - utf8.UTFMax) * maxEventAttrs
	// maxPastVictims and maxPastLate are how many victims of a symptom are noted,
	// and how many waits of it are kept apart.
	maxPastVictims, maxPastLate = 64, 16
)

// StallEvent is a stall that is over as an event, so that the recording knows
// what was noticed live, and can be judged again. text says it to people.
func StallEvent(s *freezeframe.Stall, text string) freezeframe.Event {
	e := freezeframe.Event{Kind: freezeframe.EventStall, At: s.Start, End: s.End, Text: text}
	for rest := stallText(*s); len(rest) > 0; {
		n := min(stallPiece, len(rest))
		for n < len(rest) && !utf8.RuneStart(rest[n]) {
			n--
		}
		e.Attrs = append(e.Attrs, freezeframe.Attr{Name: stallAttr, Value: string(rest[:n])})
		rest = rest[n:]
	}
	return e
}

// stallText encodes a stall, and leaves out of it what does not fit.
func stallText(s freezeframe.Stall) []byte {
	s.Symptoms = slices.Clone(s.Symptoms)
	for i := range s.Symptoms {
		sy := &s.Symptoms[i]
		sy.Target, sy.Err = tidy(sy.Target, 256), tidy(sy.Err, 256)
	}
	for victims := maxPastVictims; ; victims /= 2 {
		for i := range s.Symptoms {
			sy := &s.Symptoms[i]
			sy.Victims = sy.Victims[:min(victims, len(sy.Victims))]
			sy.Late = fewer(sy.Late, max(min(victims, maxPastLate), 1))
		}
		b, err := json.Marshal(&s)
		if err == nil && len(b) <= stallMost {
			return b
		}
		if victims == 0 { // without any symptom it fits
			s.Symptoms = s.Symptoms[:len(s.Symptoms)/2]
		}
	}
}

// fewer joins the spans that lie nearest to each other until there are at most
// so many.
func fewer(spans freezeframe.Spans, most int) freezeframe.Spans {
	spans = slices.Clone(spans)
	for len(spans) > most {
		nearest := 1
		for i := 2; i < len(spans); i++ {
			if spans[i].Start-spans[i-1].End < spans[nearest].Start-spans[nearest-1].End {
				nearest = i
			}
		}
		spans[nearest-1].End = spans[nearest].End
		spans = slices.Delete(spans, nearest, nearest+1)
	}
	return spans
}

// stallOf reads the event of a stall.
func stallOf(e *freezeframe.Event) (freezeframe.Stall, error) {
	var text []byte
	for _, a := range e.Attrs {
		if a.Name == stallAttr {
			text = append(text, a.Value...)
		}
	}
	var s freezeframe.Stall
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%w: a stall that cannot be read: %w", ErrDamaged, err)
	}
	if s.Length() == 0 {
		return s, fmt.Errorf("%w: a stall that ends before it begins", ErrDamaged)
	}
	return s, nil
}

// needAttr names the attributes that hold what was missing, each as JSON.
const needAttr = "need"

// WatchingEvent says what is looked at now, and what is missing, so that it is
// known later of a span in which nothing stalled. It is for telling now and
// then, within an hour of the last time.
func WatchingEvent(now freezeframe.Instant, probes []string, missing []freezeframe.Need) freezeframe.Event {
	e := freezeframe.Event{
		Kind: freezeframe.EventWatching, At: now, Text: fmt.Sprintf("%d probes ran", len(probes)),
		Attrs: []freezeframe.Attr{{Name: "probes", Value: strings.Join(probes, " ")}},
	}
	for i, n := range missing {
		if len(e.Attrs) == maxEventAttrs-1 && i+1 < len(missing) {
			n = freezeframe.Need{What: fmt.Sprintf("%d more, which were not noted", len(missing)-i), Lost: "what they would show"}
		}
		if b, err := json.Marshal(&n); err == nil && len(b) <= maxEventText {
			e.Attrs = append(e.Attrs, freezeframe.Attr{Name: needAttr, Value: string(b)})
		}
		if len(e.Attrs) == maxEventAttrs {
			break
		}
	}
	return e
}

// needsOf reads what was missing.
func needsOf(e *freezeframe.Event) (out []freezeframe.Need) {
	for _, a := range e.Attrs {
		var n freezeframe.Need
		if a.Name == needAttr && json.Unmarshal([]byte(a.Value), &n) == nil && n.What != "" {
			out = append(out, n)
		}
	}
	return out
}
