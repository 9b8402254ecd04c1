package bpf

import (
	"strconv"

	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

func nowNS() uint64 { return uint64(kernel.Now()) }

func itoa(n int) string { return strconv.Itoa(n) }

// kernelDrop drops the cached pages of a file.
func kernelDrop(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
}
