package kernel

import "golang.org/x/sys/unix"

const (
	sysFstatat   = unix.SYS_NEWFSTATAT
	sysEpollWait = unix.SYS_EPOLL_WAIT
)
