package kernel

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// File is a kernel file that is kept open and read from its start again and
// again (seq_file and kernfs files give fresh contents at offset 0). It is
// used by one thread.
type File struct {
	path string
	name []byte // path and a NUL byte
	fd   int
	buf  []byte
}

// OpenFile opens path for repeated reading. The buffer starts at size bytes
// and grows when the file is larger.
func OpenFile(path string, size int) (*File, error) {
	f, err := NewFile(path, size)
	if err == nil {
		err = f.Open()
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// NewFile returns a File that is not open yet, for what may appear later.
func NewFile(path string, size int) (*File, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, &os.PathError{Op: "open", Path: strings.ToValidUTF8(path, "?"), Err: unix.EINVAL}
	}
	return &File{path: path, name: append([]byte(path), 0), fd: -1, buf: make([]byte, max(size, 256))}, nil
}

// Open opens the file unless it is open. The error is the bare errno: trying
// again and again does not allocate.
func (f *File) Open() error {
	if f.fd >= 0 {
		return nil
	}
	cwd := unix.AT_FDCWD
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(cwd), uintptr(pointer(&f.name[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		switch errno {
		case 0:
			f.fd = int(fd)
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// IsOpen tells whether the file is open.
func (f *File) IsOpen() bool { return f != nil && f.fd >= 0 }

// Path returns what was opened.
func (f *File) Path() string { return f.path }

// Read returns the file's contents, valid until the next Read. It blocks the
// thread without the Go scheduler noticing, so it is for files that do not
// wait. It allocates only when the file outgrows the buffer.
func (f *File) Read() ([]byte, error) { return f.read(Pread) }

// SlowRead is Read for files whose reading can wait: /proc/locks for a grace
// period of RCU, control groups for their mutex. A thread that hangs in a raw
// call would keep the garbage collector, and with it the whole process, from
// going on; SlowRead tells the Go scheduler.
func (f *File) SlowRead() ([]byte, error) { return f.read(slowPread) }

func (f *File) read(pread func(int, []byte, int64) (int, error)) ([]byte, error) {
	n := 0
	for {
		got, err := pread(f.fd, f.buf[n:], int64(n))
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: f.path, Err: err}
		}
		n += got
		if got == 0 {
			return f.buf[:n], nil
		}
		if n == len(f.buf) {
			grown := make([]byte, 2*len(f.buf))
			copy(grown, f.buf)
			f.buf = grown
		}
	}
}

// Close closes the file; closing it twice is allowed.
func (f *File) Close() error {
	if f == nil || f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}

// Pread reads at an offset by a raw system call.
func Pread(fd int, buf []byte, off int64) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(pointer(&buf[0])), uintptr(len(buf)), uintptr(off), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func slowPread(fd int, buf []byte, off int64) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(pointer(&buf[0])), uintptr(len(buf)), uintptr(off), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// ReadAt opens path below the directory dirfd, reads what fits into buf and
// closes it, by raw system calls. name must end with a NUL byte.
func ReadAt(dirfd int, name []byte, buf []byte) (int, error) {
	if len(name) == 0 || name[len(name)-1] != 0 {
		return 0, errors.New("name without its NUL byte")
	}
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(pointer(&name[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	n, err := Pread(int(fd), buf, 0)
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return n, err
}

// IsGone tells whether err means that the process or file has vanished: an
// everyday end, not a failure.
func IsGone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

// IsForbidden tells whether err means that we lack the right to read.
func IsForbidden(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
