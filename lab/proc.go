package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	envRole     = "FFLAB_ROLE"
	envNextRole = "FFLAB_NEXT_ROLE" // what the placed process becomes
	envPlace    = "FFLAB_PLACE"
)

// As is the variable with which the lab's own binary is started in a role, by a
// program that starts others.
func As(role string) string { return envRole + "=" + role }

// Cmd is a program to start: a role of the lab binary, or an external one.
type Cmd struct {
	// Name is the command name (comm) of a role's process. External programs
	// keep their own.
	Name string
	Role string
	Path string // external program, when Role is empty
	Args []string

	Place
	// Quiet programs never print "ready"; Start does not wait for it.
	Quiet bool
}

// Place is where and how a program runs; it is applied before its first
// instruction.
type Place struct {
	Cgroups []string `json:",omitempty"` // directories
	Netns   string   `json:",omitempty"`
	CPUs    []int    `json:",omitempty"`
	Nice    int      `json:",omitempty"`
	FIFO    int      `json:",omitempty"` // SCHED_FIFO priority
	RR      int      `json:",omitempty"` // SCHED_RR priority
	Files   uint64   `json:",omitempty"` // RLIMIT_NOFILE
	UID     int      `json:",omitempty"` // user and group; it may still read everything
	Procs   uint64   `json:",omitempty"` // RLIMIT_NPROC
	// Unit makes it a service of systemd, with these properties: see Scene.Unit.
	Unit       string   `json:"-"`
	Properties []string `json:"-"`
}

// Proc is a running program.
type Proc struct {
	Name  string
	PID   int
	Ready string // what stood behind "ready" on its first line

	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	errs  bytes.Buffer
	dead  chan struct{}
	kill  func() error
}

// launcher starts all programs from one thread that never ends: a parent-death
// signal is sent when the *thread* that forked dies.
type launcher chan func()

func newLauncher() launcher {
	l := make(launcher)
	go func() {
		runtime.LockOSThread()
		for f := range l {
			f()
		}
		runtime.UnlockOSThread() // all are dead by now
	}()
	return l
}

func (l launcher) start(cmd *exec.Cmd) error {
	done := make(chan error)
	l <- func() { done <- cmd.Start() }
	return <-done
}

// placeRole puts itself where the program belongs and becomes it.
func placeRole(args []string) {
	runtime.LockOSThread()
	var p Place
	fail := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "lab: %s: %v\n", what, err)
			os.Exit(2)
		}
	}
	fail("placement", json.Unmarshal([]byte(os.Getenv(envPlace)), &p))
	os.Unsetenv(envPlace)
	for _, dir := range p.Cgroups {
		fail("join "+dir, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	}
	if p.Netns != "" {
		fd, err := unix.Open("/run/netns/"+p.Netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		fail("open netns "+p.Netns, err)
		fail("enter netns "+p.Netns, unix.Setns(fd, unix.CLONE_NEWNET))
	}
	if len(p.CPUs) > 0 {
		var set unix.CPUSet
		for _, c := range p.CPUs {
			set.Set(c)
		}
		fail("pin to CPUs", unix.SchedSetaffinity(0, &set))
	}
	if p.FIFO > 0 || p.RR > 0 || p.Nice != 0 {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: int32(p.Nice)}
		switch {
		case p.FIFO > 0:
			attr.Policy, attr.Priority = unix.SCHED_FIFO, uint32(p.FIFO)
		case p.RR > 0:
			attr.Policy, attr.Priority = unix.SCHED_RR, uint32(p.RR)
		}
		fail("scheduling class", unix.SchedSetAttr(0, &attr, 0))
	}
	if p.Files > 0 {
		fail("RLIMIT_NOFILE", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: p.Files, Max: p.Files}))
	}
	if p.Procs > 0 {
		fail("RLIMIT_NPROC", unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: p.Procs, Max: p.Procs}))
	}
	if p.UID != 0 {
		fail("become another user", becomeUser(p.UID))
	}
	if next := os.Getenv(envNextRole); next != "" {
		os.Setenv(envRole, next)
	}
	os.Unsetenv(envNextRole)
	// The dying parent is noticed by the program itself from here on: the
	// signal survives exec.
	fail("exec "+args[0], syscall.Exec(args[0], args[1:], os.Environ()))
}

// becomeUser makes this thread, which is to exec, that of another user. It keeps
// CAP_DAC_READ_SEARCH: the interpreter or the scratch directory may lie where
// only root looks. Limits of users hold it all the same.
func becomeUser(uid int) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, call := range []uintptr{unix.SYS_SETGROUPS, unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		a := uintptr(uid)
		if call == unix.SYS_SETGROUPS {
			a = 0
		}
		// Raw: the runtime's own would do it to the other threads, too.
		if _, _, errno := unix.RawSyscall(call, a, a, a); errno != 0 {
			return errno
		}
	}
	const keep = 1 << unix.CAP_DAC_READ_SEARCH
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	caps := [2]unix.CapUserData{{Effective: keep, Permitted: keep, Inheritable: keep}}
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_DAC_READ_SEARCH, 0, 0); err != nil {
		return err
	}
	// The kernel forgets it with the old user.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// placed returns the command that puts itself in its place and becomes target,
