package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"freezeframe"
	"freezeframe/internal/config"
	"freezeframe/internal/control"
	"freezeframe/internal/stranger"
	"freezeframe/reports"
)

// fakeDaemon answers from the fixtures in a directory.
type fakeDaemon struct {
	dir string
}

func (f fakeDaemon) Status(context.Context) (reports.Status, error) {
	now := time.Now()
	l, err := f.List(context.Background(), control.ListRequest{})
	return reports.Status{
		Version: "0.9-test", PID: 812, Started: now.Add(-90 * time.Minute), Config: "/etc/freezeframe/config.yaml",
		ConfigErr: "unknown key \x1b[2J", Without: []string{"real-time priority: operation not permitted"},
		Coverage: freezeframe.Coverage{Probes: []string{"heartbeat"}, Recorder: freezeframe.RecorderReport{CPUPercent: 0.4, RSSBytes: 40 << 20, Samples: 10}},
		Stalled:  &reports.StalledNow{Since: now.Add(-3 * time.Second), What: "fsync on / takes 3 s"},
		Box: reports.BoxStatus{
			Dir: "/var/lib/freezeframe/box", Bytes: 100 << 20, MaxBytes: 1 << 30, Segments: 12,
			Oldest: now.Add(-48 * time.Hour), Newest: now, LagMs: 1200,
		},
		Incidents: l.Incidents,
	}, err
}

func (f fakeDaemon) List(_ context.Context, q control.ListRequest) (reports.Listing, error) {
	all := []reports.Incident{
		{ID: "20260114T031002.500Z-0011aabb", Start: time.Date(2026, 1, 14, 3, 10, 2, 0, time.UTC), DurationMs: 1500, Cause: "fs.frozen",
			Culprit: "backup\x1b[2J (pid 12), unit backup.service", Count: 7, Pattern: "every day at 03:10 ± 2 min"},
		{ID: "20260113T120000.000Z-0022aabb", Start: time.Date(2026, 1, 13, 12, 0, 0, 0, time.UTC), DurationMs: 90000, Cause: "unknown", Summary: "Nothing explains it", Count: 1},
	}
	l := reports.Listing{}
	for _, i := range all {
		if (q.Cause == "" || q.Cause == i.Cause) && !i.Start.Before(q.Since) && (q.Until.IsZero() || i.Start.Before(q.Until)) {
			l.Incidents = append(l.Incidents, i)
		}
	}
	if q.Limit > 0 && len(l.Incidents) > q.Limit {
		l.More, l.Incidents = len(l.Incidents)-q.Limit, l.Incidents[:q.Limit]
	}
	return l, nil
}

func (f fakeDaemon) Show(_ context.Context, q control.ShowRequest) (control.Document, error) {
	name := map[string]string{control.FormJSON: "report.json", control.FormFRZ: "stalled.frz"}[q.Form]
	switch {
	case q.ID == "torn":
		return control.Document{Body: torn{io.MultiReader(strings.NewReader("{"), brokenDisk{})}}, nil
	case !strings.HasPrefix(q.ID, "20") && q.ID != control.Last || q.ID == "20990101T000000":
		return control.Document{}, control.Errorf(control.CodeNotFound, "there is no incident %q: freezeframe list shows them", q.ID)
	case name == "":
		return control.Document{}, control.Errorf(control.CodeNotFound, "no page is kept of it")
	}
	file, err := os.Open(filepath.Join(f.dir, name))
	return control.Document{Body: file}, err
}

// Diagnose says by its time what it was asked for.
func (f fakeDaemon) Diagnose(_ context.Context, q control.DiagnoseRequest) (freezeframe.Diagnosis, error) {
	file, err := os.Open(filepath.Join(f.dir, "diagnosis.json"))
	if err != nil {
		return freezeframe.Diagnosis{}, err
	}
	defer file.Close()
	_, d, err := reports.Read(file)
	if err != nil {
		return freezeframe.Diagnosis{}, err
	}
	if !q.Last {
		d.Observed = freezeframe.Observed{Start: q.Since, End: q.Until}
		if q.Until.IsZero() {
			d.Observed.End = time.Now()
		}
	}
	if _, err := os.Stat(filepath.Join(f.dir, "quiet")); err == nil {
		d.Reports = nil
	}
	return *d, nil
}

func (f fakeDaemon) Capture(_ context.Context, q control.CaptureRequest) (control.Document, error) {
	if q.Last > time.Hour {
		return control.Document{Body: torn{io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), brokenDisk{})}}, nil
	}
	file, err := os.Open(filepath.Join(f.dir, "stalled.frz"))
	return control.Document{Body: file, Notes: []string{fmt.Sprintf("asked for %s; nothing before \x1b[2J", q.Last)}}, err
}

func (f fakeDaemon) Reload(context.Context) error {
	if _, err := os.Stat(filepath.Join(f.dir, "badconfig")); err == nil {
		return errors.New("the configuration before it stays: unknown key")
	}
	return nil
}

