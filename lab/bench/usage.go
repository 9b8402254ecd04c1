package main

import (
	"bufio"
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
	return c, c.begin()
}

// startReady starts a daemon that prints a line when it begins its work.
func startReady(name string, program string, args ...string) (*child, error) {
	c := &child{Cmd: exec.Command(program, args...), name: name}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		c.end()
		return nil, fmt.Errorf("%s ended before it began: %s", name, c.stderr.String())
	}
	return c, nil
}

func (c *child) begin() error {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cmd.Stderr = &c.stderr
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	return nil
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

// scheduled returns how often all threads of the process were switched in, and
// how long they were ready but had no CPU.
func (c *child) scheduled() (switches uint64, waited time.Duration) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.Process.Pid))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		if f := strings.Fields(string(b)); len(f) == 3 {
			ns, _ := strconv.ParseUint(f[1], 10, 64)
			n, _ := strconv.ParseUint(f[2], 10, 64)
			waited += time.Duration(ns)
			switches += n
		}
	}
	return switches, waited
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
	wall, cpu, waited time.Duration
	switches          uint64
}

func (s sample) percent() float64 { return 100 * s.cpu.Seconds() / s.wall.Seconds() }

func (s *sample) add(o sample) {
	s.wall += o.wall
	s.cpu += o.cpu
	s.waited += o.waited
	s.switches += o.switches
}

// busy says so when the daemons did not get the CPU when they wanted it: then
// they left out ticks, and the figures tell nothing.
func busy(used ...sample) bool {
	for _, s := range used {
		if s.waited > s.wall/20 {
			fmt.Printf("NOT VALID: the machine is too busy (a daemon was ready but without a CPU for %.0f %% of the time)\n", 100*s.waited.Seconds()/s.wall.Seconds())
			return true
		}
	}
	return false
}

// watch measures daemons over the same while.
func watch(length time.Duration, children ...*child) ([]sample, error) {
	before := make([]sample, len(children))
	read := func(i int) (s sample, err error) {
		s.wall = time.Duration(time.Now().UnixNano())
		s.cpu, err = children[i].cpu()
		s.switches, s.waited = children[i].scheduled()
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
		b := before[i]
		used[i] = sample{now.wall - b.wall, now.cpu - b.cpu, now.waited - min(b.waited, now.waited), now.switches - min(b.switches, now.switches)}
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
