package checks

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var clockStepped = Check{
	Name:  "clock-stepped",
	About: "the wall clock goes a day ahead and back, and a day back and ahead: recording goes on",
	Needs: packaged,
	Run: func(m *Machine) error {
		for _, way := range [][2]string{{"+1 day", "-1 day"}, {"-1 day", "+1 day"}} {
			day, err := m.Sh("date +%%d")
			if err != nil {
				return err
			}
			if err := m.Unshaken([]string{"date --set='" + way[0] + "'"}, 10*time.Second, func(Status) error {
				if now, err := m.Sh("date +%%d"); err != nil || now == day {
					return fmt.Errorf("the clock was not set: it is the %s still (%v)", now, err)
				}
				return m.Samples()
			}, []string{"date --set='" + way[1] + "'"}); err != nil {
				return fmt.Errorf("%s: %w", way[0], err)
			}
		}
		return nil
	},
}

// So many lines of so many bytes are more than the socket of journald takes (8 MiB,
// which the kernel doubles), although not every SIGHUP is a line of its own.
const (
	logLines = 1500
	logLine  = 32 << 10
)

var journaldStopped = Check{
	Name:  "journald-stopped",
	About: "journald does not read (SIGSTOP) until its socket is full: freezeframe does not wait for its log",
	Needs: packaged,
	Run: func(m *Machine) (err error) {
		was, err := os.ReadFile(configFile)
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, os.WriteFile(configFile, was, 0o644), m.All("systemctl reload "+Service))
		}()
		pid, err := m.Number(Service, "MainPID")
		if err != nil {
			return err
		}
		return m.Unshaken([]string{"systemctl kill --signal=STOP systemd-journald"}, 3*time.Second, func(Status) error {
			// What is wrong with it is said in full.
			if err := os.WriteFile(configFile, []byte("stall: {quiet: "+strings.Repeat("x", logLine)+"}\n"), 0o644); err != nil {
				return err
			}
			if err := m.fillLog(pid); err != nil {
				return err
			}
			return m.endure(10*time.Second, nil)
		}, []string{"systemctl kill --signal=CONT systemd-journald"})
	},
}

// fillLog has the service say what is wrong with its configuration until it
// waits for somebody to read that. A SIGHUP that comes before the last one was
// taken is none.
func (m *Machine) fillLog(pid int) error {
	for n := range logLines {
		if err := unix.Kill(pid, unix.SIGHUP); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
		if n%20 > 0 {
			continue
		}
		// A thread is in write(2, …).
		if _, err := m.Sh("grep -l '^1 0x2 ' /proc/%d/task/*/syscall", pid); err == nil {
			m.Note("the log was full after %d signals", n+1)
			return nil
		}
	}
	return errors.New("nobody waits for the log to be read, which is what this is about")
}
