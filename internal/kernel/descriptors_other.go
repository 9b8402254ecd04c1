//go:build !amd64

package kernel

import "golang.org/x/sys/unix"

const (
	sysFstatat   = unix.SYS_FSTATAT
	sysEpollWait = -3 // this architecture only has epoll_pwait
)
