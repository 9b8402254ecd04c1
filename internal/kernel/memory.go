package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory returns n bytes of zeroed memory outside the Go heap, so that a large
// fixed buffer neither moves the garbage collector's goal nor is scanned by
// it. It is never given back.
func Memory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", n, err)
	}
	return b, nil
}

// Slots returns n zero values in memory outside the Go heap, for a fixed table
// of which most stays empty: only the pages that were written are resident, and
// neither they nor the empty ones let the heap grow. It is given back when owner,
// which must be whoever uses the table, is gone. T must hold no pointers, as the
// garbage collector does not look there; Slots panics otherwise. Where the kernel
// gives no memory it is the heap's.
func Slots[T, O any](owner *O, n int) []T {
	var zero T
	if t := reflect.TypeFor[T](); pointers(t) {
		panic(fmt.Sprintf("defect: slots of %s, which holds pointers", t))
	}
	b, err := Memory(max(n, 1) * max(int(unsafe.Sizeof(zero)), 1))
	if err != nil {
		return make([]T, n)
	}
	runtime.AddCleanup(owner, func(b []byte) {
		_ = unix.Munmap(b) // it is mapped: there is nothing to refuse
	}, b)
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// Room is the memory of a table that grows; see MoreSlots.
type Room struct {
	b       []byte
	cleanup runtime.Cleanup
}

// MoreSlots is Slots for a table that is to have more of them: it returns n, of
// which the first are those of old, and gives back the memory of old, which must
// not be looked at any more. The room belongs to the table, and is empty at
// first, as old is.
func MoreSlots[T, O any](owner *O, room *Room, old []T, n int) []T {
	before := *room
	*room = Room{}
	var zero T
	if t := reflect.TypeFor[T](); pointers(t) {
		panic(fmt.Sprintf("defect: slots of %s, which holds pointers", t))
	}
	var more []T
	if b, err := Memory(max(n, 1) * max(int(unsafe.Sizeof(zero)), 1)); err != nil {
		more = make([]T, n)
	} else {
		room.b = b
		room.cleanup = runtime.AddCleanup(owner, func(b []byte) {
			_ = unix.Munmap(b) // it is mapped: there is nothing to refuse
		}, b)
		more = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
	}
	copy(more, old)
	if before.b != nil {
		before.cleanup.Stop()
		_ = unix.Munmap(before.b) // as above
	}
	return more
}

// pointers tells whether values of a type hold any.
func pointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && pointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if pointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	case reflect.Bool, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128, reflect.Uintptr,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return false
	}
	return true
}

// Words views memory whose start is aligned to 8 bytes as atomic words. A rest
// of less than 8 bytes is left out.
func Words(b []byte) []atomic.Uint64 {
	if len(b) < 8 {
		return nil
	}
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

// Mlock makes b resident and keeps it so. The error says what an administrator
// can do when the limit of locked memory (RLIMIT_MEMLOCK) is too low.
func Mlock(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	err := unix.Mlock(b)
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN) {
		var lim unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim) == nil && lim.Cur < uint64(len(b)) {
			return fmt.Errorf("lock %d bytes of memory: the limit is %d (ulimit -l): %w", len(b), lim.Cur, err)
		}
	}
	return fmt.Errorf("lock %d bytes of memory: %w", len(b), err)
}

// MlockAll keeps every page of the process resident from its first use on, its
// program text included: under memory pressure the kernel drops that first, and
// a recorder that must read itself back from a stalled disk records nothing. It
// refuses where the limit of locked memory could make a later allocation fail,
// which the Go runtime does not survive.
func MlockAll() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return fmt.Errorf("read the limit of locked memory: %w", err)
	}
	if lim.Cur != unix.RLIM_INFINITY && !hasCapability(unix.CAP_IPC_LOCK) {
		return fmt.Errorf("lock all memory: the limit is %d bytes (ulimit -l) and CAP_IPC_LOCK is missing: %w", lim.Cur, unix.EPERM)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock all memory: %w", err)
	}
	return nil
}

// NoHugePages keeps the kernel from backing this process's memory with
// transparent huge pages, for its children too: where they are always given
// (Debian's default) a page that is touched takes 2 MB, and what was given back
// is filled again by khugepaged (Documentation/admin-guide/mm/transhuge.rst).
func NoHugePages() error {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("go without huge pages: %w", err)
	}
	return nil
}

func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// ErrNotResident says that memory of another process is not there to be read
// without waiting for it.
var ErrNotResident = errors.New("not in memory")

// ReadProcess reads memory of a process (process_vm_readv(2)) and returns how
// much of buf it filled. Pages that are not in memory are left alone: whatever
// brings them back, a disk or a handler that the process itself has put there
// (userfaultfd(2)), would have to be waited for. It takes the process's
// mmap_lock, which can be held for long; the Go scheduler is told.
func ReadProcess(pid int32, address uint64, buf []byte) (int, error) {
	if len(buf) == 0 || address >= 1<<56 {
		return 0, unix.EFAULT
	}
	// Documentation/admin-guide/mm/pagemap.rst: 64 bits a page, the highest says
	// that it is present.
	fd, err := unix.Open("/proc/"+strconv.Itoa(int(pid))+"/pagemap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	page := uint64(os.Getpagesize())
	for at := address / page; at <= (address+uint64(len(buf))-1)/page; at++ {
		var entry [8]byte
		if n, err := unix.Pread(fd, entry[:], int64(at*8)); err != nil || n < len(entry) || binary.NativeEndian.Uint64(entry[:])>>63 == 0 {
			if at*page <= address {
				return 0, ErrNotResident
			}
			buf = buf[:at*page-address]
			break
		}
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	return unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}, 0)
}
