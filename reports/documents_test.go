package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"freezeframe"
	"freezeframe/internal/stacks"
	"freezeframe/reports/page"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// validate holds a document against its schema.
func validate(t *testing.T, document []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	report, diagnosis := Schemas()
	for name, b := range map[string][]byte{"report.schema.json": report, "diagnosis.schema.json": diagnosis} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(name, doc); err != nil {
			t.Fatal(err)
		}
	}
	var head struct{ Schema string }
	if err := json.Unmarshal(document, &head); err != nil {
		t.Fatal(err)
	}
	name := "report.schema.json"
	if head.Schema == freezeframe.DiagnosisSchema {
		name = "diagnosis.schema.json"
	}
	schema, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func diagnosis(reports ...freezeframe.Report) freezeframe.Diagnosis {
	at := time.Date(2026, 11, 25, 3, 1, 30, 0, time.UTC)
	return Diagnosis(freezeframe.Observed{Start: at, End: at.Add(20 * time.Second)}, freezeframe.Coverage{
		Probes: []string{"heartbeat", "fsync /"}, Sources: []string{"stat"}, Services: []string{"0.0.0.0:8000 gunicorn (12)", hostile},
		NotSeen:  []freezeframe.NotSeen{{What: "read /proc/1/stack", Lost: "kernel stacks", Fix: "run as root", Err: "permission denied"}},
		Recorder: freezeframe.RecorderReport{Samples: 10},
	}, reports)
}

func TestJSONMatchesItsSchema(t *testing.T) {
	w, v, m := frozen()
	report := Build(w, v, m)
	empty := &window{}
	for name, doc := range map[string]any{
		"report":          report,
		"unknown":         Build(w, freezeframe.Verdict{}, m),
		"recurring":       recurring(report),
		"nothing at all":  Build(empty, freezeframe.Verdict{}, Meta{}),
		"diagnosis":       diagnosis(report, report),
		"idle diagnosis":  diagnosis(),
		"empty diagnosis": Diagnosis(diagnosis().Observed, freezeframe.Coverage{}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			var b, again bytes.Buffer
			if err := JSON(&b, doc); err != nil {
				t.Fatal(err)
			}
			validate(t, b.Bytes())
			if !utf8.Valid(b.Bytes()) || bytes.ContainsAny(b.Bytes(), "\x1b\x00\u202e\u2028\u0085") {
				t.Error("the document holds what a terminal obeys")
			}
			if bytes.Contains(b.Bytes(), []byte("null")) {
				t.Error("an empty list must be [], not null")
			}
			if err := JSON(&again, doc); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
				t.Error("the same document gave other bytes")
			}
			r, d, err := Read(&b)
			if err != nil {
				t.Fatal(err)
			}
			var back any
			if r != nil {
				back = *r
			} else {
				back = *d
			}
			if diff := cmp.Diff(doc, back); diff != "" {
				t.Errorf("what was written is not what was read:\n%s", diff)
			}
		})
	}
}

// recurring is a report of a series.
func recurring(r freezeframe.Report) freezeframe.Report {
	r.Recurrence = &freezeframe.Recurrence{Count: 7, First: time.Date(2026, 11, 21, 3, 10, 0, 0, time.UTC), Last: time.Date(2026, 11, 27, 3, 10, 0, 0, time.UTC), SpacingS: 86400, Regular: true,
		Pattern: "every day at 03:10 ± 2 min (6 of 7 days)", Unit: "apt-daily.timer"}
	return r
}

