package bpf

import (
	"fmt"

	"freezeframe"
)

var blockFamily = family{
	name: "block",
	at:   "tp_btf block_rq_issue, block_rq_complete and others of block, writeback_dirty_inode_enqueue",
	lost: "whose requests a block device works on, how long each takes, and how old the oldest one is",
	load: loadBlockFamily,
}

// How it is known whose a request is: BlockIssuer.Via.
const (
	ViaItself    = 0 // the process made it
	ViaWriteback = 1 // the process made the data dirty that a kernel thread wrote
	ViaLoop      = 2 // a loop device's kworker made it; the process uses that device
	ViaKernel    = 3 // a kernel thread made it, for reasons of its own
)

// Operations of a request: REQ_OP_* of include/linux/blk_types.h.
const (
	OpRead    = 0
	OpWrite   = 1
	OpFlush   = 2
	OpDiscard = 3
)

const blockBuckets = 128

// BlockDevice is struct device of block.bpf.c: a disk (never a partition) since
// the programs were loaded.
type BlockDevice struct {
	Dev                     uint32 // major<<20 | minor; 0: a free slot
	_                       uint32
	_                       uint64 // who uses it most, and by how much
	NameBytes               [32]byte
	Issued, Done, Errors    uint64
	ReadBytes, WriteBytes   uint64
	Flushes, Discards       uint64
	QueueNanos, DeviceNanos uint64 // of reads and writes: until issued; from then until done
	FlushNanos              uint64 // of flushes, from made to done
	Buckets                 [blockBuckets]uint64
}

// Name is the disk's name; the slice is part of the record.
func (d *BlockDevice) Name() []byte { return cstring(d.NameBytes[:]) }

// BlockIssuer is struct issuer: what one process had one device do.
type BlockIssuer struct {
	Dev, TGID                 uint32
	LastNanos                 uint64 // CLOCK_MONOTONIC; 0: a free slot
	Cgroup                    uint64 // inode number of the cgroup that the device's time is charged to
	Reads, Writes             uint64
	ReadBytes, WriteBytes     uint64
	Flushes, Discards, Errors uint64
	QueueNanos, DeviceNanos   uint64
	FlushNanos                uint64
	CommBytes                 [16]byte
	Via                       uint32
	_                         uint32
	SinceNanos                uint64 // from when on it is counted
}

// Comm is the process's name, or what the kernel thread was at work on.
func (s *BlockIssuer) Comm() []byte { return cstring(s.CommBytes[:]) }

// BlockFlight is struct flight: a request that is not done.
type BlockFlight struct {
	Request      uint64 // 0: a free slot
	_            uint64
	Made, Issued uint64 // CLOCK_MONOTONIC; Issued 0: it stands in a queue
	Device       uint32 // index in Devices
	Issuer       uint32 // index in Issuers; beyond it: nobody's
	TGID         uint32
	Bytes, Flags uint32
	Op           uint32
}

type blockState struct {
	devices [64]BlockDevice
	issuers [1024]BlockIssuer
	flights [4096]BlockFlight
	lost    uint64
}

// Block reads what block.bpf.c tells. What it returns is written by the kernel
// meanwhile.
type Block struct {
	objects blockObjects
	state   slots[blockState]
}

func loadBlockFamily(l *loading) error {
	spec, err := loadBlock()
	if err != nil {
		return fmt.Errorf("read the object of block: %w", err)
	}
	constants := map[string]any{}
	for constant, bit := range map[string]string{"preflush": "__REQ_PREFLUSH", "fua": "__REQ_FUA"} {
		n, err := enumValue(l.kernel, "req_flag_bits", bit)
		if err != nil {
			return err
		}
		constants[constant] = uint32(1) << n
	}
	if arguments(l.kernel, "block_rq_issue") == 2 {
		constants["queue_first"] = uint32(1)
	}
	if arguments(l.kernel, "block_io_start") > 0 {
		constants["has_io_start"] = uint32(1)
	}
	lacks := attachable(spec, l.kernel)
	for _, name := range lacks {
		switch name {
		case "block_io_start":
			// Insert and issue tell nearly the same, but not of those that the
			// block layer holds back for a flush.
			l.need(freezeframe.Need{What: "BPF tracepoint " + name, Lost: "who asks a disk to write out its cache, other than a journal", Fix: "Linux 6.5 or newer", Err: "this kernel has no such tracepoint"})
		case "block_rq_merge":
			// A merged request's slot is used again with the request.
		case "writeback_dirty_inode_enqueue":
			l.need(freezeframe.Need{What: "BPF tracepoint " + name, Lost: "whose data the kernel writes back from memory", Err: "this kernel has no such tracepoint"})
		default:
			return fmt.Errorf("this kernel has no tracepoint %s", name)
		}
	}
	b := &Block{}
	if err := l.collection(spec, constants, &b.objects); err != nil {
		return err
	}
	if b.state, err = mapSlots[blockState](b.objects.Blocks); err != nil {
		return err
	}
	l.closing(&b.state)
	l.count = b.Lost
	if err := l.trace(b.objects.RqComplete, b.objects.Dirtied, b.objects.RqMerge, b.objects.RqIssue, b.objects.RqInsert, b.objects.IoStart); err != nil {
		return err
	}
	l.Block = b
	return nil
}

// Devices returns the disks' slots, the free ones too.
func (b *Block) Devices() []BlockDevice { return b.state.values[0].devices[:] }

// Issuers returns the slots of who used a device of late.
func (b *Block) Issuers() []BlockIssuer { return b.state.values[0].issuers[:] }

// Flights returns the slots of requests that are not done.
func (b *Block) Flights() []BlockFlight { return b.state.values[0].flights[:] }

// Lost returns how many requests were not followed, because there were too many.
func (b *Block) Lost() uint64 { return b.state.values[0].lost }

// BucketNanos returns the lower edge of a bucket of BlockDevice.Buckets, and
// its width: four to each power of two, from 1 µs on.
func BucketNanos(i int) (from, width uint64) {
	if i < 4 {
		return uint64(i) << 10, 1 << 10
	}
	log := i/4 + 1
	return uint64(4+i%4) << (log - 2) << 10, 1 << (log - 2) << 10
}
