package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// Cgroup is a control group of the run's own: of one controller's hierarchy
// where that is version 1, of the one hierarchy of version 2 otherwise.
type Cgroup struct {
	Dir  string // /sys/fs/cgroup/cpu/fflab-…
	Path string // below the hierarchy's root: /fflab-…
	V2   bool
	s    *Scene
}

// Cgroup makes a control group that has the controller, by its name in version
// 1 where the names differ (blkio, freezer).
func (s *Scene) Cgroup(controller string) *Cgroup {
	name := s.Name("svc")
	if v1Controller(controller) {
		c := &Cgroup{Dir: filepath.Join(cgroupRoot, controller, name), Path: "/" + name, s: s}
		s.lab.janitor.later("rmcgroup", c.Dir)
		s.Check(os.Mkdir(c.Dir, 0o755))
		return c
	}
	base, err := cgroupBase()
	s.Check(err)
	s.Check(s.lab.leaveBase(base))
	if v2 := v2Name(controller); v2 != "" {
		s.Check(enableController(base, v2))
	}
	c := &Cgroup{Dir: filepath.Join(base, name), V2: true, s: s}
	c.Path = strings.TrimPrefix(c.Dir, cgroupRoot)
	s.lab.janitor.later("rmcgroup", c.Dir)
	s.Check(os.Mkdir(c.Dir, 0o755))
	return c
}

// Below makes a control group in this one, with the same controllers of version 1.
func (c *Cgroup) Below(name string) *Cgroup {
	d := &Cgroup{Dir: filepath.Join(c.Dir, name), Path: c.Path + "/" + name, V2: c.V2, s: c.s}
	c.s.lab.janitor.later("rmcgroup", d.Dir)
	c.s.Check(os.Mkdir(d.Dir, 0o755))
	return d
}

// HasController says why this machine has no control groups with a controller
// for the lab; nil when it has. The name is that of version 1.
func HasController(controller string) error {
	if v1Controller(controller) {
		return nil
	}
	base, err := cgroupBase()
	if err != nil {
		return fmt.Errorf("needs the cgroup controller %s: %w", controller, err)
	}
	name := v2Name(controller)
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(string(b)), name) {
		return fmt.Errorf("needs the cgroup controller %s, %s has only: %s", name, base, bytes.TrimSpace(b))
	}
	return nil
}

// NeedsV1 says that a fault needs what only version 1 of a controller has.
func NeedsV1(controller string) error {
	if !v1Controller(controller) {
		return fmt.Errorf("needs the version 1 cgroup controller %s", controller)
	}
	return nil
}

func v1Controller(name string) bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, name, "cgroup.procs"))
	// In a pure version 2 tree that is a group of that name.
	return err == nil && !isV2(filepath.Join(cgroupRoot, name))
}

func isV2(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// v2Name is what version 2 calls a controller of version 1; freezing is no
// controller there, every group can.
func v2Name(controller string) string {
	switch controller {
	case "blkio":
		return "io"
	case "freezer":
		return ""
	}
	return controller
}

// cgroupBase returns the version 2 group below which the lab may make groups:
// its own where that was delegated to it, or the root of the tree. Elsewhere
// systemd is the only one who may write, and takes back what others set
// (systemd's Documentation CGROUP_DELEGATION).
func cgroupBase() (string, error) {
	if !isV2(cgroupRoot) {
		return "", errors.New("it is not in the version 1 hierarchy, and " + cgroupRoot + " is not version 2")
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	path := v2Path(string(b))
	// The lab, or one that the same shell ran before, may have moved already.
	if filepath.Base(path) == labGroup {
		path = filepath.Dir(path)
	}
	dir := filepath.Join(cgroupRoot, path)
	if path == "/" || isDelegated(dir) {
		return dir, nil
	}
	return "", fmt.Errorf("the lab's cgroup %s was not delegated to it (systemd-run --pty --same-dir --property=Delegate=yes COMMAND)", path)
}

// v2Path is the group of a process in the version 2 tree, by its
// /proc/PID/cgroup; empty when it is in none.
func v2Path(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	return ""
}

func isDelegated(dir string) bool {
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, value); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

// labGroup is the group that the lab moves itself to. It stays: the shell that
// ran the lab is in it, too.
const labGroup = Prefix + "lab"

// leaveBase moves the lab and what is beside it into a group of their own: a
// group whose children have controllers may have no processes (the kernel's
// Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint";
// the root may).
func (l *Lab) leaveBase(base string) error {
	if _, err := os.Stat(filepath.Join(base, "cgroup.type")); errors.Is(err, os.ErrNotExist) {
		return nil // only the root has none
	}
	dir := filepath.Join(base, labGroup)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for range 10 { // somebody may fork meanwhile
		b, err := os.ReadFile(filepath.Join(base, "cgroup.procs"))
		if err != nil {
			return err
		}
		pids := strings.Fields(string(b))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s to %s: %w", pid, dir, err)
			}
		}
	}
	return fmt.Errorf("%s does not get empty", base)
}

