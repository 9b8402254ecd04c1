package kernel

import (
	"bytes"
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Dir lists directories without allocating. Its system calls tell the Go
// scheduler that they may block, so it is also fit for goroutines that are not
// locked to a thread. Each listing uses the same buffer.
//
//	if d.Open(dirfd, path) == nil {
//		for name := d.Next(); name != nil; name = d.Next() { … }
//		d.Close()
//	}
type Dir struct {
	FD   int // of the directory being listed, for ReadAt and ReadLinkAt
	buf  []byte
	rest []byte
	kind byte
}

// AtCWD is the directory descriptor for paths that are absolute, or relative
// to where the process is.
const AtCWD = unix.AT_FDCWD

// Open begins the listing of path below dirfd. path must end with a NUL byte.
func (d *Dir) Open(dirfd int, path []byte) error {
	if d.buf == nil {
		d.buf = make([]byte, 16<<10)
	}
	d.rest, d.FD = nil, -1
	if !terminated(path) {
		return unix.EINVAL
	}
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(pointer(&path[0])), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	d.FD = int(fd)
	return nil
}

// Close ends the listing.
func (d *Dir) Close() {
	if d.FD >= 0 {
		unix.Close(d.FD)
		d.FD = -1
	}
}

// Next returns the next name with its NUL byte, as ReadAt wants it, without
// "." and ".."; nil after the last. It is valid until the next call.
func (d *Dir) Next() []byte {
	for {
		if len(d.rest) < 19 {
			n, _, errno := unix.Syscall(unix.SYS_GETDENTS64, uintptr(d.FD), uintptr(pointer(&d.buf[0])), uintptr(len(d.buf)))
			if errno != 0 || n == 0 {
				return nil
			}
			d.rest = d.buf[:n]
		}
		// struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name.
		size := int(binary.NativeEndian.Uint16(d.rest[16:]))
		if size < 20 || size > len(d.rest) {
			d.rest = nil
			return nil
		}
		name := d.rest[19:size]
		d.kind = d.rest[18]
		d.rest = d.rest[size:]
		end := bytes.IndexByte(name, 0)
		if end <= 0 || string(name[:end]) == "." || string(name[:end]) == ".." {
			continue
		}
		return name[:end+1]
	}
}

// IsDir tells whether the name that Next returned last is a directory. A
// symbolic link is none.
func (d *Dir) IsDir() bool { return d.kind == unix.DT_DIR }

// OpenRead opens path for Pread, telling the Go scheduler that it may wait.
func OpenRead(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
