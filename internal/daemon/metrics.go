package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// The kinds of metrics of the text format (https://prometheus.io/docs/instrumenting/exposition_formats/).
const (
	counter = "counter"
	gauge   = "gauge"
)

// family is one metric with its samples.
type family struct {
	name, help, kind string
	samples          []sample
}

type sample struct {
	labels [][2]string
	value  float64
}

// one is a family of a single value without labels.
func one(kind, name string, value float64, help string) family {
	return family{name, help, kind, []sample{{value: value}}}
}

// with adds a sample with one label.
func (f *family) with(label, value string, v float64) {
	f.samples = append(f.samples, sample{[][2]string{{label, value}}, v})
}

// writeMetrics writes families in the text format, version 0.0.4.
func writeMetrics(w io.Writer, families []family) error {
	var b strings.Builder
	help := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	label := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for i := range families {
		f := &families[i]
		if len(f.samples) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, help.Replace(f.help), f.name, f.kind)
		for _, s := range f.samples {
			b.WriteString(f.name)
			for i, l := range s.labels {
				b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
				fmt.Fprintf(&b, `%s="%s"`, l[0], label.Replace(strings.ToValidUTF8(l[1], "?")))
			}
			if len(s.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteByte(' ')
			b.WriteString(strconv.FormatFloat(s.value, 'g', -1, 64))
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Bounds of what whoever asks for metrics can cost. We run at real-time
// priority: a client that asks without a pause must not get the CPU for it.
const (
	maxClients    = 8
	clientTime    = 5 * time.Second // for the whole of a request and its answer
	clientPause   = 20 * time.Millisecond
	metricsFresh  = time.Second // how long an answer is given again
	maxHeader     = 4 << 10
	metricsClosed = time.Second
)

// metricsServer serves the metrics on one address until it is closed.
type metricsServer struct {
	address string
	server  *http.Server
	gather  func() []family

	mu   sync.Mutex
	at   time.Time
	text string
}

// serveMetrics listens on host:port or, with an absolute path, on a Unix socket.
func serveMetrics(address string, gather func() []family, log zerolog.Logger) (*metricsServer, error) {
	var l net.Listener
	var err error
	if filepath.IsAbs(address) {
		l, err = listenUnix(address)
	} else {
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("serve metrics (daemon.metrics): %w", err)
	}
	m := &metricsServer{address: address, gather: gather}
	m.server = &http.Server{
		Handler: m, ReadTimeout: clientTime, WriteTimeout: clientTime, IdleTimeout: clientTime,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       stdlog.New(io.Discard, "", 0), // what clients do wrong is theirs to know
	}
	m.server.SetKeepAlivesEnabled(false)
	go func() {
		if err := m.server.Serve(&paced{Listener: l, slots: make(chan struct{}, maxClients)}); !errors.Is(err, http.ErrServerClosed) {
			log.Error().Err(err).Msg("metrics are served no more")
		}
	}()
	return m, nil
}

// listenUnix replaces a socket that a daemon left behind, and nothing else.
func listenUnix(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is no socket", path)
	case err == nil:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close() // it only had to answer
			return nil, fmt.Errorf("%s: somebody listens there already", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Figures of the recorder, no secret: but who may ask is for root to say.
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close() // the error that counts is the one above
		return nil, err
	}
	return l, nil
}

// ServeHTTP answers /metrics.
func (m *metricsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/metrics":
		http.Error(w, "the metrics are at /metrics", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
	default:
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, m.render()) // who asked has gone: nobody to tell
	}
}

func (m *metricsServer) render() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.text == "" || now.Sub(m.at) > metricsFresh {
		var b strings.Builder
		_ = writeMetrics(&b, m.gather()) // a Builder takes everything
		m.at, m.text = now, b.String()
	}
	return m.text
}

// close ends the server, and what it is answering after a second.
func (m *metricsServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), metricsClosed)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		_ = m.server.Close() // whoever is still reading has had his second
	}
}

// paced accepts so many connections at a time and so many a second; whoever
// waits does so in the kernel.
type paced struct {
	net.Listener
	slots chan struct{}
}

func (p *paced) Accept() (net.Conn, error) {
	p.slots <- struct{}{}
	time.Sleep(clientPause)
	c, err := p.Listener.Accept()
	if err != nil {
		<-p.slots
		return nil, err
	}
	return &slotConn{Conn: c, free: sync.OnceFunc(func() { <-p.slots })}, nil
}

type slotConn struct {
	net.Conn
	free func()
}

func (c *slotConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
