package daemon

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// lastMoments is how much of the end of a recording stands for the moment at
// which the run ended, when no stall was open then.
const lastMoments = time.Second

// proven is how sure the kernel's own last words make.
const proven = 0.95

// uncleanMeta is what the report of an unclean end is built from beside the
// recording.
type uncleanMeta struct {
	reports.Meta
	words   []lastWords
	needs   []freezeframe.Need
	started time.Time // of this run
}

// uncleanEnd builds the report of a run that ended without saying so: the stall
// that was open then with its verdict, else the last moments, of which nothing
// is claimed. The kernel's last words decide, where there are any.
func uncleanEnd(u *recorder.Unclean, m uncleanMeta) (freezeframe.Report, detectors.Incident) {
	rec := u.Recording
	last := u.Last
	if last.IsZero() {
		last = m.started // nothing reached the disk: this is when it was found
	}
	if rec == nil {
		// Readings of another boot have another clock: this one has no readings.
		mono := freezeframe.Instant(time.Hour)
		rec = &recorder.Recording{
			Clock: freezeframe.Clock{Mono: mono, WallNanos: last.UnixNano()},
			Span:  freezeframe.Span{Start: mono.Add(-lastMoments), End: mono + 1}, Host: m.Host, Tool: m.Version,
		}
	}
	rec.Needs = append(slices.Clone(rec.Needs), m.needs...)
	if rec.Host.Name != "" {
		m.Host = rec.Host
	}
	end := rec.Clock.Instant(last)
	var words *lastWords
	if len(m.words) > 0 && !u.SameBoot {
		words = &m.words[0]
		addLastWords(rec, words, end)
	}

	stall, verdict, ledger := judgedAtTheEnd(rec, end, m.Rules)
	before := stall
	target := "machine"
	if u.SameBoot {
		target = "freezeframe"
	}
	stall.Symptoms = append(slices.Clone(stall.Symptoms), freezeframe.Symptom{
		Probe: reports.ProbeUnclean, Target: target, Own: true, Count: 1, Quality: 1,
		Span: freezeframe.Span{Start: end.Add(-lastMoments), End: end}, // after the stall, where that was over
	})
	if words != nil {
		decide(&verdict, words, stall.Span)
	}
	if len(verdict.Findings) == 0 {
		verdict.Findings = []freezeframe.Finding{{
			Cause: freezeframe.CauseUnknown, Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
			Summary: uncleanSummary(u, m, before, end), Evidence: lastFigures(rec, end), Remedy: uncleanRemedy(u),
		}}
		if words != nil {
			verdict.Findings[0].Evidence = append(evidenceOf(words), verdict.Findings[0].Evidence...)
		}
	} else {
		verdict.Findings[0].Evidence = append(verdict.Findings[0].Evidence, freezeframe.Evidence{Source: "black_box", Text: uncleanSummary(u, m, before, end)})
	}
	win := rec.Window(stall)
	win.SetLedger(ledger)
	m.Recorder = detectors.Cost(win)
	r := reports.Build(win, verdict, m.Meta)
	if c := &r.Causes[0]; c.ID == freezeframe.CauseUnknown {
		c.Title = "an unknown cause"
		// Not of the series of stalls without a cause.
		who := c.Culprit
		who.Comm = "unclean end of " + target
		r.Fingerprint = reports.Fingerprint(c.ID, who)
	}
	return r, detectors.Incident{Recording: rec, Window: win, Verdict: verdict}
}

// judgedAtTheEnd returns the stall that was open at the end, judged as far as it
// was recorded, or one that was over and not reported yet, or the last moments
// without a verdict.
func judgedAtTheEnd(rec *recorder.Recording, end freezeframe.Instant, rules []freezeframe.Rule) (freezeframe.Stall, freezeframe.Verdict, freezeframe.Ledger) {
	if n := len(rec.Stalls); n > 0 {
		stall := rec.Stalls[n-1]
		stall.End = max(stall.End, stall.Start+1)
		if stall.Ongoing { // it was noted when the disk was last written to
			stall.End = max(stall.End, end)
		}
		rec.Stalls = []freezeframe.Stall{stall}
		if all := detectors.Rejudge(rec, rules); len(all) == 1 {
			return stall, all[0].Verdict, all[0].Window.Ledger()
		}
	}
	return freezeframe.Stall{Span: freezeframe.Span{Start: end.Add(-lastMoments), End: end}}, freezeframe.Verdict{}, freezeframe.Ledger{}
}

// decide makes the kernel's last words the verdict, where they prove one. What
// else was found is then another explanation of the same time.
func decide(v *freezeframe.Verdict, w *lastWords, span freezeframe.Span) {
	cause, line := w.death()
	if cause == "" {
		return
	}
	v.Symptoms = append(v.Findings, v.Symptoms...)
	v.Findings = []freezeframe.Finding{{
		Cause: cause, Culprit: w.culprit(), Explains: freezeframe.Union(span), Confidence: proven,
		Summary:  "The kernel gave up, and left its last words: " + line,
		Evidence: evidenceOf(w),
		Remedy:   []string{"The whole of the kernel's last words is in " + w.files[0] + "."},
	}}
	v.Unexplained = nil
}

