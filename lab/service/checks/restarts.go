package checks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var stopped = Check{
	Name:  "watchdog",
	About: "the process is stopped (SIGSTOP) for good: the watchdog has it replaced, and the end is reported",
	Needs: packaged,
	Run: func(m *Machine) error {
		usec, err := m.Property(Service, "WatchdogUSec")
		if err != nil {
			return err
		}
		m.Note("WatchdogSec=%s", usec)
		_, err = replaced(m, 150*time.Second, func(pid int) error { return unix.Kill(pid, unix.SIGSTOP) })
		return err
	},
}

var wedged = Check{
	Name:  "watchdog-lanes",
	About: "the threads that sample are held, and no others: the service says that it is wedged, the watchdog has it replaced, and the end is reported",
	Needs: packaged,
	Run: func(m *Machine) (err error) {
		if err := errors.Join(m.quick(m.Long(10*time.Second)), m.All("systemctl restart "+Service)); err != nil {
			return err
		}
		release := func() {}
		defer func() {
			release()
			err = errors.Join(err, m.quick(0), m.All("systemctl reset-failed "+Service+" || true", "systemctl restart "+Service))
		}()
		_, err = replaced(m, 90*time.Second, func(pid int) error {
			held, let, err := holdLanes(pid)
			if err != nil {
				return err
			}
			release = let
			m.Note("%d threads held", held)
			return m.Until(30*time.Second, func() error {
				said, err := m.Property(Service, "StatusText")
				if err == nil && !strings.Contains(said, "Wedged") {
					err = fmt.Errorf("its status is %q", said)
				}
				return err
			})
		})
		return err
	},
}

// lanes is how many threads of the service do nothing but sample.
const lanes = 3

// holdLanes holds the threads of the process that wait for their next tick as
// the lanes of the sampler do (ptrace(2)), until release is called or they die.
func holdLanes(pid int) (held int, release func(), err error) {
	type result struct {
		held int
		err  error
	}
	got, stop, released := make(chan result), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		// Only the thread that holds them may let them go, or bury them: a process
		// with a thread that nobody waited for is not gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids, err := seizeLanes(pid)
		defer func() {
			for _, tid := range tids {
				_ = unix.PtraceDetach(tid) // it may be gone
			}
		}()
		got <- result{len(tids), err}
		for err == nil && len(tids) > 0 {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			tids = slices.DeleteFunc(tids, func(tid int) bool {
				var how unix.WaitStatus
				n, err := unix.Wait4(tid, &how, unix.WALL|unix.WNOHANG, nil)
				return err != nil || n == tid && (how.Exited() || how.Signaled())
			})
		}
	}()
	r := <-got
	return r.held, sync.OnceFunc(func() { close(stop); <-released }), r.err
}

// seizeLanes holds what waits in a futex with a bitset, as the runtime of Go does
// not.
func seizeLanes(pid int) (tids []int, err error) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		calls, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		if err != nil {
			return tids, err
		}
		for _, file := range calls {
			tid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil || slices.Contains(tids, tid) || !waitsForTick(file) {
				continue
			}
			if err := unix.PtraceSeize(tid); err != nil {
				return tids, fmt.Errorf("hold thread %d: %w", tid, err)
			}
			tids = append(tids, tid)
			if err := unix.PtraceInterrupt(tid); err != nil {
				return tids, fmt.Errorf("hold thread %d: %w", tid, err)
			}
		}
	}
	if len(tids) < lanes {
		return tids, fmt.Errorf("only %d threads of process %d wait as lanes do, not %d", len(tids), pid, lanes)
	}
	return tids, nil
}

// waitsForTick tells of a thread, by its /proc/PID/task/TID/syscall ("202 ADDRESS
// OPERATION …"), whether it is in futex(FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG).
func waitsForTick(file string) bool {
	text, err := os.ReadFile(file)
	f := strings.Fields(string(text))
	return err == nil && len(f) > 2 && f[0] == strconv.Itoa(unix.SYS_FUTEX) && f[2] == "0x89"
}

var killed = Check{
	Name:  "killed",
	About: "the process is killed: systemd starts it again, and the end is reported, at most 5 s after the last reading",
	Needs: packaged,
	Run: func(m *Machine) error {
		var at time.Time
		end, err := replaced(m, 30*time.Second, func(pid int) error { at = time.Now(); return unix.Kill(pid, unix.SIGKILL) })
		if err != nil {
			return err
		}
		missing := at.Sub(end)
		m.Note("%.1f s missing", missing.Seconds())
		if missing > mostMissing {
			return fmt.Errorf("its recording ends %v before it was killed", missing)
		}
		return nil
	},
}

// mostMissing is how much of a recording may be missing when it ends at once.
const mostMissing = 5 * time.Second

// replaced ends the service as it is told to and wants another process within a
// time, whose first report is of the end of the one before: when that was.
func replaced(m *Machine, within time.Duration, end func(pid int) error) (at time.Time, err error) {
	if err := m.Until(60*time.Second, m.Active); err != nil {
		return at, err
	}
	if err := m.Samples(); err != nil {
		return at, err
	}
	ends, err := m.UncleanEnds()
	if err != nil {
		return at, err
	}
	before, err := m.Number(Service, "MainPID")
	if err != nil {
		return at, err
	}
	restarts, err := m.Restarts()
	if err != nil {
		return at, err
	}
	began := time.Now()
	if err := end(before); err != nil {
		return at, err
	}
	if err := m.Until(within, func() error {
		pid, err := m.Number(Service, "MainPID")
		if err == nil && (pid == before || pid == 0) {
			err = fmt.Errorf("the process is %d still", pid)
		}
		return err
	}); err != nil {
		return at, err
	}
	m.Note("replaced after %.1f s", time.Since(began).Seconds())
	if err := m.Until(60*time.Second, m.Active); err != nil {
		return at, err
	}
	if err := m.Samples(); err != nil {
		return at, err
	}
	if now, err := m.Restarts(); err != nil || now != restarts+1 {
		return at, fmt.Errorf("systemd started it again %d times, before %d: %v", now, restarts, err)
	}
	err = m.Until(40*time.Second, func() error {
		now, err := m.UncleanEnds()
		if err != nil {
			return err
		}
		if len(now) != len(ends)+1 {
			return fmt.Errorf("%d reports of an unclean end, before %d", len(now), len(ends))
		}
		for _, r := range now {
			if ended, _ := r.UncleanEnd(); ended.After(at) {
				at = ended
			}
		}
		return nil
	})
	return at, err
}

var restartLoop = Check{
	Name:  "restart-loop",
	About: "another unit fails and is started again without pause: freezeframe goes on, is not what suffers, and reports nothing of it, since nobody waits for that unit",
	Needs: packaged,
	Run: func(m *Machine) error {
		const unit = "ff-loop.service"
		began := time.Now()
		return m.Unshaken([]string{
			"systemd-run --quiet --unit=" + unit + " --property=Restart=always --property=RestartSec=50ms --property=StartLimitIntervalSec=0 /bin/false",
		}, 20*time.Second, func(Status) error {
			n, err := m.Number(unit, "NRestarts")
			if err != nil {
				return err
			}
			m.Note("%d restarts in 20 s", n)
			if n < 10 {
				return errors.New("that is no loop")
			}
			all, err := m.Listing()
			for _, i := range all {
				if i.Start.After(began) && (i.Cause == "app.crash_loop" || i.Cause == "app.restarted") {
					err = errors.Join(err, fmt.Errorf("it was reported: %s", i.Summary))
				}
			}
			return err
		}, []string{"systemctl stop " + unit, "systemctl reset-failed " + unit + " || true"})
	},
}
