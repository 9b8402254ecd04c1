package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Delays is how long a thread has waited so far, by reason, in nanoseconds:
// the kernel's delay accounting (struct taskstats). Except for CPU, which the
// scheduler always counts, they grow only while kernel.task_delayacct is 1,
// and only for threads that were born since it was.
type Delays struct {
	CPU, BlockIO, SwapIn, FreePages, Thrashing, Compact, WriteProtectCopy uint64
}

// TaskstatsBatch is how many threads one send asks for: measured, more is not
// cheaper.
const TaskstatsBatch = 64

// Taskstats asks the kernel for the delays of threads by generic netlink. It
// is used by one thread and needs CAP_NET_ADMIN.
type Taskstats struct {
	fd       int
	family   uint16
	sequence uint32 // of the first request of the batch
	asked    int
	send     [TaskstatsBatch * taskstatsRequest]byte
	receive  [4096]byte
}

const (
	taskstatsRequest = 16 + 4 + 8 // nlmsghdr, genlmsghdr, one attribute
	genlHeader       = 4
)

// OpenTaskstats finds the kernel's taskstats family, and asks for this thread
// once to learn whether that is allowed.
func OpenTaskstats() (*Taskstats, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	t := &Taskstats{fd: fd}
	// One batch of answers must fit, or the kernel drops some of them.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind generic netlink: %w", err)
	}
	if err := t.resolve(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	t.Ask([]int32{int32(unix.Gettid())})
	var delays [1]Delays
	var ok [1]bool
	if err := t.Answers(delays[:], ok[:]); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if !ok[0] {
		unix.Close(fd)
		return nil, errors.New("taskstats: the kernel gave no answer that can be read")
	}
	return t, nil
}

func (t *Taskstats) resolve() error {
	name := "TASKSTATS\x00"
	b := t.send[:16+genlHeader+4+12]
	clear(b)
	putGenl(b, unix.GENL_ID_CTRL, t.sequence, unix.CTRL_CMD_GETFAMILY, 2)
	binary.NativeEndian.PutUint16(b[20:], uint16(4+len(name)))
	binary.NativeEndian.PutUint16(b[22:], unix.CTRL_ATTR_FAMILY_NAME)
	copy(b[24:], name)
	if err := unix.Sendto(t.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask generic netlink for taskstats: %w", err)
	}
	n, _, err := unix.Recvfrom(t.fd, t.receive[:], 0)
	if err != nil {
		return fmt.Errorf("ask generic netlink for taskstats: %w", err)
	}
	kind, body, _, ok := genlAnswer(t.receive[:n])
	if !ok {
		return errors.New("ask generic netlink for taskstats: malformed answer")
	}
	if kind == unix.NLMSG_ERROR {
		return fmt.Errorf("ask generic netlink for taskstats: %w", answerError(body))
	}
	for kind, value := range attributes(body[min(genlHeader, len(body)):]) {
		if kind == unix.CTRL_ATTR_FAMILY_ID && len(value) >= 2 {
			t.family = binary.NativeEndian.Uint16(value)
			return nil
		}
	}
	return errors.New("ask generic netlink for taskstats: no family id in the answer")
}

