package reports

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"freezeframe"
)

// TextOptions says what the text is written for.
type TextOptions struct {
	Width int  // columns; 0 is 80
	Color bool // only where a terminal reads it
	// Location is the time zone to show times in; nil is UTC.
	Location *time.Location
}

// Text writes a report for a person: the verdict first.
func Text(w io.Writer, r freezeframe.Report, o TextOptions) error {
	cleanAll(&r)
	p := newPrinter(o)
	p.report(&r)
	p.notSeen(r.NotSeen)
	p.recorder(r.Recorder)
	_, err := w.Write(p.b.Bytes())
	return err
}

// DiagnosisText writes a diagnosis for a person. When nothing stalled it says
// what was watched, and never that the machine is healthy.
func DiagnosisText(w io.Writer, d freezeframe.Diagnosis, o TextOptions) error {
	cleanAll(&d)
	p := newPrinter(o)
	watched := d.Observed.End.Sub(d.Observed.Start)
	from := p.clock(d.Observed.Start, "2006-01-02 15:04:05")
	switch len(d.Reports) {
	case 0:
		p.nothing(&d, watched, from)
	case 1:
	default:
		p.head(red, fmt.Sprintf("%d stalls in the %s watched from %s, the longest first.", len(d.Reports), duration(watched), from))
		p.line("")
	}
	list := slices.Clone(d.Reports)
	slices.SortStableFunc(list, func(a, b freezeframe.Report) int { return cmp.Compare(b.Stall.DurationMs, a.Stall.DurationMs) })
	for i := range list {
		if len(list) > 1 {
			if i > 0 {
				p.line("")
			}
			p.head(bold, fmt.Sprintf("── %d of %d ", i+1, len(list))+strings.Repeat("─", max(0, p.width-14)))
		}
		p.report(&list[i])
	}
	p.gaps(d.Coverage.Gaps)
	p.notSeen(d.Coverage.NotSeen)
	p.recorder(d.Coverage.Recorder)
	_, err := w.Write(p.b.Bytes())
	return err
}

// nothing says that nothing stalled, and of which time that is said.
func (p *printer) nothing(d *freezeframe.Diagnosis, watched time.Duration, from string) {
	var missing time.Duration
	for i := range d.Coverage.Gaps {
		if g := &d.Coverage.Gaps[i]; !g.Part {
			missing += g.End.Sub(g.Start)
		}
	}
	switch {
	case missing == 0:
		p.head(green, fmt.Sprintf("Nothing stalled in the %s watched from %s.", duration(watched), from))
	case missing >= watched:
		p.head(bold, fmt.Sprintf("Nothing is recorded of the %s from %s: nothing can be said of it.", duration(watched), from))
		return
	default:
		p.head(green, fmt.Sprintf("Nothing stalled in the %s that are recorded of the %s from %s.", duration(watched-missing), duration(watched), from))
	}
	p.para("", "That is all this says: none of the following was late in that time.")
	p.coverage(d.Coverage)
}

// gaps says what was not recorded, the longest ones where there are many.
func (p *printer) gaps(all []freezeframe.Gap) {
	const most = 12
	if len(all) == 0 {
		return
	}
	p.section("What was not recorded")
	shown := all
	if len(all) > most {
		shown = slices.Clone(all)
		slices.SortStableFunc(shown, func(a, b freezeframe.Gap) int { return cmp.Compare(b.End.Sub(b.Start), a.End.Sub(a.Start)) })
		shown = shown[:most]
		slices.SortStableFunc(shown, func(a, b freezeframe.Gap) int { return a.Start.Compare(b.Start) })
	}
	for i := range shown {
		g := &shown[i]
		part := ""
		if g.Part {
			part = ", in part"
		}
		p.para("  • ", fmt.Sprintf("from %s on, %s%s: %s", p.clock(g.Start, "2006-01-02 15:04:05"), duration(g.End.Sub(g.Start)), part, g.Why))
	}
	if left := len(all) - len(shown); left > 0 {
		p.line(fmt.Sprintf("  and %d shorter ones", left))
	}
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[1;31m"
	green = "\x1b[1;32m"
	reset = "\x1b[0m"
)

type printer struct {
	b     bytes.Buffer
	width int
	o     TextOptions
}

func newPrinter(o TextOptions) *printer {
	p := &printer{o: o, width: o.Width}
	if p.width <= 0 {
		p.width = 80
	}
	p.width = min(max(p.width, 40), 160)
	return p
}

func (p *printer) paint(style, s string) string {
	if !p.o.Color || s == "" {
		return s
	}
	return style + s + reset
}

func (p *printer) clock(t time.Time, layout string) string {
	loc := p.o.Location
	if loc == nil {
		loc = time.UTC
	}
	return t.In(loc).Format(layout + " MST")
}

func (p *printer) line(s string) { p.b.WriteString(s + "\n") }

func (p *printer) head(style, s string) {
	for _, l := range wrap(s, p.width) {
		p.line(p.paint(style, l))
	}
}

func (p *printer) section(name string) {
	p.line("")
	p.line(p.paint(bold, name))
}

// para writes text wrapped; the first line begins with prefix, the rest is
// indented as far.
func (p *printer) para(prefix, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(prefix))
	for i, l := range wrap(text, p.width-len(indent)) {
		if i == 0 {
			p.line(prefix + l)
		} else {
			p.line(indent + l)
		}
	}
}