func TestRecurrence(t *testing.T) {
	w, v, m := frozen()
	r := recurring(Build(w, v, m))
	text := func() string {
		var b bytes.Buffer
		if err := Text(&b, r, TextOptions{Width: 160}); err != nil {
			t.Fatal(err)
		}
		checkText(t, b.String(), false)
		line := regexp.MustCompile(`(?m)^Recurs.*$`).FindString(b.String())
		return strings.TrimSpace(strings.TrimPrefix(line, "Recurs"))
	}
	if got, want := text(), "7th time since 21 Nov; every day at 03:10 ± 2 min (6 of 7 days), when apt-daily.timer runs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var html bytes.Buffer
	if err := writeHTML(&html, []byte(placeholder), r, w, nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(html.String(), `"recurs":"7th time since 21 Nov; every day`) {
		t.Error("the page is not told")
	}
	r.Recurrence.Pattern, r.Recurrence.Count, r.Recurrence.Unit = "", 22, "\x1b[2J"
	r.Recurrence.First = r.Recurrence.First.AddDate(-1, 0, 0)
	if got, want := text(), "22nd time since 21 Nov 2025; usually 24 h 0 min apart, when \\x1b[2J runs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r.Recurrence.Unit = hostile
	text()
	if r.Recurrence.Count = 1; text() != "first time" {
		t.Errorf("once: %q", text())
	}
	if r.Recurrence = nil; text() != "" {
		t.Errorf("where nobody keeps reports: %q", text())
	}
	for n, want := range map[int]string{2: "2nd", 3: "3rd", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 111: "111th", 1003: "1003rd"} {
		if got := ordinal(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// The schema must be able to refuse, or the test above says nothing.
func TestSchemaRefuses(t *testing.T) {
	w, v, m := frozen()
	for name, spoil := range map[string]func(*freezeframe.Report){
		"a control character": func(r *freezeframe.Report) { r.Causes[0].Summary = "\x1b[2J" },
		"no cause":            func(r *freezeframe.Report) { r.Causes = nil },
		"101 percent":         func(r *freezeframe.Report) { r.UnexplainedPct = 101 },
		"a local time":        func(r *freezeframe.Report) { r.Stall.Start = r.Stall.Start.In(time.FixedZone("x", 3600)) },
		"another schema":      func(r *freezeframe.Report) { r.Schema = "freezeframe.report/v2" },
	} {
		r := Build(w, v, m)
		spoil(&r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		c.AssertFormat()
		schema, _ := Schemas()
		doc, _ := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
		c.AddResource("report.schema.json", doc)
		s, err := c.Compile("report.schema.json")
		if err != nil {
			t.Fatal(err)
		}
		inst, _ := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if s.Validate(inst) == nil {
			t.Errorf("a report with %s passes", name)
		}
	}
}

func TestReadBadDocuments(t *testing.T) {
	w, v, m := frozen()
	var good bytes.Buffer
	if err := JSON(&good, Build(w, v, m)); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                                   "not a JSON document",
		"{}":                                 `no "schema"`,
		"[1]":                                "not a JSON document",
		`{"schema":"x\u001b[2J"}`:            `"x\\x1b[2J"`,
		"{\n\n\"schema\": nope}":             "line 3",
		`{"schema":"freezeframe.report/v1"}`: "no cause",
		`{"schema":"freezeframe.report/v1","stall":{"start":"yesterday"}}`: "not a report",
		`{"schema":"freezeframe.diagnosis/v1"}`:                            "when was watched",
		`{"schema":"freezeframe.diagnosis/v1","observed":{"start":"2026-01-01T00:00:00Z","end":"2026-01-01T00:01:00Z"},"reports":[{}]}`: "in report 1 of 1: it has no cause",
		`{"schema":"freezeframe.report/v1","causes":[{}]}`:                        "a cause has no name",
		`{"schema":"freezeframe.report/v1","causes":[{"id":"fs.full"}]}`:          "when the stall began",
		"{\"schema\":\"freezeframe.report/v1\",\n\"stall\":{\"symptoms\":\"x\"}}": `line 2: "stall.symptoms" cannot be a string`,
	} {
		if _, _, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", in, err, want)
		}
	}
	if _, _, err := Read(strings.NewReader("\ufeff" + good.String())); err != nil {
		t.Errorf("a report behind a byte order mark: %v", err)
	}
	for n := range good.Len() - 2 {
		if _, _, err := Read(bytes.NewReader(good.Bytes()[:n])); err == nil {
			t.Fatalf("a report cut after %d of %d bytes was read", n, good.Len())
		}
	}
	if _, _, err := Read(io.LimitReader(zeros{}, maxDocument+10)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("an endless document: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func FuzzRead(f *testing.F) {
	w, v, m := frozen()
	var good bytes.Buffer
	JSON(&good, Build(w, v, m))
	f.Add(good.Bytes())
	good.Reset()
	JSON(&good, diagnosis())
	f.Add(good.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, d, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		var text bytes.Buffer
		if r != nil {
			Text(&text, *r, TextOptions{Width: 60})
		} else {
			DiagnosisText(&text, *d, TextOptions{Width: 60})
		}
		checkText(t, text.String(), false)
	})
}

func FuzzClean(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		c := Clean(s)
		checkText(t, c, false)
		if strings.Contains(c, "\n") {
			t.Errorf("%q is more than one line", c)
		}
		if Clean(c) != c {
			t.Errorf("cleaning %q again changes it", c)
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä 字": "plain ä 字", "a\x1b[1m": `a\x1b[1m`, "\xff\xfe": `\xff\xfe`, "a\nb\tc": `a\nb\tc`,
		"\u202eab": `\u202eab`, "\u0085": `\u0085`, "\U000e0001": `\U000e0001`, "\ufffd": "\ufffd", "": "",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

func checkText(t *testing.T, text string, colours bool) {
	t.Helper()
	if colours {
		text = colour.ReplaceAllString(text, "")
	}
	if !utf8.ValidString(text) {
		t.Error("the text is not UTF-8")
	}
	for _, r := range text {
		if r != '\n' && hidden(r) {
			t.Fatalf("the text holds %q:\n%q", r, text)
		}
	}
}

func TestText(t *testing.T) {
	w, v, m := frozen()
	r := Build(w, v, m)
	for _, width := range []int{0, 40, 80, 140} {
		for _, colours := range []bool{false, true} {
			var b bytes.Buffer
			if err := Text(&b, r, TextOptions{Width: width, Color: colours}); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			checkText(t, text, colours)
			if colours != colour.MatchString(text) {
				t.Errorf("width %d: colour asked %v, found %v", width, colours, !colours)
			}
			for _, line := range strings.Split(colour.ReplaceAllString(text, ""), "\n") {
				if n := utf8.RuneCountInString(line); n > max(width, 80) && width != 40 || n > 60 && width == 40 {
					t.Errorf("width %d: a line of %d: %s", width, n, line)
				}
			}
		}
	}
	var b bytes.Buffer
	Text(&b, r, TextOptions{Width: 200})
	first, _, _ := strings.Cut(b.String(), "\n")
	if want := "Your service gunicorn (pid 12) on 0.0.0.0:8000 did not answer for 3.20 s."; first != want {
		t.Errorf("the first line is %q, want %q", first, want)
	}
	at := -1
	for _, want := range []string{"explained by a frozen filesystem", "Unexplained", "Who waited for whom", "Evidence", "What followed from it", "Where the time", "Timeline", "What to do", "fsfreeze --unfreeze", "What was not seen", "boot with psi=1", "freezeframe itself used 1.2 %"} {
		i := strings.Index(strings.ToLower(b.String()), strings.ToLower(want))
		if i <= at {
			t.Errorf("%q is missing or out of order (at %d after %d)", want, i, at)
		}
		at = i
	}
}

func TestIdleTextSaysWhatWasWatched(t *testing.T) {
	var b bytes.Buffer
	if err := DiagnosisText(&b, diagnosis(), TextOptions{Width: 100}); err != nil {
		t.Fatal(err)
	}
	checkText(t, b.String(), false)
	for _, want := range []string{"Nothing stalled in the 20.00 s", "2: heartbeat, fsync /", "0.0.0.0:8000 gunicorn", "1: stat", "To get it: run as root"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &b)
		}
	}
	if strings.Contains(strings.ToLower(b.String()), "healthy") {
		t.Error("it says healthy")
	}
}

func TestSeveralStallsLongestFirst(t *testing.T) {
	w, v, m := frozen()
	long := Build(w, v, m)
	w.stall.End = w.stall.Start + second
	short := Build(w, v, m)
	var b bytes.Buffer
	DiagnosisText(&b, diagnosis(short, long), TextOptions{})
	text := b.String()
	if !strings.HasPrefix(text, "2 stalls in the 20.00 s") || strings.Index(text, long.ID) > strings.Index(text, short.ID) {
		t.Errorf("two stalls:\n%s", text)
	}
}

func TestHTML(t *testing.T) {
	w, v, m := frozen()
	r := Build(w, v, m)
	index := []byte(`<html><script type="application/json" id="data">` + placeholder + `</script></html>`)
	var b bytes.Buffer
	if err := writeHTML(&b, index, r, w, nil); err != nil {
		t.Fatal(err)
	}
	html := b.String()
	if strings.Count(html, "</script>") != 1 || strings.Contains(html, "<script>alert") || strings.ContainsAny(html, "\u2028\u2029\u202e\x00") {
		t.Error("a process name broke out of the data block")
	}
	var data pageData
	inner := strings.TrimSuffix(strings.TrimPrefix(html, `<html><script type="application/json" id="data">`), `</script></html>`)
	if err := json.Unmarshal([]byte(inner), &data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, data.Report, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the page has another report:\n%s", diff)
	}
	if len(data.Charts) != 1 || data.Charts[0].Source != "stat" || len(data.Charts[0].At) != maxPoints {
		t.Fatalf("charts: %d", len(data.Charts))
	}
	for _, s := range data.Charts[0].Series {
		peak := 0.0
		for _, v := range s.Values {
			if v != nil {
				peak = max(peak, *v)
			}
		}
		// 100 µs every 50 ms is 2,000 a second, and one reading jumped by 2^30.
		if s.Column == "user_us" && peak < 2e10 {
			t.Errorf("the peak of one reading was lost: %v", peak)
		}
		if s.Column == "idle_us" && peak != 20000 {
			t.Errorf("idle_us peaks at %v a second, want 20000", peak)
		}
	}
	if len(data.Processes) != 2 || data.Processes[1].PID != 44 || data.Processes[0].State != "D" || data.Processes[0].Unit != "web.service" || data.Processes[1].CPUPct != 0.1 {
		t.Errorf("processes: %+v", data.Processes)
	}
	if err := writeHTML(io.Discard, nil, r, w, nil); !errors.Is(err, ErrNoPage) {
		t.Errorf("without the page: %v", err)
	}
	if err := writeHTML(io.Discard, []byte("<html>"), r, w, nil); err == nil {
		t.Error("a page without a place for the data was accepted")
	}
	if err := writeHTML(io.Discard, index, r, nil, nil); err != nil {
		t.Errorf("without a window: %v", err)
	}
	if built := page.Index(); built != nil {
		if n := bytes.Count(built, []byte(placeholder)); n != 1 {
			t.Errorf("the built page has %d places for the data", n)
		}
		if bytes.Contains(built, []byte(`src="http`)) || bytes.Contains(built, []byte(`href="http`)) || bytes.Contains(built, []byte("<link")) {
			t.Error("the built page loads something")
		}
		if !bytes.Contains(built, []byte("default-src 'none'")) {
			t.Error("the built page has no content security policy")
		}
	}
}

func TestHTMLHasTheStacks(t *testing.T) {
	w, v, m := frozen()
	r := Build(w, v, m)
	index := []byte(placeholder)
	write := func(in []stacks.Stack) (string, pageData) {
		t.Helper()
		var b bytes.Buffer
		if err := writeHTML(&b, index, r, w, in); err != nil {
			t.Fatal(err)
		}
		var data pageData
		if err := json.Unmarshal(b.Bytes(), &data); err != nil {
			t.Fatal(err)
		}
		return b.String(), data
	}
	text, data := write(nil)
	if data.Stacks != nil || strings.Contains(text, `"stacks"`) {
		t.Error("a report without stacks has some")
	}
	in := []stacks.Stack{{Comm: hostile, Frames: []string{"vfs_fsync_range", hostile, "main"}, Kernel: 1, State: stacks.OffCPU, Nanoseconds: 3e9}}
	text, data = write(in)
	if strings.Contains(text, "</script>") || strings.ContainsAny(text, "\u2028\u2029\u202e\x00\x1b") {
		t.Error("a function's name broke out of the data block")
	}
	if diff := cmp.Diff(stacks.NewFlames(in, stacks.MaxFlameBytes), data.Stacks); diff != "" || len(data.Stacks.Graphs) != 1 {
		t.Errorf("the page has other stacks:\n%s", diff)
	}
	// A flood of them stays within its limit.
	small := len(text)
	for i := range 20_000 {
		in = append(in, stacks.Stack{Comm: "flood", Frames: []string{fmt.Sprintf("function_%d", i), "main"}, State: stacks.OnCPU, Nanoseconds: 1000})
	}
	if text, data = write(in); len(text)-small > stacks.MaxFlameBytes || data.Stacks.Graphs[0].OtherStacks == 0 {
		t.Errorf("%d bytes more for 20,000 stacks", len(text)-small)
	}
}

func TestHostFacts(t *testing.T) {
	h := Host(t.Context())
	if h.Kernel == "" || h.CPUs == 0 || h.MemoryBytes == 0 || h.Boot.IsZero() {
		t.Errorf("facts of this host are missing: %+v", h)
	}
	if name := Users()(0); name != "root" {
		t.Errorf("user 0 is %q", name)
	}
}

func TestEveryProbeHasWords(t *testing.T) {
	for probe, want := range map[string]string{
		"heartbeat": "an ordinary thread", "heartbeat_rt": "real-time", "fsync": "fsync on T took 1.50 s", "page_touch": "memory",
		"fork": "starting a process", "loopback": "itself", "active": "T did not answer our request", "accept": "a service on T did not accept",
		"receive": "did not read", "answer": "a service on T did not answer for 1.50 s.", "delivery": "sent to T did not arrive", "connect": "no connection to T",
		"stuck": "T was stuck", "clock": "clock jumped", "new_one": "new_one on T was late by 1.50 s.",
	} {
		if got := felt(&freezeframe.SymptomReport{Probe: probe, Target: "T", WorstMs: 1500}); !strings.Contains(got, want) || !strings.HasSuffix(got, ".") {
			t.Errorf("%s: %q, want it to say %q", probe, got, want)
		}
	}
	for probe, want := range map[string]string{
		"limits": "T: refused with ENOSPC.", "fsync": "fsync on T failed: ENOSPC.", "accept": "dropped new ones", "kernel_log": "the kernel reported: ENOSPC.",
	} {
		if got := felt(&freezeframe.SymptomReport{Probe: probe, Target: "T", Error: "ENOSPC"}); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want it to say %q", probe, got, want)
		}
	}
	if got := felt(&freezeframe.SymptomReport{Probe: "accept", Target: "T", Error: "dropped"}); strings.Contains(got, " for ") {
		t.Errorf("connections that were dropped took a time: %q", got)
	}
	if got := felt(&freezeframe.SymptomReport{Probe: "answer", Victims: []string{"a (b) (12)", "c (13)", "d (14)"}}); !strings.Contains(got, "your service a (b) (pid 12) and 2 more did") {
		t.Errorf("three victims: %q", got)
	}
}

// The longest wait is not what people felt where it is doubtful that it was one.
func TestHeadlineIsOfWhatWasFelt(t *testing.T) {
	r := &freezeframe.Report{Stall: freezeframe.StallReport{Symptoms: []freezeframe.SymptomReport{
		{Probe: "answer", Target: "web", WorstMs: 300}, {Probe: "answer", Target: "queue", WorstMs: 10000, Doubtful: true},
	}}}
	if got := Headline(r); !strings.Contains(got, "web") {
		t.Errorf("%q", got)
	}
	r.Stall.Symptoms = append(r.Stall.Symptoms[1:], freezeframe.SymptomReport{Probe: "heartbeat", WorstMs: 300})
	if got := Headline(r); !strings.Contains(got, "queue") {
		t.Errorf("of our own work: %q", got)
	}
}
