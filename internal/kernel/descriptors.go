package kernel

import "golang.org/x/sys/unix"

// TakesDescriptor tells whether the first argument of a system call of this
// architecture is a descriptor. The number of a 32-bit program on a 64-bit
// kernel means another call: nothing in /proc/PID/syscall tells them apart.
func TakesDescriptor(number int64) bool {
	switch number {
	case unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64,
		unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_SYNCFS,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSTAT, unix.SYS_FCHMOD, unix.SYS_FCHOWN,
		unix.SYS_LSEEK, unix.SYS_GETDENTS64, unix.SYS_CLOSE,
		unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_TEE, unix.SYS_VMSPLICE,
		unix.SYS_FLOCK, unix.SYS_FCNTL, unix.SYS_IOCTL,
		unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_SHUTDOWN,
		unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG,
		unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_IO_URING_ENTER, sysEpollWait:
		return true
	}
	return false
}