// wrap breaks text at blanks so that no line is longer than width, and words
// that are longer still wherever they reach it.
func wrap(text string, width int) []string {
	width = max(width, 10)
	var lines []string
	var at []rune
	// Not at a no-break space.
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\n' }) {
		w := []rune(word)
		if len(at) > 0 && len(at)+1+len(w) <= width {
			at = append(append(at, ' '), w...)
			continue
		}
		if len(at) > 0 {
			lines = append(lines, string(at))
		}
		for len(w) > width {
			lines = append(lines, string(w[:width]))
			w = w[width:]
		}
		at = append([]rune(nil), w...)
	}
	if len(at) > 0 || len(lines) == 0 {
		lines = append(lines, string(at))
	}
	return lines
}

// shorten cuts s to n characters with an ellipsis.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-1, 0)]) + "…"
}

func (p *printer) report(r *freezeframe.Report) {
	c := &r.Causes[0]
	p.head(red, Headline(r))
	p.para("", verdict(r))
	if c.ID != freezeframe.CauseUnknown {
		p.line("")
		p.para("", sentence(c.Summary))
	}
	p.line("")
	p.row("Cause", fmt.Sprintf("%s, %s of the stall, confidence %.0f %%", c.ID, percent(c.ExplainedPct), 100*c.Confidence))
	if who := Who(&c.Culprit); who != "" {
		p.row("Blame", who)
	}
	if c.Culprit.Cmdline != "" {
		p.row("Command", shorten(c.Culprit.Cmdline, 3*p.width))
	}
	var more []string
	for i := range r.Causes[1:] {
		o := &r.Causes[1+i]
		if o.SymptomOf == "" {
			more = append(more, fmt.Sprintf("%s %s: %s", percent(o.ExplainedPct), o.ID, o.Summary))
		}
	}
	for i, text := range more {
		p.row(map[bool]string{true: "Also"}[i == 0], text)
	}
	p.row("Unexplained", percent(r.UnexplainedPct))
	end := p.clock(r.Stall.End, "15:04:05.000")
	if r.Stall.Ongoing {
		end = "still going on at " + end
	} else {
		end = "to " + end
	}
	p.row("When", fmt.Sprintf("%s %s", strings.TrimSuffix(p.clock(r.Stall.Start, "2006-01-02 15:04:05.000"), p.clock(r.Stall.Start, "")), end))
	if r.Recurrence != nil {
		p.row("Recurs", p.recurs(r.Recurrence))
	}
	p.row("Where", hostLine(&r.Host))
	p.row("Report", r.ID+", fingerprint "+r.Fingerprint)

	if len(c.Chain) > 0 {
		p.section("Who waited for whom")
		for i, link := range c.Chain {
			prefix := "  "
			if i > 0 {
				prefix = strings.Repeat("  ", min(i, 6)) + "└ "
			}
			p.para(prefix, link)
		}
	}
	if len(c.Evidence) > 0 {
		p.section("Evidence")
		for i := range c.Evidence {
			p.para("  • ", evidenceLine(&c.Evidence[i]))
		}
	}
	var followed []string
	for i := range r.Causes[1:] {
		if o := &r.Causes[1+i]; o.SymptomOf != "" {
			followed = append(followed, fmt.Sprintf("%s: %s", o.ID, o.Summary))
		}
	}
	if len(followed) > 0 {
		p.section("What followed from it")
		for _, text := range followed {
			p.para("  • ", text)
		}
	}
	p.ledger(r.Ledger)
	p.timeline(r)
	if len(c.Remedy) > 0 {
		p.section("What to do")
		for i, text := range c.Remedy {
			p.para(fmt.Sprintf("  %d. ", i+1), text)
		}
	}
}

