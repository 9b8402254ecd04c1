package collectors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	futexesPID = iota
	futexesComm
	futexesAddress
	futexesSince
	futexesAt
	futexesSwitches
	futexesTimeout
	futexesKind
	futexesOwnerPID
	futexesOwnerTID
	futexesOwnerComm
	futexesWidth
)

const (
	maxFutexes = 512
	// futexShare: looking takes at most one part in so many of the time.
	futexShare = 20
)

// futexes tells, while a stall is open, which threads of the watched processes
// wait in futex(2) now, on which address, and whose lock it is where the memory
// there says so: that of a POSIX mutex of glibc, or of one whose owner the kernel
// itself must know (priority inheritance). A wait that never ends, as in a
// deadlock, is told by nothing else.
//
// The system call's arguments and the memory are read on a goroutine of its own:
// they lie behind locks of the process (exec_update_lock, mmap_lock), which may
// be what hangs. The sampling thread asks and picks up what was found at a later
// reading; should that goroutine hang, it is not waited for.
//
// All rows of a reading are of one look, and those with an owner slept from
// before the first of them was looked at until after the last: a circle of
// owners among them is a deadlock.
type futexes struct {
	census *census
	reader *futexReader
	needs  []freezeframe.Need
	next   freezeframe.Instant // when to look again
	from   int                 // of the threads that a look has no room for, the first
}

func (c *futexes) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "futexes", From: "/proc/PID/task/TID/{syscall,status}, process_vm_readv(2)", Key: "task",
		Every: time.Second, Stalled: 100 * time.Millisecond, Lane: freezeframe.Tasks,
		Needs: c.needs,
		Columns: []freezeframe.Column{
			futexesPID:      {Name: "pid", Kind: gauge},
			futexesComm:     {Name: "comm", Kind: text},
			futexesAddress:  {Name: "address", Kind: gauge},  // in the process
			futexesSince:    {Name: "since_ns", Kind: gauge}, // CLOCK_MONOTONIC; 0 without BPF
			futexesAt:       {Name: "at_ns", Kind: gauge},    // when the memory was read
			futexesSwitches: {Name: "switches", Kind: gauge}, // how often it left a CPU so far: the same, the same wait
			futexesTimeout:  {Name: "timeout", Kind: gauge},  // 1: it gives up by itself
			futexesKind:     {Name: "kind", Kind: text},      // of the lock; "" where there is no owner
			futexesOwnerPID: {Name: "owner_pid", Kind: gauge},
			futexesOwnerTID: {Name: "owner_tid", Kind: gauge}, // 0: not known, or nobody's
			// The owner's name.
			futexesOwnerComm: {Name: "owner_comm", Kind: text},
		},
	}
}

func (c *futexes) Open(h freezeframe.Host) error {
	if h.Proc != "/proc" {
		return fmt.Errorf("futexes: memory can be read of this machine's processes only: %w", freezeframe.ErrNotHere)
	}
	if err := c.census.open(h); err != nil {
		return err
	}
	c.needs = nil
	if err := c.census.foreign("/syscall"); err != nil {
		c.needs = append(c.needs, freezeframe.Need{
			What: "look at the locks of other users' processes", Lost: "who holds a program's own lock while others wait for it, and deadlocks among the threads of one program",
			Fix: "run as root, or with CAP_SYS_PTRACE", Err: err.Error(),
		})
	}
	root, err := kernel.OpenDirAt(kernel.AtCWD, append([]byte(h.Proc), 0))
	if err == nil {
		c.reader, err = startFutexReader(root)
	}
	if err != nil {
		c.census.close()
		return fmt.Errorf("futexes: %w", err)
	}
	c.next, c.from = 0, 0
	return nil
}

func (c *futexes) Close() error {
	if c.reader != nil {
		c.reader.stop()
		c.reader = nil
		c.census.close()
	}
	return nil
}

func (c *futexes) Collect(t *freezeframe.Table) error {
	r := c.reader
	if r.state.Load() == futexBusy {
		return nil
	}
	now := at(t)
	if r.state.Load() == futexDone {
		for i := range r.looks[:r.n] {
			c.row(t, &r.looks[i])
		}
		r.state.Store(futexIdle)
		c.next = max(c.next, now.Add(futexShare*r.took))
	}
	if !c.census.host.Focus.Stalled(now) || now < c.next {
		return nil
	}
	c.next = now.Add(100 * time.Millisecond)
	if r.n = c.choose(r.looks[:]); r.n > 0 {
		r.state.Store(futexBusy)
		r.bell.Ring(1)
	}
	return nil
}

