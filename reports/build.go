package reports

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"freezeframe"
)

// Bounds of a report, so that a flood of log lines or of victims cannot make
// one that nobody can open. What is left out is counted in the report.
const (
	maxTimeline = 60 // per kind
	maxAccounts = 48
	maxChain    = 32
)

// Meta is what a report says that is not in the window.
type Meta struct {
	Version  string
	Host     freezeframe.HostReport
	Rules    []freezeframe.Rule // titles, remedies and what subsumes what
	Recorder freezeframe.RecorderReport
	// User names a user id; nil where the recording is from another machine,
	// whose users this one does not know.
	User func(uid uint32) string
}

// Build turns a judged window into a report. It is pure: the same window and
// verdict give the same report, with the same id.
func Build(w freezeframe.Window, v freezeframe.Verdict, m Meta) freezeframe.Report {
	stall, clock := w.Stall(), w.Clock()
	r := freezeframe.Report{
		Schema:   freezeframe.ReportSchema,
		Version:  m.Version,
		Host:     m.Host,
		Recorder: rounded(m.Recorder),
		NotSeen:  NotSeen(w.Missing()),
		Stall: freezeframe.StallReport{
			Start:      clock.Wall(stall.Start),
			End:        clock.Wall(stall.End),
			DurationMs: ms(stall.Length()),
			Ongoing:    stall.Ongoing,
		},
	}
	for i := range stall.Symptoms {
		r.Stall.Symptoms = append(r.Stall.Symptoms, symptom(&stall.Symptoms[i], clock))
	}
	r.Ledger = accounts(w)
	causes(&r, w, v, m)
	r.Timeline = timeline(w)
	r.ID = id(w, m.Host)
	r.Fingerprint = Fingerprint(r.Causes[0].ID, r.Causes[0].Culprit)
	cleanAll(&r)
	return r
}

// NotSeen turns needs into their form in a report.
func NotSeen(needs []freezeframe.Need) []freezeframe.NotSeen {
	var out []freezeframe.NotSeen
	seen := make(map[freezeframe.Need]bool)
	for _, n := range needs {
		if seen[n] {
			continue
		}
		seen[n] = true
		out = append(out, freezeframe.NotSeen(n))
	}
	return out
}

// causes fills in the ranked causes and the unexplained share. The shares are
// in tenths of a percent and always add up to exactly 100.0 as printed.
func causes(r *freezeframe.Report, w freezeframe.Window, v freezeframe.Verdict, m Meta) {
	rules := make(map[freezeframe.Cause]*freezeframe.Rule)
	for i := range m.Rules {
		rules[m.Rules[i].Cause] = &m.Rules[i]
	}
	stall := w.Stall()
	left := freezeframe.Union(stall.Span)
	var parts []time.Duration
	for i := range v.Findings {
		f := &v.Findings[i]
		// The judge hands out disjoint shares; cutting again costs nothing and
		// keeps the sum right whatever it did.
		mine := freezeframe.Union(f.Explains...).And(left)
		left = left.Minus(mine)
		parts = append(parts, mine.Length())
		r.Causes = append(r.Causes, cause(w, f, rules[f.Cause], m))
	}
	shares := tenths(append(parts, left.Length()))
	for i := range r.Causes {
		r.Causes[i].ExplainedPct = shares[i]
	}
	r.UnexplainedPct = shares[len(shares)-1]
	if len(r.Causes) == 0 {
		r.Causes = append(r.Causes, unknown(r))
	}
	for i := range v.Symptoms {
		f := &v.Symptoms[i]
		c := cause(w, f, rules[f.Cause], m)
		c.SymptomOf = deeper(r.Causes, rules, f.Cause)
		r.Causes = append(r.Causes, c)
	}
}

// deeper returns the reported cause that brings about the given one: the first
// whose rule says so, else the verdict.
func deeper(causes []freezeframe.CauseReport, rules map[freezeframe.Cause]*freezeframe.Rule, of freezeframe.Cause) freezeframe.Cause {
	for i := range causes {
		if rule := rules[causes[i].ID]; rule != nil && slices.Contains(rule.Subsumes, of) {
			return causes[i].ID
		}
	}
	return causes[0].ID
}

func cause(w freezeframe.Window, f *freezeframe.Finding, rule *freezeframe.Rule, m Meta) freezeframe.CauseReport {
	c := freezeframe.CauseReport{
		ID:         f.Cause,
		Title:      string(f.Cause),
		Summary:    f.Summary,
		Confidence: finite(min(max(f.Confidence, 0), 1)),
		Culprit:    identify(w, f.Culprit, m.User),
		Chain:      slices.Clone(f.Chain[:min(len(f.Chain), maxChain)]),
		Evidence:   slices.Clone(f.Evidence),
		Remedy:     slices.Clone(f.Remedy),
	}
	if rule != nil {
		c.Title = rule.Title
		c.Remedy = append(c.Remedy, rule.Remedy...)
	}
	return c
}