// recurs says how often it came, when, and what runs at these times.
func (p *printer) recurs(r *freezeframe.Recurrence) string {
	if r.Count < 2 {
		return "first time"
	}
	// The year only where it is another one.
	layout := "2 Jan"
	loc := p.o.Location
	if loc == nil {
		loc = time.UTC
	}
	if r.First.In(loc).Year() != r.Last.In(loc).Year() {
		layout += " 2006"
	}
	text := ordinal(r.Count) + " time since " + r.First.In(loc).Format(layout)
	switch {
	case r.Pattern != "":
		text += "; " + r.Pattern
	case r.SpacingS > 0:
		text += fmt.Sprintf("; usually %s apart", duration(time.Duration(min(finite(r.SpacingS), 1e9)*1e9)))
	}
	if r.Unit != "" {
		text += ", when " + r.Unit + " runs"
	}
	return text
}

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

// row writes one fact of the table below the verdict.
func (p *printer) row(name, text string) {
	const column = 12
	prefix := p.paint(dim, fmt.Sprintf("%-*s", column, name)) + " "
	for i, l := range wrap(text, p.width-column-1) {
		if i > 0 {
			prefix = strings.Repeat(" ", column+1)
		}
		p.line(prefix + l)
	}
}

// Headline says what people felt: the symptom of a service before that of our
// own probes and what may have been felt, and the longest of its kind.
func Headline(r *freezeframe.Report) string {
	best := -1
	rank := func(s *freezeframe.SymptomReport) int {
		switch s.Probe {
		case "accept", "receive", "answer", "active", "listen":
			if s.Doubtful {
				return 1
			}
			return 3 // users of a service waited
		case "delivery", "connect", "stuck":
			return 2 // somebody's process waited
		case ProbeUnclean:
			return -1 // told with the other
		}
		return 0
	}
	unclean := ""
	for i := range r.Stall.Symptoms {
		s := &r.Stall.Symptoms[i]
		if s.Probe == ProbeUnclean {
			unclean = strings.TrimSuffix(felt(s), ".")
		}
		if best < 0 || cmp.Or(cmp.Compare(rank(s), rank(&r.Stall.Symptoms[best])), cmp.Compare(s.WorstMs, r.Stall.Symptoms[best].WorstMs)) > 0 {
			best = i
		}
	}
	if best < 0 {
		return "Work stood still for " + duration(fromMs(r.Stall.DurationMs)) + "."
	}
	text := upper(felt(&r.Stall.Symptoms[best]))
	if unclean != "" && r.Stall.Symptoms[best].Probe != ProbeUnclean {
		return strings.TrimSuffix(text, ".") + "; then " + unclean + "."
	}
	if r.Stall.Ongoing && unclean == "" {
		text = strings.TrimSuffix(text, ".") + ", and it is not over."
	}
	return text
}

