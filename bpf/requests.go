package bpf

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

var requestsFamily = family{
	name: "requests",
	at:   "tp_btf sk_data_ready, sock_recv_length, sock_send_length (before 6.3 tcp_probe, tcp_rcv_space_adjust, net_dev_queue), inet_sock_set_state, tcp_send_reset (since 6.10)",
	lost: "to the microsecond how long clients wait for accept, for their data to be read and for an answer, and which thread kept them waiting; the tables of sockets tell it to a reading",
	load: loadRequestsFamily,
}

// What a Told waits for.
const (
	WaitAccept  = 0 // a connection, to be accepted
	WaitReceive = 1 // data that has arrived, to be read
	WaitAnswer  = 2 // a request, for the first byte of its answer
	WaitReply   = 3 // a client on this host, for the first byte from another host
	WaitKinds   = 4
	// Absence is no wait of one client: nobody listens at the service. Began is since
	// when, Done the moment that is told of, Unanswered how many clients were refused.
	Absence = 4
)

// How a Told stands.
const (
	ToldInFlight   = 0
	ToldDone       = 1 // at Told.Done
	ToldClosed     = 2 // the connection was, or the other end's half of it
	ToldTakenUp    = 3 // was accepted at some moment since the walk before
	ToldQueued     = 4 // at a Unix listener; Queue says how many do
	ToldSuperseded = 5 // more of the request came: nobody could have answered it
	ToldRefused    = 6 // of an Absence: a client was
)

// Told is a wait that takes or took long, as requests.bpf.c tells it. Moments
// are CLOCK_MONOTONIC nanoseconds; 0: not yet, or not known.
type Told struct {
	Cookie     uint64 // the socket's, as in sock_diag(7)
	Opened     uint64 // the connection was made
	Began      uint64 // the wait
	Read       uint64 // the request was first read; as Began when that was within two jiffies
	Done       uint64
	Accepted   uint64 // that it was accepted had been noticed
	Answered   uint64 // the service's last answer before, on any connection
	Thread     uint64 // the last that read or wrote: tgid << 32 | tid
	Unread     uint32 // bytes (of a Unix socket: messages)
	Queue      uint32
	Answers    uint32 // on this connection so far
	Unanswered uint32 // requests of this connection that more data followed instead of an answer
	Turn       uint32 // of the service's slot
	Service    uint16
	Kind, How  uint8
	Family     uint16
	Port       uint16
	PeerPID    uint32 // of a Unix socket
	Addr       [16]byte
	CommBytes  [16]byte // the thread's name
}

// PID is the process that served the socket last, 0 when none did.
func (t *Told) PID() uint32 { return uint32(t.Thread >> 32) }

// TID is the thread that did.
func (t *Told) TID() uint32 { return uint32(t.Thread) }

// Comm is that thread's name; the slice is part of the record.
func (t *Told) Comm() []byte { return cstring(t.CommBytes[:]) }

const (
	requestServices = 512 // slots of listeners; slot 0 is none
	requestPlaces   = 768 // slots in all
	// RequestBins is how many bins a histogram has: four an octave from 65.5 µs
	// on, as those of the probes' baselines.
	RequestBins   = 80
	requestShards = 4
	requestQueue  = 16

	// requestLeast is the shortest wait that is told for itself.
	requestLeast = 20_000_000
	// slotIdle is how long no socket of a slot was met when it is given away.
	slotIdle = 30_000_000_000
)

// ServiceThread is a thread that was the first to touch connections of a
// service.
type ServiceThread struct {
	Thread    uint64 // tgid << 32 | tid
	Times     uint32
	_         uint32
	CommBytes [16]byte
}

// ServicePlace is an address. Family AF_UNIX: the name is Service.Name.
type ServicePlace struct {
	Netns  uint32
	Family uint16
	Port   uint16
	Addr   [16]byte // IPv4 as ::ffff:a.b.c.d
	Far    uint32   // 1: one that clients of this host ask, 0: a listener
	_      uint32
}

// Service is a listening address or one that is asked, as it lies in the
// kernel: all of it may change while it is read.
type Service struct {
	Least     uint64 // shorter waits are only counted
	Seen      uint64
	Touched   uint64               // when a new connection was last touched by a thread
	Cookie    uint64               // of a socket that stands for it
	_         [requestQueue]uint64 // when those in the queue connected
	Threads   [4]ServiceThread
	Place     ServicePlace
	Connects  uint32
	Turn      uint32 // counts the uses of this slot
	_         uint32
	pathBytes uint16
	used      uint8
	_         uint8
	path      [108]byte
	_         [3]uint32
	_         [2]uint64
}