type torn struct{ io.Reader }

func (torn) Close() error { return nil }

type brokenDisk struct{}

func (brokenDisk) Read([]byte) (int, error) {
	return 0, errors.New("read the black box: input/output error")
}

// answer serves the fake on a socket in dir, whoever runs the tests.
func answer(dir, group string) (stop func() error, err error) {
	l, err := control.Listen(filepath.Join(dir, "control.sock"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- control.Serve(ctx, l, fakeDaemon{dir}, control.Options{Version: "0.9-test", Group: group})
	}()
	return func() error { cancel(); return <-done }, nil
}

// ownGroup is one that whoever runs the tests is in.
func ownGroup() (string, error) {
	g, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		return "", err
	}
	return g.Name, nil
}

func daemon(ts *testscript.TestScript, neg bool, args []string) {
	kind := strings.Join(args, " ")
	path := ts.MkAbs("control.sock")
	switch {
	case neg:
		ts.Fatalf("usage: daemon [newer|stale]")
	case kind == "":
		group, err := ownGroup()
		ts.Check(err)
		stop, err := answer(ts.MkAbs("."), group)
		ts.Check(err)
		ts.Defer(func() { ts.Check(stop()) })
	case kind == "stale":
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		ts.Check(err)
		l.SetUnlinkOnClose(false)
		ts.Check(l.Close())
	case kind == "newer":
		l, err := net.Listen("unix", path)
		ts.Check(err)
		ts.Defer(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				hello := `{"protocol":"freezeframe.control","min":7,"max":9,"version":"8.0","mood":"good"}`
				frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(hello))), 'H')
				_, _ = c.Write(append(frame, hello...)) // the script sees what becomes of it
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
		}()
	default:
		ts.Fatalf("no daemon %q", kind)
	}
}

// asStranger runs the command as a user who is neither root nor in the group, in
// the directory of its copy.
func asStranger(t *testing.T, c stranger.Copied, groups []uint32, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := c.Command(groups, args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "FREEZEFRAME_DAEMON_SOCKET="+filepath.Join(c.Dir, "control.sock"), "FREEZEFRAME_DAEMON_STATE_DIR="+filepath.Join(c.Dir, "state"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// A user who is neither root nor in the group is told what to do by every verb
// that asks, and those that can do without the daemon do.
func TestStrangersAreRefused(t *testing.T) {
	c := stranger.Copy(t, "freezeframe", 0o777)
	if err := fixtures(c.Dir); err != nil {
		t.Fatal(err)
	}
	// adm stands for the group; every Debian has it.
	adm, err := user.LookupGroup("adm")
	if err != nil {
		t.Fatal(err)
	}
	var gid uint32
	if _, err := fmt.Sscan(adm.Gid, &gid); err != nil {
		t.Fatal(err)
	}
	stop, err := answer(c.Dir, "adm")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	want := `only root and members of the group "adm" may ask the daemon: ask as root, or join it (usermod -aG adm NAME, as root)`
	for _, args := range [][]string{{"list"}, {"show", "last"}, {"status"}, {"diagnose", "--last"}, {"reload"}, {"capture", "--last", "1m", "x.frz"}} {
		if out, errs, code := asStranger(t, c, nil, args...); code != exitFailure || !strings.Contains(errs, want) || out != "" {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
	if out, errs, code := asStranger(t, c, []uint32{4242, gid}, "list"); code != 0 || !strings.Contains(out, "fs.frozen") {
		t.Errorf("a member: exit %d, %q, %q", code, out, errs)
	}
	if out, errs, code := asStranger(t, c, []uint32{gid}, "reload"); code != exitFailure || out != "" || !strings.Contains(errs, "only root") {
		t.Errorf("a member reloads: exit %d, %q, %q", code, out, errs)
	}
	if out, errs, code := asStranger(t, c, []uint32{gid}, "capture", "now.frz"); code != 0 || !strings.Contains(errs, "the last 2m0s") {
		t.Errorf("a member: exit %d, %q, %q", code, out, errs)
	}
}

func TestFileThatIsNoGoodDoesNotKeepFromAsking(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("stall: {quiet: 1h}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	a := &app{stderr: &said, sources: config.Sources{Default: file}}
	_, bad := config.Load(a.sources)
	if bad == nil {
		t.Fatal("the file is good")
	}
	if err := a.withoutFile(bad); err != nil || a.config.Daemon.Socket == "" {
		t.Errorf("asks nobody (at %q): %v", a.config.Daemon.Socket, err)
	}
	if !strings.Contains(said.String(), "stall.quiet") || !strings.Contains(said.String(), a.config.Daemon.Socket) {
		t.Errorf("it says %q", said.String())
	}
	// A variable is whoever's who asks.
	a.sources.Environ = []string{"FREEZEFRAME_RING_BYTS=1"}
	if err := a.withoutFile(bad); err != bad {
		t.Errorf("a wrong variable: %v", err)
	}
}