// unknown is the verdict where no finding is left: it says what was seen.
func unknown(r *freezeframe.Report) freezeframe.CauseReport {
	var seen []string
	for i := range r.Stall.Symptoms {
		if i == 4 {
			seen = append(seen, fmt.Sprintf("and %d more", len(r.Stall.Symptoms)-i))
			break
		}
		seen = append(seen, strings.TrimSuffix(felt(&r.Stall.Symptoms[i]), "."))
	}
	text := "Something stalled, and nothing that could be seen explains it."
	if len(seen) > 0 {
		text += " Seen: " + strings.Join(seen, "; ") + "."
	}
	if where := whereTimeWent(r.Ledger); where != "" {
		text += " The time of those who waited went to " + where + "."
	}
	c := freezeframe.CauseReport{
		ID:      freezeframe.CauseUnknown,
		Title:   "an unknown cause",
		Summary: text,
		Culprit: freezeframe.Culprit{Kind: freezeframe.CulpritHost},
		Remedy:  []string{"Read the timeline and where the time went below; what this machine did not let freezeframe see is listed under \"not seen\"."},
	}
	if len(r.NotSeen) > 0 {
		c.Remedy = append(c.Remedy, "`freezeframe check` says what else could be seen on this machine, and how to get it.")
	}
	return c
}

// whereTimeWent sums up the accounts: "72 % unseen, 28 % runnable".
func whereTimeWent(accounts []freezeframe.AccountReport) string {
	sum, total := make(map[string]float64), 0.0
	for i := range accounts {
		for class, v := range accounts[i].ClassMs {
			sum[class] += v
			total += v
		}
	}
	if total <= 0 {
		return ""
	}
	var parts []string
	for i, class := range classes(sum) {
		if i == 3 || sum[class] < total/200 {
			break
		}
		parts = append(parts, fmt.Sprintf("%.0f %% %s", 100*sum[class]/total, strings.ReplaceAll(class, "_", " ")))
	}
	return strings.Join(parts, ", ")
}

// classes returns the names by how much time each has, most first.
func classes(ms map[string]float64) []string {
	var names []string
	for name, v := range ms {
		if v > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(ms[b], ms[a]), strings.Compare(a, b))
	})
	return names
}

// tenths splits 100 percent over the parts in steps of 0.1, by the largest
// remainders, so that what is printed adds up. Parts that are all 0 leave
// everything to the last.
func tenths(parts []time.Duration) []float64 {
	out := make([]float64, len(parts))
	var total time.Duration
	for _, p := range parts {
		total += p
	}
	if total <= 0 {
		out[len(out)-1] = 100
		return out
	}
	whole := make([]int, len(parts))
	rest := make([]float64, len(parts))
	order := make([]int, len(parts))
	left := 1000
	for i, p := range parts {
		exact := 1000 * float64(p) / float64(total)
		whole[i] = int(exact)
		rest[i] = exact - float64(whole[i])
		left -= whole[i]
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rest[b], rest[a]) })
	for i := 0; i < left; i++ {
		whole[order[i%len(order)]]++
	}
	for i := range whole {
		out[i] = float64(whole[i]) / 10
	}
	return out
}

func symptom(s *freezeframe.Symptom, clock freezeframe.Clock) freezeframe.SymptomReport {
	out := freezeframe.SymptomReport{
		Probe:   s.Probe,
		Target:  s.Target,
		Start:   clock.Wall(s.Span.Start),
		End:     clock.Wall(s.Span.End),
		WorstMs: ms(s.Worst),
		Count:   s.Count,
		Error:   s.Err,

		Doubtful: s.Doubtful(),
	}
	seen := make(map[string]bool)
	for _, v := range s.Victims {
		if v.PID == 0 {
			continue
		}
		name := fmt.Sprintf("%s (%d)", v.Comm, v.PID)
		if !seen[name] {
			seen[name] = true
			out.Victims = append(out.Victims, name)
		}
	}
	return out
}

