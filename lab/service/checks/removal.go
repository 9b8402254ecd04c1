package checks

import (
	"errors"
	"fmt"
	"os"
	"time"
)

var upgrade = Check{
	Name:  "upgrade",
	About: "a newer package: another process of the new version, which found a clean end; the configuration and the recordings are kept",
	Needs: func(m *Machine) error {
		if m.Next == "" {
			return errors.New("no newer package was given (-next)")
		}
		return given(m)
	},
	Run: func(m *Machine) error {
		runs := packaged(m) == nil
		before, ends := 0, 0
		if runs {
			var err error
			if before, err = m.Number(Service, "MainPID"); err != nil {
				return err
			}
			all, err := m.UncleanEnds()
			if err != nil {
				return err
			}
			ends = len(all)
		}
		if err := m.All("echo '# mine' >> /etc/freezeframe/config.yaml", "mkdir -p /var/lib/freezeframe", "dpkg --force-unsafe-io --force-confold --install "+m.Next, "grep -q '# mine' /etc/freezeframe/config.yaml", "test -d /var/lib/freezeframe"); err != nil {
			return err
		}
		if !runs {
			return nil
		}
		if err := m.Until(60*time.Second, m.Active); err != nil {
			return err
		}
		after, err := m.Number(Service, "MainPID")
		if err != nil || after == before {
			return fmt.Errorf("the process is %d still: %v", after, err)
		}
		if err := m.Samples(); err != nil {
			return err
		}
		all, err := m.UncleanEnds()
		if err == nil && len(all) != ends {
			err = fmt.Errorf("an upgrade was reported as an unclean end: %d reports, before %d", len(all), ends)
		}
		return err
	},
}

var purge = Check{
	Name:  "purge",
	About: "removed, it stops and keeps the recordings; purged, nothing of it is left",
	Needs: given,
	Run: func(m *Machine) error {
		if err := m.All("mkdir -p /var/lib/freezeframe", "dpkg --remove freezeframe", "test -d /var/lib/freezeframe", "test ! -e /usr/bin/freezeframe"); err != nil {
			return err
		}
		if state, _ := m.Property(Service, "ActiveState"); state != "inactive" {
			return fmt.Errorf("after the removal %s is %s", Service, state)
		}
		if err := m.All("dpkg --purge freezeframe"); err != nil {
			return err
		}
		for _, path := range []string{"/var/lib/freezeframe", "/etc/freezeframe", "/run/freezeframe"} {
			if _, err := os.Stat(path); err == nil {
				return fmt.Errorf("%s is left after the purge", path)
			}
		}
		if failed, err := m.Sh("systemctl --failed --plain --no-legend | grep freezeframe || true"); err != nil || failed != "" {
			return fmt.Errorf("systemd still knows of %s: %v", failed, err)
		}
		return nil
	},
}
