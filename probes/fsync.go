package probes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

const (
	fsyncEvery = 500 * time.Millisecond
	fsyncFloor = 100 * time.Millisecond
	// fsyncBackoff bounds what the probe takes of a device to one twentieth.
	fsyncBackoff = 20
	fsyncMost    = 16 // filesystems
	fsyncRetry   = 10 * time.Second
	fsyncNames   = 8 // of files, should others have the first
	// leaveWithin bounds how long the end of the probe waits for its files to be
	// removed.
	leaveWithin = 500 * time.Millisecond
	// remountTakes is longer than mount(8) takes from one of its calls to the next.
	remountTakes = 100 * time.Millisecond
	// A file that keeps its one block would never meet a full filesystem, so
	// when less than this is left the block is given back and asked for again.
	nearlyFull = 16 << 20
)

// fsync writes 8 bytes to a file on every writable local filesystem, twice a
// second, and waits until the device has them: one 4 KiB write and one flush of
// the device's cache, 16 KiB/s a filesystem with the journal of a typical one.
// It is late when a device, a journal, writeback or a frozen filesystem holds up
// whoever saves something: databases stop committing, logs stop, editors hang in
// "save". Err is set when the write is refused: ENOSPC (also when only root may
// still write), EROFS, EIO, EDQUOT.
type fsync struct{ hub *hub }

func (p *fsync) Name() string { return "fsync" }

// Run writes until ctx ends, on the filesystems that there are at each moment.
func (p *fsync) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	const path = "/proc/self/mountinfo"
	// A non-blocking descriptor makes the runtime wait for it in epoll, which
	// reports every change of the mount table and costs nothing in between.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	running := make(map[mountKey]context.CancelFunc)
	var watches sync.WaitGroup
	defer func() { lessThan(leaveWithin, watches.Wait) }()
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		text, err := readAll(fd, buf)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		buf = text[:cap(text)]
		p.follow(ctx, running, &watches, parseMounts(text), late)
		first := true
		conn.Read(func(uintptr) bool {
			again := !first
			first = false
			return again
		})
	}
	return nil
}

func readAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for {
		got, err := unix.Pread(fd, buf[n:], int64(n))
		if err != nil {
			return nil, err
		}
		n += got
		if got == 0 {
			return buf[:n], nil
		}
		if n == len(buf) {
			grown := make([]byte, 2*n)
			copy(grown, buf)
			buf = grown
		}
	}
}

