package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"freezeframe"
	"freezeframe/detectors"
	"freezeframe/internal/kernel"
	"freezeframe/internal/stranger"
	"freezeframe/recorder"
	"freezeframe/reports"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"freezeframe": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// Never the daemon of this machine.
			env.Setenv("FREEZEFRAME_DAEMON_SOCKET", filepath.Join(env.WorkDir, "control.sock"))
			env.Setenv("FREEZEFRAME_DAEMON_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			return fixtures(env.WorkDir)
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"validate": validate, // validate FILE: against the schema it names
			"tinydisk": tinydisk, // tinydisk DIR: mounts a filesystem of 16 KB
			"cut":      cut,      // cut FROM TO BYTES: copies the first bytes of a file
			"zeros":    zeros,    // zeros FILE BYTES: makes a file of zeros
			"daemon":   daemon,   // daemon [newer|stale]: answers on the control socket until the script ends
			"readonly": readonly, // readonly DIR: makes a directory that nobody can write to
		},
	})
}

// hostile is a process name that tries everything.
const hostile = "evil\x1b[31m\xff\u202e</script>\x00"

// recording makes a recording with a stall of 1.5 s and hostile names in it.
func recording() (*recorder.Recording, error) {
	ring := recorder.NewRing(8 << 20)
	src := freezeframe.Source{Name: "stat", Key: "cpu", Every: 50 * time.Millisecond, Columns: []freezeframe.Column{{Name: "user_us"}, {Name: "procs_running", Kind: freezeframe.Gauge}}}
	w, err := ring.Writer(src)
	if err != nil {
		return nil, err
	}
	now := kernel.Now()
	start := now.Add(-10 * time.Second)
	for i := range 200 {
		at := start.Add(time.Duration(i) * 50 * time.Millisecond)
		t := freezeframe.Table{Due: at, At: at}
		copy(t.Row(freezeframe.AllCPUs, 2), []uint64{uint64(i) * 25000, 1})
		w.Append(&t)
	}
	stall := freezeframe.Stall{Span: freezeframe.Span{Start: start.Add(5 * time.Second), End: start.Add(6500 * time.Millisecond)}}
	stall.Symptoms = []freezeframe.Symptom{{
		Probe: "answer", Target: "0.0.0.0:8000", Span: stall.Span, Worst: 1500 * time.Millisecond, Count: 1, Quality: 1,
		Victims: []freezeframe.Victim{{PID: 12, Comm: hostile}},
	}}
	ring.AddEvent(freezeframe.Event{Kind: freezeframe.EventKernelLog, At: stall.Start, Text: "INFO: task " + hostile})
	rec, err := ring.Pin(freezeframe.Span{Start: start, End: now})
	if err != nil {
		return nil, err
	}
	rec.Stalls = []freezeframe.Stall{stall}
	rec.Host, rec.Tool = freezeframe.HostReport{Name: "web1", Kernel: "6.1", OS: "debian 12", CPUs: 2}, "test"
	return rec, nil
}

// fixtures writes stalled.frz, report.json and diagnosis.json.
func fixtures(dir string) error {
	rec, err := recording()
	if err != nil {
		return err
	}
	if err := recorder.WriteFile(filepath.Join(dir, "stalled.frz"), rec); err != nil {
		return err
	}
	// As the file gives it back, so that views of either can be compared.
	if rec, err = recorder.ReadFile(filepath.Join(dir, "stalled.frz")); err != nil {
		return err
	}
	v := judgeAgain(rec)
	if err := recorder.SaveFile(filepath.Join(dir, "diagnosis.json"), func(w io.Writer) error { return reports.JSON(w, v.diagnosis) }); err != nil {
		return err
	}
	return recorder.SaveFile(filepath.Join(dir, "report.json"), func(w io.Writer) error { return reports.JSON(w, v.diagnosis.Reports[0]) })
}

