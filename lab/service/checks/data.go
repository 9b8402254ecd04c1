package checks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The state directory is put on a device of its own, which can be broken.
const (
	stateDir   = "/var/lib/freezeframe"
	configFile = "/etc/freezeframe/config.yaml"
	dataDevice = "/dev/mapper/ffdata"
	dataImage  = "/dev/shm/ffdata.img" // a root in memory does not give back what was written
	dataMiB    = 64
)

// dataSectors is the size of the device, as its table has it.
const dataSectors = dataMiB << 11

// onData moves the state directory to an ext4 on a device of the device mapper
// for as long as a check takes, with a watchdog that does not last as long as
// what happens there. mkfs are more flags of the filesystem.
func onData(m *Machine, mkfs string, then func(d data) error) (err error) {
	was, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	d := data{watchdog: m.Long(5 * time.Second)}
	defer func() {
		err = errors.Join(err, m.Each(
			"systemctl stop freezeframe.socket freezeframe.service",
			"! mountpoint -q "+stateDir+" || umount "+stateDir,
			"! test -e "+dataDevice+" || dmsetup remove --retry ffdata",
			"test -z '"+d.loop+"' || losetup -d "+d.loop,
			"rm -f "+dataImage,
		), os.WriteFile(configFile, was, 0o644), m.quick(0), m.Each(
			"systemctl reset-failed freezeframe.service || true",
			"systemctl start freezeframe.socket freezeframe.service",
		))
	}()
	if err := m.All(
		"systemctl stop freezeframe.socket freezeframe.service",
		"modprobe loop",
		fmt.Sprintf("truncate -s %dM %s", dataMiB, dataImage),
	); err != nil {
		return err
	}
	if d.loop, err = m.Sh("losetup --find --show %s", dataImage); err != nil {
		return err
	}
	if err := errors.Join(m.quick(d.watchdog), m.All(
		fmt.Sprintf("dmsetup create ffdata --table '%s'", d.passOn()),
		"mkfs.ext4 -q -F -E nodiscard "+mkfs+" "+dataDevice,
		"mkdir -p "+stateDir,
		d.mount(),
		"printf 'box: {free_floor_bytes: 0}\n' > "+configFile,
		"systemctl start freezeframe.socket freezeframe.service",
	)); err != nil {
		return err
	}
	if err := m.Samples(); err != nil {
		return err
	}
	return then(d)
}

// data is where the state directory is.
type data struct {
	loop     string        // /dev/loop3
	watchdog time.Duration // of the service
}

// lasting is longer than the watchdog.
func (d data) lasting() time.Duration { return d.watchdog + 10*time.Second }

func (d data) mount() string { return "mount -o errors=continue " + dataDevice + " " + stateDir }

// passOn and fail are tables of the device.
func (d data) passOn() string { return fmt.Sprintf("0 %d linear %s 0", dataSectors, d.loop) }
func (d data) fail() string   { return fmt.Sprintf("0 %d error", dataSectors) }

// behave exchanges the table, without a word to the filesystem.
func (d data) behave(table string) string {
	return fmt.Sprintf("dmsetup suspend --noflush --nolockfs ffdata && dmsetup load ffdata --table '%s' && dmsetup resume ffdata", table)
}

// quick gives the service another watchdog; 0: its own. It holds from the next
// start on.
func (m *Machine) quick(watchdog time.Duration) error {
	const dropIn = "/run/systemd/system/freezeframe.service.d/watchdog.conf"
	if watchdog == 0 {
		return m.All("rm -f "+dropIn, "systemctl daemon-reload")
	}
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("[Service]\nWatchdogSec=%d\n", int(watchdog.Seconds()))
	if err := os.WriteFile(dropIn, []byte(text), 0o644); err != nil {
		return err
	}
	return m.All("systemctl daemon-reload")
}

// complains wants the daemon to say that its disk takes nothing.
func complains(m *Machine) func(Status) error {
	return func(s Status) error {
		if s.Box.Err == "" {
			return errors.New("the status does not say that nothing is written")
		}
		m.Note("meanwhile: %q", s.Box.Err)
		return nil
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
	About: "the filesystem of its data is frozen for longer than the watchdog lasts: the same process answers and samples on, and nothing is missing when it is thawed",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, "", func(d data) error {
			last := d.lasting()
			return m.Unshaken([]string{"fsfreeze --freeze " + stateDir}, last, func(s Status) error {
				m.Note("meanwhile: %.1f s behind", s.lag().Seconds())
				if s.lag() < last/2 {
					return fmt.Errorf("a frozen disk took what was recorded up to %v ago", s.lag())
				}
				return nil
			}, []string{"fsfreeze --unfreeze " + stateDir})
		})
	},
}

