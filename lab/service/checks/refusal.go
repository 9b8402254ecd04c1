package checks

import (
	"errors"
	"fmt"
	"strings"
)

var refusal = Check{
	Name:  "refusal",
	About: "a user outside the group is told what to do; a member may read, and may not reload",
	Needs: packaged,
	Run: func(m *Machine) error {
		defer m.Sh("userdel outsider; userdel reader")
		if err := m.All("useradd --system outsider", "useradd --system --groups freezeframe reader"); err != nil {
			return err
		}
		const as = "setpriv --reuid=%s --regid=%s --init-groups freezeframe %s"
		text, err := m.Sh(as, "outsider", "outsider", "list")
		if err == nil || !strings.Contains(text, "freezeframe") || !strings.Contains(text, "group") {
			return fmt.Errorf("an outsider is told %q (%v)", tail(text), err)
		}
		m.Note("an outsider is told: %s", tail(text))
		if _, err := m.Sh(as, "reader", "reader", "list"); err != nil {
			return err
		}
		text, err = m.Sh(as, "reader", "reader", "reload")
		if err == nil {
			return errors.New("a member of the group may reload")
		}
		if !strings.Contains(text, "root") {
			return fmt.Errorf("a member of the group that wants to reload is told %q", tail(text))
		}
		return nil
	},
}
