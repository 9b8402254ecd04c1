package main

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// logWriter never makes its caller wait: lines go through a bounded queue to
// one goroutine, and what does not fit is counted instead. A log that hangs
// (a full pipe, a stopped terminal, a stuck disk) must not hold up what
// watches for exactly that.
type logWriter struct {
	lines   chan []byte
	dropped atomic.Uint64
	done    chan struct{}
	once    sync.Once
}

// logQueue is how many lines wait at most; logFlush how long Close waits for
// them.
const (
	logQueue = 256
	logFlush = 300 * time.Millisecond
)

func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{lines: make(chan []byte, logQueue), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for line := range w.lines {
			if line == nil {
				return
			}
			_, _ = out.Write(line) // there is nowhere to report that the log cannot be written
		}
	}()
	return w
}

// Write queues a copy of the line; zerolog reuses its own.
func (w *logWriter) Write(line []byte) (int, error) {
	select {
	case w.lines <- append([]byte(nil), line...):
	default:
		w.dropped.Add(1)
	}
	return len(line), nil
}

// Close writes what is queued, as far as that is quick.
func (w *logWriter) Close() {
	w.once.Do(func() {
		late := time.After(logFlush)
		select {
		case w.lines <- nil:
		case <-late:
			return
		}
		select {
		case <-w.done:
		case <-late:
		}
	})
}

// openLog starts logging to standard error: lines for people on a terminal,
// JSON elsewhere.
func (a *app) openLog() {
	level, err := zerolog.ParseLevel(a.config.Log.Level)
	if err != nil { // the configuration allows only levels that parse
		level = zerolog.WarnLevel
	}
	a.logs = newLogWriter(a.stderr)
	var out io.Writer = a.logs
	if _, ok := terminal(a.stderr); ok {
		out = zerolog.ConsoleWriter{Out: a.logs, TimeFormat: time.TimeOnly, NoColor: !textOptions(a.stderr).Color}
	}
	a.log = zerolog.New(out).Level(level).With().Timestamp().Logger()
}
