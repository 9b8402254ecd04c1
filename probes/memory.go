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
	memoryFloor = 100 * time.Millisecond
	// memoryTouched is how many pages are touched a time. Each is a fault (huge
	// pages are off) and looks at the zone's watermarks before it is served, from
	// a per-CPU list too (get_page_from_freelist, mm/page_alloc.c): one would do,
	// a few are not all served from what a neighbour has just given back.
	memoryTouched = 4
)

// memory asks the kernel for fresh pages and gives them back. It is late when
// an allocation has to free memory first (reclaim, swap, compaction, a cgroup
// at its limit): users feel every program stutter that grows or starts.
type memory struct{ hub *hub }

func (p *memory) Name() string { return "page_touch" }

// Run touches memory until ctx ends.
func (p *memory) Run(ctx context.Context, late func(freezeframe.Lateness)) error {
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, memoryTouched*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map %d pages: %w", memoryTouched, err)
	}
	unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	// A daemon that locks its memory would have the pages already.
	unix.Munlock(b)
	j := &job{hub: p.hub, probe: p.Name(),
		loop: func(w *worker) { touch(w, unsafe.Pointer(&b[0]), page) },
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
		unix.RawSyscall(unix.SYS_MADVISE, uintptr(base), uintptr(memoryTouched*page), unix.MADV_DONTNEED)
	}
	exitsyscall()
}
