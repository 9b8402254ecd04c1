package kernel

import "golang.org/x/sys/unix"

// SysFutex is the number of futex(2).
const SysFutex = unix.SYS_FUTEX

// Syscall returns the name of a system call by its number on this machine's
// architecture, for those in which threads wait or meet a limit; "" for others.
func Syscall(number int64) string {
	if name, ok := syscallNames[number]; ok {
		return name
	}
	return archSyscallNames[number]
}

var syscallNames = map[int64]string{
	unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_READV: "readv", unix.SYS_WRITEV: "writev",
	unix.SYS_PREAD64: "pread64", unix.SYS_PWRITE64: "pwrite64", unix.SYS_PREADV: "preadv", unix.SYS_PWRITEV: "pwritev",
	unix.SYS_CLOSE: "close", unix.SYS_OPENAT: "openat", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC: "sync", unix.SYS_SYNCFS: "syncfs",
	unix.SYS_SYNC_FILE_RANGE: "sync_file_range", unix.SYS_SENDFILE: "sendfile", unix.SYS_SPLICE: "splice",
	unix.SYS_FLOCK: "flock", unix.SYS_FCNTL: "fcntl", unix.SYS_IOCTL: "ioctl",
	unix.SYS_FUTEX: "futex", unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_CLOCK_NANOSLEEP: "clock_nanosleep",
	unix.SYS_EPOLL_PWAIT: "epoll_pwait", unix.SYS_PPOLL: "ppoll", unix.SYS_PSELECT6: "pselect6",
	unix.SYS_ACCEPT: "accept", unix.SYS_ACCEPT4: "accept4", unix.SYS_CONNECT: "connect",
	unix.SYS_SENDTO: "sendto", unix.SYS_RECVFROM: "recvfrom", unix.SYS_SENDMSG: "sendmsg", unix.SYS_RECVMSG: "recvmsg",
	unix.SYS_SENDMMSG: "sendmmsg", unix.SYS_RECVMMSG: "recvmmsg",
	unix.SYS_WAIT4: "wait4", unix.SYS_WAITID: "waitid", unix.SYS_CLONE: "clone", unix.SYS_EXECVE: "execve",
	unix.SYS_MMAP: "mmap", unix.SYS_MUNMAP: "munmap", unix.SYS_MPROTECT: "mprotect", unix.SYS_MADVISE: "madvise", unix.SYS_BRK: "brk", unix.SYS_MREMAP: "mremap",
	unix.SYS_RT_SIGTIMEDWAIT: "rt_sigtimedwait", unix.SYS_RT_SIGSUSPEND: "rt_sigsuspend",
	unix.SYS_IO_GETEVENTS: "io_getevents", unix.SYS_IO_URING_ENTER: "io_uring_enter", unix.SYS_EXIT_GROUP: "exit_group",
	unix.SYS_CLONE3: "clone3", unix.SYS_EXECVEAT: "execveat", unix.SYS_TIMER_CREATE: "timer_create", unix.SYS_IO_SETUP: "io_setup", unix.SYS_IO_URING_SETUP: "io_uring_setup",
	unix.SYS_SHMGET: "shmget", unix.SYS_SHMAT: "shmat", unix.SYS_SEMGET: "semget", unix.SYS_MSGGET: "msgget",
	unix.SYS_MLOCK: "mlock", unix.SYS_MLOCK2: "mlock2", unix.SYS_MLOCKALL: "mlockall", unix.SYS_BPF: "bpf",
	unix.SYS_INOTIFY_INIT1: "inotify_init1", unix.SYS_INOTIFY_ADD_WATCH: "inotify_add_watch", unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl",
	unix.SYS_EVENTFD2: "eventfd2", unix.SYS_SIGNALFD4: "signalfd4", unix.SYS_TIMERFD_CREATE: "timerfd_create", unix.SYS_MEMFD_CREATE: "memfd_create",
	unix.SYS_SOCKET: "socket", unix.SYS_SOCKETPAIR: "socketpair", unix.SYS_BIND: "bind", unix.SYS_LISTEN: "listen", unix.SYS_PIPE2: "pipe2",
	unix.SYS_DUP: "dup", unix.SYS_DUP3: "dup3", unix.SYS_OPENAT2: "openat2", unix.SYS_LINKAT: "linkat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_MKNODAT: "mknodat",
	unix.SYS_STATFS: "statfs", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_STATX: "statx",
}
