package probes

import (
	"context"
	"fmt"
	"os"
	"time"
	"unsafe"

	"freezeframe"

	"golang.org/x/sys/unix"
)

const (
	memoryEvery = 250 * time.Millisecond
	memoryBytes = 1 << 20
	memoryFloor = 100 * time.Millisecond
	// memoryTouched is how many pages are touched a time: enough that one
	// must come from the allocator and not from a per-CPU list. Huge pages
	// are off, so every touch is a fault.
	memoryTouched = 16
)

// memory asks the kernel for fresh pages and gives them back. It is late when
// an allocation has to free memory first (reclaim, swap, compaction, a cgroup
// at its limit): users feel every program stutter that grows or starts.
type memory struct{ hub *hub }

func (p *memory) Name() string { return "page_touch" }

// Run touches memory until ctx ends.
func (p *memory) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	b, err := unix.Mmap(-1, 0, memoryBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map %d bytes: %w", memoryBytes, err)
	}
	unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	// A daemon that locks its memory would have the pages already.
	unix.Munlock(b)
	j := &job{hub: p.hub, probe: p.Name(),
		loop: func(w *worker) { touch(w, unsafe.Pointer(&b[0]), os.Getpagesize()) },
		done: func() { unix.Munmap(b) },
	}
	if err := j.start(ctx, plan{every: int64(memoryEvery), backoff: 20, floor: int64(memoryFloor)}, late); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

//go:nosplit
//go:norace
func touch(w *worker, base unsafe.Pointer, page int) {
	entersyscallblock()
	for w.wait() {
		for i := range memoryTouched {
			*(*byte)(unsafe.Add(base, i*page)) = 1
		}
		w.finish(0)
		unix.RawSyscall(unix.SYS_MADVISE, uintptr(base), memoryBytes, unix.MADV_DONTNEED)
	}
	exitsyscall()
}