// choose fills in the watched threads that wait in futex, as many as there is
// room for. Those that were left out come first the next time.
func (c *futexes) choose(looks []futexLook) (n int) {
	s := c.census
	seen := 0
	for _, pid := range s.host.Focus.PIDs() {
		slot := s.byPID.get(pid)
		if slot == none {
			continue
		}
		for i := s.processes[slot].threads; i != none; i = s.threads[i].next {
			th := &s.threads[i]
			if th.syscall != kernel.SysFutex || th.stat.state != 'S' {
				continue
			}
			if seen++; seen <= c.from {
				continue
			}
			if n == len(looks) {
				c.from = seen - 1
				return n
			}
			looks[n] = futexLook{key: th.key, pid: pid, tid: th.tid, comm: th.comm, since: th.since}
			n++
		}
	}
	c.from = 0
	return n
}

func (c *futexes) row(t *freezeframe.Table, x *futexLook) {
	if !x.ok {
		return
	}
	row := t.Row(x.key, futexesWidth)
	row[futexesPID] = uint64(x.pid)
	row[futexesComm] = x.comm
	row[futexesAddress] = x.call.address
	row[futexesSince] = uint64(x.since)
	row[futexesAt] = uint64(x.at)
	row[futexesSwitches] = x.switches
	if x.call.timeout {
		row[futexesTimeout] = 1
	}
	if x.ownerTID != 0 {
		texts := c.census.host.Texts
		row[futexesKind] = texts.Intern(lockNames[x.kind])
		row[futexesOwnerPID], row[futexesOwnerTID] = uint64(x.ownerPID), uint64(x.ownerTID)
		row[futexesOwnerComm] = texts.Intern(x.ownerComm[:x.ownerCommBytes])
	}
}

// futexLook is what is asked of a thread, and what was found.
type futexLook struct {
	key      freezeframe.Key
	pid, tid int32
	comm     uint64
	since    freezeframe.Instant

	ok             bool // it waits in futex
	at             freezeframe.Instant
	call           futexCall
	text           uint64 // the hash of all that its system call's file said
	switches       uint64
	uid            uint64
	inner          int32 // its number in the process's own pid namespace
	kind           lockKindOf
	ownerPID       int32
	ownerTID       int32
	ownerComm      [16]byte
	ownerCommBytes int
}

// Whose turn a reader's looks are.
const (
	futexIdle = iota // the sampling thread's
	futexBusy        // the reader's
	futexDone        // the sampling thread's, which finds what was found
)

// futexReader looks at threads on a goroutine of its own.
type futexReader struct {
	root    int // descriptor of /proc
	bell    *kernel.Bell
	state   atomic.Uint32
	stopped atomic.Bool

	n     int
	took  time.Duration
	looks [maxFutexes]futexLook

	name  [64]byte
	text  [4 << 10]byte
	pids  kernel.Entries
	of    int32       // the process whose threads numbers has
	inner innerThread // by its pid namespace's number
}

// innerThread maps numbers of a pid namespace to those that we see.
type innerThread map[int32]int32