// Name is the name of a Unix socket as sockaddr_un has it; the slice is part
// of the slot.
func (s *Service) Name() []byte { return s.path[:min(int(s.pathBytes), len(s.path))] }

// History is what was counted of a service since it was taken last.
type History struct {
	Last  [WaitKinds]uint64 // when one was last counted
	Moved uint32            // answers that another thread wrote than read the request
	_     uint32
	Bins  [WaitKinds][RequestBins]uint32
}

// Requests reads what requests.bpf.c tells. It is for one goroutine.
type Requests struct {
	family   *loaded
	older    bool // of TCP only
	ring     *Ring
	flight   *Ring // what a walk tells
	objects  requestsObjects
	services slots[Service]
	rates    *rates
	shards   int
	part     History
	args     [2]uint64 // of the walk
	run      runAttr
}

// requestEvents are the tracepoints that tell that data came, was read and was
// sent, and what became of a connection: since Linux 6.3, or what older kernels
// have for TCP.
func requestEvents(older bool) []string {
	if older {
		return []string{"tcp_probe", "tcp_rcv_space_adjust", "net_dev_queue", "inet_sock_set_state"}
	}
	return []string{"sk_data_ready", "sock_recv_length", "sock_send_length", "inet_sock_set_state"}
}

func loadRequestsFamily(l *loading) error {
	newer := l.lacks(requestEvents(false))
	if newer == nil {
		return loadRequestsOf(l, false)
	}
	if err := l.lacks(requestEvents(true)); err != nil {
		return err
	}
	if err := loadRequestsOf(l, true); err != nil {
		return err
	}
	l.need(freezeframe.Need{
		What: "BPF requests (tp_btf sk_data_ready, sock_recv_length, sock_send_length)", Lost: "to the microsecond how long clients of Unix sockets wait, and for accept; of TCP it is made of what this kernel has",
		Fix: "Linux 6.3 or newer", Err: newer.Error(),
	})
	return nil
}

// lacks says which of some tracepoints this kernel has not.
func (l *loading) lacks(events []string) error {
	for _, name := range events {
		if _, err := tracepoint(l.kernel, name); err != nil {
			return err
		}
	}
	return nil
}

// loadRequestsOf loads the programs of the newer kernels or of the older, which
// have the helpers that are needed since Linux 5.12.
func loadRequestsOf(l *loading, older bool) error {
	spec, err := loadRequests()
	if err != nil {
		return fmt.Errorf("read the object of requests: %w", err)
	}
	events := requestEvents(older)
	// With the reason of a reset (Linux 6.10) it came to be told of those that no
	// socket sends; before, clients of this host are seen to be refused.
	resets := !older && arguments(l.kernel, "tcp_send_reset") == 3
	if resets {
		events = append(events, "tcp_send_reset")
	}
	for name, p := range spec.Programs {
		if p.AttachType == ebpf.AttachTraceRawTp && !slices.Contains(events, p.AttachTo) || older && name == "find_unix" {
			spec.Programs[name] = nothing(name)
		}
	}
	r := &Requests{family: l.loaded, older: older, shards: 1}
	for r.shards < requestShards && r.shards < possibleCPUs() {
		r.shards *= 2
	}
	spec.Maps["histories"].MaxEntries = uint32(requestPlaces * r.shards)
	sockets := requestSockets()
	spec.Maps["states"].MaxEntries, spec.Maps["free_states"].MaxEntries = sockets, sockets
	if err := l.collection(spec, map[string]any{"older": older, "resets": resets, "shard_mask": uint32(r.shards - 1), "state_slots": sockets}, &r.objects); err != nil {
		return err
	}
	if r.ring, err = NewRing(r.objects.Ended); err != nil {
		return err
	}
	l.closing(r.ring)
	if r.flight, err = NewRing(r.objects.Flight); err != nil {
		return err
	}
	l.closing(r.flight)
	if r.services, err = mapSlots[Service](r.objects.Services); err != nil {
		return err
	}
	l.closing(&r.services)
	if size := uint32(unsafe.Sizeof(History{})); r.objects.Histories.ValueSize() != size {
		return fmt.Errorf("map %s: its values have %d bytes, not %d", r.objects.Histories, r.objects.Histories.ValueSize(), size)
	}
	if r.rates, err = l.mapRates(r.objects.Rates); err != nil {
		return err
	}
	for i := range r.services.values {
		r.services.values[i].Least = requestLeast
	}
	for id := uint32(1); id < requestPlaces; id++ {
		if err := r.free(id); err != nil {
			return err
		}
	}
	r.run = runAttr{program: uint32(r.objects.Walk.FD()), contextSize: uint32(unsafe.Sizeof(r.args)), context: unsafe.Pointer(&r.args)}
	if _, err := r.look(0, 0); err != nil {
		return err
	}
	l.programs = append(l.programs, r.objects.Walk)
	// What listens must be known before anything is told of a connection: one that
	// has no listener then is a client's for good. What begins to listen meanwhile
	// is found the second time.
	if err := r.listening(); err != nil {
		return err
	}
	if err := l.trace(r.objects.Arrived, r.objects.Received, r.objects.Sent, r.objects.Probed, r.objects.Copied, r.objects.Departs, r.objects.Changed, r.objects.Refused); err != nil {
		return err
	}
	if err := r.listening(); err != nil {
		return err
	}
	l.Requests = r
	return nil
}

