package recorder

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// Survey is what the black box says of a span without its readings being
// looked at: from when to when it holds any, what was noticed, what was looked
// at.
type Survey struct {
	Passages []Passage // by their beginning
	Stalls   []PastStall
	Needs    []freezeframe.Need // of the whole span: what was missing, what cannot be read now
}

// Passage is a time that was recorded without interruption, by one run.
type Passage struct {
	Run        uint64
	Boot, Tool string
	Start, End time.Time // of its readings
	Sources    []string
	Probes     []string // that ran; empty: it was not noted
	Gaps       []BoxGapTime
}

// BoxGapTime is a BoxGap in wall time.
type BoxGapTime struct {
	Start, End time.Time
	Text       string
}

// PastStall is a stall that was noticed live.
type PastStall struct {
	freezeframe.Stall
	Clock freezeframe.Clock // of the recording it stands in
	Run   uint64
	Told  bool // it was over; else it was open when this was last written
}

// Wall returns from when to when it stalled.
func (s *PastStall) Wall() (start, end time.Time) {
	return s.Clock.Wall(s.Start), s.Clock.Wall(s.End)
}

const (
	// surveyMargin is how far beyond a span segments are looked at: a stall is
	// noted when it is over, and what is looked at now and then.
	surveyMargin = time.Hour
	// Uninterrupted is how far apart the readings of one recording may be without
	// that being a gap: of what was thinned there is one in 30 s.
	Uninterrupted = thinTasks + 15*time.Second
)

// ViewBox opens a black box to be looked at, with Pin, PinStall and Survey,
// whoever writes it or not: it takes no lock and changes nothing.
func ViewBox(dir string) (*Box, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the black box: %w", err)
	}
	b := &Box{o: BoxOptions{Dir: dir}, clock: kernel.WallClock, ended: true}
	for _, e := range entries {
		s, ok := parseSegment(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil {
			s.bytes = info.Size()
		}
		b.segments = append(b.segments, s)
	}
	slices.SortFunc(b.segments, compareSegments)
	for _, s := range superseded(b.segments) {
		b.segments = slices.DeleteFunc(b.segments, func(o segment) bool { return o.file == s.file })
	}
	return b, nil
}

// Survey looks at the segments between two moments of wall time, and at those
// within an hour of them.
func (b *Box) Survey(start, end time.Time) (Survey, error) {
	if !end.After(start) {
		return Survey{}, errors.New("survey the black box: the span is empty")
	}
	var out Survey
	for range 3 {
		var gone bool
		if out, gone = b.survey(start, end); !gone {
			break // else thinning has replaced a file since the look at the list
		}
	}
	return out, nil
}

func (b *Box) survey(start, end time.Time) (out Survey, gone bool) {
	from, to := start.Add(-surveyMargin).UnixMilli(), end.Add(surveyMargin).UnixMilli()
	b.mu.Lock()
	var found []segment
	for _, s := range b.segments {
		if s.overlaps(from, to) {
			found = append(found, s)
		}
	}
	b.mu.Unlock()
	var p packer
	defer p.close()
	var stalls []PastStall
	var around []Passage // of all that were looked at
	for i := range found {
		s := &found[i]
		g, err := b.glance(s, &p)
		if errors.Is(err, fs.ErrNotExist) {
			return out, true
		}
		if err != nil {
			out.need(freezeframe.Need{What: "read the segment " + s.file + " of the black box", Lost: "what was recorded in it", Err: reason(err)})
		}
		if g == nil || g.Segment == nil {
			continue
		}
		stalls = append(stalls, g.stalls(s.run)...)
		passage := g.passage(s)
		if passage.End.After(start) && passage.Start.Before(end) {
			for _, n := range g.Needs {
				out.need(n)
			}
			for i := range g.events {
				for _, n := range needsOf(&g.events[i]) {
					out.need(n)
				}
			}
		}
		if n := len(around) - 1; n >= 0 && around[n].goesOn(&passage) {
			around[n].add(&passage)
		} else {
			around = append(around, passage)
		}
	}
	for _, p := range around {
		if p.End.After(start) && p.Start.Before(end) {
			out.Passages = append(out.Passages, p)
		}
	}
	slices.SortStableFunc(out.Passages, func(a, b Passage) int { return a.Start.Compare(b.Start) })
	for _, s := range onlyOnce(stalls) {
		if begun, ended := s.Wall(); begun.Before(end) && ended.After(start) {
			out.Stalls = append(out.Stalls, s)
		}
	}
	return out, false
}

