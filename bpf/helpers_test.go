package bpf

import (
	"slices"
	"strconv"
	"strings"

	"freezeframe"
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

// tells tells whether this kernel has a tracepoint.
func (p *Programs) tells(tracepoint string) bool {
	return !slices.ContainsFunc(p.Needs(), func(n freezeframe.Need) bool { return strings.Contains(n.What, tracepoint) })
}
