package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Names given to the calls below end with a NUL byte; a name without one is
// refused, so that no call reads past its slice.

// OpenAt opens a file below the directory dirfd for reading, by a raw system
// call.
func OpenAt(dirfd int, name []byte) (int, error) {
	return openAt(dirfd, name, unix.O_RDONLY|unix.O_CLOEXEC)
}

// OpenDirAt is OpenAt for a directory.
func OpenDirAt(dirfd int, name []byte) (int, error) {
	return openAt(dirfd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECTORY)
}

func openAt(dirfd int, name []byte, flags int) (int, error) {
	if !terminated(name) {
		return -1, unix.EINVAL
	}
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(pointer(&name[0])), uintptr(flags), 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// CloseFD closes a descriptor by a raw system call.
func CloseFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// ReadLinkAt reads a symbolic link into buf; a target that does not fit is cut.
func ReadLinkAt(dirfd int, name, buf []byte) (int, error) {
	if !terminated(name) || len(buf) == 0 {
		return 0, unix.EINVAL
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(dirfd), uintptr(pointer(&name[0])), uintptr(pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Status is what fstatat(2) tells of a file; it is kept by the caller so that
// no call allocates.
type Status struct{ st unix.Stat_t }

// At fills s with the file of the given name below dirfd.
func (s *Status) At(dirfd int, name []byte) error {
	if !terminated(name) {
		return unix.EINVAL
	}
	_, _, errno := unix.RawSyscall6(sysFstatat, uintptr(dirfd), uintptr(pointer(&name[0])), uintptr(pointer(&s.st)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Size returns the file's size. Of /proc/PID/fd it is the number of open
// descriptors since Linux 6.2, and 0 before.
func (s *Status) Size() int64 { return s.st.Size }

// UID returns the file's owner. Of /proc/PID it is the process's effective
// user, or root where the process does not let itself be looked into.
func (s *Status) UID() int { return int(s.st.Uid) }

func terminated(name []byte) bool { return len(name) > 0 && name[len(name)-1] == 0 }

// SlowReadAt is ReadAt for files that can hang, such as /proc/PID/cmdline: the
// Go scheduler is told, so that only the calling goroutine's thread is held.
func SlowReadAt(dirfd int, name, buf []byte) (int, error) {
	if !terminated(name) || len(buf) == 0 {
		return 0, unix.EINVAL
	}
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(pointer(&name[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	n := 0
	for n < len(buf) {
		got, _, errno := unix.Syscall6(unix.SYS_READ, fd, uintptr(pointer(&buf[n])), uintptr(len(buf)-n), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
			return n, errno
		}
		if got == 0 {
			break
		}
		n += int(got)
	}
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return n, nil
}

// Entries lists the numeric names of a directory: the processes of /proc, the
// threads of a task directory. It does not allocate after its first Rewind.
type Entries struct {
	fd   int
	buf  []byte
	n, i int
	err  error
}

// Rewind starts listing the directory that fd has open from its beginning.
func (e *Entries) Rewind(fd int) {
	if e.buf == nil {
		e.buf = make([]byte, 32<<10)
	}
	e.fd, e.n, e.i, e.err = fd, 0, 0, nil
	if _, _, errno := unix.RawSyscall(unix.SYS_LSEEK, uintptr(fd), 0, unix.SEEK_SET); errno != 0 {
		e.err = errno
	}
}

// Next returns the next numeric name; ok is false at the end, or on an error,
// which Err then returns.
func (e *Entries) Next() (number int32, ok bool) {
	for e.err == nil {
		if e.i >= e.n {
			n, _, errno := unix.RawSyscall(unix.SYS_GETDENTS64, uintptr(e.fd), uintptr(pointer(&e.buf[0])), uintptr(len(e.buf)))
			if errno != 0 {
				e.err = errno
				return 0, false
			}
			if n == 0 {
				return 0, false
			}
			e.n, e.i = int(n), 0
		}
		// struct linux_dirent64: ino, off (8 bytes each), reclen (2), type (1), name.
		const header = 19
		rest := e.buf[e.i:e.n]
		if len(rest) <= header {
			e.i = e.n
			continue
		}
		length := int(binary.NativeEndian.Uint16(rest[16:]))
		if length <= header || length > len(rest) {
			e.i = e.n
			continue
		}
		e.i += length
		v, digits := int64(0), 0
		name := rest[header:length]
		for digits < len(name) && name[digits]-'0' <= 9 && digits < 10 {
			v = v*10 + int64(name[digits]-'0')
			digits++
		}
		if digits > 0 && digits < len(name) && name[digits] == 0 && v > 0 && v <= 1<<31-1 {
			return int32(v), true
		}
	}
	return 0, false
}

// Err returns what ended the listing early.
func (e *Entries) Err() error { return e.err }

// OpenFilesLimit returns the process's soft RLIMIT_NOFILE.
func OpenFilesLimit() int {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<20))
}

// Bell wakes goroutines that wait for work, without a lock: the sampling
// thread rings it by one raw write to an eventfd.
type Bell struct{ fd int }

// NewBell makes a bell.
func NewBell() (*Bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, err
	}
	return &Bell{fd: fd}, nil
}

// Ring lets n waiters go on.
func (b *Bell) Ring(n int) {
	one := uint64(n)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(b.fd), uintptr(pointer(&one)), 8)
}

// Wait sleeps until the bell rings; it returns an error when there is no bell.
func (b *Bell) Wait() error {
	var count [8]byte
	for {
		_, err := unix.Read(b.fd, count[:])
		if err != unix.EINTR {
			return err
		}
	}
}

// Close frees the bell; nobody may be waiting for it.
func (b *Bell) Close() { unix.Close(b.fd) }

// Dup returns a descriptor of an open file that its owner may then close.
func Dup(fd uintptr) (int, error) { return unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }

// CanHang tells whether a file lies on a filesystem whose reads wait for a
// server: another machine, or a process. What cannot be told can hang.
func CanHang(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return true
	}
	switch uint32(st.Type) {
	case unix.FUSE_SUPER_MAGIC, unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC:
		return true
	}
	return false
}
