package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"freezeframe"
	"freezeframe/reports"
)

// ErrNotRunning says that no daemon listens.
var ErrNotRunning = errors.New("no freezeframe daemon is running")

const (
	// helloPatience is how long a daemon may take to say its hello: one that
	// systemd starts for this client reads its configuration first.
	helloPatience = 10 * time.Second
	// patience is how long the next frame of an answer may take. The daemon
	// itself gives up before.
	patience = 90 * time.Second
	// maxAnswer is the size up to which an answer is taken into memory.
	maxAnswer = 64 << 20
)

// Client is a connection to the daemon, for one request after the other. It is
// not for use by several goroutines, and of no use after an error without a
// code.
type Client struct {
	c      net.Conn
	daemon hello
}

// Dial connects to the daemon. version is this binary's, told to the daemon.
// Errors: ErrNotRunning, an *Error where the daemon refuses, any other where it
// does not answer.
func Dial(ctx context.Context, path, version string) (*Client, error) {
	return dial(ctx, path, hello{Protocol: protocolName, Min: minVersion, Max: maxVersion, Version: version})
}

func dial(ctx context.Context, path string, me hello) (*Client, error) {
	conn, err := connect(ctx, path)
	if err != nil {
		return nil, err
	}
	c := &Client{c: conn}
	defer c.interruptible(ctx)()
	_ = conn.SetDeadline(time.Now().Add(helloPatience)) // fails only when reading will
	// A daemon that refuses may be gone before it hears our hello; its own says
	// why, and is there to be read.
	_, werr := conn.Write(jsonFrame(frameHello, me))
	kind, payload, err := readFrame(conn)
	if err == nil {
		c.daemon, err = parseHello(kind, payload)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if m, ok := errors.AsType[malformed](err); ok {
			return nil, fmt.Errorf("whoever answers on %s is no freezeframe daemon: it sent %s", path, m.text)
		}
		if isTimeout(err) {
			return nil, fmt.Errorf("the daemon did not say a word for %s: it starts, or hangs (systemctl status freezeframe)", helloPatience)
		}
		return nil, fmt.Errorf("the daemon closed the connection: %w", cmp.Or(werr, err))
	}
	if no := c.daemon.Refused; no != nil {
		conn.Close()
		return nil, no.err()
	}
	if common(c.daemon, me) == 0 {
		conn.Close()
		return nil, noCommon(c.daemon, me)
	}
	_ = conn.SetDeadline(time.Time{})
	return c, nil
}

// connect waits a little where the daemon has a long queue: a Unix socket that
// does not block says so at once.
func connect(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for deadline := time.Now().Add(helloPatience); ; {
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR):
			return nil, fmt.Errorf("%w: nobody listens on %s (systemctl start freezeframe starts it)", ErrNotRunning, path)
		case errors.Is(err, syscall.EACCES):
			return nil, &Error{CodeRefused, fmt.Sprintf("this user may not connect to %s: ask as root, or join the group %s (usermod -aG %[2]s NAME, as root) and log in again", path, DefaultGroup)}
		case errors.Is(err, syscall.EAGAIN) && time.Now().Before(deadline):
			sleep(ctx, 5*time.Millisecond)
			continue
		case errors.Is(err, syscall.EAGAIN):
			return nil, &Error{CodeBusy, "the daemon has more clients than it gets to: try again in a moment"}
		}
		return nil, fmt.Errorf("connect to the daemon at %s: %w", path, bare(err))
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// interruptible closes the connection when ctx ends, until the function that
// it returns is called.
func (c *Client) interruptible(ctx context.Context) (done func()) {
	stop := context.AfterFunc(ctx, func() { c.c.Close() })
	return func() { stop() }
}

// Close ends the connection.
func (c *Client) Close() error { return c.c.Close() }

// DaemonVersion is the freezeframe that answers.
func (c *Client) DaemonVersion() string { return c.daemon.Version }

// Status asks what the daemon is doing.
func (c *Client) Status(ctx context.Context) (reports.Status, error) {
	var s reports.Status
	err := c.decode(ctx, verbStatus, nil, &s)
	s.Normalize()
	return s, err
}

// List asks for incidents.
func (c *Client) List(ctx context.Context, q ListRequest) (reports.Listing, error) {
	var l reports.Listing
	err := c.decode(ctx, verbList, q, &l)
	l.Normalize()
	return l, err
}