// listening enters the sockets that listen already, in every network
// namespace that a process is in. Those that come later enter themselves.
func (r *Requests) listening() error {
	own, _ := kernel.NetnsInode("/proc/thread-self/ns/net")
	if err := r.find(); err != nil {
		return err
	}
	entered := map[uint32]bool{own: true}
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range paths {
		inode, err := kernel.NetnsInode(path)
		if err != nil || entered[inode] {
			continue
		}
		entered[inode] = true
		// Where we may not enter, a service is known by its first connection.
		_ = kernel.InNetns(path, r.find)
	}
	return nil
}

func (r *Requests) find() error {
	for _, prog := range []*ebpf.Program{r.objects.FindTcp, r.objects.FindUnix} {
		if prog.Type() == ebpf.SocketFilter {
			continue // of Unix sockets nothing is told
		}
		it, err := link.AttachIter(link.IterOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach %s: %w", prog, err)
		}
		rd, err := it.Open()
		if err == nil {
			_, err = io.Copy(io.Discard, rd)
			rd.Close()
		}
		it.Close()
		if err != nil {
			return fmt.Errorf("list the listening sockets by %s: %w", prog, err)
		}
	}
	return nil
}

// Drain calls f with the waits that are over, at most the given number, oldest
// first; what is told is only valid during the call.
func (r *Requests) Drain(most int, f func(*Told)) int {
	return r.ring.Drain(most, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Told{})) {
			f((*Told)(unsafe.Pointer(&b[0])))
		}
	})
}

// Walk calls f with what is waited for now, longest known or not. A wait is
// told some 20 times a second at first, less often as it grows old. It costs
// some 100 ns a socket, and allocates nothing.
func (r *Requests) Walk(f func(*Told)) error {
	slots, err := r.look(0, 0)
	for from := uint32(1); err == nil && from < slots; from += walkRun {
		_, err = r.look(from, min(walkRun, slots-from))
	}
	if err != nil {
		return err
	}
	r.flight.Drain(math.MaxInt, func(b []byte) {
		if len(b) >= int(unsafe.Sizeof(Told{})) {
			f((*Told)(unsafe.Pointer(&b[0])))
		}
	})
	return nil
}

// walkRun is how many sockets the kernel looks at in one call: it holds the CPU
// meanwhile.
const walkRun = 4096

// look runs the program that looks at n sockets from a slot on; 0 of them
// begins a walk and returns how many slots there are.
func (r *Requests) look(from, n uint32) (slots uint32, err error) {
	r.args = [2]uint64{uint64(from), uint64(n)}
	for {
		_, errno := bpfCall(unix.BPF_PROG_TEST_RUN, &r.run)
		switch errno {
		case 0:
			return r.run.result, nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, fmt.Errorf("look at the sockets by BPF: %w", errno)
		}
	}
}

// requestSockets is how many sockets are watched at most: each takes 150 bytes
// of kernel memory.
func requestSockets() uint32 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 13
	}
	switch memory := info.Totalram * uint64(info.Unit); {
	case memory >= 7<<30:
		return 1 << 16
	case memory >= 1<<30:
		return 1 << 14
	}
	return 1 << 13
}

// Gone tells whether the programs were taken out of the kernel: what the maps
// hold says nothing any more. It is so of a nil one too.
func (r *Requests) Gone() bool { return r == nil || r.family.gone.Load() }

// OnlyTCP tells whether nothing is told of Unix sockets: before Linux 6.3.
func (r *Requests) OnlyTCP() bool { return r != nil && r.older }

// Services returns the slots of all services; those in use say so.
func (r *Requests) Services() []Service { return r.services.values }