// need keeps what was missing, once.
func (out *Survey) need(n freezeframe.Need) {
	if len(out.Needs) < 256 && !slices.Contains(out.Needs, n) {
		out.Needs = append(out.Needs, n)
	}
}

// goesOn tells whether the next passage is the same one.
func (p *Passage) goesOn(next *Passage) bool {
	return p.Run == next.Run && next.Start.Sub(p.End) <= Uninterrupted
}

func (p *Passage) add(next *Passage) {
	if p.Tool = next.Tool; next.End.After(p.End) { // they may overlap
		p.End = next.End
	}
	p.Gaps = append(p.Gaps, next.Gaps...)
	for _, name := range next.Sources {
		if !slices.Contains(p.Sources, name) {
			p.Sources = append(p.Sources, name)
		}
	}
	if len(next.Probes) > 0 {
		p.Probes = next.Probes
	}
}

// glanced is what a segment says beside its readings.
type glanced struct {
	surveyHead
	events []freezeframe.Event // of the kinds that a survey wants
	open   *freezeframe.Stall
}

// surveyHead is what is wanted of a head.
type surveyHead struct {
	Clock   freezeframe.Clock
	Tool    string
	Sources []struct{ Name string }
	Needs   []freezeframe.Need
	Stalls  []freezeframe.Stall
	Segment *segmentHead
}

// glance reads a segment without its readings, which are nearly all of it. Of
// one that is being written, or is damaged, it reads all there is.
func (b *Box) glance(s *segment, p *packer) (*glanced, error) {
	if s.level != levelOpen {
		g, err := glanceFile(filepath.Join(b.o.Dir, s.file), p)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return g, err
		}
	}
	rec, err := b.load(*s)
	if rec == nil {
		return nil, err
	}
	if s.end == 0 { // nobody knew
		span := rec.readings()
		s.start, s.end = rec.Clock.Wall(span.Start).UnixMilli(), rec.Clock.Wall(span.End).UnixMilli()
	}
	g := &glanced{surveyHead: surveyHead{Clock: rec.Clock, Tool: rec.Tool, Needs: rec.Needs, Stalls: rec.Stalls, Segment: rec.segment}} // with the stall that was open
	for i := range rec.Sources {
		g.Sources = append(g.Sources, struct{ Name string }{rec.Sources[i].Name})
	}
	g.events = slices.DeleteFunc(rec.Events, func(e freezeframe.Event) bool { return !slices.Contains(surveyed[:], e.Kind) })
	return g, err
}

// surveyed are the kinds of events that a survey wants.
var surveyed = [...]string{freezeframe.EventStall, freezeframe.EventWatching, EventBoxGap}

// glanceFile goes from section to section.
func glanceFile(path string, p *packer) (*glanced, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	start := make([]byte, fileHeader)
	if _, err := io.ReadFull(f, start); err != nil {
		return nil, err
	}
	if version, err := checkStart(start); err != nil || version != Format {
		return nil, cmp.Or(err, damaged("format %d", version))
	}
	g, heads := &glanced{}, packedSection{}
	header := make([]byte, sectionSize)
	for at := int64(fileHeader); at < info.Size(); {
		if _, err := f.ReadAt(header, at); err != nil {
			return nil, err
		}
		tag, size, ok := sectionHeader(header)
		if !ok || at+sectionSize+size > info.Size() {
			return nil, damaged("no section at byte %d", at)
		}
		if tag == tagHead || tag == tagEvents || tag == tagStall {
			whole := make([]byte, sectionSize+size)
			if _, err := f.ReadAt(whole, at); err != nil {
				return nil, err
			}
			work := len(whole)
			_, plain, payload, ok := section(whole, &work)
			if !ok {
				return nil, damaged("the section %s at byte %d", tag, at)
			}
			if tag == tagHead {
				heads = packedSection{payload, plain} // the last one says the most
			} else if err := g.read(tag, packedSection{payload, plain}, p); err != nil {
				return nil, err
			}
		}
		at += sectionSize + size
	}
	if err := p.decodeJSON(heads.payload, heads.plain, &g.surveyHead); err != nil {
		return nil, err
	}
	if g.open != nil {
		g.Stalls = append(g.Stalls, *g.open)
	}
	return g, nil
}

// packedSection is the payload of a section, and how long it is when unpacked.
type packedSection struct {
	payload []byte
	plain   int
}

