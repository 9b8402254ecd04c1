package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Host does to a running machine what only its host can.
type Host struct {
	monitor *monitor
	process *os.Process
	cut     chan struct{}
}

// CutAfter takes the machine's power away in a while. It ends without a word,
// which is then no error of its Run.
func (h *Host) CutAfter(d time.Duration) {
	time.AfterFunc(d, func() {
		select {
		case h.cut <- struct{}{}:
		default: // cut already
		}
	})
}

// Pause stops the machine's CPUs and its clocks for a time, as a hypervisor does
// for a snapshot: inside, no time has passed.
func (h *Host) Pause(d time.Duration) error {
	return h.Paused(func() error { time.Sleep(d); return nil })
}

// Paused does something while the machine is stopped like that: what it has given
// its disk to write is on it.
func (h *Host) Paused(do func() error) error {
	if err := h.monitor.do("stop"); err != nil {
		return err
	}
	return errors.Join(do(), h.monitor.do("cont"))
}

// Freeze stops the machine for a time as a host does that has no CPU for it:
// its clocks run on.
func (h *Host) Freeze(d time.Duration) error {
	if err := h.process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop QEMU: %w", err)
	}
	time.Sleep(d)
	if err := h.process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("let QEMU go on: %w", err)
	}
	return nil
}

// Do is a Job's Ask for what every machine can do: "pause 2s", "freeze 500ms".
func (h *Host) Do(words []string) error {
	if len(words) == 2 {
		d, err := time.ParseDuration(words[1])
		if err != nil || d <= 0 || d > time.Minute {
			return fmt.Errorf("%q is no time up to a minute", words[1])
		}
		switch words[0] {
		case "pause":
			return h.Pause(d)
		case "freeze":
			return h.Freeze(d)
		}
	}
	return errors.New("want pause TIME or freeze TIME")
}

// monitor speaks QEMU's machine protocol (docs/interop/qmp-spec of QEMU): JSON
// values, one answer to each command, events between them.
type monitor struct {
	mu    sync.Mutex
	w     io.Writer
	in    *json.Decoder
	ready bool
}

func newMonitor(rw io.ReadWriter) *monitor { return &monitor{w: rw, in: json.NewDecoder(rw)} }

// do executes a command that has no arguments.
func (m *monitor) do(command string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		if err := m.execute("qmp_capabilities"); err != nil {
			return err
		}
		m.ready = true
	}
	return m.execute(command)
}

func (m *monitor) execute(command string) error {
	if err := json.NewEncoder(m.w).Encode(map[string]string{"execute": command}); err != nil {
		return fmt.Errorf("tell QEMU %s: %w", command, err)
	}
	for {
		var answer struct {
			Return *json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := m.in.Decode(&answer); err != nil {
			return fmt.Errorf("hear what QEMU says to %s: %w", command, err)
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("QEMU refuses %s: %s", command, answer.Error.Desc)
		case answer.Return != nil:
			return nil
		}
		// Its greeting, or an event.
	}
}

// CopyRoot makes a root disk that stays: a copy of the image at to, sparse. What
// a machine with it as its Disk writes is there when it boots again.
func (m *Machine) CopyRoot(ctx context.Context, to string) error {
	root, _, err := m.images(ctx)
	if err != nil {
		return err
	}
	return CopyDisk(ctx, root, to)
}

// CopyDisk copies a disk's file; holes stay.
func CopyDisk(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the disk %s: %w: %s", from, err, out)
	}
	return nil
}

// Scratch makes a directory that is removed by the next run if this one cannot.
func Scratch() (string, error) {
	if err := removeStale(os.TempDir(), scratch); err != nil {
		return "", err
	}
	return os.MkdirTemp("", scratch+strconv.Itoa(os.Getpid())+"-")
}