// Used tells whether a slot is in use.
func (s *Service) Used() bool { return s.used != 0 }

// Take adds up what was counted of the service in a slot since it was taken
// last. What is counted in the microsecond between is lost.
func (r *Requests) Take(slot int, h *History) error {
	*h = History{}
	for i := range r.shards {
		key := uint32(slot*r.shards + i)
		part := &r.part
		attr := elemAttr{mapFD: uint32(r.objects.Histories.FD()), key: unsafe.Pointer(&key), value: unsafe.Pointer(part)}
		if _, errno := bpfCall(unix.BPF_MAP_LOOKUP_ELEM, &attr); errno != 0 {
			return fmt.Errorf("read what BPF counted of a service: %w", errno)
		}
		counted := false
		h.Moved += part.Moved
		for kind := range part.Bins {
			h.Last[kind] = max(h.Last[kind], part.Last[kind])
			for bin := range part.Bins[kind] {
				n := part.Bins[kind][bin]
				h.Bins[kind][bin] += n
				counted = counted || n != 0
			}
		}
		if !counted {
			continue
		}
		*part = History{Last: part.Last}
		if _, errno := bpfCall(unix.BPF_MAP_UPDATE_ELEM, &attr); errno != 0 {
			return fmt.Errorf("take what BPF counted of a service: %w", errno)
		}
	}
	return nil
}

// Tidy gives away the slots of which the walks have met no socket for long.
func (r *Requests) Tidy(now uint64) error {
	for i := 1; i < len(r.services.values); i++ {
		s := &r.services.values[i]
		if s.used == 0 || s.Seen == 0 || now < s.Seen || now-s.Seen < slotIdle {
			continue
		}
		key := s.Place
		s.used = 0
		if _, errno := bpfCall(unix.BPF_MAP_DELETE_ELEM, &elemAttr{mapFD: uint32(r.objects.Registry.FD()), key: unsafe.Pointer(&key)}); errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("forget a service in BPF: %w", errno)
		}
		for j := range r.shards {
			shard := uint32(i*r.shards + j)
			r.part = History{}
			if _, errno := bpfCall(unix.BPF_MAP_UPDATE_ELEM, &elemAttr{mapFD: uint32(r.objects.Histories.FD()), key: unsafe.Pointer(&shard), value: unsafe.Pointer(&r.part)}); errno != 0 {
				return fmt.Errorf("forget what BPF counted of a service: %w", errno)
			}
		}
		s.Least = requestLeast
		if err := r.free(uint32(i)); err != nil {
			return err
		}
	}
	return nil
}

// free offers a slot to whoever comes.
func (r *Requests) free(id uint32) error {
	m := r.objects.FreeServices
	if id >= requestServices {
		m = r.objects.FreePlaces
	}
	if _, errno := bpfCall(unix.BPF_MAP_UPDATE_ELEM, &elemAttr{mapFD: uint32(m.FD()), value: unsafe.Pointer(&id)}); errno != 0 {
		return fmt.Errorf("free a service's slot in BPF: %w", errno)
	}
	return nil
}

// Lost returns how many waits were not told, because there were too many.
func (r *Requests) Lost() uint64 { return r.rates.Lost() }

// crowded is the need of those whose sockets do not all fit.
func (r *Requests) crowded() (need freezeframe.Need, any bool) {
	var n uint64
	if r.Gone() || r.objects.Crowded.Get(&n) != nil || n == 0 { // what cannot be asked is gone too
		return need, false
	}
	return freezeframe.Need{
		What: fmt.Sprintf("watch %d more connections by BPF", n), Lost: "how long their clients wait",
		Err: fmt.Sprintf("%d are watched at a time", requestSockets()-1),
	}, true
}

// runAttr and elemAttr are what bpf(2) takes for BPF_PROG_TEST_RUN and
// BPF_MAP_*_ELEM.
type runAttr struct {
	program, result uint32
	_               [6]uint32 // data, which this kind of program does not take
	_               [2]uint32 // repeat, duration
	contextSize     uint32
	_               uint32
	context         unsafe.Pointer
	_               unsafe.Pointer
	_               [4]uint32 // flags, cpu, batch_size
}

type elemAttr struct {
	mapFD uint32
	_     uint32
	key   unsafe.Pointer
	value unsafe.Pointer
	_     uint64 // flags
}

// bpfCall is bpf(2), raw and without allocating: cilium's own calls do.
func bpfCall[T any](cmd uintptr, attr *T) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	runtime.KeepAlive(attr)
	return int(n), errno
}
