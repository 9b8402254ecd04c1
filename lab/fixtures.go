package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LoopFS is a filesystem in a file.
type LoopFS struct {
	Mount  string // mount point
	Device string // /dev/loopN
	Name   string // loopN
	File   string // backing file
	Number string // "7:N", as blkio and bdi want it
}

// file returns a new path in the run's scratch directory.
func (s *Scene) file(what string) string {
	s.names++
	return filepath.Join(s.Dir, what+strconv.Itoa(s.names))
}

// DisksIn puts the files of the loop devices that are made from now on into a
// directory of their own below dir: /dev/shm for disks in memory.
func (s *Scene) DisksIn(dir string) {
	at, err := os.MkdirTemp(dir, Prefix+strconv.Itoa(os.Getpid())+"-")
	s.Check(err)
	s.lab.janitor.later("rm", at)
	s.disks = at
}

// Loop makes a loop device over a new sparse file. flags go to losetup.
func (s *Scene) Loop(megabytes int, flags ...string) *LoopFS {
	file := s.file("disk")
	if s.disks != "" {
		file = filepath.Join(s.disks, filepath.Base(file))
	}
	f, err := os.Create(file)
	s.Check(err)
	s.Check(f.Truncate(int64(megabytes) << 20))
	s.Check(f.Close())
	return s.LoopOver(file, flags...)
}

// LoopOver makes a loop device over a file that is there.
func (s *Scene) LoopOver(file string, flags ...string) *LoopFS {
	l := &LoopFS{File: file}
	out, err := exec.Command("losetup", append(flags, "--find", "--show", l.File)...).CombinedOutput()
	if err != nil {
		s.Fail("losetup: %v: %s", err, out)
	}
	l.Device = strings.TrimSpace(string(out))
	l.Name = filepath.Base(l.Device)
	s.lab.janitor.later("losetup", l.Device, l.File)
	dev, err := os.ReadFile("/sys/block/" + l.Name + "/dev")
	s.Check(err)
	l.Number = strings.TrimSpace(string(dev))
	return l
}

// LoopFS makes an ext4 in a file and mounts it. mkfs gets extra options.
func (s *Scene) LoopFS(megabytes int, mkfs ...string) *LoopFS {
	l := s.Loop(megabytes)
	s.MakeFS(l, mkfs...)
	return l
}

// MakeFS makes an ext4 on a loop device and mounts it.
func (s *Scene) MakeFS(l *LoopFS, mkfs ...string) {
	args := append([]string{"-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"}, mkfs...)
	s.Check(command("mkfs.ext4", append(args, l.Device)...))
	l.Mount = s.file("mnt")
	s.Check(os.Mkdir(l.Mount, 0o755))
	s.lab.janitor.later("umount", l.Mount)
	s.Check(command("mount", "-o", "noatime", l.Device, l.Mount))
}

// Remount mounts it again with other options.
func (s *Scene) Remount(l *LoopFS, options string) {
	s.Check(command("umount", l.Mount))
	s.Check(command("mount", "-o", options, l.Device, l.Mount))
}

// Path returns a file on the filesystem.
func (l *LoopFS) Path(name string) string { return filepath.Join(l.Mount, name) }

// Ioctls of <linux/fs.h>.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// Freeze freezes a mounted filesystem; what it returns thaws it.
func (s *Scene) Freeze(mount string) (thaw func()) {
	undo := s.lab.janitor.later("thaw", mount)
	s.Check(mountIoctl(mount, fiFreeze))
	return func() { s.Check(undo()) }
}

func thawMount(mount string) error { return mountIoctl(mount, fiThaw) }

func mountIoctl(mount string, op uint) error {
	fd, err := unix.Open(mount, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", mount, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, op, 0); err != nil {
		return fmt.Errorf("ioctl %#x on %s: %w", op, mount, err)
	}
	return nil
}

// Cgroup is a version 1 control group.
type Cgroup struct {
	Dir  string // /sys/fs/cgroup/cpu/fflab-…
	Path string // /fflab-…
	s    *Scene
}

