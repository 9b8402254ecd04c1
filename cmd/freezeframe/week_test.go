package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"freezeframe"
	"freezeframe/internal/archive"
	"freezeframe/internal/kernel"
	"freezeframe/internal/schedules"
	"freezeframe/internal/stranger"
	"freezeframe/recorder"
	"freezeframe/reports"
)

// past is a state directory that a daemon has left: an hour a segment, made of
// the chunks of a real recording again and again, to as many bytes as a day may
// have.
type past struct {
	t          testing.TB
	dir        string // of the state
	begin, end time.Time
	clock      freezeframe.Clock
	head       map[string]any
	sections   [][]byte // CHNK, as they are in the file
	first      freezeframe.Instant
	stall      freezeframe.Stall
	report     freezeframe.Report
	frz        []byte
	number     uint64
}

const (
	hourBytes = 40 << 20 / 24
	pastRun   = 1_700_000_000_000
)

// newPast makes a directory that holds so many hours, of which the newest ended
// two hours ago.
func newPast(t testing.TB, hours int) *past {
	t.Helper()
	file := filepath.Join("..", "..", "incidents", "app.stopped.job-control.frz")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	v, damage, err := load(file)
	if err != nil || damage != nil || len(v.windows) != 1 {
		t.Fatalf("%v, %v, %d stalls", err, damage, len(v.windows))
	}
	p := &past{t: t, dir: filepath.Join(t.TempDir(), "state"), report: v.diagnosis.Reports[0], frz: data, stall: v.windows[0].Stall()}
	p.clock = freezeframe.Clock{Mono: freezeframe.Instant(40 * 24 * time.Hour), WallNanos: time.Now().UnixNano()} // of a boot before this one
	p.end = time.Now().Add(-2 * time.Hour).Truncate(time.Second)
	p.begin = p.end.Add(-time.Duration(hours) * time.Hour)
	unpack, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unpack.Close()
	for at := 16; at < len(data); {
		n := 28 + int(binary.LittleEndian.Uint32(data[at+12:]))
		section := data[at : at+n]
		switch string(section[4:8]) {
		case "HEAD":
			text, err := unpack.DecodeAll(section[28:], nil)
			if err != nil || json.Unmarshal(text, &p.head) != nil {
				t.Fatal(err, string(text))
			}
		case "CHNK":
			first := freezeframe.Instant(binary.LittleEndian.Uint64(section[28+16:]))
			if p.sections = append(p.sections, section); p.first == 0 || first < p.first {
				p.first = first
			}
		}
		at += n
	}
	for _, dir := range []string{"box", "reports"} {
		if err := os.MkdirAll(filepath.Join(p.dir, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	mark := fmt.Sprintf(`{"Boot":"before","Run":%d,"Began":%q,"Clean":true}`, pastRun, p.begin.Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(p.dir, "box", "run.json"), []byte(mark), 0o640); err != nil {
		t.Fatal(err)
	}
	return p
}

// at is a moment of the past as an Instant.
func (p *past) at(t time.Time) freezeframe.Instant { return p.clock.Instant(t) }

// stalled is the stall of the recording as it would have been at the moment at
// which a copy of it begins.
func (p *past) stalled(copied time.Time) freezeframe.Stall {
	d := p.at(copied) - p.first
	var s freezeframe.Stall
	b, err := json.Marshal(p.stall)
	if err != nil || json.Unmarshal(b, &s) != nil {
		p.t.Fatal(err)
	}
	s.Start, s.End = s.Start+d, s.End+d
	for i := range s.Symptoms {
		sy := &s.Symptoms[i]
		sy.Span.Start, sy.Span.End = sy.Span.Start+d, sy.Span.End+d
		for j := range sy.Late {
			sy.Late[j].Start, sy.Late[j].End = sy.Late[j].Start+d, sy.Late[j].End+d
		}
	}
	return s
}

// hour writes one segment with the events, and returns when its copies begin.
func (p *past) hour(n int, events func(copies []time.Time) []freezeframe.Event) {
	p.t.Helper()
	start := p.begin.Add(time.Duration(n) * time.Hour)
	size := 0
	for _, s := range p.sections {
		size += len(s)
	}
	var copies []time.Time
	for k := range max(hourBytes/size, 1) {
		copies = append(copies, start.Add(time.Duration(k)*time.Hour/time.Duration(max(hourBytes/size, 1))))
	}
	head := map[string]any{}
	for k, v := range p.head {
		head[k] = v
	}
	span := freezeframe.Span{Start: p.at(start), End: p.at(start.Add(time.Hour))}
	head["Span"], head["Clock"], head["Stalls"] = span, p.clock, nil
	head["Segment"] = map[string]any{"Run": pastRun, "Boot": "before", "Thinned": true}
	b := append([]byte("\x89FRZ\r\n\x1a\n"), 1, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	b = p.section(b, "HEAD", head)
	for _, c := range copies {
		d := uint64(p.at(c) - p.first)
		for _, s := range p.sections {
			s = bytes.Clone(s)
			for _, at := range []int{28 + 16, 28 + 24} {
				binary.LittleEndian.PutUint64(s[at:], binary.LittleEndian.Uint64(s[at:])+d)
			}
			p.number += 2 // nothing runs on from one into the next
			binary.LittleEndian.PutUint64(s[28+8:], p.number)
			b = append(b, sealed(s)...)
		}
	}
	b = p.section(b, "EVNT", events(copies))
	b = p.section(b, "HEAD", head)
	b = p.section(b, "TAIL", map[string]any{})
	name := fmt.Sprintf("%013d.%07d-%07d.%013d-%013d.hour.frz", pastRun, n*60+1, n*60+60, start.UnixMilli(), start.Add(time.Hour).UnixMilli())
	if err := os.WriteFile(filepath.Join(p.dir, "box", name), b, 0o640); err != nil {
		p.t.Fatal(err)
	}
}

// section appends one of JSON.
func (p *past) section(b []byte, tag string, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer pack.Close()
	payload := pack.EncodeAll(text, nil)
	s := append([]byte{0xf5, 0x9c, 0x66, 0x7a}, tag...)
	s = binary.LittleEndian.AppendUint32(s, 0)
	s = binary.LittleEndian.AppendUint32(s, uint32(len(payload)))
	s = binary.LittleEndian.AppendUint32(s, uint32(len(text)))
	s = append(s, make([]byte, 8)...)
	return append(b, sealed(append(s, payload...))...)
}

// sealed puts the checksums of a section right.
func sealed(s []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(s[20:], crc32.Checksum(s[28:], table))
	binary.LittleEndian.PutUint32(s[24:], crc32.Checksum(s[:24], table))
	return s
}

// keep puts the report of a stall into the archive, with its recording.
func (p *past) keep(a *archive.Archive, s freezeframe.Stall) {
	p.t.Helper()
	r := p.report
	r.Stall.Start, r.Stall.End = p.clock.Wall(s.Start), p.clock.Wall(s.End)
	r.ID = r.Stall.Start.UTC().Format("20060102T150405.000Z") + r.ID[strings.LastIndexByte(r.ID, '-'):]
	err := a.Add(r, func(dir string) ([]string, error) {
		return []string{r.ID + ".frz"}, os.WriteFile(filepath.Join(dir, r.ID+".frz"), p.frz, 0o640)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// fill makes all hours: a stall in every fourth, of which each tenth has no
// report, and what was watched.
func (p *past) fill(hours int) (stalls, unkept int) {
	p.t.Helper()
	a, err := archive.Open(archive.Options{
		Dir:  filepath.Join(p.dir, "reports"),
		Jobs: func(context.Context) ([]schedules.Job, error) { return nil, nil },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	defer a.Close()
	for n := range hours {
		p.hour(n, func(copies []time.Time) []freezeframe.Event {
			events := []freezeframe.Event{recorder.WatchingEvent(p.at(copies[0]), []string{"fsync", "heartbeat"}, []freezeframe.Need{{What: "a right of then", Lost: "something"}})}
			for i := range 1800 { // what an hour that is thinned has at most of a kind
				at := p.at(copies[0].Add(time.Duration(i) * 2 * time.Second))
				events = append(events, freezeframe.Event{Kind: freezeframe.EventKernelLog, At: at, Text: "a line of the kernel's log, as there are many", Attrs: []freezeframe.Attr{{Name: "level", Value: "4"}}})
			}
			if n%4 == 1 {
				s := p.stalled(copies[len(copies)/2])
				events = append(events, recorder.StallEvent(&s, "a stall"))
				if stalls++; stalls%10 == 1 {
					unkept++
				} else {
					p.keep(a, s)
				}
			}
			return events
		})
	}
	return stalls, unkept
}

// asks is the verb, in this process.
func asks(t testing.TB, dir string, args ...string) (d freezeframe.Diagnosis, stdout, stderr string, code int) {
	t.Helper()
	t.Setenv("FREEZEFRAME_DAEMON_STATE_DIR", filepath.Join(dir, "state"))
	t.Setenv("FREEZEFRAME_DAEMON_SOCKET", filepath.Join(dir, "control.sock"))
	var out, errs bytes.Buffer
	code = run(append([]string{"diagnose", "--config", ""}, args...), &out, &errs)
	if _, doc, err := reports.Read(bytes.NewReader(out.Bytes())); err == nil {
		d = *doc
	}
	return d, out.String(), errs.String(), code
}

func (p *past) span() []string {
	return []string{"--since", p.begin.Format(time.RFC3339), "--until", p.end.Format(time.RFC3339)}
}

// A day long ago, asked with and without a daemon: the answer is the same. What
// has a report has it; what has none is judged from the black box, and is what it
// was.
func TestDiagnoseOfThePast(t *testing.T) {
	p := newPast(t, 24)
	stalls, unkept := p.fill(24)
	if stalls != 6 || unkept != 1 {
		t.Fatal(stalls, unkept)
	}
	dir := filepath.Dir(p.dir)
	want := p.report.Causes[0].ID
	check := func(how string, args ...string) freezeframe.Diagnosis {
		t.Helper()
		d, out, errs, code := asks(t, dir, append(append(p.span(), "--json"), args...)...)
		if code != 0 || len(d.Reports) != stalls {
			t.Fatalf("%s: exit %d, %d reports: %.2000s %s", how, code, len(d.Reports), out, errs)
		}
		if d.Reports[0].ID == "" || !d.Observed.Start.Equal(p.begin) || len(d.Coverage.Gaps) != 0 {
			t.Errorf("%s: %+v, gaps %+v", how, d.Observed, d.Coverage.Gaps)
		}
		for _, r := range d.Reports {
			if r.Causes[0].ID != want || r.Causes[0].Culprit.Comm != p.report.Causes[0].Culprit.Comm {
				t.Errorf("%s: %s is %s by %s", how, r.ID, r.Causes[0].ID, reports.Who(&r.Causes[0].Culprit))
			}
		}
		c := d.Coverage
		if strings.Join(c.Probes, " ") != "fsync heartbeat" || len(c.Sources) < 10 || !strings.Contains(fmt.Sprint(c.NotSeen), "a right of then") {
			t.Errorf("%s: %+v", how, c)
		}
		return d
	}
	offline := check("offline")
	again := check("offline, judged again", "--rejudge")
	// The recordings that are kept beside the reports have the time at which they
	// were made, and with it another order.
	for _, r := range offline.Reports {
		i := slices.IndexFunc(again.Reports, func(x freezeframe.Report) bool { return x.ID == r.ID })
		if i < 0 || r.Causes[0].ID != again.Reports[i].Causes[0].ID {
			t.Errorf("%s is not judged again alike: %+v", r.ID, again.Reports)
		}
	}

	// The same by its files: all are there, the page and the recording of what was
	// judged now among them.
	saved := filepath.Join(dir, "saved")
	if _, _, errs, code := asks(t, dir, append(p.span(), "--out", saved)...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	for _, r := range offline.Reports {
		if again, damage, err := load(filepath.Join(saved, r.ID+".frz")); err != nil || damage != nil || len(again.diagnosis.Reports) != 1 || again.diagnosis.Reports[0].Causes[0].ID != want {
			t.Errorf("%s: %v, %v", r.ID, err, damage)
		}
	}

	// A time in which nothing stalled, and one of which half is not recorded.
	quiet := []string{"--since", p.begin.Add(2 * time.Hour).Format(time.RFC3339), "--until", p.begin.Add(3 * time.Hour).Format(time.RFC3339)}
	if _, out, errs, code := asks(t, dir, quiet...); code != 0 || !strings.HasPrefix(out, "Nothing stalled in the 1 h 0 min watched from ") ||
		!strings.Contains(out, "fsync, heartbeat") || !strings.Contains(errs, "this is what one has left in "+p.dir) || strings.Contains(out, "not recorded") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	early := []string{"--since", p.begin.Add(-time.Hour).Format(time.RFC3339), "--until", p.begin.Add(time.Hour).Format(time.RFC3339)}
	if _, out, _, code := asks(t, dir, early...); code != 0 || !strings.HasPrefix(out, "Nothing stalled in the 1 h 0 min that are recorded of the 2 h 0 min from ") ||
		!strings.Contains(out, "nothing that old is kept, or freezeframe was not") {
		t.Errorf("exit %d: %s", code, out)
	}
	before := []string{"--since", p.begin.Add(-9 * time.Hour).Format(time.RFC3339), "--until", p.begin.Add(-8 * time.Hour).Format(time.RFC3339)}
	if _, out, _, code := asks(t, dir, before...); code != 0 || !strings.HasPrefix(out, "Nothing is recorded of the 1 h 0 min from ") || strings.Contains(out, "Nothing stalled") {
		t.Errorf("exit %d: %s", code, out)
	}
	if d, _, _, code := asks(t, dir, "--last", "--json"); code != 0 || len(d.Reports) != 1 || d.Reports[0].ID != offline.Reports[stalls-1].ID {
		t.Errorf("the last one: exit %d: %+v", code, d.Observed)
	}

	// A daemon has it now.
	d := startDaemon(t, dir, "")
	d.ready()
	check("asked")
	if got := check("asked, judged again", "--rejudge"); got.Reports[3].ID != again.Reports[3].ID {
		t.Errorf("%s, %s", got.Reports[3].ID, again.Reports[3].ID)
	}
	now, _, errs, code := asks(t, dir, "--since", p.end.Add(-time.Minute).Format(time.RFC3339), "--json")
	if gaps := now.Coverage.Gaps; code != 0 || len(gaps) != 1 || gaps[0].End.Sub(gaps[0].Start) < 110*time.Minute || gaps[0].Why != "the machine was down, or freezeframe was not running" {
		t.Errorf("exit %d, gaps %+v: %s", code, gaps, errs)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// Whoever may not read what a daemon has left is told what to do.
func TestDiagnoseOfThePastIsNotForAll(t *testing.T) {
	c := stranger.Copy(t, "freezeframe", 0o755)
	if err := os.MkdirAll(filepath.Join(c.Dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := asStranger(t, c, nil, "diagnose", "--since", "1h"); code != exitFailure || out != "" || !strings.Contains(errs, "may not be read by this user: ask as root; freezeframe diagnose --live watches without it") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// A stall that was open when the daemon was killed, and of whose unclean end the
// report is lost, is judged from the black box.
func TestDiagnoseOfAKilledDaemon(t *testing.T) {
	dir := t.TempDir()
	d, address := stalledDaemon(t, dir)
	d.kill()
	got, out, errs, code := asks(t, dir, "--since", "10m", "--json")
	if code != 0 || len(got.Reports) == 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	r := got.Reports[len(got.Reports)-1]
	if !strings.Contains(fmt.Sprint(r.Stall.Symptoms), address) || !r.Stall.Ongoing {
		t.Errorf("%+v", r.Stall)
	}
	if !strings.Contains(strings.Join(got.Coverage.Probes, " "), "heartbeat") || len(got.Coverage.Sources) == 0 {
		t.Errorf("%+v", got.Coverage)
	}
}

// BenchmarkDiagnoseOfAWeek is the whole verb, of a week of 40 MB a day with 42
// stalls, of which 5 have no report.
func BenchmarkDiagnoseOfAWeek(b *testing.B) {
	p := newPast(b, 7*24)
	stalls, _ := p.fill(7 * 24)
	dir := filepath.Dir(p.dir)
	ask := func(b *testing.B, args ...string) {
		used := kernel.ProcessCPU()
		for b.Loop() {
			if d, out, errs, code := asks(b, dir, append(append(p.span(), "--json"), args...)...); code != 0 || len(d.Reports) != stalls {
				b.Fatalf("exit %d, %d reports: %.500s %s", code, len(d.Reports), out, errs)
			}
		}
		// Where others want the CPU too, this says more than the time; of the daemon's
		// share it says nothing.
		b.ReportMetric(float64((kernel.ProcessCPU()-used).Milliseconds())/float64(b.N), "cpu-ms/op")
	}
	b.Run("offline", func(b *testing.B) { ask(b) })
	b.Run("offline/rejudge", func(b *testing.B) { ask(b, "--rejudge") })
	d := startDaemon(b, dir, "")
	d.ready()
	b.Run("daemon", func(b *testing.B) { ask(b) })
	b.Run("daemon/rejudge", func(b *testing.B) { ask(b, "--rejudge") })
	if err := d.stop(); err != nil {
		b.Error(err)
	}
}