var dataFull = Check{
	Name:  "data-full",
	About: "the filesystem of its data is full: it says so, and writes when there is room, what was recorded meanwhile as well",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, "", func(d data) error {
			filler := stateDir + "/filler"
			return m.Unshaken([]string{"dd if=/dev/zero of=" + filler + " bs=64k 2>/dev/null || test -s " + filler},
				d.lasting(), complains(m), []string{"rm -f " + filler})
		})
	},
}

var dataReadOnly = Check{
	Name:  "data-read-only",
	About: "an error makes the filesystem of its data read-only: the same process answers and samples on, and says so; when that is mended and the service started again, all is there that was",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, "", func(d data) error {
			return outlived(m, d, "mount -o remount,errors=remount-ro "+stateDir+
				" && echo lab > /sys/fs/ext4/$(basename $(readlink -f "+dataDevice+"))/trigger_fs_error", "true")
		})
	},
}

var dataRemounted = Check{
	Name:  "data-remounted",
	About: "somebody mounts the filesystem of its data read-only: it does not stand in the way, says so, calls that no incident, and writes when that is over, what was recorded meanwhile as well",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, "", func(d data) error {
			if err := m.Unshaken([]string{"mount -o remount,ro " + stateDir}, d.lasting(), complains(m), []string{"mount -o remount,rw " + stateDir}); err != nil {
				return err
			}
			all, err := m.Listing()
			for _, i := range all {
				if i.Cause == "fs.readonly" {
					err = errors.Join(err, fmt.Errorf("a report says: %s", i.Summary))
				}
			}
			return err
		})
	},
}

var dataErrors = Check{
	Name:  "data-errors",
	About: "the disk of its data returns errors to everything: it says so, and writes when that is over",
	Needs: needsData,
	Run: func(m *Machine) error {
		// A journal would stay aborted until its filesystem is mounted again.
		return onData(m, "-O ^has_journal", func(d data) error {
			return m.Unshaken([]string{d.behave(d.fail())}, d.lasting(), complains(m), []string{d.behave(d.passOn())})
		})
	},
}

var dataAborted = Check{
	Name:  "data-aborted",
	About: "such errors abort the journal of its filesystem: the same process answers and samples on; when that is mended and the service started again, all is there that was",
	Needs: needsData,
	Run: func(m *Machine) error {
		return onData(m, "", func(d data) error { return outlived(m, d, d.behave(d.fail()), d.behave(d.passOn())) })
	},
}

// outlived breaks the filesystem so that it has to be mounted again, after heal,
// which takes a stop of the service: it holds files there.
func outlived(m *Machine, d data, fault, heal string) error {
	before, err := m.Status()
	if err != nil {
		return err
	}
	ends, err := m.UncleanEnds()
	if err != nil {
		return err
	}
	err = m.All(fault)
	if err == nil {
		err = m.endure(d.lasting(), complains(m))
	}
	var during Status
	if err == nil {
		during, err = m.Status()
	}
	if err == nil && during.PID != before.PID {
		err = fmt.Errorf("process %d was replaced by %d", before.PID, during.PID)
	}
	if err = errors.Join(err, m.All(
		heal,
		"systemctl stop freezeframe.socket freezeframe.service",
		"umount "+stateDir,
		"e2fsck -fy "+dataDevice+"; test $? -le 1", // 1: it mended something
		d.mount(),
		"systemctl start freezeframe.socket freezeframe.service",
	)); err != nil {
		return err
	}
	if err := m.Samples(); err != nil {
		return err
	}
	after, err := m.Status()
	if err == nil && after.Box.Oldest.After(before.Box.Oldest) {
		err = fmt.Errorf("the oldest reading is of %s, before it was of %s", after.Box.Oldest, before.Box.Oldest)
	}
	if err != nil {
		return err
	}
	all, err := m.UncleanEnds()
	if err == nil && len(all) != len(ends) {
		err = fmt.Errorf("a stop that was ordered is reported as an unclean end: %d reports, before %d", len(all), len(ends))
	}
	return err
}
