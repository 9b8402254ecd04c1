package kernel

import "golang.org/x/sys/unix"

var archSyscallNames = map[int64]string{
	unix.SYS_OPEN: "open", unix.SYS_STAT: "stat", unix.SYS_LSTAT: "lstat", unix.SYS_UNLINK: "unlink", unix.SYS_RENAME: "rename", unix.SYS_MKDIR: "mkdir", unix.SYS_RMDIR: "rmdir",
	unix.SYS_POLL: "poll", unix.SYS_SELECT: "select", unix.SYS_EPOLL_WAIT: "epoll_wait", unix.SYS_PAUSE: "pause",
	unix.SYS_CREAT: "creat", unix.SYS_LINK: "link", unix.SYS_SYMLINK: "symlink", unix.SYS_PIPE: "pipe", unix.SYS_DUP2: "dup2",
	unix.SYS_INOTIFY_INIT: "inotify_init", unix.SYS_EPOLL_CREATE: "epoll_create", unix.SYS_EVENTFD: "eventfd", unix.SYS_SIGNALFD: "signalfd",
	unix.SYS_FORK: "fork", unix.SYS_VFORK: "vfork",
}
