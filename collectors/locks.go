package collectors

import (
	"bytes"
	"path/filepath"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	locksWaiter = iota
	locksHolder
	locksKind
	locksDev
	locksInode
	locksPath
	locksWidth
)

const (
	maxLockRows  = 256
	maxLockPaths = 32
	maxHolderFDs = 512 // descriptors of a holder looked at for the path
)

// locks reads /proc/locks: who waits for a file lock, and who holds it. The
// kernel stops all locking while the file is read, so it is read no more often
// than once a second while nothing is wrong.
type locks struct {
	file
	proc  string
	texts freezeframe.Texts
	dir   kernel.Dir
	paths [maxLockPaths]lockPath
	name  []byte
	small []byte
}

// lockPath remembers the path of a locked file while someone waits for it.
type lockPath struct {
	dev, inode uint64
	path       []byte
	until      freezeframe.Instant
}

func (c *locks) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "locks", From: "/proc/locks", Key: "lock",
		Every: time.Second, Stalled: 50 * time.Millisecond, Lane: freezeframe.Slow,
		Columns: []freezeframe.Column{
			locksWaiter: {Name: "waiter_pid", Kind: gauge},
			locksHolder: {Name: "holder_pid", Kind: gauge}, // 0: an open file description holds it (OFDLCK)
			locksKind:   {Name: "kind", Kind: text},
			locksDev:    {Name: "dev", Kind: gauge}, // major<<20 | minor
			locksInode:  {Name: "inode", Kind: gauge},
			locksPath:   {Name: "path", Kind: text},
		},
	}
}

func (c *locks) Open(h freezeframe.Host) (err error) {
	c.proc, c.texts = h.Proc, h.Texts
	c.name, c.small = make([]byte, 0, 128), make([]byte, 4096)
	for i := range c.paths {
		c.paths[i] = lockPath{path: make([]byte, 0, 512)}
	}
	if c.file, err = open(filepath.Join(h.Proc, "locks"), 16<<10); err != nil {
		return err
	}
	return try(c)
}

func (c *locks) Close() error { return c.file.Close() }

func (c *locks) Collect(t *freezeframe.Table) error {
	b, err := c.slowLines()
	if err != nil {
		return err
	}
	parseLocks(t, b, c.texts)
	for i := range t.Keys {
		row := t.Values(i, locksWidth)
		row[locksPath] = c.path(row)
	}
	return nil
}

// parseLocks adds a row for each waiter. A lock that is held stands in a line
// of its own, and those that wait for it follow with the same number:
//
//	1: FLOCK  ADVISORY  WRITE 359 fe:00:11691 0 EOF
//	1: -> FLOCK  ADVISORY  WRITE 360 fe:00:11691 0 EOF
func parseLocks(t *freezeframe.Table, b []byte, texts freezeframe.Texts) {
	var holder, number uint64
	held := false
	for lines := kernel.Scan(b); lines.More(); {
		s := kernel.Scan(lines.Line())
		n, ok := s.Uint()
		if !ok || !s.Byte(':') {
			continue
		}
		kind := s.Word()
		waits := string(kind) == "->"
		if waits {
			kind = s.Word()
		}
		s.Skip(2) // ADVISORY, WRITE
		pid, ok := s.Int()
		if !ok {
			continue
		}
		if !waits {
			number, holder, held = n, uint64(max(pid, 0)), true
			continue
		}
		if !held || n != number || pid <= 0 || len(t.Keys) >= maxLockRows {
			continue
		}
		dev, inode, ok := lockFile(s.Word())
		if !ok {
			continue
		}
		// One process may wait with several threads, and for several files.
		key := freezeframe.Key(pid)<<32 | freezeframe.Key(uint32(inode))
		for hasKey(t, key) {
			key++
		}
		row := t.Row(key, locksWidth)
		row[locksWaiter] = uint64(pid)
		row[locksHolder] = holder
		row[locksKind] = texts.Intern(kind)
		row[locksDev] = dev
		row[locksInode] = inode
	}
}