// sectionHeader reads what stands before a section's payload: its tag, and how
// many bytes follow.
func sectionHeader(b []byte) (tag string, size int64, ok bool) {
	if string(b[:4]) != sectionSync || crc32.Checksum(b[:24], castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
		return "", 0, false
	}
	return string(b[4:8]), int64(binary.LittleEndian.Uint32(b[12:])), true
}

// read takes what stands in a section of events, or of the open stall.
func (g *glanced) read(tag string, s packedSection, p *packer) error {
	if tag == tagStall {
		var open *freezeframe.Stall
		if err := p.decodeJSON(s.payload, s.plain, &open); err != nil {
			return err
		}
		g.open = open
		return nil
	}
	plain, err := p.inflate(s.payload, s.plain)
	if err != nil {
		return err
	}
	// An hour has thousands of events, and a few of these. Within a text of JSON
	// no quote stands bare, so that this is the beginning of an event.
	for _, kind := range surveyed {
		begin := []byte(`{"Kind":"` + kind + `",`)
		for rest := plain; ; {
			i := bytes.Index(rest, begin)
			if i < 0 {
				break
			}
			var e freezeframe.Event
			if err := json.NewDecoder(bytes.NewReader(rest[i:])).Decode(&e); err != nil {
				return damaged("%v", err)
			}
			g.events, rest = append(g.events, e), rest[i+len(begin):]
		}
	}
	return nil
}

// passage is what a segment adds to a survey.
func (g *glanced) passage(s *segment) Passage {
	p := Passage{
		Run: s.run, Boot: g.Segment.Boot, Tool: g.Tool,
		Start: time.UnixMilli(s.start).UTC(), End: time.UnixMilli(s.end).UTC(),
	}
	for i := range g.Sources {
		p.Sources = append(p.Sources, g.Sources[i].Name)
	}
	for i := range g.events {
		switch e := &g.events[i]; e.Kind {
		case freezeframe.EventWatching:
			p.Probes = strings.Fields(e.Attr("probes"))
		case EventBoxGap:
			p.Gaps = append(p.Gaps, BoxGapTime{g.Clock.Wall(e.At), g.Clock.Wall(max(e.At, e.End)), e.Text})
		}
	}
	return p
}

// stalls are those that a segment tells of.
func (g *glanced) stalls(run uint64) (out []PastStall) {
	for _, s := range g.Stalls {
		s.End = max(s.End, s.Start+1)
		out = append(out, PastStall{Stall: s, Clock: g.Clock, Run: run})
	}
	for i := range g.events {
		if e := &g.events[i]; e.Kind == freezeframe.EventStall && e.Attr("suppressed") == "" {
			if s, err := stallOf(e); err == nil {
				out = append(out, PastStall{Stall: s, Clock: g.Clock, Run: run, Told: true})
			}
		}
	}
	return out
}

// onlyOnce leaves of what tells of the same stall the best: the one that was
// told when it was over, else the longest.
func onlyOnce(stalls []PastStall) (out []PastStall) {
	slices.SortStableFunc(stalls, func(a, b PastStall) int {
		return cmp.Or(cmp.Compare(told(&b), told(&a)), cmp.Compare(b.Length(), a.Length()))
	})
	for _, s := range stalls {
		if !slices.ContainsFunc(out, func(o PastStall) bool { return o.Run == s.Run && o.And(s.Span).Length() > 0 }) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b PastStall) int {
		x, _ := a.Wall()
		y, _ := b.Wall()
		return x.Compare(y)
	})
	return out
}

func told(s *PastStall) int {
	if s.Told {
		return 1
	}
	return 0
}

// PinStall returns what is on disk of a stall, and so much before and after it,
// as a recording of that stall. It is nil where nothing is. An error beside a
// recording says what of it is lost.
func (b *Box) PinStall(s *PastStall, before, after time.Duration) (*Recording, error) {
	start, end := s.Wall()
	recs, err := b.pin(s.Run, start.Add(-before).UnixMilli(), end.Add(after).UnixMilli())
	// Where the wall clock was stepped there are several.
	var found *Recording
	for _, rec := range recs {
		if held := rec.readings(); held.And(s.Span).Length() > 0 && (found == nil || held.And(s.Span).Length() > found.readings().And(s.Span).Length()) {
			found = rec
		}
	}
	if found != nil {
		found.Stalls = []freezeframe.Stall{s.Stall}
	}
	return found, err
}
