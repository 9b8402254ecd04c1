package checks

import "time"

var clockStepped = Check{
	Name:  "clock-stepped",
	About: "the wall clock goes a day ahead and back: recording goes on",
	Needs: packaged,
	Run: func(m *Machine) error {
		return m.Unshaken([]string{`date --set="+1 day"`}, m.Long(4*time.Second), nil, []string{`date --set="-1 day"`})
	},
}

var journaldStopped = Check{
	Name:  "journald-stopped",
	About: "journald does not read (SIGSTOP): freezeframe does not wait for its log",
	Needs: packaged,
	Run: func(m *Machine) error {
		return m.Unshaken([]string{"systemctl kill --signal=STOP systemd-journald", "systemctl reload freezeframe || true"},
			m.Long(6*time.Second), func() error { _, err := m.Status(); return err },
			[]string{"systemctl kill --signal=CONT systemd-journald"})
	},
}
