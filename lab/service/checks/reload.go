package checks

import (
	"fmt"
	"os"
	"strings"
	"time"
)

var reload = Check{
	Name:  "reload",
	About: "a configuration that is no good is refused with its reason, and the old one is kept; a good one is taken; it is the same process all the while",
	Needs: packaged,
	Run: func(m *Machine) error {
		was, err := os.ReadFile(configFile)
		if err != nil {
			return err
		}
		defer func() {
			_ = os.WriteFile(configFile, was, 0o644) // the next check says if this failed
			_, _ = m.Sh("systemctl reload %s", Service)
		}()
		before, err := m.Status()
		if err != nil {
			return err
		}
		if err := os.WriteFile(configFile, []byte("stall: {quiet: 1h}\n"), 0o644); err != nil {
			return err
		}
		_, _ = m.Sh("systemctl reload %s", Service) // may well tell that it failed
		if err := m.Until(15*time.Second, func() error {
			s, err := m.Status()
			if err == nil && !strings.Contains(s.Err, "stall.quiet") {
				err = fmt.Errorf("the status says of the configuration %q", s.Err)
			}
			return err
		}); err != nil {
			return err
		}
		if err := m.Until(15*time.Second, func() error { // it is told every few seconds
			said, err := m.Property(Service, "StatusText")
			if err == nil && !strings.Contains(said, "stall.quiet") {
				err = fmt.Errorf("systemctl says of it %q", said)
			}
			return err
		}); err != nil {
			return err
		}
		if err := os.WriteFile(configFile, []byte("stall: {quiet: 800ms}\n"), 0o644); err != nil {
			return err
		}
		if _, err := m.Sh("systemctl reload %s", Service); err != nil {
			return err
		}
		return m.Until(15*time.Second, func() error {
			s, err := m.Status()
			if err == nil && s.Err != "" {
				err = fmt.Errorf("the status still says %q", s.Err)
			}
			if err == nil {
				err = s.lost(before)
			}
			return err
		})
	},
}
