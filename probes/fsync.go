package probes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
	// A file that keeps its one block would never meet a full filesystem, so
	// when less than this is left the block is given back and asked for again.
	nearlyFull = 16 << 20
)

// fsync writes 8 bytes to an unlinked file on every writable local filesystem,
// twice a second, and waits until the device has them: one 4 KiB write and
// one flush of the device's cache, 16 KiB/s a filesystem with the journal of a
// typical one. It is late when a device, a journal, writeback or a frozen
// filesystem holds up whoever saves something: databases stop committing, logs
// stop, editors hang in "save". Err is set when the write is refused: ENOSPC
// (also when only root may still write), EROFS, EIO, EDQUOT.
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
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		text, err := readAll(fd, buf)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		buf = text[:cap(text)]
		p.follow(ctx, running, parseMounts(text), late)
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

// follow starts work on the mounts that ought to be written to, and ends it
// on those that are gone or opted out; one that turned read-only under us is
// kept, since that is news.
func (p *fsync) follow(ctx context.Context, running map[mountKey]context.CancelFunc, all []mount, late func(freezeframe.Lateness)) {
	there := make(map[mountKey]bool)
	for _, m := range all {
		there[mountKey{m.id, m.point}] = true
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
		go p.watch(own, m, late)
	}
}

type mountKey struct {
	id    uint64
	point string
}

// watch has one filesystem written to until ctx ends, and tries again now and
// then when that cannot even begin.
func (p *fsync) watch(ctx context.Context, m mount, late func(freezeframe.Lateness)) {
	told := ""
	for {
		f := &saved{fd: -1}
		j := &job{hub: p.hub, probe: p.Name(), target: m.point,
			setup: func() error { return f.open(m) },
			loop:  func(w *worker) { f.loop(w) },
			done:  f.close,
		}
		err := j.start(ctx, plan{every: int64(fsyncEvery), backoff: fsyncBackoff, floor: int64(fsyncFloor)}, late)
		if err == nil || ctx.Err() != nil {
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

// saved is the file that is written.
type saved struct {
	fd   int
	stat unix.Statfs_t
	data [8]byte
	n    uint64
}

// open makes a file without a name on the filesystem. It goes through a copy
// of the mount that no path leads to, where that is allowed: a file open on
// the mount itself would make umount(8) fail.
func (f *saved) open(m mount) error {
	point := m.point
	tree, err := unix.OpenTree(unix.AT_FDCWD, m.point, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		defer unix.Close(tree)
		point = "/proc/self/fd/" + strconv.Itoa(tree)
	}
	var st unix.Stat_t
	if err := unix.Stat(point, &st); err != nil {
		return fmt.Errorf("stat %s: %w", m.point, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("write on %s: %w", m.point, unix.ENOTDIR)
	}
	f.fd, err = unix.Open(point, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		name := filepath.Join(point, ".freezeframe-"+strconv.Itoa(os.Getpid()))
		f.fd, err = unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			unix.Unlink(name)
		}
	}
	if err != nil {
		return fmt.Errorf("make a file on %s: %w", m.point, err)
	}
	return nil
}

func (f *saved) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
}

//go:nosplit
//go:norace
func (f *saved) loop(w *worker) {
	entersyscallblock()
	for w.wait() {
		w.finish(f.save())
	}
	exitsyscall()
}

//go:nosplit
//go:norace
func (f *saved) save() uintptr {
	fd := uintptr(f.fd)
	_, _, errno := unix.RawSyscall(unix.SYS_FSTATFS, fd, uintptr(unsafe.Pointer(&f.stat)), 0)
	if errno == 0 {
		size := uint64(f.stat.Bsize)
		if f.stat.Blocks > 0 && f.stat.Bavail*size < nearlyFull {
			unix.RawSyscall(unix.SYS_FTRUNCATE, fd, 0, 0)
		}
	}
	f.n++
	*(*uint64)(unsafe.Pointer(&f.data)) = f.n
	_, _, errno = unix.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&f.data)), 8, 0, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_FDATASYNC, fd, 0, 0)
	}
	if errno == 0 && f.stat.Blocks > 0 && (f.stat.Bavail == 0 || f.stat.Files > 0 && f.stat.Ffree == 0) {
		// Root may use what is reserved for it; nobody else can write.
		errno = unix.ENOSPC
	}
	return uintptr(errno)
}
