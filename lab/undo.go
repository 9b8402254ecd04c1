package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Prefix begins the name of everything the lab makes: files, cgroups, network
// namespaces, nftables tables.
const Prefix = "fflab-"

// undo is one step of cleaning up, as data: what the lab does when a run ends
// the janitor does when the lab was killed.
type undo struct {
	ID   int      `json:"id"`
	Op   string   `json:"op"`
	Args []string `json:"args"`
	Done bool     `json:"done,omitempty"`
}

// janitor keeps the list of what has to be undone, and a process that has the
// same list and outlives the lab: it undoes what is left as soon as the pipe
// to it closes, even if the lab died by SIGKILL.
type janitor struct {
	mu   sync.Mutex
	pipe io.WriteCloser
	proc *exec.Cmd
	list []undo
	next int
}

func newJanitor(dir string) (*janitor, error) {
	cmd := exec.Command("/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), envRole+"=janitor")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a ^C is for the lab
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the janitor: %w", err)
	}
	return &janitor{pipe: pipe, proc: cmd}, nil
}

// later registers a step; call it before the thing to undo is made. What it
// returns takes the step at once, and only once.
func (j *janitor) later(op string, args ...string) func() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	u := undo{ID: j.next, Op: op, Args: args}
	j.list = append(j.list, u)
	j.tell(u)
	return func() error { return j.take(u.ID) }
}

func (j *janitor) tell(u undo) {
	line, _ := json.Marshal(u)
	if _, err := j.pipe.Write(append(line, '\n')); err != nil {
		fmt.Fprintf(os.Stderr, "lab: the janitor is gone, a killed lab would leave things behind: %v\n", err)
	}
}

func (j *janitor) take(id int) error {
	j.mu.Lock()
	var u *undo
	for i := range j.list {
		if j.list[i].ID == id {
			u = &j.list[i]
			break
		}
	}
	if u == nil || u.Done {
		j.mu.Unlock()
		return nil
	}
	u.Done = true
	step := *u
	j.mu.Unlock()
	err := step.do()
	if err == nil {
		j.mu.Lock()
		j.tell(step)
		j.mu.Unlock()
	}
	return err
}

// sweep takes every step that is left, the last first.
func (j *janitor) sweep() error {
	j.mu.Lock()
	ids := make([]int, 0, len(j.list))
	for _, u := range j.list {
		ids = append(ids, u.ID)
	}
	j.mu.Unlock()
	var errs []error
	for i := len(ids) - 1; i >= 0; i-- {
		if err := j.take(ids[i]); err != nil {
			errs = append(errs, err)
		}
	}
	j.mu.Lock()
	j.list = nil
	j.mu.Unlock()
	return errors.Join(errs...)
}

func (j *janitor) close() error {
	err := j.sweep()
	j.pipe.Close()
	return errors.Join(err, j.proc.Wait())
}

// janitorRole is the process that outlives the lab; its argument is the lab's
// scratch directory.
func janitorRole(args []string) {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	left := map[int]undo{}
	last := 0
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var u undo
		if json.Unmarshal(lines.Bytes(), &u) != nil {
			continue // the lab died in the middle of a line
		}
		if u.Done {
			delete(left, u.ID)
			continue
		}
		left[u.ID] = u
		last = max(last, u.ID)
	}
	for id := last; id > 0; id-- {
		if u, ok := left[id]; ok {
			if err := u.do(); err != nil {
				fmt.Fprintf(os.Stderr, "lab: %v\n", err)
			}
		}
	}
	if err := (undo{Op: "rm", Args: args}).do(); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	}
}

// do takes the step. Each step succeeds when there is nothing left to undo.
func (u undo) do() error {
	err := undoOps[u.Op](u.Args)
	if err != nil {
		return fmt.Errorf("undo %s %s: %w", u.Op, strings.Join(u.Args, " "), err)
	}
	return nil
}

var undoOps = map[string]func(a []string) error{
	// kill PGID: the process group, and wait until it is gone.
	"kill": func(a []string) error {
		pgid, err := strconv.Atoi(a[0])
		if err != nil || pgid <= 1 {
			return fmt.Errorf("no process group: %q", a[0])
		}
		for range 200 {
			if err := unix.Kill(-pgid, unix.SIGKILL); err == unix.ESRCH || onlyZombies(pgid) {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return fmt.Errorf("process group %d does not die", pgid)
	},
	"unit": stopUnit,
	// nfsd N: so many threads of the NFS server.
	"nfsd":       func(a []string) error { return command("rpc.nfsd", a[0]) },
	"stopserver": func(a []string) error { return command("systemctl", "stop", a[0]) },
	"unexport":   unexport,
	"unmap":      unmap,
	"umount": func(a []string) error {
		var err error
		for range 100 {
			if err = unix.Unmount(a[0], 0); err == nil || err == unix.EINVAL || err == unix.ENOENT {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		if lazy := unix.Unmount(a[0], unix.MNT_DETACH); lazy != nil {
			return err
		}
		return nil
	},
	"thaw": func(a []string) error {
		if err := thawMount(a[0]); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	},
	"losetup": func(a []string) error {
		// Not ours any more when the backing file differs.
		back, err := os.ReadFile("/sys/block/" + filepath.Base(a[0]) + "/loop/backing_file")
		if err != nil || !strings.HasPrefix(strings.TrimSpace(string(back)), a[1]) {
			return nil
		}
		return command("losetup", "-d", a[0])
	},
	"swapoff": func(a []string) error {
		swaps, err := os.ReadFile("/proc/swaps")
		if err != nil || !strings.Contains(string(swaps), a[0]) {
			return err
		}
		return command("swapoff", a[0])
	},
	"rmcgroup": func(a []string) error {
		var err error
		for range 100 {
			if err = unix.Rmdir(a[0]); err == nil || err == unix.ENOENT {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	},
	"netns": func(a []string) error {
		if _, err := os.Stat("/run/netns/" + a[0]); err != nil {
			return nil
		}
		return command("ip", "netns", "del", a[0])
	},
	// write PATH VALUE: put a kernel setting back; gone is fine too.
	"write": func(a []string) error {
		err := os.WriteFile(a[0], []byte(a[1]), 0)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	},
	// nswrite NETNS PATH VALUE: the same inside a network namespace.
	"nswrite": func(a []string) error {
		if _, err := os.Stat("/run/netns/" + a[0]); err != nil {
			return nil
		}
		return command("ip", "netns", "exec", a[0], "sh", "-c", "echo "+a[2]+" > "+a[1])
	},
	"rm": func(a []string) error {
		if !strings.Contains(a[0], "/"+Prefix) {
			return fmt.Errorf("not a path of the lab")
		}
		return os.RemoveAll(a[0])
	},
	"link": func(a []string) error {
		if _, err := os.Stat("/sys/class/net/" + a[0]); err != nil {
			return nil
		}
		return command("ip", "link", "del", a[0])
	},
	// clock OFFSET: the wall clock is the monotonic clock plus that many ns.
	"clock": func(a []string) error {
		offset, err := strconv.ParseInt(a[0], 10, 64)
		if err != nil {
			return err
		}
		ts := unix.NsecToTimespec(monotonic() + offset)
		return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	},
}

func onlyZombies(pgid int) bool {
	for _, pid := range processGroup(pgid) {
		if state, _ := procState(pid); state != 'Z' && state != 'X' && state != 0 {
			return false
		}
	}
	return true
}

// command runs a program and returns its output in the error.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
