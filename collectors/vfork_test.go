package collectors

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// vforkChild starts a child that sleeps and ends, and waits in the kernel until
// it has, as vfork(2) does. The child has memory of its own, and makes raw
// system calls only.
//
//go:norace
//go:nosplit
func vforkChild(sleep *unix.Timespec) uintptr {
	pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 {
		unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(sleep)), 0, 0)
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return pid
}