// Show writes one document of one incident to w. Until it has returned without
// an error, what was written may be a part of it.
func (c *Client) Show(ctx context.Context, q ShowRequest, w io.Writer) (notes []string, err error) {
	return c.ask(ctx, verbShow, q, w)
}

// Report asks for the report of one incident.
func (c *Client) Report(ctx context.Context, id string) (*freezeframe.Report, error) {
	var b bounded
	if _, err := c.ask(ctx, verbShow, ShowRequest{ID: id, Form: FormJSON}, &b); err != nil {
		return nil, err
	}
	r, _, err := reports.Read(&b.Buffer)
	if err == nil && r == nil {
		err = errors.New("it is a diagnosis")
	}
	if err != nil {
		return nil, fmt.Errorf("read the report that the daemon sent: %w", err)
	}
	return r, nil
}

// Diagnose asks what stalled, and why.
func (c *Client) Diagnose(ctx context.Context, q DiagnoseRequest) (freezeframe.Diagnosis, error) {
	var b bounded
	if _, err := c.ask(ctx, verbDiagnose, q, &b); err != nil {
		return freezeframe.Diagnosis{}, err
	}
	_, d, err := reports.Read(&b.Buffer)
	if err == nil && d == nil {
		err = errors.New("it is a report")
	}
	if err != nil {
		return freezeframe.Diagnosis{}, fmt.Errorf("read the diagnosis that the daemon sent: %w", err)
	}
	return *d, nil
}

// Capture writes the recording of a span to w, as Show does.
func (c *Client) Capture(ctx context.Context, q CaptureRequest, w io.Writer) (notes []string, err error) {
	return c.ask(ctx, verbCapture, q, w)
}

// Reload makes the daemon read its configuration again; only root may.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.ask(ctx, verbReload, nil, io.Discard)
	return err
}

// bounded is an answer in memory.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxAnswer {
		return 0, fmt.Errorf("the answer is larger than %d MB: ask for less", maxAnswer>>20)
	}
	return b.Buffer.Write(p)
}

func (c *Client) decode(ctx context.Context, verb string, args, v any) error {
	var b bounded
	if _, err := c.ask(ctx, verb, args, &b); err != nil {
		return err
	}
	if err := json.Unmarshal(b.Bytes(), v); err != nil {
		return fmt.Errorf("read the %s that the daemon sent: %w", verb, err)
	}
	return nil
}

// ask sends a request and writes the answer to w.
func (c *Client) ask(ctx context.Context, verb string, args any, w io.Writer) (notes []string, err error) {
	r := request{Verb: verb}
	if args != nil {
		if r.Args, err = json.Marshal(args); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	b, err := json.Marshal(r)
	if err != nil || len(b) > maxFrame {
		return nil, errors.Join(fmt.Errorf("a request of %d bytes, where %d are the most", len(b), maxFrame), err)
	}
	defer c.interruptible(ctx)()
	deadline := func() { _ = c.c.SetDeadline(time.Now().Add(patience)) } // fails only when reading will
	deadline()
	_, werr := c.c.Write(appendFrame(nil, frameRequest, b))
	got := int64(0)
	for {
		kind, payload, err := readFrame(c.c)
		if err != nil {
			c.c.Close()
			return nil, c.cutOff(ctx, got, cmp.Or(err, werr))
		}
		switch kind {
		case frameData:
			got += int64(len(payload))
			if _, err := w.Write(payload); err != nil {
				c.c.Close()
				return nil, err
			}
			deadline()
		case frameEnd:
			var e ending
			if err := json.Unmarshal(payload, &e); err != nil {
				c.c.Close()
				return nil, fmt.Errorf("read how the answer ended: %w", err)
			}
			if err := e.err(); err != nil {
				return nil, err
			}
			if e.Bytes != got {
				c.c.Close()
				return nil, fmt.Errorf("the answer is not whole: %d of %d bytes came", got, e.Bytes)
			}
			return e.Notes, nil
		default:
			c.c.Close()
			return nil, fmt.Errorf("the daemon sent a frame of kind %q in an answer", kind)
		}
	}
}

// cutOff says what it means that an answer has no end.
func (c *Client) cutOff(ctx context.Context, got int64, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isTimeout(err):
		return fmt.Errorf("the daemon did not go on with its answer for %s, after %d bytes of it", patience, got)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the answer was cut off after %d bytes: the daemon ended, or this took too long to read them", got)
	}
	return fmt.Errorf("read the answer: %w", err)
}