// felt says one symptom in plain words. The names are those of the probes.
func felt(s *freezeframe.SymptomReport) string {
	late, who := duration(fromMs(s.WorstMs)), people(s.Victims)
	on := func(text string) string {
		if s.Target == "" {
			return text
		}
		return text + " on " + s.Target
	}
	service := on("your service " + who)
	if who == "" {
		service = on("a service")
	}
	to := cmp.Or(s.Target, "its peer")
	switch {
	case s.Probe == ProbeUnclean:
		return map[bool]string{
			true:  "the machine stopped here, without being shut down.",
			false: "freezeframe was killed here; the machine ran on.",
		}[s.Target == "machine"]
	case s.Probe == "accept" && s.Error != "":
		text := service + " did not accept connections, and the kernel dropped new ones"
		if s.WorstMs > 0 { // a drop itself takes no time
			text += ", for " + late
		}
		return text + "."
	case s.Probe == "clock":
		return "the wall clock jumped."
	case s.Probe == "kernel_log":
		return "the kernel reported: " + cmp.Or(s.Error, s.Target) + "."
	case s.Probe == "limits":
		return s.Target + ": refused with " + s.Error + "."
	case s.Error != "":
		return on(s.Probe) + " failed: " + s.Error + "."
	}
	switch s.Probe {
	case "heartbeat":
		return "an ordinary thread that wanted to run did not for " + late + "."
	case "heartbeat_rt":
		return "not even a thread of real-time priority ran for " + late + "."
	case "fsync":
		return on("a small write and fsync") + " took " + late + "."
	case "page_touch":
		return "touching fresh memory took " + late + "."
	case "fork":
		return "starting a process took " + late + "."
	case "loopback":
		return "a connection of the machine to itself took " + late + "."
	case "active":
		return cmp.Or(s.Target, "a service") + " did not answer our request for " + late + "."
	case "accept":
		return service + " did not accept a connection for " + late + "."
	case "receive":
		return service + " did not read what it was sent for " + late + "."
	case "answer":
		return service + " did not answer for " + late + "."
	case "listen":
		return service + " was gone for " + late + ", and its clients were refused."
	case "delivery":
		return "what " + cmp.Or(who, "a process") + " sent to " + to + " did not arrive for " + late + "."
	case "connect":
		return cmp.Or(who, "a process") + " got no connection to " + to + " for " + late + "."
	case "stuck":
		return cmp.Or(who, s.Target, "a process") + " was stuck for " + late + "."
	}
	if who != "" {
		return on(who) + " was late by " + late + " (" + s.Probe + ")."
	}
	return on(s.Probe) + " was late by " + late + "."
}

// ProbeUnclean is the probe of the symptom that a run ended without saying so;
// its target says of what: "machine" or "freezeframe".
const ProbeUnclean = "unclean_end"

// Line says a report in one line: what people felt, and what it was.
func Line(r *freezeframe.Report) string {
	c := &r.Causes[0]
	text := Headline(r)
	if c.ID == freezeframe.CauseUnknown {
		return text + " The cause is not known."
	}
	return fmt.Sprintf("%s %s by %s%s.", text, upper(percent(c.ExplainedPct)+" of that is explained"), c.Title, because(&c.Culprit))
}

// Felt says what people feel of a stall that goes on.
func Felt(stall *freezeframe.Stall, clock freezeframe.Clock) string {
	var r freezeframe.Report
	r.Stall.DurationMs = ms(stall.Length())
	for i := range stall.Symptoms {
		r.Stall.Symptoms = append(r.Stall.Symptoms, symptom(&stall.Symptoms[i], clock))
	}
	cleanAll(&r)
	return Headline(&r)
}

// people names victims ("comm (12)") as a sentence does: "a (pid 12) and 3 more".
func people(victims []string) string {
	var names []string
	for _, v := range victims {
		if open := strings.LastIndex(v, " ("); open >= 0 {
			v = v[:open] + " (pid " + v[open+2:]
		}
		names = append(names, v)
	}
	if len(names) > 2 {
		return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
	}
	return strings.Join(names, " and ")
}

// verdict is the second sentence: what it was.
func verdict(r *freezeframe.Report) string {
	c := &r.Causes[0]
	if c.ID == freezeframe.CauseUnknown {
		return c.Summary
	}
	return fmt.Sprintf("%s of that is explained by %s%s.", percent(c.ExplainedPct), c.Title, because(&c.Culprit))
}

func because(c *freezeframe.Culprit) string {
	if who := thing(c); who != "" {
		return "; to blame: " + who
	}
	return ""
}

// thing is the one thing that is to blame, without what else is known of it.
func thing(c *freezeframe.Culprit) string {
	process := ""
	if c.PID != 0 {
		process = fmt.Sprintf("%s (pid %d)", cmp.Or(c.Comm, "process"), c.PID)
		if c.Count > 1 {
			process += fmt.Sprintf(" and %d processes like it", c.Count-1)
		}
	}
	named := func(kind, name string) string {
		if name == "" {
			return process
		}
		return kind + " " + name
	}
	switch c.Kind {
	case freezeframe.CulpritProcess:
		return cmp.Or(process, c.Comm, c.Unit)
	case freezeframe.CulpritCgroup:
		return cmp.Or(c.Unit, named("cgroup", c.Cgroup))
	case freezeframe.CulpritDevice:
		return named("device", c.Device)
	case freezeframe.CulpritMount:
		return named("mount", c.Mount)
	case freezeframe.CulpritAddress:
		return named("address", c.Address)
	case freezeframe.CulpritInterface:
		return named("interface", c.Interface)
	case freezeframe.CulpritHypervisor:
		return "the hypervisor"
	}
	return process
}