// Cgroup makes a control group of one controller.
func (s *Scene) Cgroup(controller string) *Cgroup {
	name := s.Name("svc")
	c := &Cgroup{Dir: "/sys/fs/cgroup/" + controller + "/" + name, Path: "/" + name, s: s}
	s.lab.janitor.later("rmcgroup", c.Dir)
	s.Check(os.Mkdir(c.Dir, 0o755))
	return c
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

// Freezer freezes the group (of the freezer controller); what it returns thaws it.
func (c *Cgroup) Freezer() (thaw func()) {
	undo := c.s.lab.janitor.later("write", filepath.Join(c.Dir, "freezer.state"), "THAWED")
	c.Set("freezer.state", "FROZEN")
	return func() { c.s.Check(undo()) }
}

// Sysctl sets a kernel setting of the machine; what it returns puts it back.
func (s *Scene) Sysctl(path, value string) (restore func()) {
	was, err := os.ReadFile(path)
	s.Check(err)
	undo := s.lab.janitor.later("write", path, strings.TrimSpace(string(was)))
	s.Check(os.WriteFile(path, []byte(value), 0))
	return func() { s.Check(undo()) }
}

// Throttle limits a device for the root of the blkio hierarchy, that is for
// the kernel's own writeback as well: a slow disk. 0 lifts the limit, and the
// run's end does so too. file is blkio.throttle.write_bps_device and so on.
func (s *Scene) Throttle(l *LoopFS, file string, limit int) {
	path := "/sys/fs/cgroup/blkio/" + file
	if limit > 0 {
		s.lab.janitor.later("write", path, l.Number+" 0")
	}
	s.Check(os.WriteFile(path, []byte(l.Number+" "+strconv.Itoa(limit)), 0))
}

// Netns is a network namespace of the run's own, joined to the host by a
// veth pair.
type Netns struct {
	Name     string
	HostLink string // the host's end
	Link     string // the end inside
	HostIP   string
	IP       string
	s        *Scene
}

// Netns makes one.
func (s *Scene) Netns() *Netns {
	n := &Netns{Name: s.Name("ns"), s: s}
	s.lab.janitor.later("netns", n.Name)
	s.Check(command("ip", "netns", "add", n.Name))
	id := os.Getpid()%100*10 + s.names%10
	n.HostLink, n.Link = fmt.Sprintf("ffv%dh", id), fmt.Sprintf("ffv%dn", id)
	net := fmt.Sprintf("10.213.%d.", id%250)
	n.HostIP, n.IP = net+"1", net+"2"
	s.lab.janitor.later("link", n.HostLink)
	s.Check(command("ip", "link", "add", n.HostLink, "type", "veth", "peer", "name", n.Link, "netns", n.Name))
	s.Check(command("ip", "addr", "add", n.HostIP+"/30", "dev", n.HostLink))
	s.Check(command("ip", "link", "set", n.HostLink, "up"))
	n.Run("ip", "addr", "add", n.IP+"/30", "dev", n.Link)
	n.Run("ip", "link", "set", n.Link, "up")
	n.Run("ip", "link", "set", "lo", "up")
	n.Run("ip", "route", "add", "default", "via", n.HostIP)
	return n
}

// Run runs a program inside the namespace.
func (n *Netns) Run(name string, args ...string) {
	n.s.Check(command("ip", append([]string{"netns", "exec", n.Name, name}, args...)...))
}

// Set writes a setting as the namespace sees it.
func (n *Netns) Set(path, value string) {
	n.Run("sh", "-c", "echo '"+value+"' > "+path)
}

// Nft loads nftables rules inside the namespace; they go with it.
func (n *Netns) Nft(rules string) {
	cmd := exec.Command("ip", "netns", "exec", n.Name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.s.Fail("nft: %v: %s", err, out)
	}
}

// Fifo makes a named pipe.
func (s *Scene) Fifo(name string) string {
	path := filepath.Join(s.Dir, name)
	s.Check(unix.Mkfifo(path, 0o600))
	return path
}

// Later registers a step of cleaning up that no fixture has.
func (s *Scene) Later(op string, args ...string) (undo func()) {
	u := s.lab.janitor.later(op, args...)
	return func() { s.Check(u()) }
}

// Leftovers lists what a lab left on this machine: nothing, when all is well.
func Leftovers() []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.Contains(f[1], "/"+Prefix) && !isOthers(f[1]) {
			left = append(left, "mount "+f[1])
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + Prefix + "*", "/run/netns/" + Prefix + "*"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if !isOthers(f) {
				left = append(left, f)
			}
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), "/"+Prefix) && !isOthers(string(b)) {
			left = append(left, strings.Split(l, "/")[3]+" over "+strings.TrimSpace(string(b)))
		}
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(swaps)) {
		if strings.Contains(line, "/"+Prefix) && !isOthers(line) {
			left = append(left, "swap "+strings.Fields(line)[0])
		}
	}
	return left
}

// isOthers tells whether the name belongs to another lab that still runs.
func isOthers(name string) bool {
	_, after, _ := strings.Cut(name, Prefix)
	digits, _, _ := strings.Cut(after, "-")
	pid, err := strconv.Atoi(digits)
	if err != nil || pid == os.Getpid() {
		return false
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && len(comm) > 0
}

// SwapFile adds swap for the run.
func (s *Scene) SwapFile(megabytes int) {
	file := s.file("swap")
	s.Check(command("fallocate", "-l", strconv.Itoa(megabytes<<20), file))
	s.Check(os.Chmod(file, 0o600))
	s.Check(command("mkswap", "-q", file))
	s.lab.janitor.later("swapoff", file)
	s.Check(command("swapon", file))
}

// StepClock sets the wall clock off by so much; what it returns sets it right.
func (s *Scene) StepClock(by time.Duration) (right func()) {
	offset := wallOffset()
	undo := s.lab.janitor.later("clock", strconv.FormatInt(offset, 10))
	s.Check(undoOps["clock"]([]string{strconv.FormatInt(offset+int64(by), 10)}))
	return func() { s.Check(undo()) }
}

// BlameLab makes the lab itself a culprit, where it is who did it.
func (s *Scene) BlameLab() { s.Blame(Guilty{PIDs: []int{os.Getpid()}}) }