// lessThan waits for what may hang with a disk, and not for longer than that.
func lessThan(d time.Duration, what func()) {
	done := make(chan struct{})
	go func() { what(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// follow starts work on the mounts that ought to be written to, and ends it
// on those that are gone, opted out or that somebody mounted read-only; a
// filesystem that turned read-only under its mount is kept, since that is news.
func (p *fsync) follow(ctx context.Context, running map[mountKey]context.CancelFunc, watches *sync.WaitGroup, all []mount, late func(freezeframe.Lateness)) {
	there := make(map[mountKey]bool)
	for _, m := range all {
		there[mountKey{m.id, m.point}] = !m.told
	}
	for key, cancel := range running {
		if !there[key] {
			cancel()
			delete(running, key)
		}
	}
	devices := make(map[uint64]bool)
	for _, m := range all {
		if running[mountKey{m.id, m.point}] != nil {
			devices[m.dev] = true
		}
	}
	for _, m := range fsyncMounts(all, p.hub.FsyncSkip, p.hub.NetworkMounts) {
		if devices[m.dev] {
			continue
		}
		if len(running) == fsyncMost {
			p.hub.event(refused(kernel.Now(), p.Name(), m.point, "more than "+strconv.Itoa(fsyncMost)+" filesystems"))
			break
		}
		own, cancel := context.WithCancel(ctx)
		running[mountKey{m.id, m.point}] = cancel
		watches.Go(func() { p.watch(own, m, late) })
	}
}

type mountKey struct {
	id    uint64
	point string
}

// watch has one filesystem written to until ctx ends and the file is gone, and
// tries again now and then when that cannot even begin.
func (p *fsync) watch(ctx context.Context, m mount, late func(freezeframe.Lateness)) {
	told := ""
	for ctx.Err() == nil {
		f := &saved{fd: -1, dir: -1}
		ended := make(chan struct{})
		j := &job{hub: p.hub, probe: p.Name(), target: m.point,
			setup:   func() error { return f.open(m, p.hub.FsyncDirs) },
			loop:    func(w *worker) { f.loop(w) },
			done:    func() { f.close(); close(ended) },
			forgive: func(l freezeframe.Lateness) bool { return l.Err == "EROFS" && madeReadOnly(m) },
		}
		err := j.start(ctx, plan{every: int64(fsyncEvery), backoff: fsyncBackoff, floor: int64(fsyncFloor)}, late)
		if err == nil {
			<-ended
			continue // somebody removed the file
		}
		if ctx.Err() != nil {
			return
		}
		if told != err.Error() {
			told = err.Error()
			p.hub.event(refused(kernel.Now(), p.Name(), m.point, told))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(fsyncRetry):
		}
	}
}

// madeReadOnly tells whether somebody has just mounted m read-only, as mount(8)
// does: for that the kernel first makes the filesystem so, and then the mount. A
// write may be refused before follow knows.
func madeReadOnly(m mount) bool {
	time.Sleep(remountTakes)
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for _, now := range parseMounts(b) {
		if now.id == m.id && now.point == m.point {
			return now.told
		}
	}
	return false
}

// saved is the file that is written. It has a name, and between two writes it is
// open for reading only: an unlinked file, or one that is open for writing, would
// keep everybody from mounting its filesystem read-only (EBUSY).
type saved struct {
	fd   int      // for reading, which is enough to sync it
	dir  int      // where it is
	name string   // in dir
	path [32]byte // by which fd is opened for writing
	stat unix.Statfs_t
	file unix.Stat_t
	data [8]byte
	n    uint64
}

// open makes the file, in the first of dirs that is on the filesystem or else in
// its root. It goes through a copy of the mount that no path leads to, where that
// is allowed: a file open on the mount itself would make umount(8) fail.
func (f *saved) open(m mount, dirs []string) error {
	root, err := unix.OpenTree(unix.AT_FDCWD, m.point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		root, err = unix.Open(m.point, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", m.point, err)
	}
	defer unix.Close(root)
	for _, dir := range dirs {
		if f.dir < 0 {
			f.dir = openBelow(root, m, dir)
		}
	}
	if f.dir < 0 {
		// As long as root is open mounts propagate to it; not to what is opened there.
		if f.dir, err = unix.Openat(root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("write on %s: %w", m.point, err)
		}
	}
	for n := range fsyncNames {
		f.name = ".freezeframe-sync-" + strconv.Itoa(n)
		if f.fd, err = takeFile(f.dir, f.name); err != nil {
			return fmt.Errorf("make a file on %s: %w", m.point, err)
		}
		if f.fd >= 0 {
			copy(f.path[:], "/proc/self/fd/"+strconv.Itoa(f.fd))
			return nil
		}
	}
	return fmt.Errorf("make a file on %s: remove .freezeframe-sync-*: all %d names are others'", m.point, fsyncNames)
}

// openBelow opens a directory through a copy of the mount, if that is where its
// path leads to; -1: it is not.
func openBelow(root int, m mount, path string) (dir int) {
	below, err := filepath.Rel(m.point, path)
	if err != nil || !filepath.IsLocal(below) {
		return -1
	}
	dir, err = unix.Openat2(root, below, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1
	}
	var there, here unix.Stat_t
	if unix.Stat(path, &there) != nil || unix.Fstat(dir, &here) != nil || there.Dev != here.Dev || there.Ino != here.Ino {
		unix.Close(dir) // another filesystem is mounted over it
		return -1
	}
	return dir
}

// takeFile makes a file, or takes one that a process which was killed has left;
// -1: it is another process's, or another user's.
func takeFile(dir int, name string) (fd int, err error) {
	for range 8 {
		const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
		fd, err := unix.Openat(dir, name, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
		made := err == nil
		if err == unix.EEXIST {
			if fd, err = unix.Openat(dir, name, flags, 0); err == unix.ENOENT {
				continue
			}
			if err != nil {
				return -1, nil // a link, or not for us
			}
		}
		if err != nil {
			return -1, err
		}
		var file, in unix.Stat_t
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = errors.Join(unix.Fstat(fd, &file), unix.Fstat(dir, &in))
		}
		// The owner need not be who makes it: vfat has none, NFS another.
		ours := made || file.Uid == uint32(os.Geteuid()) || file.Uid == in.Uid
		switch {
		case err == nil && file.Mode&unix.S_IFMT == unix.S_IFREG && file.Nlink == 1 && file.Size <= int64(len(saved{}.data)) && ours:
			return fd, nil
		case err == nil && file.Nlink == 0: // whoever had it ended just now
			unix.Close(fd)
			continue
		}
		unix.Close(fd)
		return -1, nil
	}
	return -1, nil
}

// close removes the file, unless somebody has.
func (f *saved) close() {
	if f.fd >= 0 {
		if unix.Fstat(f.fd, &f.file) == nil && f.file.Nlink > 0 {
			_ = unix.Unlinkat(f.dir, f.name, 0) // what is left is taken the next time
		}
		unix.Close(f.fd)
	}
	if f.dir >= 0 {
		unix.Close(f.dir)
	}
}

//go:nosplit
//go:norace
func (f *saved) loop(w *worker) {
	entersyscallblock()
	for w.wait() {
		if f.gone() {
			break
		}
		w.finish(f.save())
	}
	exitsyscall()
}

// gone tells whether somebody has removed the file.
//
//go:nosplit
//go:norace
func (f *saved) gone() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_FSTAT, uintptr(f.fd), uintptr(unsafe.Pointer(&f.file)), 0)
	return errno == 0 && f.file.Nlink == 0
}

//go:nosplit
//go:norace
func (f *saved) save() uintptr {
	_, _, errno := unix.RawSyscall(unix.SYS_FSTATFS, uintptr(f.fd), uintptr(unsafe.Pointer(&f.stat)), 0)
	full := errno == 0 && f.stat.Blocks > 0 && f.stat.Bavail*uint64(f.stat.Bsize) < nearlyFull
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, atCWD, uintptr(unsafe.Pointer(&f.path)), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno == 0 {
		if full {
			unix.RawSyscall(unix.SYS_FTRUNCATE, fd, 0, 0)
		}
		f.n++
		*(*uint64)(unsafe.Pointer(&f.data)) = f.n
		_, _, errno = unix.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&f.data)), 8, 0, 0, 0)
		// Where a server has the last word, it is said here.
		if _, _, closed := unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0); errno == 0 {
			errno = closed
		}
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_FDATASYNC, uintptr(f.fd), 0, 0)
	}
	if errno == 0 && f.stat.Blocks > 0 && (f.stat.Bavail == 0 || f.stat.Files > 0 && f.stat.Ffree == 0) {
		// Root may use what is reserved for it; nobody else can write.
		errno = unix.ENOSPC
	}
	return uintptr(errno)
}

// atCWD is AT_FDCWD as a system call takes it.
const atCWD = ^uintptr(-unix.AT_FDCWD - 1)
