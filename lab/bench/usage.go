package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is a daemon that the bench started.
type child struct {
	*exec.Cmd
	name   string
	stderr bytes.Buffer
}

// start starts a daemon that dies with the bench.
func start(name string, program string, args ...string) (*child, error) {
	c := &child{Cmd: exec.Command(program, args...), name: name}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cmd.Stderr = &c.stderr
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// end ends the daemon by its id.
func (c *child) end() {
	_ = c.Process.Kill() // it may have ended by itself
	_ = c.Wait()         // killed: the status says nothing
}

// cpu returns the CPU time that the process has used, threads that ended and
// children it waited for included. The kernel keeps the children's by ticks of
// 10 ms.
func (c *child) cpu() (time.Duration, error) {
	// The CPU clock of another process: clock_getcpuclockid(3).
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^c.Process.Pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of %s (it ended?): %w: %s", c.name, err, c.stderr.String())
	}
	fields, err := statFields(c.Process.Pid)
	if err != nil {
		return 0, err
	}
	var ticks int
	for _, i := range []int{16 - 3, 17 - 3} { // cutime, cstime
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ts.Nano()) + time.Duration(ticks)*10*time.Millisecond, nil
}

// statFields returns the fields of /proc/PID/stat from the third on.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("read /proc/%d/stat: %q", pid, b)
	}
	return fields, nil
}

// switches returns how often all threads of the process were switched in.
func (c *child) switches() (n uint64) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.Process.Pid))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		if f := strings.Fields(string(b)); len(f) == 3 {
			v, _ := strconv.ParseUint(f[2], 10, 64)
			n += v
		}
	}
	return n
}

// rss returns the resident memory in MiB.
func (c *child) rss() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.Process.Pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0, fmt.Errorf("read statm of %s: %q", c.name, b)
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	return float64(pages*uint64(os.Getpagesize())) / (1 << 20), err
}

// sample is what a daemon used over a while.
type sample struct {
	wall, cpu time.Duration
	switches  uint64
}

func (s sample) percent() float64 { return 100 * s.cpu.Seconds() / s.wall.Seconds() }

func (s *sample) add(o sample) {
	s.wall += o.wall
	s.cpu += o.cpu
	s.switches += o.switches
}

// watch measures daemons over the same while.
func watch(length time.Duration, children ...*child) ([]sample, error) {
	before := make([]sample, len(children))
	read := func(i int) (s sample, err error) {
		s.wall = time.Duration(time.Now().UnixNano())
		s.cpu, err = children[i].cpu()
		s.switches = children[i].switches()
		return s, err
	}
	var err error
	for i := range children {
		if before[i], err = read(i); err != nil {
			return nil, err
		}
	}
	time.Sleep(length)
	used := make([]sample, len(children))
	for i := range children {
		now, err := read(i)
		if err != nil {
			return nil, err
		}
		used[i] = sample{now.wall - before[i].wall, now.cpu - before[i].cpu, now.switches - before[i].switches}
	}
	return used, nil
}

func kernelRelease() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