// accounts sums up the ledger: those of weight, the heaviest first.
func accounts(w freezeframe.Window) []freezeframe.AccountReport {
	ledger, stall := w.Ledger(), w.Stall()
	list := slices.Clone(ledger.Accounts)
	slices.SortStableFunc(list, func(a, b freezeframe.Account) int { return cmp.Compare(b.Weight, a.Weight) })
	var out []freezeframe.AccountReport
	for i := range list {
		a := &list[i]
		if a.Weight <= 0 || len(a.Waits) == 0 {
			continue
		}
		if len(out) == maxAccounts {
			break
		}
		r := freezeframe.AccountReport{Victim: victimName(a.Victim), ClassMs: make(map[string]float64)}
		if a.Symptom >= 0 && a.Symptom < len(stall.Symptoms) {
			s := &stall.Symptoms[a.Symptom]
			r.Symptom = strings.TrimSpace(s.Probe + " " + s.Target)
		}
		// Whole microseconds, so that the printed classes add up to the total.
		us := make(map[string]int64)
		var total int64
		longest := 0
		for j := range a.Waits {
			d := a.Waits[j].Length().Microseconds()
			us[string(a.Waits[j].Class)] += d
			total += d
			if a.Waits[j].Length() > a.Waits[longest].Length() {
				longest = j
			}
		}
		for class, v := range us {
			r.ClassMs[class] = float64(v) / 1000
		}
		r.TotalMs = float64(total) / 1000
		r.Longest = describeWait(&a.Waits[longest])
		out = append(out, r)
	}
	return out
}

func victimName(v freezeframe.Victim) string {
	switch {
	case v.PID == 0:
		return "the machine"
	case v.TID == 0 || v.TID == v.PID:
		return fmt.Sprintf("%s (%d)", v.Comm, v.PID)
	}
	return fmt.Sprintf("%s (%d/%d)", v.Comm, v.PID, v.TID)
}

// describeWait says a wait in one line: "2.91 s filesystem wait in
// __sb_start_write, write of /data/x, held by fsfreeze (44): …".
func describeWait(w *freezeframe.Wait) string {
	text := duration(w.Length()) + " " + strings.ReplaceAll(string(w.Class), "_", " ")
	if w.Wchan != "" {
		text += " in " + w.Wchan
	}
	switch {
	case w.Syscall != "" && w.File != "":
		text += ", " + w.Syscall + " of " + w.File
	case w.Syscall != "":
		text += ", " + w.Syscall
	case w.File != "":
		text += ", of " + w.File
	}
	if h := w.Holder; h != nil {
		text += ", until " + partyName(h)
		if h.Why != "" {
			text += " (" + h.Why + ")"
		}
	}
	return text
}

func partyName(p *freezeframe.Party) string {
	if p.PID == 0 {
		return p.Address
	}
	return victimName(freezeframe.Victim{PID: p.PID, TID: p.TID, Comm: p.Comm})
}

// timeline puts what happened in order: the stall, its symptoms, and the
// window's events.
func timeline(w freezeframe.Window) []freezeframe.TimelineItem {
	stall, clock := w.Stall(), w.Clock()
	item := func(s freezeframe.Span, what, text string) freezeframe.TimelineItem {
		t := freezeframe.TimelineItem{At: clock.Wall(s.Start), What: what, Text: text}
		if s.End > s.Start {
			end := clock.Wall(s.End)
			t.End = &end
		}
		return t
	}
	text := "the stall: " + duration(stall.Length())
	if stall.Ongoing {
		text += " so far, not over when this was written"
	}
	items := []freezeframe.TimelineItem{item(stall.Span, "stall", text)}
	for i := range stall.Symptoms {
		s := symptom(&stall.Symptoms[i], clock)
		items = append(items, item(stall.Symptoms[i].Span, "symptom", felt(&s)))
	}
	byKind := make(map[string][]freezeframe.Event)
	for _, e := range w.Events("", freezeframe.Whole) {
		switch e.Kind {
		case freezeframe.EventEnds:
			continue // the ledger's material; what it found stands in the chains
		case freezeframe.EventWatching:
			continue // the recorder's own
		case freezeframe.EventStall:
			if e.At == stall.Start {
				continue // this one
			}
		}
		byKind[e.Kind] = append(byKind[e.Kind], e)
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		events := nearest(byKind[kind], stall.Span)
		for i := range events {
			e := &events[i]
			items = append(items, item(freezeframe.Span{Start: e.At, End: e.End}, e.Kind, eventText(e)))
		}
		if left := len(byKind[kind]) - len(events); left > 0 {
			items = append(items, item(freezeframe.Span{Start: stall.Start}, kind, fmt.Sprintf("%d more %s records, further from the stall, are left out", left, kind)))
		}
	}
	slices.SortStableFunc(items, func(a, b freezeframe.TimelineItem) int { return a.At.Compare(b.At) })
	return items
}