func hasKey(t *freezeframe.Table, key freezeframe.Key) bool {
	for _, k := range t.Keys {
		if k == key {
			return true
		}
	}
	return false
}

// lockFile reads "fe:00:11691": major and minor in hexadecimal, inode in
// decimal. A lease or a lock on a file that is gone has "<none>:0".
func lockFile(word []byte) (dev, inode uint64, ok bool) {
	var part [2]uint64
	for i := range part {
		colon := bytes.IndexByte(word, ':')
		if colon <= 0 {
			return 0, 0, false
		}
		for _, c := range word[:colon] {
			switch {
			case c >= '0' && c <= '9':
				c -= '0'
			case c >= 'a' && c <= 'f':
				c -= 'a' - 10
			default:
				return 0, 0, false
			}
			part[i] = part[i]<<4 | uint64(c)
		}
		word = word[colon+1:]
	}
	inode, ok = kernel.Uint(word)
	return part[0]<<20 | part[1], inode, ok
}

// path returns the path of a locked file as the holder has it open, or else
// the waiter. The link is read only where the descriptor's own account (fdinfo)
// says that it is this file: nothing here touches the file, which may be on a
// filesystem that hangs.
func (c *locks) path(row []uint64) uint64 {
	now := kernel.Now()
	free := &c.paths[0]
	for i := range c.paths {
		p := &c.paths[i]
		if p.dev == row[locksDev] && p.inode == row[locksInode] && now < p.until {
			return c.texts.Intern(p.path)
		}
		if p.until < free.until {
			free = p
		}
	}
	free.dev, free.inode = row[locksDev], row[locksInode]
	free.until = now.Add(10 * time.Second)
	free.path = free.path[:0]
	for _, pid := range [2]uint64{row[locksHolder], row[locksWaiter]} {
		if pid != 0 && len(free.path) == 0 {
			free.path = c.findPath(free.path, pid, row[locksInode])
		}
	}
	return c.texts.Intern(free.path)
}

func (c *locks) findPath(path []byte, pid, inode uint64) []byte {
	c.name = c.taskFile(c.name[:0], pid, "fdinfo", nil)
	if c.dir.Open(kernel.AtCWD, c.name) != nil {
		return path
	}
	defer c.dir.Close()
	for range maxHolderFDs {
		fd := c.dir.Next()
		if fd == nil {
			break
		}
		n, err := kernel.SlowReadAt(c.dir.FD, fd, c.small)
		if err != nil || !infoNames(c.small[:n], inode) {
			continue
		}
		c.name = c.taskFile(c.name[:0], pid, "fd", fd[:len(fd)-1])
		if n, err := kernel.ReadLinkAt(kernel.AtCWD, c.name, path[:cap(path)]); err == nil {
			return path[:n]
		}
	}
	return path
}

// taskFile appends /proc/PID/dir/file and its NUL byte.
func (c *locks) taskFile(buf []byte, pid uint64, dir string, file []byte) []byte {
	buf = append(append(buf, c.proc...), '/')
	buf = append(strconv.AppendUint(buf, pid, 10), '/')
	buf = append(append(buf, dir...), '/')
	return append(append(buf, file...), 0)
}

// infoNames tells whether a descriptor's fdinfo is that of the inode: by its
// "ino:" (since 5.14), or by a "lock:" line, which the holder's has.
func infoNames(b []byte, inode uint64) bool {
	for lines := kernel.Scan(b); lines.More(); {
		s := kernel.Scan(lines.Line())
		switch string(s.Word()) {
		case "ino:":
			v, ok := s.Uint()
			return ok && v == inode
		case "lock:":
			s.Skip(5) // 1: FLOCK ADVISORY WRITE 359
			if _, v, ok := lockFile(s.Word()); ok && v == inode {
				return true
			}
		}
	}
	return false
}