func startFutexReader(root int) (*futexReader, error) {
	bell, err := kernel.NewBell()
	if err != nil {
		kernel.CloseFD(root)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	r := &futexReader{root: root, bell: bell, inner: innerThread{}}
	go r.run()
	return r, nil
}

func (r *futexReader) stop() {
	r.stopped.Store(true)
	r.bell.Ring(1)
}

func (r *futexReader) run() {
	defer func() {
		r.bell.Close()
		kernel.CloseFD(r.root)
	}()
	for r.bell.Wait() == nil && !r.stopped.Load() {
		if r.state.Load() != futexBusy {
			continue
		}
		began := kernel.Now()
		r.look(r.looks[:r.n])
		r.took = kernel.Now().Sub(began)
		r.state.Store(futexDone)
	}
}

// look looks at all threads three times: where each waits, what is there, and
// whether each still waits as before. Whoever does has slept meanwhile.
func (r *futexReader) look(looks []futexLook) {
	for i := range looks {
		r.first(&looks[i])
	}
	r.of = 0
	for i := range looks {
		if x := &looks[i]; x.ok {
			x.at = kernel.Now()
			r.owner(x)
		}
	}
	for i := range looks {
		if x := &looks[i]; x.ok {
			r.again(x)
		}
	}
}

// again looks whether a thread has slept since it was looked at first.
func (r *futexReader) again(x *futexLook) {
	now := futexLook{pid: x.pid, tid: x.tid}
	r.first(&now)
	x.ok = now.ok && now.text == x.text && now.switches == x.switches
}

// first reads where a thread waits, and how often it has left a CPU.
func (r *futexReader) first(x *futexLook) {
	b, err := r.read(x.pid, x.tid, "/status")
	if err != nil {
		return
	}
	var status taskStatus
	parseTaskStatus(b, &status)
	x.switches = status.voluntary + status.involuntary
	x.uid, x.inner = status.uid, int32(status.nspid)
	if b, err = r.read(x.pid, x.tid, "/syscall"); err != nil {
		return
	}
	x.call, x.ok = parseFutexCall(b)
	x.text = hash(b)
}

// owner finds whose lock a thread waits for.
func (r *futexReader) owner(x *futexLook) {
	if !x.call.mayHaveOwner() {
		return
	}
	var memory [mutexBytes]byte
	n, err := kernel.ReadProcess(x.pid, x.call.address, memory[:])
	if err != nil {
		return
	}
	owner, kind := lockOwner(&x.call, memory[:n])
	if owner == 0 {
		return
	}
	x.ownerPID, x.ownerTID = r.thread(x, int32(owner))
	if x.ownerTID == 0 {
		return
	}
	x.kind = kind
	if b, err := r.read(x.ownerPID, x.ownerTID, "/comm"); err == nil {
		x.ownerCommBytes = copy(x.ownerComm[:], bytes.TrimSuffix(b, []byte{'\n'}))
	}
}

// thread returns the thread that a process calls by a number. What stands in
// memory may be anything: it counts only as a thread of the same process or, of
// a lock between processes, as one of the same user, so that nobody can have
// another blamed.
func (r *futexReader) thread(x *futexLook, number int32) (pid, tid int32) {
	nested := x.inner != 0 && x.inner != x.tid
	if nested {
		if r.of != x.pid {
			r.list(x.pid)
		}
		if tid = r.inner[number]; tid == 0 {
			return 0, 0
		}
		return x.pid, tid
	}
	if _, err := r.read(x.pid, number, "/comm"); err == nil {
		return x.pid, number
	}
	if x.call.private() {
		return 0, 0
	}
	b, err := r.process(number, "/status")
	if err != nil {
		return 0, 0
	}
	var status taskStatus
	parseTaskStatus(b, &status)
	if status.tgid == 0 || status.tgid > 1<<30 || status.uid != x.uid && x.uid != 0 || status.nspid != uint64(number) && status.nspid != 0 {
		return 0, 0
	}
	return int32(status.tgid), number
}

// list reads what the threads of a process are called inside.
func (r *futexReader) list(pid int32) {
	clear(r.inner)
	r.of = pid
	name := append(strconv.AppendInt(r.name[:0], int64(pid), 10), "/task\x00"...)
	fd, err := kernel.OpenDirAt(r.root, name)
	if err != nil {
		return
	}
	defer kernel.CloseFD(fd)
	r.pids.Rewind(fd)
	for range maxThreads {
		tid, ok := r.pids.Next()
		if !ok {
			return
		}
		if b, err := r.read(pid, tid, "/status"); err == nil {
			var status taskStatus
			parseTaskStatus(b, &status)
			if status.nspid > 0 && status.nspid <= 1<<30 {
				r.inner[int32(status.nspid)] = tid
			}
		}
	}
}

func (r *futexReader) read(pid, tid int32, file string) ([]byte, error) {
	name := append(strconv.AppendInt(r.name[:0], int64(pid), 10), "/task/"...)
	name = append(append(strconv.AppendInt(name, int64(tid), 10), file...), 0)
	return r.slow(name)
}

func (r *futexReader) process(pid int32, file string) ([]byte, error) {
	return r.slow(append(append(strconv.AppendInt(r.name[:0], int64(pid), 10), file...), 0))
}

func (r *futexReader) slow(name []byte) ([]byte, error) {
	n, err := kernel.SlowReadAt(r.root, name, r.text[:])
	if err == nil && n == 0 {
		err = errors.New("empty")
	}
	return r.text[:n], err
}

// futexCall is the arguments of futex(2) that a thread waits in.
type futexCall struct {
	address   uint64
	op, value uint32
	timeout   bool
}

// include/uapi/linux/futex.h
const (
	futexWait       = 0
	futexLockPI     = 6
	futexWaitBitset = 9
	futexLockPI2    = 13
	futexPrivate    = 128
	futexClock      = 256

	futexWaiters   = 1 << 31
	futexOwnerDied = 1 << 30
	futexTIDMask   = 1<<30 - 1
)

func (c *futexCall) command() uint32 { return c.op &^ (futexPrivate | futexClock) }

func (c *futexCall) private() bool { return c.op&futexPrivate != 0 }

// mayHaveOwner tells whether the memory at the futex is worth a look. glibc
// waits for its mutexes with the value 2, or, of robust ones, the owner's number.
func (c *futexCall) mayHaveOwner() bool {
	switch c.command() {
	case futexLockPI, futexLockPI2:
		return true
	case futexWait, futexWaitBitset:
		return c.value == 2 || c.value&futexWaiters != 0 && c.value&futexTIDMask != 0
	}
	return false
}

// parseFutexCall reads /proc/PID/syscall of a thread that waits in futex: the
// number, six arguments in hexadecimal, stack and program counter.
func parseFutexCall(b []byte) (c futexCall, ok bool) {
	s := kernel.Scan(b)
	if number, ok := s.Int(); !ok || number != kernel.SysFutex {
		return c, false
	}
	var args [4]uint64
	for i := range args {
		if args[i], ok = hexWord(s.Word()); !ok {
			return futexCall{}, false
		}
	}
	return futexCall{address: args[0], op: uint32(args[1]), value: uint32(args[2]), timeout: args[3] != 0}, true
}

// lockKindOf is a kind of lock.
type lockKindOf uint8

const (
	noLock lockKindOf = iota
	plainMutex
	recursiveMutex
	robustMutex
	inheritingMutex
)

var lockNames = [...][]byte{noLock: nil, plainMutex: []byte("mutex"), recursiveMutex: []byte("recursive mutex"), robustMutex: []byte("robust mutex"), inheritingMutex: []byte("PI mutex")}

// mutexBytes are what all 64-bit glibc have of a pthread_mutex_t
// (sysdeps/nptl/bits/thread-shared-types.h, struct_mutex.h): lock, count, owner,
// users, kind, spins, and a list of robust ones.
const mutexBytes = 40

// The bits of a mutex's kind (nptl/pthreadP.h).
const (
	mutexType      = 3 // normal, recursive, error checking, adaptive
	mutexRecursive = 1
	mutexAdaptive  = 3
	mutexRobust    = 16
	mutexShared    = 128
	mutexElision   = 256
	mutexNoElision = 512
)

// lockOwner returns the number of the thread that owns the lock at a futex, as
// its process knows it, from the memory there; 0 when that is no lock with an
// owner. What another kind of lock would have there differs in something: all
// that is known of a mutex that is waited for is asked.
func lockOwner(c *futexCall, memory []byte) (owner uint32, kind lockKindOf) {
	if len(memory) < 4 {
		return 0, noLock
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(memory[at:]) }
	lock := word(0)
	switch c.command() {
	case futexLockPI, futexLockPI2:
		// The kernel's own protocol: the owner is in the word.
		if lock&futexOwnerDied != 0 || lock&futexTIDMask == 0 {
			return 0, noLock
		}
		return lock & futexTIDMask, inheritingMutex
	case futexWait, futexWaitBitset:
	default:
		return 0, noLock
	}
	if len(memory) < mutexBytes || lock != c.value || c.address%8 != 0 {
		return 0, noLock
	}
	count, owner, users, bits := word(4), word(8), word(12), word(16)
	if owner == 0 || owner > futexTIDMask || users == 0 || users > 1<<20 || count > 1<<20 || (bits&mutexShared == 0) != c.private() ||
		bits&^(mutexType|mutexRobust|mutexShared|mutexElision|mutexNoElision) != 0 {
		return 0, noLock
	}
	if bits&mutexRobust != 0 {
		// The kernel wakes whoever waits for one when its owner dies, always as if
		// it were between processes, and glibc marks it so.
		if lock != owner|futexWaiters || bits&mutexShared == 0 {
			return 0, noLock
		}
		return owner, robustMutex
	}
	kind = plainMutex
	if bits&mutexType == mutexRecursive {
		kind = recursiveMutex
	}
	if (kind == recursiveMutex) != (count != 0) {
		return 0, noLock
	}
	// Only an adaptive one counts how long it spun there.
	if lock != 2 || bits&mutexType != mutexAdaptive && bits&mutexElision == 0 && word(20) != 0 {
		return 0, noLock
	}
	for _, b := range memory[24:mutexBytes] {
		if b != 0 {
			return 0, noLock
		}
	}
	return owner, kind
}