// nearest returns at most maxTimeline events, those nearest to the span.
func nearest(events []freezeframe.Event, s freezeframe.Span) []freezeframe.Event {
	if len(events) <= maxTimeline {
		return events
	}
	distance := func(e *freezeframe.Event) freezeframe.Instant {
		switch end := max(e.At, e.End); {
		case end < s.Start:
			return s.Start - end
		case e.At > s.End:
			return e.At - s.End
		}
		return 0
	}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b freezeframe.Event) int { return cmp.Compare(distance(&a), distance(&b)) })
	return events[:maxTimeline]
}

func eventText(e *freezeframe.Event) string {
	switch e.Kind {
	case freezeframe.EventKernelLog, freezeframe.EventStall:
		return e.Text
	case freezeframe.EventMissed:
		text := "freezeframe itself read " + cmp.Or(e.Attr("source"), "a source") + " late"
		if us := e.Attr("late_us"); us != "" {
			if d, err := time.ParseDuration(us + "us"); err == nil {
				text += " by " + duration(d)
			}
		}
		if where := cmp.Or(e.Attr("wchan"), e.Attr("stack")); where != "" {
			text += ", waiting in " + where
		}
		return text
	case freezeframe.EventRefused:
		if e.Text != "" {
			return e.Text
		}
		return strings.TrimSpace(strings.TrimSpace(e.Attr("probe")+" "+e.Attr("target")) + ": " + e.Attr("errno"))
	case freezeframe.EventClockStepped:
		if d, err := time.ParseDuration(e.Attr("step_ns") + "ns"); err == nil {
			return "the wall clock was set by " + signed(d)
		}
	}
	text := e.Text
	for _, a := range e.Attrs {
		text += " " + a.Name + "=" + a.Value
	}
	return strings.TrimSpace(text)
}

func signed(d time.Duration) string {
	if d < 0 {
		return "-" + duration(-d)
	}
	return "+" + duration(d)
}

// id sorts by time and is the same each time the same stall is judged: start
// in UTC, then a hash of the machine and the moment.
func id(w freezeframe.Window, h freezeframe.HostReport) string {
	stall := w.Stall()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%d", h.Name, h.Boot.UnixNano(), stall.Start, w.Clock().WallNanos-int64(w.Clock().Mono)))
	return w.Clock().Wall(stall.Start).Format("20060102T150405.000Z") + "-" + hex.EncodeToString(sum[:4])
}

// Fingerprint names a cause together with its culprit, so that the same
// trouble has the same fingerprint tomorrow and after a restart: no pid and no
// number of a command line is part of it.
func Fingerprint(cause freezeframe.Cause, c freezeframe.Culprit) string {
	var who string
	switch c.Kind {
	case freezeframe.CulpritProcess, freezeframe.CulpritCgroup:
		switch {
		case c.Unit != "":
			who = withoutNumbers(c.Unit)
		case c.Kind == freezeframe.CulpritProcess && c.Exe+c.Cmdline != "":
			who = withoutNumbers(c.Exe + " " + c.Cmdline)
		case c.Kind == freezeframe.CulpritProcess:
			who = withoutNumbers(c.Comm)
		default:
			who = withoutNumbers(cmp.Or(c.Cgroup, c.Container))
		}
	default:
		// A unit or a command that stands beside a mount or an address is who
		// was seen there this time; the thing itself is what comes back.
		who = strings.Join([]string{c.Device, c.Mount, c.Address, c.Interface}, "\x00")
		if strings.Trim(who, "\x00") == "" {
			who = withoutNumbers(c.Comm)
		}
	}
	sum := sha256.Sum256([]byte(string(cause) + "\x00" + c.Kind + "\x00" + who))
	return hex.EncodeToString(sum[:6])
}

func withoutNumbers(s string) string {
	var b strings.Builder
	digits := false
	for _, r := range s {
		if r >= '0' && r <= '9' {
			if !digits {
				b.WriteByte('#')
			}
			digits = true
			continue
		}
		digits = false
		b.WriteRune(r)
	}
	return b.String()
}

// rounded drops the digits that mean nothing.
func rounded(r freezeframe.RecorderReport) freezeframe.RecorderReport {
	r.CPUPercent = math.Round(100*finite(r.CPUPercent)) / 100
	r.WorstLateMs = math.Round(1000*finite(r.WorstLateMs)) / 1000
	return r
}

// ms gives milliseconds to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// duration says a time as people do: 340 ms, 3.21 s, 2 min 5 s.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + duration(max(-d, -(d+1))) // the smallest has no opposite
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second-500*time.Microsecond:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	case d < 59995*time.Millisecond:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
}