func evidenceOf(w *lastWords) []freezeframe.Evidence {
	var out []freezeframe.Evidence
	for _, text := range w.told() {
		out = append(out, freezeframe.Evidence{Source: "pstore", Text: text})
	}
	return out
}

// addLastWords puts into the recording what the kernel still logged after the
// last reading. The log's clock runs with CLOCK_MONOTONIC to within a second or
// two (it is not disciplined): the lines keep their order and stand at the end.
func addLastWords(rec *recorder.Recording, w *lastWords, end freezeframe.Instant) {
	have := map[string]bool{}
	for i := range rec.Events {
		if e := &rec.Events[i]; e.Kind == freezeframe.EventKernelLog {
			have[e.Text] = true
		}
	}
	events := slices.Clone(rec.Events)
	for _, l := range w.lines[max(0, len(w.lines)-maxLastLines):] {
		if l.at != 0 && l.at < end.Add(-lastLinesBefore) || have[l.text] {
			continue
		}
		events = append(events, freezeframe.Event{
			Kind: freezeframe.EventKernelLog, At: max(end, l.at), Text: l.text,
			Attrs: []freezeframe.Attr{{Name: "from", Value: "pstore"}},
		})
	}
	rec.Events = events
}

const (
	maxLastLines    = 200
	lastLinesBefore = time.Minute
)

// uncleanSummary says what is known of the end; before is the stall at it, without
// symptoms when there was none.
func uncleanSummary(u *recorder.Unclean, m uncleanMeta, before freezeframe.Stall, end freezeframe.Instant) string {
	what := "The machine stopped here without being shut down"
	if u.SameBoot {
		what = "freezeframe was ended here without being told to stop; the machine ran on"
	}
	text := what + "."
	if !u.Last.IsZero() {
		text = fmt.Sprintf("%s: its last reading is from %s, and freezeframe started again %s later.",
			what, u.Last.UTC().Format("2006-01-02 15:04:05.0 MST"), plain(m.started.Sub(u.Last)))
	} else {
		text += " Nothing of its last run had reached the disk."
	}
	if u.Missing >= 100*time.Millisecond {
		text += fmt.Sprintf(" It ran for %s more, which did not reach the disk.", plain(u.Missing))
	}
	open := len(before.Symptoms) > 0 && before.Ongoing
	if len(before.Symptoms) > 0 && !open {
		text += fmt.Sprintf(" The stall had been over for %s.", plain(max(end.Sub(before.End), 0)))
	}
	switch {
	case u.SameBoot && !open:
		text += " Who or what ended it is not known."
	case u.SameBoot:
	case len(m.words) > 0:
	case !open:
		text += " Nothing that was kept says why: a power cut, a reset and a machine switched off by its host look alike."
	default:
		text += " Whether the stall that was open then is the reason is not known."
	}
	return text
}

func uncleanRemedy(u *recorder.Unclean) []string {
	if u.SameBoot {
		return []string{"`journalctl -u freezeframe` and `dmesg` say whether it crashed, was killed by the service manager's watchdog, or for memory."}
	}
	return []string{
		"Look at the power supply's, the management controller's (`ipmitool sel list`) and the hypervisor's log of that moment; `last -x` shows when the machine was shut down in order.",
		"So that the kernel can leave its last words next time: a pstore backend (`cat /sys/module/pstore/parameters/backend`), or kdump.",
	}
}

// lastFigures are a few figures of the last readings, for whoever reads the
// report: they claim nothing.
func lastFigures(rec *recorder.Recording, end freezeframe.Instant) []freezeframe.Evidence {
	win := rec.Window(freezeframe.Stall{Span: freezeframe.Span{Start: end.Add(-time.Minute), End: end}})
	var out []freezeframe.Evidence
	say := func(source, column, format string, args ...any) {
		out = append(out, freezeframe.Evidence{Source: source, Column: column, Text: fmt.Sprintf(format, args...)})
	}
	memory := win.Phase("meminfo", freezeframe.During)
	if available, ok := memory.Last(0, "available_bytes"); ok {
		say("meminfo", "available_bytes", "memory available at the end: %d MB", available>>20)
	}
	if free, ok := memory.Last(0, "swap_free_bytes"); ok && memory.Max(0, "swap_total_bytes") > 0 {
		say("meminfo", "swap_free_bytes", "swap free at the end: %d MB", free>>20)
	}
	stat := win.Phase("stat", freezeframe.During)
	if running, ok := stat.Last(freezeframe.AllCPUs, "procs_running"); ok {
		blocked, _ := stat.Last(freezeframe.AllCPUs, "procs_blocked")
		say("stat", "procs_running", "at the end %d threads ran or wanted to, %d waited for a disk", running, blocked)
	}
	return out
}

// plain says a time as in a sentence.
func plain(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + plain(-d)
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	}
	return strconv.Itoa(int(d.Hours())) + " h"
}
