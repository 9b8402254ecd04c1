// Package lookback says what stalled in a span of the past, by the reports that
// are kept, and by the black box: stalls of which there is no report are judged
// from what was recorded, and so are all where that is asked for. Where nothing
// stalled it says what was watched, and of which time nothing is recorded.
package lookback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/archive"
	"freezeframe/recorder"
	"freezeframe/reports"
)

const (
	// maxReports is how many reports one look gives, the newest.
	maxReports = 200
	// maxJudged is how many stalls are judged for one look, the newest: each
	// takes a CPU for some 100 ms.
	maxJudged = 50
	// coveredBy is how much of the recording tells which services there were.
	coveredBy = time.Minute
)

// Options says where to look, and what a report is made from.
type Options struct {
	Archive *archive.Archive // nil: Missing says why
	Box     *recorder.Box    // likewise
	Missing []freezeframe.Need
	Rules   []freezeframe.Rule
	Version string
	Host    freezeframe.HostReport // this machine's, where a recording does not say
	User    func(uint32) string
	// Have are reports that were made and may not be kept yet.
	Have []*freezeframe.Report
	// Now is what is watched at this moment, where the span reaches into it; nil:
	// it does not, or nobody watches.
	Now *freezeframe.Coverage
	// Began is since when it is watched then; zero: not known.
	Began time.Time
	// Judged is given each stall that was judged now; nil: nobody wants it.
	Judged func(freezeframe.Report, detectors.Incident)
}

// Question is what is asked.
type Question struct {
	Since, Until time.Time
	// Rejudge judges again, by the rules of today, what was judged when it
	// happened.
	Rejudge bool
}

// look is one question on its way.
type look struct {
	Options
	q       Question
	survey  recorder.Survey
	entries []archive.Entry // of the span, the newest first
	found   []freezeframe.Report
	missing []freezeframe.Need
	judged  int
	undone  int // stalls that were too many
}

// At answers a question. It waits for the disk, and takes a CPU for up to some
// seconds. The reports are in the order of their stalls.
func At(ctx context.Context, o Options, q Question) (freezeframe.Diagnosis, error) {
	if !q.Until.After(q.Since) {
		return freezeframe.Diagnosis{}, errors.New("look back: the span is empty")
	}
	l := &look{Options: o, q: q, missing: slices.Clone(o.Missing)}
	if err := l.read(); err != nil {
		return freezeframe.Diagnosis{}, err
	}
	for _, step := range []func(context.Context){l.kept, l.unkept} {
		if step(ctx); ctx.Err() != nil {
			return freezeframe.Diagnosis{}, ctx.Err()
		}
	}
	if l.undone > 0 {
		l.need(freezeframe.Need{
			What: fmt.Sprintf("judge %d more stalls of this span", l.undone), Lost: "the causes of the older ones, as they are seen now",
			Fix: "ask for a shorter span",
		})
	}
	slices.SortStableFunc(l.found, func(a, b freezeframe.Report) int { return a.Stall.Start.Compare(b.Stall.Start) })
	return reports.Diagnosis(freezeframe.Observed{Start: q.Since.UTC(), End: q.Until.UTC()}, l.coverage(), l.found), nil
}

func (l *look) need(n freezeframe.Need) { l.missing = append(l.missing, n) }

// read finds what there is of the span.
func (l *look) read() error {
	var err error
	if l.Archive != nil {
		if l.entries, err = l.Archive.List(archive.Query{Since: l.q.Since, Until: l.q.Until}); err != nil {
			return fmt.Errorf("list the reports: %w", err)
		}
		for _, text := range l.Archive.Damaged() {
			l.need(freezeframe.Need{What: "read every report", Lost: "what is in a damaged one", Err: text})
		}
	}
	if l.Box != nil {
		if l.survey, err = l.Box.Survey(l.q.Since, l.q.Until); err != nil {
			return err
		}
		l.missing = append(l.missing, l.survey.Needs...)
	}
	return nil
}