// Ask sends requests for up to TaskstatsBatch threads in one call; Answers
// takes the answers. The kernel has queued them all when Ask returns.
func (t *Taskstats) Ask(tids []int32) {
	tids = tids[:min(len(tids), TaskstatsBatch)]
	t.sequence += uint32(t.asked) + 1
	t.asked = 0
	b := t.send[:0]
	for i, tid := range tids {
		b = b[:len(b)+taskstatsRequest]
		m := b[len(b)-taskstatsRequest:]
		clear(m)
		putGenl(m, t.family, t.sequence+uint32(i), unix.TASKSTATS_CMD_GET, unix.TASKSTATS_GENL_VERSION)
		binary.NativeEndian.PutUint16(m[20:], 8)
		binary.NativeEndian.PutUint16(m[22:], unix.TASKSTATS_CMD_ATTR_PID)
		binary.NativeEndian.PutUint32(m[24:], uint32(tid))
	}
	if len(b) == 0 {
		return
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(t.fd), uintptr(pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0); errno == 0 {
		t.asked = len(tids)
	}
}

// Answers fills delays and ok, by the position of the thread in the last Ask.
// A thread that is gone is not ok. An error is one that every thread would
// meet: no right to ask.
func (t *Taskstats) Answers(delays []Delays, ok []bool) error {
	clear(ok)
	var refused error
	// Nobody else sends to this socket, so the loop ends when the queue is
	// empty; the bound is against a kernel that never stops.
	for range 4 * TaskstatsBatch {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(t.fd), uintptr(pointer(&t.receive[0])), uintptr(len(t.receive)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			if errno != unix.EAGAIN && refused == nil {
				refused = errno
			}
			break
		}
		kind, body, sequence, fits := genlAnswer(t.receive[:n])
		at := int(sequence - t.sequence)
		if !fits || at < 0 || at >= t.asked || at >= len(delays) || at >= len(ok) {
			continue
		}
		if kind == unix.NLMSG_ERROR {
			if err := answerError(body); IsForbidden(err) {
				refused = err
			}
			continue
		}
		ok[at] = parseTaskstats(body, &delays[at])
	}
	return refused
}

// Close closes the socket; closing twice is allowed.
func (t *Taskstats) Close() error {
	if t == nil || t.fd < 0 {
		return nil
	}
	fd := t.fd
	t.fd = -1
	return unix.Close(fd)
}

// putGenl writes both headers of a generic netlink message that fills b.
func putGenl(b []byte, kind uint16, sequence uint32, command, version uint8) {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], sequence)
	b[16], b[17] = command, version
}

func genlAnswer(b []byte) (kind uint16, body []byte, sequence uint32, ok bool) {
	m, _, ok := netlinkMessage(b)
	if !ok {
		return 0, nil, 0, false
	}
	return binary.NativeEndian.Uint16(m[4:]), m[16:], binary.NativeEndian.Uint32(m[8:]), true
}

// answerError decodes the body of an NLMSG_ERROR: a negative errno.
func answerError(body []byte) error {
	if len(body) < 4 {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// Where the fields of struct taskstats stand (linux/taskstats.h); each version
// adds to the end of the one before.
const (
	tsCPU       = 24
	tsBlockIO   = 40
	tsSwapIn    = 56
	tsFreePages = 320 // version 7
	tsThrashing = 336 // version 9
	tsCompact   = 360 // version 11
	tsWPCopy    = 408 // version 13
)

// parseTaskstats reads the answer to one request, from its generic netlink
// header on. Fields that an older kernel does not have stay 0.
func parseTaskstats(body []byte, d *Delays) bool {
	if len(body) < genlHeader {
		return false
	}
	for kind, aggregate := range attributes(body[genlHeader:]) {
		if kind != unix.TASKSTATS_TYPE_AGGR_PID {
			continue
		}
		for kind, b := range attributes(aggregate) {
			// Version 15, of Linux 6.14 and 6.15, has fields inserted in the
			// middle; 16 moved them to the end again.
			if kind != unix.TASKSTATS_TYPE_STATS || len(b) < tsSwapIn+8 || binary.NativeEndian.Uint16(b) == 15 {
				continue
			}
			at := func(i int) uint64 {
				if i+8 > len(b) {
					return 0
				}
				return binary.NativeEndian.Uint64(b[i:])
			}
			*d = Delays{
				CPU: at(tsCPU), BlockIO: at(tsBlockIO), SwapIn: at(tsSwapIn), FreePages: at(tsFreePages),
				Thrashing: at(tsThrashing), Compact: at(tsCompact), WriteProtectCopy: at(tsWPCopy),
			}
			return true
		}
	}
	return false
}
