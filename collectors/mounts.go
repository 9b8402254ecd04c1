package collectors

import (
	"bytes"
	"path/filepath"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	mountsDev = iota
	mountsFstype
	mountsPoint
	mountsSource
	mountsReadonly
	mountsLocal
	mountsSize
	mountsFree
	mountsAvail
	mountsFiles
	mountsFilesFree
	mountsSized
	mountsWidth
)

const maxMounts = 512

// mounts reads /proc/self/mountinfo and how full the local filesystems are.
// statfs(2) is never asked of what another machine or a process has to answer,
// nor of anything at or below the mount point of such: it could hang for good.
type mounts struct {
	file
	texts freezeframe.Texts
	lives bool // the mounts are this machine's: statfs may be asked
	raw   []byte
	stat  kernel.Filesystem
	path  []byte
}

func (c *mounts) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "mounts", From: "/proc/self/mountinfo, statfs(2)", Key: "mount",
		Every: time.Second, Stalled: 250 * time.Millisecond, Lane: freezeframe.Slow,
		Columns: []freezeframe.Column{
			mountsDev:       {Name: "dev", Kind: gauge}, // major<<20 | minor
			mountsFstype:    {Name: "fstype", Kind: text},
			mountsPoint:     {Name: "mountpoint", Kind: text},
			mountsSource:    {Name: "source", Kind: text},
			mountsReadonly:  {Name: "readonly", Kind: gauge},
			mountsLocal:     {Name: "local", Kind: gauge},
			mountsSize:      {Name: "size_bytes", Kind: gauge},
			mountsFree:      {Name: "free_bytes", Kind: gauge},
			mountsAvail:     {Name: "avail_bytes", Kind: gauge},
			mountsFiles:     {Name: "files", Kind: gauge},
			mountsFilesFree: {Name: "files_free", Kind: gauge},
			mountsSized:     {Name: "sized", Kind: gauge}, // 1: statfs was asked and answered
		},
	}
}

func (c *mounts) Open(h freezeframe.Host) (err error) {
	c.texts, c.lives = h.Texts, h.Proc == "/proc"
	c.path = make([]byte, 0, 4096)
	if c.file, err = open(filepath.Join(h.Proc, "self/mountinfo"), 32<<10); err != nil {
		return err
	}
	if c.raw, err = c.slowLines(); err != nil {
		c.Close()
		return err
	}
	return nil
}

func (c *mounts) Close() error { return c.file.Close() }

func (c *mounts) Collect(t *freezeframe.Table) (err error) {
	if !c.lives || c.Changed() {
		if c.raw, err = c.slowLines(); err != nil {
			return err
		}
	}
	var m mountLine
	for lines := kernel.Scan(c.raw); nextMount(&lines, &m) && len(t.Keys) < maxMounts; {
		kind := kindOf(&m)
		if kind == pseudoMount {
			continue
		}
		row := t.Row(freezeframe.Key(m.id), mountsWidth)
		row[mountsDev] = m.dev
		row[mountsFstype] = c.texts.Intern(m.fstype)
		c.path = appendUnescaped(c.path[:0], m.source)
		row[mountsSource] = c.texts.Intern(c.path)
		c.path = appendUnescaped(c.path[:0], m.point)
		row[mountsPoint] = c.texts.Intern(c.path)
		if hasOption(m.options, "ro") || hasOption(m.super, "ro") {
			row[mountsReadonly] = 1
		}
		if kind != localMount {
			continue
		}
		row[mountsLocal] = 1
		if c.sizedBefore(t, row) || !c.lives || !mayStat(c.raw, &m) {
			continue
		}
		c.path = append(c.path, 0)
		if c.stat.Stat(c.path) == nil {
			row[mountsSized] = 1
			row[mountsSize], row[mountsFree], row[mountsAvail] = c.stat.Bytes()
			row[mountsFiles], row[mountsFilesFree] = c.stat.Files()
		}
	}
	return nil
}

// sizedBefore copies the sizes from another mount of the same filesystem.
func (c *mounts) sizedBefore(t *freezeframe.Table, row []uint64) bool {
	for i := range t.Keys[:len(t.Keys)-1] {
		other := t.Values(i, mountsWidth)
		if other[mountsSized] == 1 && other[mountsDev] == row[mountsDev] {
			copy(row[mountsSize:], other[mountsSize:])
			return true
		}
	}
	return false
}

type mountKind uint8

const (
	localMount  mountKind = iota // a block device, or memory
	pseudoMount                  // the kernel's own: no row
	remoteMount                  // someone else has to answer, or we do not know
)

func kindOf(m *mountLine) mountKind {
	if isFuse(m.fstype) {
		return remoteMount
	}
	switch string(m.fstype) {
	case "tmpfs", "btrfs", "zfs", "bcachefs":
		return localMount
	case "overlay":
		if string(m.point) == "/" {
			return localMount // the root of a container
		}
		return pseudoMount // its layers are mounts of their own
	case "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "mqueue",
		"securityfs", "debugfs", "tracefs", "bpf", "pstore", "configfs", "hugetlbfs",
		"nsfs", "binfmt_misc", "fusectl", "efivarfs", "ramfs", "rootfs", "selinuxfs",
		"rpc_pipefs", "nfsd", "resctrl", "smackfs":
		return pseudoMount
	}
	if m.dev>>20 != 0 {
		return localMount
	}
	return remoteMount
}

// isFuse tells whether a process serves the filesystem: fuse, fuse.sshfs,
// fuseblk.
func isFuse(fstype []byte) bool {
	return bytes.HasPrefix(fstype, []byte("fuse")) && string(fstype) != "fusectl"
}

// mayStat tells whether the path to a mount leads to it, and through nothing
// that can hang: no mount of someone else's at or above it, and nothing
// mounted over it.
func mayStat(mountinfo []byte, m *mountLine) bool {
	var other mountLine
	for lines := kernel.Scan(mountinfo); nextMount(&lines, &other); {
		if other.id == m.id {
			continue
		}
		if kindOf(&other) == remoteMount && isBelow(m.point, other.point) {
			return false
		}
		if other.parent == m.id && bytes.Equal(other.point, m.point) {
			return false
		}
	}
	return true
}

// isBelow tells whether path is dir or lies below it.
func isBelow(path, dir []byte) bool {
	rest, ok := bytes.CutPrefix(path, dir)
	return ok && (len(rest) == 0 || rest[0] == '/' || string(dir) == "/")
}
