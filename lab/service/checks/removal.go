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
		version := func() (string, error) { return m.Sh("dpkg-query --show --showformat='${Version}' freezeframe") }
		old, err := version()
		if err != nil {
			return err
		}
		runs := packaged(m) == nil
		var before Status
		ends := 0
		if runs {
			if err := m.Samples(); err != nil {
				return err
			}
			if before, err = m.Status(); err != nil {
				return err
			}
			all, err := m.UncleanEnds()
			if err != nil {
				return err
			}
			ends = len(all)
		}
		if err := m.All("echo '# mine' >> "+configFile, "mkdir -p "+stateDir, "dpkg --force-unsafe-io --force-confold --install "+m.Next, "grep -q '# mine' "+configFile, "test -d "+stateDir); err != nil {
			return err
		}
		if now, err := version(); err != nil || now == old {
			return fmt.Errorf("the version is %s still: %v", now, err)
		}
		if !runs {
			return nil
		}
		if err := m.Until(60*time.Second, m.Active); err != nil {
			return err
		}
		if err := m.Samples(); err != nil {
			return err
		}
		after, err := m.Status()
		if err != nil {
			return err
		}
		switch {
		case after.PID == before.PID:
			return fmt.Errorf("the process is %d still", after.PID)
		case after.Box.Oldest.After(before.Box.Oldest):
			return fmt.Errorf("the oldest reading is of %s, before it was of %s", after.Box.Oldest, before.Box.Oldest)
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
		if err := m.All("mkdir -p "+stateDir, "dpkg --remove freezeframe", "test -d "+stateDir, "test ! -e /usr/bin/freezeframe"); err != nil {
			return err
		}
		for _, unit := range []string{Service, "freezeframe.socket"} {
			if state, err := m.Property(unit, "ActiveState"); err != nil || state != "inactive" {
				return fmt.Errorf("after the removal %s is %s: %v", unit, state, err)
			}
		}
		if err := m.All("dpkg --purge freezeframe"); err != nil {
			return err
		}
		for _, path := range []string{stateDir, "/etc/freezeframe", "/run/freezeframe"} {
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
