package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"freezeframe/lab/vm/wire"

	"golang.org/x/sys/unix"
)

const (
	newRoot   = "/sysroot"
	binary    = "/run/freezeframe-vm/guest"
	unitsDir  = "/run/systemd/system"
	agentUnit = "freezeframe-vm.service"
)

// unit starts the agent. Nothing is ordered after it: it waits itself until
// the machine has started, so that nothing starts beside the command.
const unit = `[Unit]
Description=run the job of the virtual machine's host

[Service]
ExecStart=` + binary + `
StandardOutput=journal+console
StandardError=journal+console
`

// masked are services that would start beside a run or wait for what is not
// there.
var masked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"fstrim.timer", "logrotate.timer", "man-db.timer", "systemd-tmpfiles-clean.timer",
	"serial-getty@ttyS0.service", "getty@tty1.service", "systemd-networkd-wait-online.service",
	"rpcbind.socket", "rpcbind.service", "nfs-server.service", "nfs-client.target", "nfs-blkmap.service", // a fault starts them
}

// initialise is the first process of the initial RAM disk. It returns only
// when it failed.
func initialise() error {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return err
		}
	}
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		_ = unix.Dup2(int(console.Fd()), 1)
		_ = unix.Dup2(int(console.Fd()), 2)
	}
	if err := loadModules(); err != nil {
		return err
	}
	root, err := disk(wire.RootDisk)
	if err != nil {
		return err
	}
	if inMemory() {
		if root, err = memoryDisk(root); err != nil {
			return err
		}
	}
	if err := mount(root, newRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return err
	}
	modules, err := disk(wire.ModulesDisk)
	if err != nil {
		return err
	}
	if err := mount(modules, newRoot+"/usr/lib/modules", "ext4", unix.MS_RDONLY|unix.MS_NOATIME, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", newRoot+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := writeUnits(newRoot); err != nil {
		return err
	}
	// Without an id systemd takes it for the first boot and presets everything.
	if err := os.WriteFile(newRoot+"/etc/machine-id", []byte("66667265657a65667265657a65667264\n"), 0o444); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the root filesystem: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root filesystem: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root filesystem: %w", err)
	}
	return fmt.Errorf("exec systemd: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"TERM=linux"}))
}

func mount(source, dir, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, dir, kind, flags, data); err != nil && !(errors.Is(err, unix.EBUSY) && kind == "devtmpfs") {
		return fmt.Errorf("mount %s on %s: %w", source, dir, err)
	}
	return nil
}

// loadModules loads /modules/*, which are named in the order they need.
func loadModules() error {
	entries, err := os.ReadDir("/modules")
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join("/modules", e.Name()))
		if err != nil {
			return err
		}
		settings := ""
		if strings.HasSuffix(e.Name(), "null_blk.ko") {
			settings = "nr_devices=0" // or it makes one of 250 GB
		}
		err = unix.FinitModule(int(f.Fd()), settings, 0)
		f.Close()
		// A CPU without an instruction that a module is for is ENODEV.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load %s: %w", e.Name(), err)
		}
	}
	return nil
}

// disk finds a disk by its serial, as soon as it is there.
func disk(serial string) (string, error) {
	for range 1000 {
		found, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, f := range found {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == serial {
				return "/dev/" + strings.Split(f, "/")[3], nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("no disk with the serial %q within 10 s", serial)
}

// writeUnits puts this program and its unit below /run, which systemd keeps
// when it is mounted already.
func writeUnits(root string) error {
	for _, dir := range []string{filepath.Dir(binary), unitsDir + "/multi-user.target.wants"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	if err := os.WriteFile(root+binary, self, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(root+unitsDir+"/"+agentUnit, []byte(unit), 0o644); err != nil {
		return err
	}
	if err := os.Symlink("../"+agentUnit, root+unitsDir+"/multi-user.target.wants/"+agentUnit); err != nil {
		return err
	}
	for _, name := range masked {
		if err := os.Symlink("/dev/null", root+unitsDir+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
