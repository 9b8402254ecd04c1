package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// openLog starts logging to standard error: lines for people on a terminal and
// in the journal, JSON elsewhere.
func (a *app) openLog() {
	level, err := zerolog.ParseLevel(a.config.Log.Level)
	if err != nil { // the configuration allows only levels that parse
		level = zerolog.WarnLevel
	}
	a.level.Store(int32(level))
	a.logs = newLogWriter(a.stderr)
	var out io.Writer = a.logs
	switch _, people := terminal(a.stderr); {
	case people:
		out = zerolog.ConsoleWriter{Out: a.logs, TimeFormat: time.TimeOnly, NoColor: !textOptions(a.stderr).Color}
	case journal(a.stderr):
		out = journalWriter{zerolog.ConsoleWriter{
			Out: a.logs, NoColor: true, PartsOrder: []string{zerolog.MessageFieldName}, FieldsExclude: []string{zerolog.TimestampFieldName},
		}, a.logs}
	}
	a.log = zerolog.New(levelled{out, &a.level}).With().Timestamp().Logger()
}

// levelled leaves out what lies below a level that may change while we run.
type levelled struct {
	io.Writer
	least *atomic.Int32
}

// WriteLevel implements zerolog.LevelWriter.
func (w levelled) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	if level < zerolog.Level(w.least.Load()) {
		return len(line), nil
	}
	if out, ok := w.Writer.(zerolog.LevelWriter); ok {
		return out.WriteLevel(level, line)
	}
	return w.Write(line)
}

// journalWriter writes plain lines that begin with their priority, as
// systemd-journald takes them from a service's standard error (sd-daemon(3)).
type journalWriter struct {
	lines zerolog.ConsoleWriter
	out   io.Writer
}

func (w journalWriter) Write(line []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel implements zerolog.LevelWriter.
func (w journalWriter) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	priority := "<5>"
	switch level {
	case zerolog.DebugLevel, zerolog.TraceLevel:
		priority = "<7>"
	case zerolog.InfoLevel:
		priority = "<6>"
	case zerolog.WarnLevel:
		priority = "<4>"
	case zerolog.ErrorLevel:
		priority = "<3>"
	case zerolog.FatalLevel, zerolog.PanicLevel:
		priority = "<2>"
	}
	var plain bytes.Buffer
	lines := w.lines
	lines.Out = &plain
	if _, err := lines.Write(line); err != nil {
		return 0, err
	}
	_, err := w.out.Write(append([]byte(priority), plain.Bytes()...))
	return len(line), err
}

// journal tells whether w leads to systemd-journald, as systemd.exec(5) has
// services find out.
func journal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	device, inode, ok := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	var st syscall.Stat_t
	if !ok || syscall.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return device == strconv.FormatUint(uint64(st.Dev), 10) && inode == strconv.FormatUint(st.Ino, 10)
}
