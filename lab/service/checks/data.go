package checks

import (
	"errors"
	"fmt"
	"time"
)

// The state directory is put on a device of its own, which can be broken.
const (
	stateDir   = "/var/lib/freezeframe"
	dataDevice = "/dev/mapper/ffdata"
)

// onData moves the state directory to a device-mapper device of some MiB for as
// long as a check takes.
func onData(m *Machine, megabytes int, then func() error) error {
	sectors := megabytes << 11
	if err := m.All(
		"systemctl stop freezeframe.socket freezeframe.service",
		fmt.Sprintf("truncate -s %dM /root/ffdata.img", megabytes),
		"losetup /dev/loop7 /root/ffdata.img",
		fmt.Sprintf("dmsetup create ffdata --table '0 %d linear /dev/loop7 0'", sectors),
		"mkfs.ext4 -q -F -E nodiscard "+dataDevice,
		"mkdir -p "+stateDir,
		"mount -o errors=continue "+dataDevice+" "+stateDir,
		"printf 'box: {free_floor_bytes: 8388608}\n' > /etc/freezeframe/config.yaml",
		"systemctl start freezeframe.service",
	); err != nil {
		return err
	}
	err := m.Samples()
	if err == nil {
		err = then()
	}
	return errors.Join(err, m.All(
		"systemctl stop freezeframe.socket freezeframe.service",
		"umount "+stateDir,
		"dmsetup remove --retry ffdata",
		"losetup -d /dev/loop7",
		"rm -f /root/ffdata.img",
		"printf '' > /etc/freezeframe/config.yaml",
		"systemctl reset-failed freezeframe.service || true",
		"systemctl start freezeframe.service",
	))
}

// answers wants the daemon to answer while its disk does not.
func answers(m *Machine) func() error {
	return func() error {
		s, err := m.Status()
		if err == nil {
			m.Note("meanwhile: %.0f ms behind, %q", s.Box.LagMs, s.Box.Err)
		}
		return err
	}
}

func needsData(m *Machine) error {
	if err := packaged(m); err != nil {
		return err
	}
	_, err := m.Sh("dmsetup version")
	return err
}

var dataFrozen = Check{
	Name:  "data-frozen",
	About: "the filesystem of its data is frozen: the same process answers and samples on, and writes when it is thawed",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, 64, func() error {
			return m.Unshaken([]string{"fsfreeze --freeze " + stateDir}, m.Long(10*time.Second), answers(m), []string{"fsfreeze --unfreeze " + stateDir})
		})
	},
}

var dataFull = Check{
	Name:  "data-full",
	About: "the filesystem of its data is full: it says so, and writes when there is room",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, 64, func() error {
			return m.Unshaken([]string{"dd if=/dev/zero of=" + stateDir + "/filler bs=1M 2>/dev/null || test -s " + stateDir + "/filler"},
				m.Long(8*time.Second), func() error {
					s, err := m.Status()
					if err == nil && s.Box.Err == "" {
						err = errors.New("the status says nothing of a full disk")
					}
					m.Note("meanwhile: %q", s.Box.Err)
					return err
				}, []string{"rm " + stateDir + "/filler"})
		})
	},
}

var dataReadOnly = Check{
	Name:  "data-read-only",
	About: "the filesystem of its data becomes read-only: it says so, and writes when that is over",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, 64, func() error {
			// As after an error: busy files do not keep it from happening.
			return m.Unshaken([]string{"echo u > /proc/sysrq-trigger; mount -o remount,ro " + stateDir + " || true"}, m.Long(8*time.Second), answers(m),
				[]string{"mount -o remount,rw " + stateDir + " && mount -o remount,rw /"})
		})
	},
}

var dataErrors = Check{
	Name:  "data-errors",
	About: "the disk of its data returns errors to everything: it says so, and writes when that is over",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, 64, func() error {
			size := 64 << 11
			swap := func(table string) string {
				return fmt.Sprintf("dmsetup suspend --noflush --nolockfs ffdata && dmsetup load ffdata --table '%s' && dmsetup resume ffdata", table)
			}
			return m.Unshaken([]string{swap(fmt.Sprintf("0 %d error", size))}, m.Long(8*time.Second), answers(m),
				[]string{swap(fmt.Sprintf("0 %d linear /dev/loop7 0", size)),
					// ext4 keeps an aborted journal aborted until it is mounted again.
					"mount -o remount,rw " + stateDir + " 2>/dev/null || { umount --lazy " + stateDir + "; e2fsck -fy " + dataDevice + " >/dev/null; mount " + dataDevice + " " + stateDir + "; }"})
		})
	},
}
