package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"freezeframe/internal/kernel"
	"freezeframe/reports"
)

// inUse is the memory that is reachable now, stacks included.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// allocated is the memory that was ever asked for.
func allocated() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.TotalAlloc)
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// answers tells that somebody else is served meanwhile.
func answers(t *testing.T, path string) {
	t.Helper()
	c, err := Dial(t.Context(), path, "")
	if err != nil {
		t.Fatalf("nobody else is served: %v", err)
	}
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatalf("nobody else is answered: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	path, counters := serving(t, &fake{}, Options{})
	random := make([]byte, 1<<16)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(random) // never fails
	hi := jsonFrame(frameHello, hello{Protocol: protocolName, Min: 1, Max: 1})
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for _, c := range []struct {
		name string
		send []byte
		want string // what the ending says
	}{
		{"a web request", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "a frame of the unknown kind"},
		{"a hello of 1 GB", []byte{0x40, 0, 0, 0, 'H'}, "a frame of 1073741824 bytes, where 65536 are the most"},
		{"a request of 1 GB", join(hi, []byte{0x40, 0, 0, 0, 'Q'}), "a frame of 1073741824 bytes"},
		{"a request of 4 GB", join(hi, []byte{0xff, 0xff, 0xff, 0xff, 'Q'}), "a frame of 4294967295 bytes"},
		{"a hello that is no JSON", appendFrame(nil, frameHello, []byte("{")), "no JSON object"},
		{"a hello of another protocol", jsonFrame(frameHello, hello{Protocol: "x", Min: 1, Max: 1}), `"x"`},
		{"impossible versions", jsonFrame(frameHello, hello{Protocol: protocolName, Min: 5, Max: 1}), "versions 5 to 1"},
		{"no hello", appendFrame(nil, frameRequest, []byte(`{"verb":"status"}`)), "where a hello"},
		{"two hellos", join(hi, hi), "where a request"},
		{"data", join(hi, appendFrame(nil, frameData, random)), "where a request"},
	} {
		before := counters.Broken.Load()
		start := allocated()
		raw := connected(t, path)
		raw.send(c.send)
		raw.hello()
		if e := raw.ending(); e.Code != CodeMalformed || !strings.Contains(e.Text, c.want) {
			t.Errorf("%s: %+v", c.name, e)
		}
		raw.gone()
		if used := allocated() - start; used > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", c.name, used)
		}
		if n := counters.Broken.Load(); n != before+1 {
			t.Errorf("%s: not counted", c.name)
		}
	}
	// Two requests at once: the first was fine, but what of the rest?
	raw := connected(t, path)
	raw.greet()
	ask := appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`))
	raw.send(bytes.Repeat(ask, 20))
	raw.gone()
	answers(t, path)
}

// Lengths without bytes, from as many clients as there may be: memory is for
// what was sent, not for what was announced.
func TestAnnouncedBytesCostNothing(t *testing.T) {
	path, counters := serving(t, &fake{}, Options{})
	var all []*raw
	for range 60 {
		all = append(all, connected(t, path))
	}
	eventually(t, "60 clients", func() bool { return counters.Open.Load() == 60 })
	before := inUse()
	for _, r := range all {
		r.greet()
		r.send([]byte{0, 0, 0xff, 0xff, 'Q', '{'})
	}
	if grown := inUse() - before; grown > 1<<20 {
		t.Errorf("60 clients that announce 64 KB and send 1 byte hold %d bytes", grown)
	}
	answers(t, path)
}

// Half-open handshakes and silence end by themselves, and make room.
func TestSilenceEnds(t *testing.T) {
	path, counters := serving(t, &fake{}, Options{Handshake: 100 * time.Millisecond, Idle: 100 * time.Millisecond})
	for _, send := range [][]byte{nil, {0}, jsonFrame(frameHello, hello{Protocol: protocolName, Min: 1, Max: 1})[:20]} {
		raw := connected(t, path)
		raw.send(send)
		raw.hello()
		raw.gone()
	}
	eventually(t, "half-open handshakes are counted", func() bool { return counters.Broken.Load() == 3 && counters.Open.Load() == 0 })
	raw := connected(t, path)
	raw.greet()
	raw.gone()
	if n := counters.Broken.Load(); n != 3 {
		t.Errorf("a client that asks for nothing more counts as broken: %d", n)
	}
}

// One byte now and then does not hold a place: the whole frame is due.
func TestDripsEnd(t *testing.T) {
	path, counters := serving(t, &fake{}, Options{Handshake: 200 * time.Millisecond})
	raw := connected(t, path)
	frame := jsonFrame(frameHello, hello{Protocol: protocolName, Min: 1, Max: 1})
	for _, b := range frame {
		if _, err := raw.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	eventually(t, "the client that drips is gone", func() bool { return counters.Open.Load() == 0 })
}

// A thousand clients of one user: some are let in, the others are told, root
// gets in all the time, and memory and goroutines stay bounded.
func TestThousandConnections(t *testing.T) {
	var root atomic.Bool
	o := as(kernel.Peer{})
	o.peer = func(net.Conn) (kernel.Peer, error) {
		if root.Load() {
			return kernel.Peer{UID: 0}, nil
		}
		return kernel.Peer{UID: 5, GID: 900}, nil
	}
	path, counters := serving(t, &fake{}, o)
	before, routines := inUse(), runtime.NumGoroutine()
	busy := 0
	var all []*raw
	for i := range 1000 {
		r := connected(t, path)
		if h := r.hello(); h.Refused != nil {
			if h.Refused.Code != CodeBusy {
				t.Fatalf("client %d: %+v", i, h.Refused)
			}
			busy++
			r.gone()
		}
		all = append(all, r)
	}
	if busy != 1000-16 || counters.Open.Load() != 16 || counters.Busy.Load() != 1000-16 {
		t.Errorf("%d were told to come again, %d are open", busy, counters.Open.Load())
	}
	// Most of this is the test's own half of the connections.
	if grown := inUse() - before; grown > 4<<20 {
		t.Errorf("1000 clients hold %d bytes", grown)
	}
	if n := runtime.NumGoroutine() - routines; n > 2*16 {
		t.Errorf("1000 clients hold %d goroutines", n)
	}
	root.Store(true)
	answers(t, path)
	root.Store(false)
	for _, r := range all {
		r.Close()
	}
	eventually(t, "all are gone", func() bool { return counters.Open.Load() == 0 })
	answers(t, path)
}

// However many users there are, a quarter of the places is root's.
func TestRootGetsIn(t *testing.T) {
	var uid atomic.Uint32
	o := as(kernel.Peer{})
	o.peer = func(net.Conn) (kernel.Peer, error) { return kernel.Peer{UID: uid.Load(), GID: 900}, nil }
	path, counters := serving(t, &fake{}, o)
	for i := range uint32(200) {
		uid.Store(i + 1)
		connected(t, path).hello()
	}
	if n := counters.Open.Load(); n != 48 {
		t.Errorf("%d are open", n)
	}
	uid.Store(0)
	for range 15 {
		connected(t, path).greet()
	}
	answers(t, path)
}

// A flood of strangers: each is told, none holds anything.
func TestFloodOfStrangers(t *testing.T) {
	o := as(kernel.Peer{UID: 5, GID: 5})
	path, counters := serving(t, &fake{}, o)
	before, routines := inUse(), runtime.NumGoroutine()
	for range 500 {
		r := connected(t, path)
		if h := r.hello(); h.Refused == nil || h.Refused.Code != CodeRefused {
			t.Fatalf("let in: %+v", h)
		}
		r.Close()
	}
	if counters.Refused.Load() != 500 || counters.Open.Load() != 0 {
		t.Errorf("%d refused, %d open", counters.Refused.Load(), counters.Open.Load())
	}
	if grown := inUse() - before; grown > 1<<20 {
		t.Errorf("500 refused clients hold %d bytes", grown)
	}
	if n := runtime.NumGoroutine() - routines; n > 2 {
		t.Errorf("500 refused clients hold %d goroutines", n)
	}
}

// endless is a recording of a terabyte; it counts what is taken of it.
type endless struct {
	read   atomic.Int64
	closed atomic.Bool
}

func (e *endless) Read(p []byte) (int, error) {
	if e.closed.Load() {
		return 0, os.ErrClosed
	}
	if e.read.Add(int64(len(p))) > 1<<40 {
		return 0, io.EOF
	}
	return len(p), nil
}

func (e *endless) Close() error { e.closed.Store(true); return nil }

// A client that asks for a large capture and never reads it: nothing but what
// fits into the socket is read from the disk, nothing is kept in memory, and
// its place is free when its time is over.
func TestClientThatNeverReads(t *testing.T) {
	rec := &endless{}
	f := &fake{capture: func(context.Context, CaptureRequest) (Document, error) { return Document{Body: rec}, nil }}
	o := as(kernel.Peer{UID: 5, GID: 900})
	o.Stall = 300 * time.Millisecond
	path, counters := serving(t, f, o)
	raw := connected(t, path)
	raw.greet()
	before := inUse()
	raw.send(appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`)))
	eventually(t, "the capture is read", func() bool { return rec.read.Load() > 100<<10 })
	answers(t, path)
	if grown := inUse() - before; grown > 512<<10 {
		t.Errorf("a capture that nobody reads holds %d bytes", grown)
	}
	eventually(t, "the capture is closed", func() bool { return rec.closed.Load() && counters.Open.Load() == 0 })
	if n := rec.read.Load(); n > 2<<20 {
		t.Errorf("%d bytes of the recording were read for a client that read none", n)
	}
	// The place of this user is free again.
	rec.closed.Store(false)
	raw = connected(t, path)
	raw.greet()
	raw.send(appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`)))
	if kind, _, err := readFrame(raw); err != nil || kind != frameData {
		t.Errorf("a frame of kind %q, %v", kind, err)
	}
}

// A client that reads a little now and then has its time, and no more.
func TestClientThatReadsSlowly(t *testing.T) {
	rec := &endless{}
	f := &fake{capture: func(context.Context, CaptureRequest) (Document, error) { return Document{Body: rec}, nil }}
	path, counters := serving(t, f, Options{Whole: 500 * time.Millisecond, Stall: 10 * time.Second})
	raw := connected(t, path)
	raw.greet()
	raw.send(appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`)))
	for {
		if _, err := raw.Read(make([]byte, 512)); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	eventually(t, "it is gone", func() bool { return counters.Open.Load() == 0 && rec.closed.Load() })
}

