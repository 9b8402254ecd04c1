package checks

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

var paused = Check{
	Name:  "stopped-a-minute",
	About: "the process is stopped (SIGSTOP) for a minute: it goes on, and reports that as a stall of its own",
	Needs: packaged,
	Run: func(m *Machine) error {
		if err := m.Samples(); err != nil { // there is something to lose
			return err
		}
		before, err := m.Status()
		if err != nil {
			return err
		}
		known, err := m.Listing()
		if err != nil {
			return err
		}
		if err := m.All(fmt.Sprintf("kill -STOP %d", before.PID)); err != nil {
			return err
		}
		time.Sleep(time.Minute)
		if err := m.All(fmt.Sprintf("kill -CONT %d", before.PID)); err != nil {
			return err
		}
		if err := m.Samples(); err != nil {
			return err
		}
		after, err := m.Status()
		if err == nil {
			err = after.lost(before)
		}
		if err != nil {
			return err
		}
		return m.Until(30*time.Second, func() error {
			all, err := m.Listing()
			if err != nil {
				return err
			}
			var said []string
			for _, i := range all[:max(len(all)-len(known), 0)] {
				length := i.End.Sub(i.Start)
				if i.Cause == "app.stopped" && length > 55*time.Second && length < 70*time.Second {
					m.Note("%s", i.Summary)
					return nil
				}
				said = append(said, fmt.Sprintf("%s for %v", i.Cause, length.Round(time.Second)))
			}
			return fmt.Errorf("no report of that: %s", strings.Join(said, ", "))
		})
	},
}

var outOfMemory = Check{
	Name:  "oom",
	About: "a unit takes all memory until the kernel kills it: freezeframe goes on within its own bounds, and nobody else is killed",
	Needs: packaged,
	Run: func(m *Machine) error {
		const unit = "ff-hog.service"
		kills, err := oomKills()
		if err != nil {
			return err
		}
		return m.Unshaken([]string{
			"systemd-run --quiet --unit=" + unit + ` python3 -c 'have = []
while True: have.append(b"x" * (4 << 20))'`,
		}, 3*time.Second, func(Status) error {
			if err := m.Until(60*time.Second, func() error {
				result, err := m.Property(unit, "Result")
				if err == nil && result != "oom-kill" {
					err = fmt.Errorf("the result of %s is %q", unit, result)
				}
				return err
			}); err != nil {
				return err
			}
			now, err := oomKills()
			if err != nil {
				return err
			}
			if now != kills+1 {
				return fmt.Errorf("the kernel killed %d processes", now-kills)
			}
			pid, err := m.Number(Service, "MainPID")
			if err != nil {
				return err
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				return err
			}
			resident, err := kibOf(string(status), "VmRSS")
			if err != nil {
				return err
			}
			m.Note("%.1f MB resident", float64(resident<<10)/1e6)
			if resident<<10 > residentMost {
				return errors.New("that is too much")
			}
			return m.Until(30*time.Second, func() error {
				all, err := m.Listing()
				if err != nil {
					return err
				}
				for _, i := range all {
					if i.Cause == "mem.oom_kill" {
						m.Note("%s (%s)", i.Summary, i.Culprit)
						return nil
					}
				}
				return errors.New("no report says mem.oom_kill")
			})
		}, []string{"systemctl stop " + unit, "systemctl reset-failed " + unit + " || true"})
	},
}

// oomKills is how many processes the kernel has killed for memory.
func oomKills() (n int, err error) {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			_, err = fmt.Sscan(value, &n)
			return n, err
		}
	}
	return 0, errors.New("no oom_kill in /proc/vmstat")
}

// floodLines is the kernel log's flood.
const floodLines = 50_000

var logFlood = Check{
	Name:  "log-flood",
	About: "50,000 lines are written to the kernel's log at once: freezeframe goes on",
	Needs: packaged,
	Run: func(m *Machine) error {
		return m.Unshaken([]string{
			"sysctl -q kernel.printk_devkmsg=on",
			fmt.Sprintf(`python3 -c 'log = open("/dev/kmsg", "wb", 0)
for i in range(%d): log.write(b"<6>flood: line %%d\n" %% i)'`, floodLines),
		}, 3*time.Second, func(Status) error {
			_, err := m.Sh("dmesg | grep -q 'flood: line %d$'", floodLines-1)
			return err
		}, []string{"sysctl -q kernel.printk_devkmsg=ratelimit"})
	},
}
