package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
	"freezeframe/reports"
)

// fake is a daemon that answers what a test tells it to, and remembers what it
// was asked.
type fake struct {
	mu      sync.Mutex
	asked   []any
	status  func(ctx context.Context) (reports.Status, error)
	show    func(ctx context.Context, q ShowRequest) (Document, error)
	capture func(ctx context.Context, q CaptureRequest) (Document, error)
}

func (f *fake) ask(q any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q)
}

func (f *fake) last() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		return nil
	}
	return f.asked[len(f.asked)-1]
}

func (f *fake) Status(ctx context.Context) (reports.Status, error) {
	f.ask(verbStatus)
	if f.status != nil {
		return f.status(ctx)
	}
	return reports.Status{Version: "1.2", PID: 7}, nil
}

func (f *fake) List(_ context.Context, q ListRequest) (reports.Listing, error) {
	f.ask(q)
	return reports.Listing{Incidents: []reports.Incident{{ID: "a"}, {ID: "b"}}, More: 3}, nil
}

func (f *fake) Show(ctx context.Context, q ShowRequest) (Document, error) {
	f.ask(q)
	if f.show != nil {
		return f.show(ctx, q)
	}
	return Document{Body: body("a page"), Notes: []string{"a note"}}, nil
}

func (f *fake) Diagnose(_ context.Context, q DiagnoseRequest) (freezeframe.Diagnosis, error) {
	f.ask(q)
	return diagnosis(3), nil
}

func (f *fake) Capture(ctx context.Context, q CaptureRequest) (Document, error) {
	f.ask(q)
	if f.capture != nil {
		return f.capture(ctx, q)
	}
	return Document{Body: body(strings.Repeat("recorded ", 100_000))}, nil
}

func (f *fake) Reload(context.Context) error {
	f.ask(verbReload)
	return errors.New("config.yaml: unknown key; the old configuration stays")
}

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

func diagnosis(n int) freezeframe.Diagnosis {
	now := time.Date(2026, 1, 14, 15, 30, 20, 0, time.UTC)
	d := freezeframe.Diagnosis{Observed: freezeframe.Observed{Start: now.Add(-time.Hour), End: now}}
	for i := range n {
		d.Reports = append(d.Reports, freezeframe.Report{
			Schema: freezeframe.ReportSchema, ID: fmt.Sprint("r", i), Stall: freezeframe.StallReport{Start: now, End: now},
			Causes: []freezeframe.CauseReport{{ID: freezeframe.CauseUnknown, Title: "]}", Summary: "\x1b[2J"}},
		})
	}
	return d
}

// serving runs a server in this process until the test ends.
func serving(t testing.TB, h Handler, o Options) (path string, counters *Counters) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if o.Version == "" {
		o.Version = "1.2"
	}
	o.Counters = new(Counters)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	})
	return path, o.Counters
}