// kept takes the reports that are kept, and judges them again if that is
// wanted.
func (l *look) kept(ctx context.Context) {
	entries := l.entries
	if n := len(entries) - maxReports; n > 0 {
		l.need(freezeframe.Need{
			What: fmt.Sprintf("give %d more reports of this span", n), Lost: "the older stalls of it",
			Fix: "ask for a shorter span, or use `freezeframe list`",
		})
		entries = entries[:maxReports]
	}
	for i := range entries {
		if ctx.Err() != nil {
			return
		}
		e := &entries[i]
		r, err := l.Archive.Report(e.ID)
		if err != nil {
			l.need(freezeframe.Need{What: "read the report " + e.ID, Lost: "one stall: " + e.Headline, Err: err.Error()})
			continue
		}
		if l.q.Rejudge {
			r = l.again(r)
		}
		l.found = append(l.found, r)
	}
	for _, r := range l.Have {
		if r.Stall.Start.Before(l.q.Until) && r.Stall.End.After(l.q.Since) && !slices.ContainsFunc(l.entries, func(e archive.Entry) bool { return e.ID == r.ID }) {
			l.found = append(l.found, *r)
		}
	}
}

// again judges a report's stall again; the report as it was where that cannot
// be done.
func (l *look) again(r freezeframe.Report) freezeframe.Report {
	if slices.ContainsFunc(r.Stall.Symptoms, func(s freezeframe.SymptomReport) bool { return s.Probe == reports.ProbeUnclean }) {
		return r // made of more than the recording: how the run ended
	}
	if !l.room() {
		return r
	}
	rec, err := l.recording(&r)
	if rec == nil {
		if err == nil {
			err = errors.New("its recording is not kept")
		}
		l.need(freezeframe.Need{
			What: "judge " + r.ID + " again", Lost: "its cause as it is seen now; the report is the one that was made then", Err: err.Error(),
		})
		return r
	}
	l.judge(rec, func(now *freezeframe.Report) {
		now.ID = r.ID // another only where the clock was set meanwhile
		if now.Fingerprint == r.Fingerprint {
			now.Recurrence = r.Recurrence
		}
		r = *now
	})
	return r
}

// recording is that of a report: the one that is kept with it, else what the
// black box has of it.
func (l *look) recording(r *freezeframe.Report) (*recorder.Recording, error) {
	path, err := l.Archive.Path(r.ID, "frz")
	if err == nil {
		var rec *recorder.Recording
		if rec, err = recorder.ReadFile(path); rec != nil && len(rec.Stalls) > 0 {
			return rec, nil
		}
	}
	for i := range l.survey.Stalls {
		if s := &l.survey.Stalls[i]; same(s, r.Stall.Start, r.Stall.End) {
			rec, pinned := l.pin(s)
			return rec, errors.Join(err, pinned)
		}
	}
	if errors.Is(err, archive.ErrNotFound) {
		err = nil // said in plain words by whoever asked
	}
	return nil, err
}

// same tells whether a stall of the recording is the one of a report.
func same(s *recorder.PastStall, start, end time.Time) bool {
	begun, ended := s.Wall()
	return begun.Before(end) && ended.After(start)
}

