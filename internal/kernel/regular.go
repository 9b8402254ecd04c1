package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular says that what was to be opened is a device, a pipe, a socket,
// a directory or a link: merely opening one can wait for ever, or do something.
var ErrNotRegular = errors.New("not a regular file")

// OpenRegularIn opens a regular file for reading as a process with the root
// directory root (/proc/PID/root) would: every link, absolute ones too, is
// followed inside of it (RESOLVE_IN_ROOT, openat2(2), Linux 5.6). Unless
// follow is set, the last part of path must not be a link. It may hang where
// the filesystem does.
func OpenRegularIn(root, path string, follow bool) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(dir, path, &how)
	// A rename or mount elsewhere makes the kernel give up on a way with ".." in it.
	for range 8 {
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
		fd, err = unix.Openat2(dir, path, &how)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root + path, Err: err}
	}
	return regular(fd, root+path)
}

// OpenRegular is OpenRegularIn for a path of our own; links are followed, so
// that /proc/PID/exe and /proc/PID/map_files give the very file that is mapped,
// deleted or not.
func OpenRegular(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return regular(fd, path)
}

// regular turns a descriptor that only names a file into one that reads it,
// once it is known to be a regular file: no moment is left to swap it.
func regular(fd int, name string) (*os.File, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	}
	// O_NONBLOCK: a lease that somebody holds on the file is not waited for.
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(again), name), nil
}

// FileID tells one content of a file from another: the file, and its size and
// time of change.
type FileID struct {
	Dev, Ino uint64
	Size     int64
	MtimeNs  int64
	UID      uint32 // the owner
}

// IDOf returns what names an open file's present content.
func IDOf(f *os.File) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return FileID{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return FileID{Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, MtimeNs: st.Mtim.Nano(), UID: st.Uid}, nil
}
