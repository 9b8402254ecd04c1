package kernel

import "golang.org/x/sys/unix"

// Changed tells whether a mountinfo file has changed since the last Changed:
// the kernel marks it POLLPRI (proc(5)). It does not wait.
func (f *File) Changed() bool {
	p := unix.PollFd{Fd: int32(f.fd), Events: unix.POLLPRI}
	var zero unix.Timespec
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(pointer(&p)), 1, uintptr(pointer(&zero)), 0, 0, 0)
	return errno == 0 && n == 1 && p.Revents&(unix.POLLPRI|unix.POLLERR) != 0
}

// Filesystem is what statfs(2) tells.
type Filesystem struct{ st unix.Statfs_t }

// Stat asks the filesystem that path, which ends with a NUL byte, leads to. It
// can hang, so the Go scheduler is told.
func (f *Filesystem) Stat(path []byte) error {
	if !terminated(path) {
		return unix.EINVAL
	}
	_, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(pointer(&path[0])), uintptr(pointer(&f.st)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Bytes returns the filesystem's size, what is free, and what of that is for
// ordinary users.
func (f *Filesystem) Bytes() (size, free, avail uint64) {
	block := uint64(max(f.st.Frsize, 0))
	if block == 0 {
		block = uint64(max(f.st.Bsize, 0))
	}
	return f.st.Blocks * block, f.st.Bfree * block, f.st.Bavail * block
}

// Files returns how many inodes there are, and how many are free; both are 0
// where the filesystem makes them as needed.
func (f *Filesystem) Files() (all, free uint64) { return f.st.Files, f.st.Ffree }
