package checks

import (
	"fmt"
	"time"
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
		return replaced(m, "STOP", 150*time.Second)
	},
}

var killed = Check{
	Name:  "killed",
	About: "the process is killed: systemd starts it again, and the end is reported",
	Needs: packaged,
	Run:   func(m *Machine) error { return replaced(m, "KILL", 30*time.Second) },
}

// replaced sends a signal to the service and wants another process within a
// time, whose first report is of the end of the one before.
func replaced(m *Machine, signal string, within time.Duration) error {
	if err := m.Samples(); err != nil {
		return err
	}
	ends, err := m.UncleanEnds()
	if err != nil {
		return err
	}
	before, err := m.Number(Service, "MainPID")
	if err != nil {
		return err
	}
	began := time.Now()
	if err := m.All(fmt.Sprintf("kill -%s %d", signal, before)); err != nil {
		return err
	}
	if err := m.Until(within, func() error {
		pid, err := m.Number(Service, "MainPID")
		if err == nil && (pid == before || pid == 0) {
			err = fmt.Errorf("the process is %d still", pid)
		}
		return err
	}); err != nil {
		return err
	}
	m.Note("replaced after %.1f s", time.Since(began).Seconds())
	if err := m.Samples(); err != nil {
		return err
	}
	return m.Until(40*time.Second, func() error {
		now, err := m.UncleanEnds()
		if err == nil && len(now) != len(ends)+1 {
			err = fmt.Errorf("%d reports of an unclean end, before %d", len(now), len(ends))
		}
		return err
	})
}

var restartLoop = Check{
	Name:  "restart-loop",
	About: "another unit fails and is started again without pause: freezeframe goes on, and is not what suffers",
	Needs: packaged,
	Run: func(m *Machine) error {
		return m.Unshaken([]string{
			"systemd-run --quiet --unit=ff-loop --property=Restart=always --property=RestartSec=50ms --property=StartLimitIntervalSec=0 /bin/false",
		}, m.Long(5*time.Second), nil, []string{"systemctl stop ff-loop", "systemctl reset-failed ff-loop || true"})
	},
}
