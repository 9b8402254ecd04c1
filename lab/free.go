package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"freezeframe/lab/victim"

	"golang.org/x/sys/unix"
)

// Free lends a scene to a measurement that is no single fault. f starts what
// it wants and measures by itself; all of it is undone when f returns. The
// error is why f failed, or what could not be undone.
func (l *Lab) Free(seed uint64, f func(*Scene)) (err error) {
	s := &Scene{lab: l, Rand: rand.New(rand.NewPCG(seed, 1))}
	defer func() {
		if r := recover(); r != nil {
			fail, ok := r.(failure)
			if !ok {
				fail.err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
			}
			err = fail.err
		}
		if undone := l.janitor.sweep(); undone != nil && err == nil {
			err = fmt.Errorf("not cleaned up: %w", undone)
		}
		l.settle()
	}()
	if s.Dir, err = os.MkdirTemp(l.dir, "run"); err != nil {
		return err
	}
	l.janitor.later("rm", s.Dir)
	f(s)
	return nil
}

// Monotonic returns CLOCK_MONOTONIC in nanoseconds.
func Monotonic() int64 { return monotonic() }

// WallOffset returns what to add to CLOCK_MONOTONIC to get the wall clock, in
// nanoseconds.
func WallOffset() int64 { return wallOffset() }

// SleepUntil sleeps until CLOCK_MONOTONIC shows at.
func SleepUntil(at int64) { sleepUntil(at) }

// Hold makes something that lasts for so long, as Break does, and returns its
// edges. A scene may do so many times.
func (s *Scene) Hold(length time.Duration, begin, end func()) (from, to int64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	normal := s.aboveAll()
	defer normal()
	from = monotonic()
	begin()
	sleepThreadUntil(from + int64(length))
	end()
	return from, monotonic()
}

// Prefer gives the lab's session a nice value of its own until the scene ends,
// where the kernel shares the CPU between sessions (autogroup, sched(7)): a
// program's nice value says nothing to those of other sessions there.
func (s *Scene) Prefer(nice int) {
	leader, err := unix.Getsid(0)
	s.Check(err)
	path := fmt.Sprintf("/proc/%d/autogroup", leader)
	have, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return // no autogroups, or the session's first process is gone
	}
	s.Check(err)
	_, was, ok := strings.Cut(strings.TrimSpace(string(have)), "nice ")
	if !ok {
		return
	}
	s.lab.janitor.later("write", path, was)
	s.Check(os.WriteFile(path, []byte(strconv.Itoa(nice)), 0))
}

// PIDs returns the processes of the program now: its own and what it started.
func (p *Proc) PIDs() []int {
	pids := processGroup(p.PID)
	if !slices.Contains(pids, p.PID) {
		pids = append(pids, p.PID)
	}
	return pids
}

// Dead tells whether the program has ended, and how.
func (p *Proc) Dead() (how string, dead bool) {
	select {
	case <-p.dead:
		return fmt.Sprintf("%v: %s", p.cmd.ProcessState, strings.TrimSpace(p.errs.String())), true
	default:
		return "", false
	}
}

// Waits has users, or a meter, report and end.
func (s *Scene) Waits(p *Proc) []victim.Wait {
	waits, err := collect(p)
	s.Check(err)
	return waits
}

// Watcher is a freezeframe at work.
type Watcher struct {
	Document string // file that gets the diagnosis
	PID      int

	cmd  *exec.Cmd
	done chan error
}

// Diagnose starts the lab's freezeframe, which watches for so long or until
// End. Its document and what it says on standard error go to dir, with save the
// reports and recordings too.
func (s *Scene) Diagnose(length time.Duration, dir string, save bool) *Watcher {
	s.Check(os.MkdirAll(dir, 0o755))
	args := []string{"diagnose", "--for", length.String(), "--json"}
	if save {
		args = append(args, "--out", dir)
	}
	file, err := os.Create(filepath.Join(dir, "diagnosis.json"))
	s.Check(err)
	errs, err := os.Create(filepath.Join(dir, "stderr.txt"))
	s.Check(err)
	path, argv := s.lab.Bin, append([]string{s.lab.Bin}, args...)
	if len(s.lab.Wrap) > 0 {
		path, err = exec.LookPath(s.lab.Wrap[0])
		s.Check(err)
		argv = append(slices.Clone(s.lab.Wrap), argv...)
	}
	cmd := s.lab.placed(Place{}, "", path, argv...)
	cmd.Stdout, cmd.Stderr = file, errs
	s.Check(s.lab.launch.start(cmd))
	s.lab.janitor.later("kill", strconv.Itoa(cmd.Process.Pid))
	w := &Watcher{Document: file.Name(), PID: cmd.Process.Pid, cmd: cmd, done: make(chan error, 1)}
	go func() {
		err := cmd.Wait()
		file.Close()
		errs.Close()
		if err != nil {
			text, _ := os.ReadFile(errs.Name())
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(text)))
		}
		w.done <- err
	}()
	return w
}

// Kill ends it at once, if it still runs.
func (w *Watcher) Kill() {
	if w.cmd.ProcessState == nil {
		_ = w.cmd.Process.Kill()
	}
}

// End has it end its watch now and reads its document into v.
func (w *Watcher) End(v any) error {
	if err := w.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("freezeframe ended early: %w", <-w.done)
	}
	select {
	case err := <-w.done:
		if err != nil {
			return fmt.Errorf("freezeframe diagnose: %w", err)
		}
	case <-time.After(30 * time.Second):
		w.Kill()
		return fmt.Errorf("freezeframe did not end within 30 s of SIGINT: %w", <-w.done)
	}
	text, err := os.ReadFile(w.Document)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("read the diagnosis: %w", err)
	}
	return nil
}