// unkept judges what was noticed and has no report: its run was killed, or the
// disk did not take it.
func (l *look) unkept(ctx context.Context) {
	for i := len(l.survey.Stalls) - 1; i >= 0; i-- {
		s := &l.survey.Stalls[i]
		if slices.ContainsFunc(l.entries, func(e archive.Entry) bool { return same(s, e.Start, e.End) }) ||
			slices.ContainsFunc(l.Have, func(r *freezeframe.Report) bool { return same(s, r.Stall.Start, r.Stall.End) }) {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !l.room() {
			continue
		}
		rec, err := l.pin(s)
		if rec == nil {
			start, _ := s.Wall()
			n := freezeframe.Need{
				What: "judge the stall of " + start.UTC().Format(time.RFC3339), Lost: "its cause: no report of it is kept, and no readings",
			}
			if err != nil {
				n.Err = err.Error()
			}
			l.need(n)
			continue
		}
		l.judge(rec, func(r *freezeframe.Report) { l.found = append(l.found, *r) })
	}
}

// room tells whether one more stall may be judged, and counts it.
func (l *look) room() bool {
	if l.judged >= maxJudged {
		l.undone++
		return false
	}
	l.judged++
	return true
}

func (l *look) pin(s *recorder.PastStall) (*recorder.Recording, error) {
	if l.Box == nil {
		return nil, nil
	}
	before, after := detectors.Around()
	return l.Box.PinStall(s, before, after)
}

// judge judges the stalls of a recording, and gives each report to take.
func (l *look) judge(rec *recorder.Recording, take func(*freezeframe.Report)) {
	host := rec.Host
	if host.Name == "" {
		host = l.Host
	}
	for _, i := range detectors.Rejudge(rec, l.Rules) {
		r := reports.Build(i.Window, i.Verdict, reports.Meta{
			Version: l.Version, Host: host, Rules: l.Rules, User: l.User, Recorder: detectors.Cost(i.Window),
		})
		if take(&r); l.Judged != nil {
			l.Judged(r, i)
		}
	}
}

// coverage says what was watched in the span, and what was not.
func (l *look) coverage() freezeframe.Coverage {
	var c freezeframe.Coverage
	if l.Now != nil {
		c = *l.Now
		c.Probes, c.Sources, c.NotSeen = slices.Clone(c.Probes), slices.Clone(c.Sources), slices.Clone(c.NotSeen)
	} else if n := len(l.survey.Passages); n > 0 {
		last := &l.survey.Passages[n-1]
		from, to := later(last.Start, l.q.Since), last.End
		if to.After(l.q.Until) {
			to = l.q.Until
		}
		// Which services there were at its end: to know it of all of the span, all
		// of its readings would have to be looked at.
		recs, err := l.Box.Pin(later(from, to.Add(-coveredBy)), to)
		if len(recs) > 0 {
			c = detectors.Covered(recs[len(recs)-1])
		}
		if err != nil {
			l.need(freezeframe.Need{What: "say which services were watched", Lost: "those at the end of the span", Err: err.Error()})
		}
	}
	for i := range l.survey.Passages {
		p := &l.survey.Passages[i]
		c.Probes, c.Sources = append(c.Probes, p.Probes...), append(c.Sources, p.Sources...)
	}
	for _, list := range []*[]string{&c.Probes, &c.Sources} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	c.NotSeen = append(c.NotSeen, reports.NotSeen(l.missing)...)
	if l.Box != nil {
		c.Gaps = l.gaps()
	}
	return c
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// gaps says of which parts of the span nothing is recorded, or not all.
func (l *look) gaps() []freezeframe.Gap {
	var out []freezeframe.Gap
	gap := func(from, to time.Time, shortest time.Duration, why string) {
		if to.Sub(from) > shortest {
			out = append(out, freezeframe.Gap{Start: from.UTC(), End: to.UTC(), Why: why})
		}
	}
	until := l.q.Until
	at := l.q.Since // what is before it is told
	var before *recorder.Passage
	for i := range l.survey.Passages {
		p := &l.survey.Passages[i]
		switch {
		case before == nil:
			gap(at, p.Start, recorder.Uninterrupted, "nothing that old is kept, or freezeframe was not running")
		case before.Run == p.Run:
			gap(at, p.Start, recorder.Uninterrupted, "the machine slept, or the disk did not take what was recorded")
		case before.Boot == p.Boot:
			gap(at, p.Start, 0, "freezeframe was not running; the machine was not started anew")
		default:
			gap(at, p.Start, 0, "the machine was down, or freezeframe was not running")
		}
		for _, g := range p.Gaps {
			start, end := later(g.Start, l.q.Since), g.End
			if start.Before(until) && end.After(start) {
				out = append(out, freezeframe.Gap{Start: start.UTC(), End: end.UTC(), Why: g.Text, Part: true})
			}
		}
		before, at = p, later(at, p.End)
	}
	switch {
	case before == nil:
		gap(at, until, 0, "nothing is kept of it: freezeframe was not running, or it is too long ago")
	case l.Now != nil:
		// Of a run of some seconds nothing is on the disk.
		if began := l.Began.Add(-recorder.Uninterrupted); began.After(at) {
			gap(at, l.Began, 0, "the machine was down, or freezeframe was not running")
			at = l.Began
		}
		gap(at, until, recorder.Uninterrupted, "it has not reached the disk; the last minutes are in memory")
	default:
		gap(at, until, recorder.Uninterrupted, "freezeframe was not running")
	}
	slices.SortStableFunc(out, func(a, b freezeframe.Gap) int { return a.Start.Compare(b.Start) })
	return out
}