// Who names a culprit in a few words: "gunicorn (pid 12), unit web.service".
func Who(c *freezeframe.Culprit) string {
	var parts []string
	add := func(format, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	switch {
	case c.PID != 0:
		add("%s", fmt.Sprintf("%s (pid %d)", cmp.Or(c.Comm, "process"), c.PID))
	case c.Comm != "":
		add("%s", c.Comm)
	}
	if c.Count > 1 {
		parts = append(parts, fmt.Sprintf("%d processes like it", c.Count))
	}
	add("mount %s", c.Mount)
	add("device %s", c.Device)
	add("address %s", c.Address)
	add("interface %s", c.Interface)
	add("unit %s", c.Unit)
	add("container %s", c.Container)
	if c.Unit == "" && c.Container == "" && c.Cgroup != "/" {
		add("cgroup %s", c.Cgroup)
	}
	add("user %s", c.User)
	switch c.Kind {
	case freezeframe.CulpritHost:
		add("%s", "nobody on this machine")
	case freezeframe.CulpritHypervisor:
		add("%s", "the hypervisor")
	}
	return strings.Join(parts, ", ")
}

func evidenceLine(e *freezeframe.Evidence) string {
	text := e.Text
	switch {
	case e.Before != "" && e.During != "":
		text += fmt.Sprintf(" (before %s, during %s)", e.Before, e.During)
	case e.During != "":
		text += fmt.Sprintf(" (%s)", e.During)
	}
	if e.Source != "" {
		text += " [" + strings.TrimSuffix(e.Source+"."+e.Column, ".") + "]"
	}
	return text
}

// marks are the bar's characters by rank of the class, darkest first.
var marks = []rune{'█', '▓', '▒', '░', '·'}

const noBreak = "\u00a0"

// ledger draws one bar an account: where that victim's time went.
func (p *printer) ledger(accounts []freezeframe.AccountReport) {
	if len(accounts) == 0 {
		return
	}
	p.section("Where the time of those who waited went")
	const most = 6
	name := 0
	for i := range accounts[:min(len(accounts), most)] {
		name = max(name, utf8.RuneCountInString(accounts[i].Victim))
	}
	name = min(name, 28)
	bar := min(max(p.width-name-60, 12), 40)
	for i := range accounts {
		if i == most {
			p.line(fmt.Sprintf("  and %d more", len(accounts)-i))
			break
		}
		a := &accounts[i]
		var drawn strings.Builder
		var legend []string
		used := 0
		for j, class := range classes(a.ClassMs) {
			if a.TotalMs <= 0 {
				break
			}
			share := a.ClassMs[class] / a.TotalMs
			mark := marks[min(j, len(marks)-1)]
			n := min(int(share*float64(bar)+0.5), bar-used)
			drawn.WriteString(strings.Repeat(string(mark), n))
			used += n
			if j < 4 && share >= 0.005 {
				item := fmt.Sprintf("%c %.0f %% %s", mark, 100*share, strings.ReplaceAll(class, "_", " "))
				legend = append(legend, strings.ReplaceAll(item, " ", noBreak))
			}
		}
		drawn.WriteString(strings.Repeat(" ", bar-used))
		p.para(fmt.Sprintf("  %-*s %s ", name, shorten(a.Victim, name), drawn.String()), duration(fromMs(a.TotalMs))+": "+strings.Join(legend, "  "))
		if a.Longest != "" {
			p.para("      longest: ", a.Longest)
		}
	}
}

func (p *printer) timeline(r *freezeframe.Report) {
	if len(r.Timeline) == 0 {
		return
	}
	p.section("Timeline (seconds from the start of the stall)")
	const most = 24
	items := folded(r.Timeline, r.Stall.Start)
	if left := len(items) - most; left > 0 {
		// The stall itself and what is nearest to it stays.
		items = slices.Clone(items)
		slices.SortStableFunc(items, func(a, b freezeframe.TimelineItem) int {
			return cmp.Compare(a.At.Sub(r.Stall.Start).Abs(), b.At.Sub(r.Stall.Start).Abs())
		})
		items = items[:most]
		slices.SortStableFunc(items, func(a, b freezeframe.TimelineItem) int { return a.At.Compare(b.At) })
		defer p.line(fmt.Sprintf("  %d more are in the JSON and HTML reports", left))
	}
	for i := range items {
		it := &items[i]
		at := fmt.Sprintf("%+9.3f ", it.At.Sub(r.Stall.Start).Seconds())
		text := strings.ReplaceAll(it.What, "_", " ") + ": " + it.Text
		if it.What == "stall" || it.What == "symptom" {
			text = it.Text
		}
		p.para("  "+at+" ", shorten(text, 2*p.width))
	}
}

// folded joins neighbours that say the same into one, with their number.
func folded(items []freezeframe.TimelineItem, start time.Time) []freezeframe.TimelineItem {
	var out []freezeframe.TimelineItem
	for i := 0; i < len(items); {
		n := 1
		for i+n < len(items) && items[i+n].What == items[i].What && items[i+n].Text == items[i].Text {
			n++
		}
		it := items[i]
		if n > 1 {
			it.Text += fmt.Sprintf(" (%d times, until %+.3f)", n, items[i+n-1].At.Sub(start).Seconds())
		}
		out = append(out, it)
		i += n
	}
	return out
}

func (p *printer) coverage(c freezeframe.Coverage) {
	list := func(name string, items []string, none string) {
		if len(items) == 0 {
			p.row(name, none)
			return
		}
		text := strings.Join(items[:min(len(items), 40)], ", ")
		if more := len(items) - 40; more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		p.row(name, fmt.Sprintf("%d: %s", len(items), text))
	}
	p.line("")
	list("Probes", c.Probes, "none is known to have run, so that no stall proves nothing")
	list("Services", c.Services, "no listening service was seen")
	list("Sources", c.Sources, "none could be read")
}

func (p *printer) notSeen(items []freezeframe.NotSeen) {
	p.section("What was not seen")
	if len(items) == 0 {
		p.line("  Every source and probe of this version could be had. It has no BPF programs, so waits")
		p.line("  shorter than one reading (50 ms) are not told apart.")
		return
	}
	for i := range items {
		p.para("  • ", notSeenLine(&items[i]))
	}
}

func notSeenLine(n *freezeframe.NotSeen) string {
	text := n.What
	if n.Err != "" && !strings.Contains(n.What, n.Err) {
		text += " (" + n.Err + ")"
	}
	if n.Lost != "" {
		text += ": " + n.Lost
	}
	if n.Fix != "" {
		text = sentence(text) + " To get it: " + sentence(n.Fix)
	}
	return text
}

func (p *printer) recorder(r freezeframe.RecorderReport) {
	if r.Samples == 0 {
		return
	}
	p.line("")
	text := fmt.Sprintf("freezeframe itself used %.1f %% of one CPU and %d MB; %d readings, %d of them late", r.CPUPercent, r.RSSBytes>>20, r.Samples, r.LateSamples)
	if r.LateSamples > 0 {
		text += " (the worst by " + duration(fromMs(r.WorstLateMs)) + ")"
	}
	for _, l := range wrap(text+".", p.width) {
		p.line(p.paint(dim, l))
	}
}

func hostLine(h *freezeframe.HostReport) string {
	text := fmt.Sprintf("%s, %s, kernel %s, %d CPUs, %.1f GiB", cmp.Or(h.Name, "unnamed host"), cmp.Or(h.OS, "unknown OS"), cmp.Or(h.Kernel, "unknown"), h.CPUs, float64(h.MemoryBytes)/(1<<30))
	if h.Virtualization != "" {
		text += ", " + h.Virtualization + " guest"
	}
	return text
}

func percent(f float64) string { return fmt.Sprintf("%.1f %%", f) }

func fromMs(v float64) time.Duration { return time.Duration(finite(v) * float64(time.Millisecond)) }

func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return strings.ToUpper(string(r)) + s[n:]
}

func sentence(s string) string {
	if s == "" || strings.ContainsRune(".!?", rune(s[len(s)-1])) {
		return s
	}
	return s + "."
}