func dialed(t testing.TB, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path, "1.2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// as makes every client the given user.
func as(p kernel.Peer) Options {
	return Options{
		peer: func(net.Conn) (kernel.Peer, error) { return p, nil },
		gid:  func(string) (uint32, error) { return 900, nil },
	}
}

func TestEveryVerb(t *testing.T) {
	f := &fake{}
	path, counters := serving(t, f, Options{})
	c := dialed(t, path)
	ctx := t.Context()
	since := time.Date(2026, 1, 14, 3, 0, 0, 5, time.UTC)
	until := since.Add(time.Hour)

	s, err := c.Status(ctx)
	if err != nil || s.Version != "1.2" || !s.Running || s.Control == nil || s.Control.Connections != 1 || s.Schema != reports.StatusSchema {
		t.Errorf("status %+v, %v", s, err)
	}
	l, err := c.List(ctx, ListRequest{Since: since, Until: until, Cause: "fs.frozen", Limit: 2})
	if err != nil || len(l.Incidents) != 2 || l.More != 3 {
		t.Errorf("list %+v, %v", l, err)
	}
	if want := (ListRequest{Since: since, Until: until, Cause: "fs.frozen", Limit: 2}); f.last() != want {
		t.Errorf("asked for %+v", f.last())
	}
	if _, err = c.List(ctx, ListRequest{}); err != nil || f.last() != (ListRequest{Limit: MaxList}) {
		t.Errorf("asked for %+v, %v", f.last(), err)
	}
	var b bytes.Buffer
	notes, err := c.Show(ctx, ShowRequest{ID: Last, Form: FormHTML}, &b)
	if err != nil || b.String() != "a page" || !reflect.DeepEqual(notes, []string{"a note"}) || f.last() != (ShowRequest{ID: Last, Form: FormHTML}) {
		t.Errorf("show %q, %q, %v of %+v", &b, notes, err, f.last())
	}
	d, err := c.Diagnose(ctx, DiagnoseRequest{Since: since, Until: until})
	want := reports.Diagnosis(diagnosis(3).Observed, freezeframe.Coverage{}, diagnosis(3).Reports)
	if err != nil || !reflect.DeepEqual(d, want) || f.last() != (DiagnoseRequest{Since: since, Until: until}) {
		t.Errorf("diagnosis %+v, %v of %+v", d, err, f.last())
	}
	b.Reset()
	if _, err := c.Capture(ctx, CaptureRequest{Last: 2 * time.Minute}, &b); err != nil || b.String() != strings.Repeat("recorded ", 100_000) || f.last() != (CaptureRequest{Last: 2 * time.Minute}) {
		t.Errorf("capture of %d bytes, %v of %+v", b.Len(), err, f.last())
	}
	if os.Geteuid() == 0 {
		if err := c.Reload(ctx); err == nil || !strings.Contains(err.Error(), "the old configuration stays") || Code(err) != CodeFailed {
			t.Errorf("reload: %v", err)
		}
	}
	if n := counters.Answered.Load(); n != 6 {
		t.Errorf("%d answered", n)
	}
}

// What is in the middle of a diagnosis, written report by report, is what
// encoding the whole would give.
func TestDiagnosisOneByOne(t *testing.T) {
	for _, n := range []int{0, 1, 2} {
		var b bytes.Buffer
		d := diagnosis(n)
		if err := writeDiagnosis(&b, d); err != nil {
			t.Fatal(err)
		}
		whole := reports.Diagnosis(d.Observed, d.Coverage, d.Reports)
		_, got, err := reports.Read(&b)
		if err != nil || !reflect.DeepEqual(*got, whole) {
			t.Errorf("%d reports: %v\n%+v\n%+v", n, err, got, whole)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	no := func(string) (uint32, error) { return 0, errors.New("unknown group") }
	for _, c := range []struct {
		name    string
		peer    kernel.Peer
		gid     func(string) (uint32, error)
		refused string
		reload  string // the code of the error
	}{
		{"root", kernel.Peer{UID: 0}, nil, "", CodeFailed},
		{"root where there is no group", kernel.Peer{UID: 0}, no, "", CodeFailed},
		{"a member", kernel.Peer{UID: 5, GID: 5, Groups: []uint32{4, 900}}, nil, "", CodeRootOnly},
		{"a member by the first group", kernel.Peer{UID: 5, GID: 900}, nil, "", CodeRootOnly},
		{"somebody else", kernel.Peer{UID: 5, GID: 5, Groups: []uint32{4, 901}}, nil, `members of the group "freezeframe" may ask the daemon: ask as root, or join it (usermod -aG freezeframe NAME, as root)`, ""},
		{"a member of group root", kernel.Peer{UID: 5, GID: 0}, no, `no group "freezeframe"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := as(c.peer)
			if c.gid != nil {
				o.gid = c.gid
			}
			path, counters := serving(t, &fake{}, o)
			client, err := Dial(t.Context(), path, "1.2")
			if c.refused != "" {
				if Code(err) != CodeRefused || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("%v, code %q", err, Code(err))
				}
				if n := counters.Refused.Load(); n != 1 {
					t.Errorf("%d refused", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if err := client.Reload(t.Context()); Code(err) != c.reload {
				t.Errorf("reload: %v, code %q", err, Code(err))
			}
			if _, err := client.Status(t.Context()); err != nil {
				t.Errorf("status after it: %v", err)
			}
		})
	}
}

// A group made while the daemon runs is found by a reload.
func TestReloadLooksTheGroupUpAgain(t *testing.T) {
	var gid, uid atomic.Uint32
	gid.Store(900)
	uid.Store(5)
	o := Options{
		peer: func(net.Conn) (kernel.Peer, error) { return kernel.Peer{UID: uid.Load(), GID: 901}, nil },
		gid:  func(string) (uint32, error) { return gid.Load(), nil },
	}
	path, _ := serving(t, reloads{&fake{}}, o)
	if _, err := Dial(t.Context(), path, ""); Code(err) != CodeRefused {
		t.Fatal(err)
	}
	uid.Store(0)
	gid.Store(901)
	if err := dialed(t, path).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	uid.Store(5)
	dialed(t, path)
}

type reloads struct{ Handler }

func (reloads) Reload(context.Context) error { return nil }

func TestOldAndNewTalkOrSayWhyNot(t *testing.T) {
	for _, c := range []struct {
		name           string
		daemon, client [2]int
		want           string // "": they talk
	}{
		{"the same", [2]int{1, 1}, [2]int{1, 1}, ""},
		{"a newer client that still knows the old", [2]int{1, 1}, [2]int{1, 3}, ""},
		{"an older client of a daemon that still knows it", [2]int{1, 3}, [2]int{2, 2}, ""},
		{"a newer client", [2]int{1, 1}, [2]int{2, 3}, "the daemon is freezeframe 1.2 and talks control protocol 1, this is freezeframe 9 with 2 to 3: restart the daemon"},
		{"an older client", [2]int{2, 3}, [2]int{1, 1}, "the daemon is freezeframe 1.2 and talks control protocol 2 to 3, this is freezeframe 9 with 1: use the freezeframe that the daemon was installed with"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, _ := serving(t, &fake{}, Options{min: c.daemon[0], max: c.daemon[1]})
			me := hello{Protocol: protocolName, Min: c.client[0], Max: c.client[1], Version: "9"}
			client, err := dial(t.Context(), path, me)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if _, err := client.Status(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			if Code(err) != CodeVersion || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			// A client that does not look hears it from the daemon.
			raw := connected(t, path)
			raw.send(jsonFrame(frameHello, me))
			raw.hello()
			if e := raw.ending(); e.Code != CodeVersion || !strings.Contains(e.Text, c.want) {
				t.Errorf("the daemon says %+v", e)
			}
			raw.gone()
		})
	}
}

// A field or verb of another version is an error that says so, never left out
// in silence; the conversation goes on.
func TestWhatIsNotKnownIsSaid(t *testing.T) {
	path, _ := serving(t, &fake{}, Options{})
	raw := connected(t, path)
	raw.greet()
	for _, c := range []struct{ payload, code, text string }{
		{`{"verb":"forecast"}`, CodeUnknown, `does not know the verb "forecast"`},
		{`{"verb":"list","args":{"colour":"red"}}`, CodeUnknown, `does not know "colour"`},
		{`{"verb":"list","hurry":true}`, CodeUnknown, `does not know "hurry"`},
		{`{"verb":"show","args":{"id":"last","form":"pdf"}}`, CodeUnknown, `form "pdf"`},
		{`{"verb":"show","args":{"id":"../../etc/shadow","form":"json"}}`, CodeBadRequest, "no id of an incident"},
		{`{"verb":"show","args":{"id":".a","form":"json"}}`, CodeBadRequest, "no id of an incident"},
		{`{"verb":"show","args":{"id":"a\u0000","form":"json"}}`, CodeBadRequest, "no id of an incident"},
		{`{"verb":"show"}`, CodeBadRequest, "no id of an incident"},
		{`{"verb":"list","args":{"limit":-1}}`, CodeBadRequest, "at most 10000"},
		{`{"verb":"list","args":{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}}`, CodeBadRequest, "ends before it begins"},
		{`{"verb":"diagnose"}`, CodeBadRequest, "neither"},
		{`{"verb":"diagnose","args":{"last":true,"since":"2026-01-02T00:00:00Z"}}`, CodeBadRequest, "or of both"},
		{`{"verb":"capture","args":{"last_ns":-5}}`, CodeBadRequest, "a recording of the last"},
		{`{"verb":"capture","args":{}}`, CodeBadRequest, "neither"},
		{`{"verb":"list","args":{"since":"yesterday"}}`, CodeMalformed, "cannot be read"},
		{`{"verb":"list","args":null}`, CodeMalformed, "no JSON object"},
		{`{"verb":"list"}{}`, CodeMalformed, "after its end"},
		{`[]`, CodeMalformed, "no JSON object"},
		{``, CodeMalformed, "no JSON object"},
		{strings.Repeat(`{"verb":`, 8000), CodeMalformed, "cannot be read"},
	} {
		raw.send(appendFrame(nil, frameRequest, []byte(c.payload)))
		if e := raw.ending(); e.Code != c.code || !strings.Contains(e.Text, c.text) {
			t.Errorf("%.80s: %+v; want %s: %s", c.payload, e, c.code, c.text)
		}
	}
	raw.send(appendFrame(nil, frameRequest, []byte(`{"verb":"status"}`)))
	if e := raw.ending(); e.Code != "" || e.Bytes == 0 {
		t.Errorf("then: %+v", e)
	}
}

// raw is a client that sends what it likes.
type raw struct {
	t testing.TB
	net.Conn
}

func connected(t testing.TB, path string) *raw {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &raw{t, c}
}

func (r *raw) send(b []byte) {
	r.t.Helper()
	if _, err := r.Write(b); err != nil {
		r.t.Fatalf("send: %v", err)
	}
}

func (r *raw) hello() hello {
	r.t.Helper()
	kind, payload, err := readFrame(r)
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := parseHello(kind, payload)
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

// greet does what a client does before it asks.
func (r *raw) greet() {
	r.t.Helper()
	r.send(jsonFrame(frameHello, hello{Protocol: protocolName, Min: 1, Max: 1}))
	if h := r.hello(); h.Refused != nil {
		r.t.Fatalf("refused: %+v", h.Refused)
	}
}

// ending skips data.
func (r *raw) ending() (e ending) {
	r.t.Helper()
	for {
		kind, payload, err := readFrame(r)
		if err != nil {
			r.t.Fatalf("no ending: %v", err)
		}
		if kind == frameData {
			continue
		}
		if kind != frameEnd {
			r.t.Fatalf("a frame of kind %q", kind)
		}
		if err := json.Unmarshal(payload, &e); err != nil {
			r.t.Fatal(err)
		}
		return e
	}
}

// gone wants the connection to end.
func (r *raw) gone() {
	r.t.Helper()
	if n, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		r.t.Fatalf("still open after %d bytes: %v", n, err)
	}
}

// talker is a server that says what a test tells it to.
func talker(t *testing.T, say ...[]byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for _, b := range say {
				_, _ = c.Write(b)
			}
			// As one that ends does: what was sent is there to be read.
			_ = c.(*net.UnixConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	return path
}

func TestCutAnswerIsNoticed(t *testing.T) {
	hi := jsonFrame(frameHello, hello{Protocol: protocolName, Min: 1, Max: 1})
	data := appendFrame(nil, frameData, []byte("half of it"))
	for _, c := range []struct {
		name string
		say  [][]byte
		want string
	}{
		{"nothing", [][]byte{hi}, "cut off after 0 bytes"},
		{"no ending", [][]byte{hi, data}, "cut off after 10 bytes"},
		{"half a frame", [][]byte{hi, data, data[:9]}, "cut off after 10 bytes"},
		{"half an ending", [][]byte{hi, data, jsonFrame(frameEnd, ending{Bytes: 10})[:8]}, "cut off after 10 bytes"},
		{"a frame too few", [][]byte{hi, data, jsonFrame(frameEnd, ending{Bytes: 20})}, "10 of 20 bytes"},
		{"an ending that is none", [][]byte{hi, appendFrame(nil, frameEnd, []byte("x"))}, "read how the answer ended"},
		{"a request", [][]byte{hi, appendFrame(nil, frameRequest, nil)}, "frame of kind 'Q'"},
		{"a frame that is too large", [][]byte{hi, {0x40, 0, 0, 0, 'D'}}, "a frame of 1073741824 bytes"},
	} {
		client, err := Dial(t.Context(), talker(t, c.say...), "")
		if err != nil {
			t.Fatal(c.name, err)
		}
		var b bytes.Buffer
		_, err = client.Capture(t.Context(), CaptureRequest{Last: time.Second}, &b)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		client.Close()
	}
}

func TestDialSaysWhatAnswers(t *testing.T) {
	for _, c := range []struct{ name, say, want string }{
		{"another program", "220 mail.example ESMTP\r\n", "is no freezeframe daemon"},
		{"another protocol", string(appendFrame(nil, frameHello, []byte(`{"protocol":"x","min":1,"max":1}`))), `"x"`},
		{"one that ends", "", "closed the connection"},
	} {
		if _, err := Dial(t.Context(), talker(t, []byte(c.say)), ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	dir := t.TempDir()
	if _, err := Dial(t.Context(), filepath.Join(dir, "none"), ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Dial(t.Context(), stale(t, dir), ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a stale file: %v", err)
	}
}

// stale is a socket file whose daemon was killed.
func stale(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "control.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	return path
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := stale(t, dir)
	l, err := Listen(path)
	if err != nil {
		t.Fatal("over a stale file:", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("beside a live daemon: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the live socket is gone: %v", err)
	} else {
		c.Close()
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	// One that takes no lock, such as a systemd socket.
	foreign, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "somebody answers on it") {
		t.Errorf("beside somebody else: %v", err)
	}
	foreign.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if l, err = Listen(filepath.Join(dir, "made", "control.sock")); err != nil {
		t.Error("in a directory that is to be made:", err)
	} else {
		l.Close()
	}
	if _, err := Listen(filepath.Join(path, "control.sock")); err == nil {
		t.Error("below a file: no error")
	}
}

// One that systemd made comes as a file.
func TestServeTakesAnInheritedSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	made, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	made.SetUnlinkOnClose(false)
	f, err := made.File()
	made.Close()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, &fake{}, Options{}) }()
	if _, err := dialed(t, path).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the socket of systemd was removed:", err)
	}
}

func TestServeEndsWithItsListener(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, &fake{}, Options{}); err == nil {
		t.Error("no error")
	}
}

func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, firstBytes - 1, firstBytes, firstBytes + 1, maxFrame} {
		payload := bytes.Repeat([]byte("x"), n)
		b := appendFrame([]byte{}, frameData, payload)
		r := bytes.NewReader(b)
		kind, got, err := readFrame(r)
		if err != nil || kind != frameData || !bytes.Equal(got, payload) || r.Len() != 0 {
			t.Errorf("%d bytes: kind %q, %d bytes, %v, %d left", n, kind, len(got), err, r.Len())
		}
		for _, end := range []int{0, 3, headerBytes, len(b) - 1} {
			if end >= len(b) {
				continue
			}
			_, _, err := readFrame(bytes.NewReader(b[:end]))
			if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[end == 0]; !errors.Is(err, want) {
				t.Errorf("%d of %d bytes: %v, want %v", end, len(b), err, want)
			}
		}
	}
	if _, _, err := readFrame(bytes.NewReader(binary.BigEndian.AppendUint32(nil, maxFrame+1))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// An ending fits its frame, whatever an error says.
func TestEndingFits(t *testing.T) {
	long := strings.Repeat("\x01", 1<<20)
	notes := make([]string, 1000)
	for i := range notes {
		notes[i] = long
	}
	b := jsonFrame(frameEnd, endingOf(errors.New(long), notes, 1<<62))
	_, payload, err := readFrame(bytes.NewReader(b))
	var e ending
	if err != nil || json.Unmarshal(payload, &e) != nil || len(e.Notes) != maxNotes || e.Notes[maxNotes-1] != "and 993 more" {
		t.Errorf("%d bytes, %d notes, %v", len(payload), len(e.Notes), err)
	}
}