// in the role if that is the lab binary.
func (l *Lab) placed(p Place, role, target string, argv ...string) *exec.Cmd {
	place, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers only
	}
	cmd := exec.Command(l.exe, append([]string{target}, argv...)...)
	cmd.Env = append(os.Environ(), envPlace+"="+string(place), envRole+"=place", envNextRole+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if p.Unit != "" {
		return asUnit(p, cmd)
	}
	return cmd
}

// start starts c in its own process group and, unless it is quiet, waits for
// its line "ready".
func (l *Lab) start(c Cmd) (*Proc, error) {
	var target, argv0 string
	var err error
	if c.Role != "" {
		// A symlink gives the process the name that a report will show.
		target = filepath.Join(l.dir, "bin", c.Name)
		if err := os.Symlink(l.exe, target); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		argv0 = c.Name
	} else {
		if target, err = exec.LookPath(c.Path); err != nil {
			return nil, err
		}
		argv0 = target
		if c.Name == "" {
			c.Name = filepath.Base(target)
		}
	}
	cmd := l.placed(c.Place, c.Role, target, append([]string{argv0}, c.Args...)...)
	p := &Proc{Name: c.Name, cmd: cmd, lines: make(chan string, 64), dead: make(chan struct{})}
	cmd.Stderr = &p.errs
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stop func() error
	if c.Unit != "" {
		stop = l.janitor.later("unit", c.Unit)
	}
	if err := l.launch.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p.PID = cmd.Process.Pid
	p.kill = l.janitor.later("kill", strconv.Itoa(p.PID))
	if stop != nil {
		p.kill = stop // systemd-run ends with it
	}
	go func() {
		r := bufio.NewReaderSize(out, 1<<16)
		for {
			line, err := r.ReadString('\n')
			if line != "" {
				p.lines <- strings.TrimSuffix(line, "\n")
			}
			if err != nil {
				break
			}
		}
		close(p.lines)
		cmd.Wait()
		close(p.dead)
	}()
	if c.Unit != "" {
		if p.PID, err = mainPID(c.Unit); err != nil {
			return nil, fmt.Errorf("start %s: %w", c.Name, err)
		}
	}
	if c.Quiet {
		return p, nil
	}
	line, err := p.line(time.Minute)
	if err != nil {
		return nil, fmt.Errorf("%s did not start: %w", c.Name, err)
	}
	ready, ok := strings.CutPrefix(line, "ready")
	if !ok {
		return nil, fmt.Errorf("%s said %q instead of ready", c.Name, line)
	}
	p.Ready = strings.TrimSpace(ready)
	return p, nil
}

func (p *Proc) line(timeout time.Duration) (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			<-p.dead
			return "", fmt.Errorf("it ended: %v: %s", p.cmd.ProcessState, strings.TrimSpace(p.errs.String()))
		}
		return line, nil
	case <-time.After(timeout):
		return "", fmt.Errorf("it said nothing for %v", timeout)
	}
}

// Say sends the program a line. What the programs understand is their own;
// loads begin at "go" and end at "stop".
func (p *Proc) Say(line string) error {
	_, err := io.WriteString(p.in, line+"\n")
	return err
}

// Signal sends the process, not its group, a signal.
func (p *Proc) Signal(sig syscall.Signal) error { return unix.Kill(p.PID, sig) }

// SignalGroup sends it to the process and all of its group.
func (p *Proc) SignalGroup(sig syscall.Signal) error { return unix.Kill(-p.PID, sig) }

// Kill ends the process group and waits until it is gone.
func (p *Proc) Kill() error { return p.kill() }

// Listen is for roles: it says that the program is ready and gives each line
// it is told to got; it returns when the lab closes the pipe.
func Listen(ready string, got func(line string)) {
	fmt.Println("ready " + ready)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if got != nil {
			got(lines.Text())
		}
	}
}

// processGroup returns the members of a process group.
func processGroup(pgid int) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, g := procState(pid); g == pgid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procState returns a process's state letter and process group, 0 when it is gone.
func procState(pid int) (state byte, pgid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 3 {
		return 0, 0
	}
	pgid, _ = strconv.Atoi(f[2])
	return f[0][0], pgid
}

// Ask sends a line and waits for the program's answer to it.
func (p *Proc) Ask(line string, timeout time.Duration) (string, error) {
	if err := p.Say(line); err != nil {
		return "", err
	}
	return p.line(timeout)
}