// One user's captures do not keep another's from being answered, nor root's.
func TestHeavyRequestsAreBounded(t *testing.T) {
	var uid atomic.Uint32
	var running atomic.Int32
	release := make(chan struct{})
	f := &fake{capture: func(context.Context, CaptureRequest) (Document, error) {
		running.Add(1)
		<-release
		return Document{Body: body("x")}, nil
	}}
	o := as(kernel.Peer{})
	o.peer = func(net.Conn) (kernel.Peer, error) { return kernel.Peer{UID: uid.Load(), GID: 900}, nil }
	o.Room = 200 * time.Millisecond
	path, _ := serving(t, f, o)
	ask := func(as uint32) *raw {
		uid.Store(as)
		r := connected(t, path)
		r.greet()
		r.send(appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`)))
		return r
	}
	first := ask(5)
	eventually(t, "one runs", func() bool { return running.Load() == 1 })
	if e := ask(5).ending(); e.Code != CodeBusy {
		t.Errorf("the second of a user: %+v", e)
	}
	second := ask(6)
	eventually(t, "that of another user runs", func() bool { return running.Load() == 2 })
	if e := ask(7).ending(); e.Code != CodeBusy {
		t.Errorf("that of a third user: %+v", e)
	}
	third := ask(0)
	eventually(t, "that of root runs", func() bool { return running.Load() == 3 })
	if e := ask(0).ending(); e.Code != CodeBusy {
		t.Errorf("the second of root: %+v", e)
	}
	uid.Store(5)
	answers(t, path)
	close(release)
	for _, r := range []*raw{first, second, third} {
		if e := r.ending(); e.Code != "" || e.Bytes != 1 {
			t.Errorf("%+v", e)
		}
	}
	if e := ask(5).ending(); e.Code != "" {
		t.Errorf("afterwards: %+v", e)
	}
}

// A request waits for room that comes.
func TestHeavyRequestsWaitTheirTurn(t *testing.T) {
	var running atomic.Int32
	release := make(chan struct{})
	f := &fake{capture: func(context.Context, CaptureRequest) (Document, error) {
		running.Add(1)
		<-release
		return Document{Body: body("x")}, nil
	}}
	path, _ := serving(t, f, as(kernel.Peer{UID: 5, GID: 900}))
	ask := func() *raw {
		r := connected(t, path)
		r.greet()
		r.send(appendFrame(nil, frameRequest, []byte(`{"verb":"capture","args":{"last_ns":1}}`)))
		return r
	}
	all := []*raw{ask(), ask(), ask()}
	eventually(t, "one runs", func() bool { return running.Load() == 1 })
	close(release)
	for _, r := range all {
		if e := r.ending(); e.Code != "" {
			t.Errorf("%+v", e)
		}
	}
}

// A handler that hangs, as one that reads from a frozen disk does: its client
// is told, may ask again, and status is answered; how many hang is bounded.
func TestHandlerThatHangs(t *testing.T) {
	var hanging atomic.Int32
	release := make(chan struct{})
	defer close(release)
	f := &fake{show: func(context.Context, ShowRequest) (Document, error) {
		hanging.Add(1)
		<-release
		return Document{Body: body("x")}, nil
	}}
	path, counters := serving(t, f, Options{Answer: 200 * time.Millisecond, Room: 20 * time.Millisecond})
	c := dialed(t, path)
	for i := range 12 {
		_, err := c.Show(t.Context(), ShowRequest{ID: Last, Form: FormJSON}, io.Discard)
		want := CodeTimeout
		if i >= 8 {
			want = CodeBusy
		}
		if Code(err) != want {
			t.Errorf("request %d: %v", i, err)
		}
		if _, err := c.Status(t.Context()); err != nil {
			t.Errorf("status after request %d: %v", i, err)
		}
	}
	if n := hanging.Load(); n != 8 {
		t.Errorf("%d calls hang", n)
	}
	if n := counters.Broken.Load(); n != 0 {
		t.Errorf("%d broken", n)
	}
}

// So does a body of which the beginning went out: the client sees that the
// rest is missing.
func TestBodyThatHangs(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	f := &fake{capture: func(context.Context, CaptureRequest) (Document, error) {
		return Document{Body: io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 2*chunk)), hangs(release)))}, nil
	}}
	path, _ := serving(t, f, Options{Whole: 2 * time.Second})
	c := dialed(t, path)
	var b bytes.Buffer
	if _, err := c.Capture(t.Context(), CaptureRequest{Last: 1}, &b); Code(err) != CodeTimeout || b.Len() != 2*chunk {
		t.Errorf("%v after %d bytes", err, b.Len())
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

type hangs <-chan struct{}

func (h hangs) Read([]byte) (int, error) { <-h; return 0, io.EOF }

// The handler hears that the client has gone.
func TestClientThatGoes(t *testing.T) {
	gone := make(chan struct{})
	f := &fake{show: func(ctx context.Context, _ ShowRequest) (Document, error) {
		<-ctx.Done()
		close(gone)
		return Document{}, ctx.Err()
	}}
	path, counters := serving(t, f, Options{})
	raw := connected(t, path)
	raw.greet()
	raw.send(appendFrame(nil, frameRequest, []byte(`{"verb":"show","args":{"id":"last","form":"json"}}`)))
	eventually(t, "it is asked", func() bool { return f.last() != nil })
	raw.Close()
	<-gone
	eventually(t, "it is counted", func() bool { return counters.Broken.Load() == 1 && counters.Open.Load() == 0 })
}

// Ctrl-C does not wait for the daemon.
func TestClientIsInterrupted(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	f := &fake{status: func(context.Context) (reports.Status, error) { <-release; return reports.Status{}, nil }}
	path, _ := serving(t, f, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		for f.last() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestHandlerThatPanics(t *testing.T) {
	f := &fake{status: func(context.Context) (reports.Status, error) { panic("a bug") }}
	path, _ := serving(t, f, Options{})
	c := dialed(t, path)
	if _, err := c.Status(t.Context()); Code(err) != CodeFailed || !strings.Contains(err.Error(), "its log") || strings.Contains(err.Error(), "a bug") {
		t.Error(err)
	}
	if _, err := c.List(t.Context(), ListRequest{}); err != nil {
		t.Error(err)
	}
}

// Who waits for an answer when the daemon stops is told, and the stop does not
// wait for what hangs.
func TestStop(t *testing.T) {
	l, err := Listen(t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	defer close(release)
	f := &fake{show: func(context.Context, ShowRequest) (Document, error) { <-release; return Document{}, nil }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, f, Options{}) }()
	path := l.Addr().String()
	waiting, idle, mute := connected(t, path), connected(t, path), connected(t, path)
	waiting.greet()
	idle.greet()
	mute.hello()
	waiting.send(appendFrame(nil, frameRequest, []byte(`{"verb":"show","args":{"id":"last","form":"json"}}`)))
	eventually(t, "it is asked", func() bool { return f.last() != nil })
	cancel()
	for name, r := range map[string]*raw{"waiting": waiting, "idle": idle} {
		if e := r.ending(); e.Code != CodeStopping {
			t.Errorf("%s: %+v", name, e)
		}
		r.gone()
	}
	mute.gone()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), path, ""); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}
