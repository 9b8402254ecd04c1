package checks

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

var install = Check{
	Name:  "install",
	About: "dpkg installs the package; the group, the unit, the socket and the manual are there, the service starts by itself",
	Needs: given,
	Run: func(m *Machine) error {
		if err := m.All("dpkg --force-unsafe-io --install "+m.Deb, "freezeframe version", "freezeframe explain fs.frozen", "getent group freezeframe", "test -d /run/freezeframe", "test -s /etc/freezeframe/config.yaml"); err != nil {
			return err
		}
		if units, err := m.Sh("systemd-analyze verify --man=no $(dpkg-query -L freezeframe | grep '/systemd/system/freezeframe[^@]*$' || echo freezeframe-diagnose@1s.service) 2>&1"); err != nil || units != "" {
			return fmt.Errorf("systemd-analyze verify says: %s (%v)", units, err)
		}
		if packaged(m) != nil {
			m.Note("no %s in this package: nothing to start", Service)
			return nil
		}
		if state, err := m.Sh("systemctl is-enabled %s", Service); err != nil || state != "enabled" {
			return fmt.Errorf("%s is %q, not enabled: %v", Service, state, err)
		}
		return m.Until(60*time.Second, m.Active)
	},
}

var clean = Check{
	Name:  "status",
	About: "systemctl status is clean: active, no restart, no warning but of rights that are missing; readings reach the disk",
	Needs: packaged,
	Run: func(m *Machine) error {
		if err := m.Until(60*time.Second, m.Active); err != nil {
			return err
		}
		if err := m.Samples(); err != nil {
			return err
		}
		text, err := m.Sh("systemctl status --no-pager --full %s", Service)
		if err != nil {
			return err
		}
		_ = os.WriteFile("out/status.txt", []byte(text+"\n"), 0o644) // for whoever reads the results
		if n, err := m.Restarts(); err != nil || n != 0 {
			return fmt.Errorf("it was restarted %d times: %v", n, err)
		}
		errs, err := m.Sh("journalctl --no-pager -q -o cat -p err -u %s", Service)
		if err != nil || errs != "" {
			return fmt.Errorf("it logged errors: %s (%v)", tail(errs), err)
		}
		for _, line := range strings.Split(text, "\n") {
			if l := strings.TrimSpace(line); strings.HasPrefix(l, "Status:") || strings.HasPrefix(l, "Memory:") || strings.HasPrefix(l, "CPU:") {
				m.Note("%s", l)
			}
		}
		return nil
	},
}

// residentMost is what the recorder may keep resident.
const residentMost = 64 << 20

var memory = Check{
	Name:  "memory",
	About: "after half a minute it keeps no more than 64 MiB resident",
	Needs: packaged,
	Run: func(m *Machine) error {
		time.Sleep(30 * time.Second)
		pid, err := m.Number(Service, "MainPID")
		if err != nil {
			return err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return err
		}
		resident := 0
		for _, name := range []string{"VmRSS", "VmHWM", "RssAnon", "RssFile", "VmLck"} {
			kib, err := kibOf(string(status), name)
			if err != nil {
				return err
			}
			if name == "VmRSS" {
				resident = kib << 10
			}
			m.Note("%s %.1f MB", name, float64(kib<<10)/1e6)
		}
		// What of it is in huge pages, and where most of it is.
		maps, err := m.Sh(`cat /sys/kernel/mm/transparent_hugepage/enabled /proc/%d/smaps_rollup; cat /proc/%d/smaps; systemctl show --property=MemoryCurrent %s; cat /sys/fs/cgroup/system.slice/%s/memory.stat`, pid, pid, Service, Service)
		if err != nil {
			return err
		}
		_ = os.WriteFile("out/memory.txt", []byte(maps+"\n"), 0o644) // for whoever reads the results
		huge, err := kibOf(maps, "AnonHugePages")
		if err != nil {
			return err
		}
		m.Note("%.1f MB of it in huge pages", float64(huge<<10)/1e6)
		if resident > residentMost {
			return fmt.Errorf("%.1f MB are resident", float64(resident)/1e6)
		}
		return nil
	},
}

// kibOf finds "NAME: N kB" in a text of the kernel's.
func kibOf(text, name string) (int, error) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name+":" && f[2] == "kB" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("no %s in %s", name, tail(text))
}

// exposureMost is the figure that systemd-analyze security may give: the recorder
// looks at all of the machine.
const exposureMost = 5.2

var security = Check{
	Name:  "security",
	About: "what systemd-analyze security says of the unit",
	Needs: packaged,
	Run: func(m *Machine) error {
		text, err := m.Sh("systemd-analyze security --no-pager %s", Service)
		if text == "" {
			return err
		}
		_ = os.WriteFile("out/security.txt", []byte(text+"\n"), 0o644)
		lines := strings.Split(text, "\n")
		said := strings.TrimSpace(strings.TrimLeft(lines[len(lines)-1], "→ "))
		m.Note("%s", said)
		_, figure, _ := strings.Cut(said, Service+": ")
		figure, _, _ = strings.Cut(figure, " ")
		exposure, err := strconv.ParseFloat(figure, 64)
		if err != nil {
			return fmt.Errorf("find the figure in %q: %w", said, err)
		}
		if exposure > exposureMost {
			return fmt.Errorf("its exposure is %s", figure)
		}
		return nil
	},
}
