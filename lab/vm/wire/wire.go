// Package wire is what the virtual machine and its host say to each other: a
// job on a disk that holds a tar archive, and frames on a virtio serial port.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// Port is the name of the virtio serial port.
	Port = "freezeframe.lab"
	// JobName is the first entry of the input archive; the others are files
	// for Dir.
	JobName = "job.json"
	// Dir is where the command runs in the machine, OutDir what is copied out.
	Dir    = "/srv/lab"
	OutDir = "out"
)

// ExtentsName is a file of the initial RAM disk: where the root disk has data,
// "OFFSET END" in bytes, a line each. With it the root is copied to memory.
const ExtentsName = "extents"

// The serials of the machine's disks: what they are called is up to the kernel.
const (
	RootDisk    = "root"
	ModulesDisk = "modules"
	InputDisk   = "input"
)

// Job is what the machine is to do.
type Job struct {
	Command string `json:"command"` // of sh -c
}

// What the host says to the machine, a byte each.
const (
	Stop = 'k' // end the command now: its time is over, by the host's clock
	Done = '.' // everything is here: switch off
)

// Hello is said once, before the command starts.
type Hello struct {
	Kernel string        `json:"kernel"`
	Uptime time.Duration `json:"uptime_ns"`
	State  string        `json:"state"` // of systemd: running, degraded
	Failed string        `json:"failed,omitempty"`
}

// Exit is said once, last.
type Exit struct {
	Code     int    `json:"code"`
	TimedOut bool   `json:"timed_out,omitempty"`
	Err      string `json:"err,omitempty"` // the machine could not do what it was asked
}

// Ask begins a line of the command's standard output that is for the host and
// nobody else: words that say what it is to do to the machine.
const Ask = "\x1fhost "

// Kind is the first byte of a frame.
type Kind byte

// What a frame holds.
const (
	KindHello   Kind = 'h' // Hello, JSON
	KindStdout  Kind = 'o' // as it comes
	KindStderr  Kind = 'e'
	KindResults Kind = 'r' // a part of a tar archive
	KindExit    Kind = 'x' // Exit, JSON
)

// MaxFrame bounds what a frame holds.
const MaxFrame = 64 << 10

const headerSize = 5 // kind, length (big endian)

// Encoder writes frames; it may be used by several goroutines.
type Encoder struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewEncoder writes to w.
func NewEncoder(w io.Writer) *Encoder { return &Encoder{w: w} }

// Send writes data as frames of one kind, none when it is empty.
func (e *Encoder) Send(kind Kind, data []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(data) > 0 {
		part := data[:min(len(data), MaxFrame)]
		data = data[len(part):]
		e.buf = append(e.buf[:0], byte(kind))
		e.buf = binary.BigEndian.AppendUint32(e.buf, uint32(len(part)))
		e.buf = append(e.buf, part...)
		if _, err := e.w.Write(e.buf); err != nil {
			return err
		}
	}
	return nil
}

// SendJSON writes v, which has to fit into one frame.
func (e *Encoder) SendJSON(kind Kind, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > MaxFrame {
		return fmt.Errorf("%T takes %d bytes, a frame holds %d", v, len(text), MaxFrame)
	}
	return e.Send(kind, text)
}

// Writer returns a writer whose writes become frames of one kind.
func (e *Encoder) Writer(kind Kind) io.Writer { return frameWriter{e, kind} }

type frameWriter struct {
	e    *Encoder
	kind Kind
}

func (w frameWriter) Write(p []byte) (int, error) {
	if err := w.e.Send(w.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Decoder reads frames.
type Decoder struct {
	r   io.Reader
	buf []byte
}

// NewDecoder reads from r.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{r: r, buf: make([]byte, MaxFrame)} }

// Next returns the next frame; data is valid until the next call. io.EOF is
// the end between two frames, io.ErrUnexpectedEOF one within.
func (d *Decoder) Next() (kind Kind, data []byte, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(d.r, header[:]); err != nil {
		return 0, nil, err
	}
	kind = Kind(header[0])
	switch kind {
	case KindHello, KindStdout, KindStderr, KindResults, KindExit:
	default:
		return 0, nil, fmt.Errorf("no kind of frame is %q", byte(kind))
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n == 0 || n > MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes, it may hold 1 to %d", n, MaxFrame)
	}
	if _, err := io.ReadFull(d.r, d.buf[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, d.buf[:n], nil
}