// enableController lets the groups below base have a controller. It stays
// enabled: base is the lab's, or nobody manages the tree.
func enableController(base, name string) error {
	err := os.WriteFile(filepath.Join(base, "cgroup.subtree_control"), []byte("+"+name), 0)
	if err != nil {
		return fmt.Errorf("enable the cgroup controller %s below %s: %w", name, base, err)
	}
	return nil
}

// Set writes a value to one of its files.
func (c *Cgroup) Set(file, value string) {
	c.s.Check(os.WriteFile(filepath.Join(c.Dir, file), []byte(value), 0))
}

// Get reads one of its files.
func (c *Cgroup) Get(file string) string {
	b, err := os.ReadFile(filepath.Join(c.Dir, file))
	c.s.Check(err)
	return strings.TrimSpace(string(b))
}

// CPUQuota allows the group so much CPU time in every period, both in
// microseconds; quota -1 is no limit.
func (c *Cgroup) CPUQuota(quota, period int) {
	if !c.V2 {
		c.Set("cpu.cfs_period_us", strconv.Itoa(period))
		c.Set("cpu.cfs_quota_us", strconv.Itoa(quota))
		return
	}
	c.Set("cpu.max", cpuMax(quota, period))
}

// cpuMax is the content of cpu.max.
func cpuMax(quota, period int) string {
	if quota < 0 {
		return "max " + strconv.Itoa(period)
	}
	return strconv.Itoa(quota) + " " + strconv.Itoa(period)
}

// MemoryMax limits the group's memory, in bytes.
func (c *Cgroup) MemoryMax(bytes int) {
	file := "memory.limit_in_bytes"
	if c.V2 {
		file = "memory.max"
	}
	c.Set(file, strconv.Itoa(bytes))
}

// IOLimit is a kind of limit of reading and writing.
type IOLimit int

// The limits that the lab's faults use.
const (
	ReadBytes IOLimit = iota // a second
	ReadIOs
)

// IOMax limits what the group may read from a device; 0 is no limit.
func (c *Cgroup) IOMax(l *LoopFS, what IOLimit, limit int) {
	if !c.V2 {
		file := map[IOLimit]string{ReadBytes: "blkio.throttle.read_bps_device", ReadIOs: "blkio.throttle.read_iops_device"}[what]
		c.Set(file, l.Number+" "+strconv.Itoa(limit))
		return
	}
	c.Set("io.max", ioMax(l.Number, what, limit))
}

// ioMax is what io.max takes.
func ioMax(device string, what IOLimit, limit int) string {
	value := "max"
	if limit > 0 {
		value = strconv.Itoa(limit)
	}
	return device + " " + map[IOLimit]string{ReadBytes: "rbps", ReadIOs: "riops"}[what] + "=" + value
}

// Freezer freezes the group (of the freezer controller); what it returns thaws it.
func (c *Cgroup) Freezer() (thaw func()) {
	file, frozen, thawed := "freezer.state", "FROZEN", "THAWED"
	if c.V2 {
		file, frozen, thawed = "cgroup.freeze", "1", "0"
	}
	undo := c.s.lab.janitor.later("write", filepath.Join(c.Dir, file), thawed)
	c.Set(file, frozen)
	return func() { c.s.Check(undo()) }
}

// ownGroups returns the groups that the lab made, of those a process is in,
// by its /proc/PID/cgroup.
func ownGroups(text string) []string {
	var paths []string
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		_, path, _ := strings.Cut(rest, ":")
		if name := filepath.Base(path); strings.HasPrefix(name, Prefix) && name != labGroup {
			paths = append(paths, path)
		}
	}
	return paths
}