func validate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: validate FILE")
	}
	document := []byte(ts.ReadFile(args[0]))
	var head struct{ Schema string }
	ts.Check(json.Unmarshal(document, &head))
	report, diagnosis := reports.Schemas()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for name, b := range map[string][]byte{"report.schema.json": report, "diagnosis.schema.json": diagnosis} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		ts.Check(err)
		ts.Check(c.AddResource(name, doc))
	}
	name, ok := map[string]string{freezeframe.ReportSchema: "report.schema.json", freezeframe.DiagnosisSchema: "diagnosis.schema.json"}[head.Schema]
	if !ok {
		ts.Fatalf("%s: unknown schema %q", args[0], head.Schema)
	}
	schema, err := c.Compile(name)
	ts.Check(err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	ts.Check(err)
	ts.Check(schema.Validate(doc))
}

func tinydisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tinydisk DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(syscall.Mount("freezeframe-test", dir, "tmpfs", 0, "size=4k"))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: cut FROM TO BYTES")
	}
	var n int
	_, err := fmt.Sscan(args[2], &n)
	ts.Check(err)
	content := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(content[:min(n, len(content))]), 0o644))
}

func zeros(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: zeros FILE BYTES")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o644))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// readonly mounts a read-only filesystem as root, whom no mode keeps out.
func readonly(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: readonly DIR")
	}
	dir := ts.MkAbs(args[0])
	if os.Geteuid() != 0 {
		ts.Check(os.Chmod(dir, 0o555))
		return
	}
	ts.Check(syscall.Mount("freezeframe-test", dir, "tmpfs", syscall.MS_RDONLY, ""))
	ts.Defer(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// A stall that cannot be saved must still be reported, and what can be saved
// is.
func TestFullDiskLosesNoReport(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("freezeframe-test", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	rec, err := recording()
	if err != nil {
		t.Fatal(err)
	}
	incident := detectors.Rejudge(rec, nil)[0]
	r := reports.Build(incident.Window, incident.Verdict, reports.Meta{})
	saved, err := saveAll(dir, r, incident)
	if err == nil || !strings.Contains(err.Error(), "free some space") || !strings.Contains(err.Error(), ".frz") {
		t.Errorf("saved %q, error %v", saved, err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(left) > 0 {
		t.Errorf("parts of files were left behind: %q", left)
	}
}

func TestFullStandardOutputIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	dir := t.TempDir()
	if err := fixtures(dir); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"explain"}, {"version"}, {"view", filepath.Join(dir, "report.json")}, {"view", "--json", filepath.Join(dir, "stalled.frz")}} {
		var stderr bytes.Buffer
		if code := run(args, full, &stderr); code != exitFailure || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%v: exit %d, %q", args, code, &stderr)
		}
	}
}

// The same program as another user runs, and says what it could not see.
func TestUnprivileged(t *testing.T) {
	c := stranger.Copy(t, "freezeframe", 0o755) // testscript.Main makes a program of this name run the verb
	for _, args := range [][]string{{"diagnose", "--for", "1s", "--json"}, {"check"}} {
		cmd := c.Command(nil, args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, &stderr)
		}
		if args[0] == "check" {
			if !strings.Contains(stdout.String(), "without root") {
				t.Errorf("check does not say that it ran without root:\n%s", &stdout)
			}
			continue
		}
		_, d, err := reports.Read(&stdout)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Coverage.NotSeen) == 0 || len(d.Coverage.Sources) < 5 || len(d.Coverage.Probes) < 3 {
			t.Errorf("coverage without root: %d sources, %d probes, %d not seen", len(d.Coverage.Sources), len(d.Coverage.Probes), len(d.Coverage.NotSeen))
		}
	}
}

func TestLogWriterNeverWaits(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	w := newLogWriter(write) // nobody reads: the pipe fills and stays full
	line := bytes.Repeat([]byte("x"), 4096)
	for range 10 * logQueue {
		if n, err := w.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if w.dropped.Load() == 0 {
		t.Error("nothing was dropped although nobody read")
	}
	w.Close()
}

func TestLogWriterKeepsOrder(t *testing.T) {
	var out bytes.Buffer
	w := newLogWriter(&out)
	for i := range 100 {
		fmt.Fprintf(w, "%d\n", i)
	}
	w.Close()
	lines := strings.Fields(out.String())
	if len(lines) != 100 || lines[0] != "0" || lines[99] != "99" {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}
