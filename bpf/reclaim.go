package bpf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
	"unsafe"

	"freezeframe"

	"golang.org/x/sys/unix"
)

var reclaimFamily = family{
	name: "reclaim",
	at:   "tp_btf mm_vmscan_direct_reclaim, mm_vmscan_memcg_reclaim, mm_compaction (begin and end), balance_dirty_pages",
	lost: "exactly when a thread had to free memory, to compact it, or to pause because too much was dirty",
	load: loadReclaimFamily,
}

// Kinds of Reclaim.
const (
	ReclaimDirect     = 0 // freed memory, because the machine had none left
	ReclaimCgroup     = 1 // freed memory of a cgroup at its limit
	ReclaimCompaction = 2 // moved pages together for a block of several
	ReclaimDirty      = 3 // paused, because too much written data waits for a device
	reclaimKinds      = 4
)

// Reclaim is struct interval of reclaim.bpf.c: a millisecond or more of one
// thread. Moments are CLOCK_MONOTONIC nanoseconds.
type Reclaim struct {
	Began, Ended uint64
	Pages        uint64 // freed
	TID, TGID    uint32
	Kind         uint32
	Order        int32 // of the allocation, as a power of two of pages; -1: not told
	CommBytes    [16]byte
	DeviceBytes  [16]byte
}

// Comm is the process's name.
func (r *Reclaim) Comm() []byte { return cstring(r.CommBytes[:]) }

// Device is the backing device of a pause, "254:0" or another name.
func (r *Reclaim) Device() []byte { return cstring(r.DeviceBytes[:]) }

// ReclaimProcess is struct process: the sums of one process.
type ReclaimProcess struct {
	TGID      uint32
	_         uint32
	LastNanos uint64 // 0: a free slot
	Times     [reclaimKinds]uint64
	Nanos     [reclaimKinds]uint64
	Pages     uint64 // freed
	CommBytes [16]byte
}

// Comm is the process's name.
func (p *ReclaimProcess) Comm() []byte { return cstring(p.CommBytes[:]) }

type reclaimState struct {
	processes [1024]ReclaimProcess
	lost      uint64
	_, _      uint64
}

// Reclaims reads what reclaim.bpf.c tells. Drain is for one goroutine.
type Reclaims struct {
	objects reclaimObjects
	ring    *Ring
	state   slots[reclaimState]
}

func loadReclaimFamily(l *loading) error {
	spec, err := loadReclaim()
	if err != nil {
		return fmt.Errorf("read the object of reclaim: %w", err)
	}
	constants := map[string]any{"tick_ns": uint64(tick())}
	if n := arguments(l.kernel, "balance_dirty_pages"); n > 2 {
		constants["pause_argument"] = uint32(n - 2) // the last but one
	}
	lost := map[string]string{
		"mm_compaction_begin": "when a thread had to compact memory", "mm_compaction_end": "when a thread had to compact memory",
		"balance_dirty_pages":           "when a thread had to pause because too much was dirty",
		"mm_vmscan_memcg_reclaim_begin": "when a thread had to free memory of its cgroup", "mm_vmscan_memcg_reclaim_end": "when a thread had to free memory of its cgroup",
	}
	for _, name := range attachable(spec, l.kernel) {
		if lost[name] == "" {
			return fmt.Errorf("this kernel has no tracepoint %s", name)
		}
		l.need(freezeframe.Need{What: "BPF tracepoint " + name, Lost: lost[name], Err: "this kernel has no such tracepoint"})
	}
	r := &Reclaims{}
	if err := l.collection(spec, constants, &r.objects); err != nil {
		return err
	}
	if r.ring, err = NewRing(r.objects.Intervals); err != nil {
		return err
	}
	l.closing(r.ring)
	if r.state, err = mapSlots[reclaimState](r.objects.Reclaims); err != nil {
		return err
	}
	l.closing(&r.state)
	l.count = r.Lost
	o := &r.objects
	if err := l.trace(o.DirectEnd, o.CgroupEnd, o.CompactionEnd, o.DirectBegin, o.CgroupBegin, o.CompactionBegin, o.DirtyPause); err != nil {
		return err
	}
	l.Reclaim = r
	return nil
}

// tick is the length of the kernel's jiffy by its configuration; 0 where that
// cannot be read, and then the programs measure it.
func tick() time.Duration {
	var release unix.Utsname
	if err := unix.Uname(&release); err != nil {
		return 0
	}
	for _, open := range []func() (io.ReadCloser, error){
		func() (io.ReadCloser, error) {
			f, err := os.Open("/proc/config.gz")
			if err != nil {
				return nil, err
			}
			z, err := gzip.NewReader(f)
			if err != nil {
				_ = f.Close()
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{z, f}, nil
		},
		func() (io.ReadCloser, error) { return os.Open("/boot/config-" + string(cstring(release.Release[:]))) },
	} {
		r, err := open()
		if err != nil {
			continue
		}
		hz := configured(r, "CONFIG_HZ=")
		_ = r.Close()
		if hz > 0 {
			return time.Second / time.Duration(hz)
		}
	}
	return 0
}

// configured returns the number behind a name in a kernel's configuration, 0
// when it is not there.
func configured(r io.Reader, name string) int {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if rest, ok := bytes.CutPrefix(lines.Bytes(), []byte(name)); ok {
			n, err := strconv.Atoi(string(rest))
			if err == nil && n > 0 {
				return n
			}
		}
	}
	return 0
}

// Processes returns the slots of who had to reclaim of late.
func (r *Reclaims) Processes() []ReclaimProcess { return r.state.values[0].processes[:] }

// Drain calls f with what is new, oldest end first, at most the given number;
// the record is only valid during the call.
func (r *Reclaims) Drain(most int, f func(*Reclaim)) int {
	return r.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Reclaim{})) {
			f((*Reclaim)(unsafe.Pointer(&b[0])))
		}
	})
}

// Lost returns how many intervals were left out.
func (r *Reclaims) Lost() uint64 { return r.state.values[0].lost }
