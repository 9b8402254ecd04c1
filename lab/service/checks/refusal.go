package checks

import (
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
		text, err := m.Sh("setpriv --reuid=outsider --regid=outsider --init-groups freezeframe list")
		if err == nil || !strings.Contains(text, "freezeframe") || !strings.Contains(text, "group") {
			return fmt.Errorf("an outsider is told %q (%v)", tail(text), err)
		}
		m.Note("an outsider is told: %s", tail(text))
		_, err = m.Sh("setpriv --reuid=reader --regid=reader --init-groups freezeframe list")
		return err
	},
}
