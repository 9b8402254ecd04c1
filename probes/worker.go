package probes

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// A worker is an OS thread that does one piece of work at fixed times, for as
// long as its probe runs. To the Go runtime the whole loop is one blocking
// system call: the thread has no P, so it is neither delayed by a garbage
// collection nor delays one, and a tick costs a bare wake-up instead of one
// plus those of the scheduler (half the CPU, measured).
//
// The price: between entersyscallblock and exitsyscall a loop may only make
// raw system calls and call functions that are nosplit, norace and free of
// pointer writes and allocations. The thread tells what it has to tell by
// writing a note into a pipe; everything else happens in the goroutine that
// reads it.
//
// The words due and state are read by the threads that watch for overdue work
// and by nobody in Go code that the race detector sees. Single words are
// written whole, and a word read one tick late does no harm.
type worker struct {
	plan
	state    uint32 // free, taken or running
	stop     uint32
	tid      int32
	out      int32 // the pipe's writing end
	due      int64 // when the work in progress, or the next, should begin
	began    int64 // when it did begin
	reported int64 // when a watcher last reported it as overdue
	failed   uintptr
	failedAt int64
	since    int64 // the due from which on all work failed like this
	good     int64 // how often the work was done
	usual    baseline
	note     note // what the worker's own thread writes
	warning  note // what it writes about others, as a watcher
	ts       unix.Timespec
	end      unix.Timespec
}

// plan is what a worker is told before it starts.
type plan struct {
	every   int64 // between two dues
	backoff int64 // it rests at least this many times what the work usually takes
	floor   int64 // below this it opens no incident
	tell    int64 // above this, and twice the usual, it is worth a note
}

const (
	restAtLeast = int64(25 * time.Millisecond) // of work, times backoff
	restAtMost  = int64(5 * time.Second)
)

const (
	workerFree = iota
	workerTaken
	workerRunning
)

// noteOverdue, noteDone and noteFailed are about the work; noteStep and
// noteSlept are the heartbeat's word on the clocks.
const (
	noteOverdue = iota + 1
	noteDone
	noteFailed
	noteStep
	noteSlept
	noteEnd // the thread is gone
)

// note is one message of a worker's thread, written in one piece.
type note struct {
	kind  uint64
	due   int64
	done  int64
	at    int64
	usual int64
	value int64 // errno, or the step
	good  int64 // how often the work had been done before
}

const noteSize = int(unsafe.Sizeof(note{}))

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// rawNow reads CLOCK_MONOTONIC from within a loop.
//
//go:nosplit
//go:norace
func (w *worker) rawNow() int64 { return w.rawClock(unix.CLOCK_MONOTONIC) }

//go:nosplit
//go:norace
func (w *worker) rawClock(id uintptr) int64 {
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&w.end)), 0)
	return int64(w.end.Sec)*1e9 + int64(w.end.Nsec)
}

// wait sleeps until the work is due and tells whether it should be done; false
// means the loop must end.
//
//go:nosplit
//go:norace
func (w *worker) wait() bool {
	for w.stop == 0 {
		w.ts.Sec, w.ts.Nsec = w.due/1e9, w.due%1e9
		_, _, errno := unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&w.ts)), 0, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	w.began = w.rawNow()
	return w.stop == 0
}

// finish ends the work that was due, tells what is worth telling, and sets
// when the next is due. It returns the moment.
//
//go:nosplit
//go:norace
func (w *worker) finish(errno uintptr) int64 {
	now := w.rawNow()
	due := w.due
	if post := w.settle(now, errno); errno != 0 && post {
		w.post(&w.note, w.since, now, now, int64(errno))
	} else if post {
		w.post(&w.note, due, now, now, int64(errno))
	}
	return now
}

// settle is finish without the system calls: it tells whether w.note, whose
// kind it sets, is to be posted.
//
//go:nosplit
//go:norace
func (w *worker) settle(now int64, errno uintptr) (post bool) {
	took := now - w.due
	next := w.due + w.every
	if next <= now {
		next += (now - next) / w.every * w.every
		if next <= now {
			next += w.every
		}
	}
	if w.backoff != 0 {
		// Work that usually takes long rests long; a single stall must not make
		// the probe blind for the next one.
		rest := w.backoff * min(now-w.began, max(w.usual.p99(), restAtLeast))
		next = max(next, now+min(rest, restAtMost))
	}
	if errno != 0 && errno != w.failed {
		w.since = w.due
	}
	if errno == uintptr(unix.EROFS) {
		// It takes somebody to mend that, and each try may be a line of the kernel's log.
		next = max(next, now+restAtMost)
	}
	if errno != 0 {
		// Once when it begins to fail, and once a second while it lasts: all as one.
		post = errno != w.failed || now-w.failedAt >= 1e9
		if post {
			w.failedAt = now
			w.note.kind = noteFailed
		}
	} else {
		usual := int64(0)
		if took > w.tell {
			usual = w.usual.p99()
		}
		post = w.failed != 0 || took > w.tell && took > 2*usual
		w.good++
		w.note.kind = noteDone
		w.note.usual = usual
		w.usual.learn(took, w.floor)
	}
	w.failed = errno
	w.due = next
	return post
}

//go:nosplit
//go:norace
func (w *worker) post(n *note, due, done, at, value int64) unix.Errno {
	n.due, n.done, n.at, n.value, n.good = due, done, at, value, w.good
	// The pipe does not block; a note that does not fit is one of a thousand
	// that say the same.
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(w.out), uintptr(unsafe.Pointer(n)), unsafe.Sizeof(*n))
	return errno
}

// watch posts for every worker whose work is overdue, at most once in 100 ms
// each; by is the worker on whose thread it runs. It is what makes the age of
// work in flight count without a wake-up of its own.
//
//go:nosplit
//go:norace
func (h *hub) watch(by *worker, now int64) {
	for i := range h.workers {
		w := &h.workers[i]
		if w.state != workerRunning || w == by {
			continue
		}
		due := w.due
		late := now - due
		if late <= w.tell || now-w.reported < 100e6 {
			continue
		}
		usual := w.usual.p99()
		if late <= 2*usual {
			continue
		}
		w.reported = now
		by.warning.kind = noteOverdue
		by.warning.usual = usual
		w.post(&by.warning, due, 0, now, 0)
	}
}

// hub holds the workers of all probes. They are never freed while the hub
// lives, and their pipes never closed: a watcher may look at one, and write
// into its pipe, at any time.
type hub struct {
	Options
	workers [40]worker
	mu      sync.Mutex
	pipes   [40]struct{ in, out *os.File }
	// echoPort is where the loopback probe listens: nobody's service.
	echoPort atomic.Uint32
	// exactAt is when requests were last read from BPF: while they are, the
	// tables of sockets need not be asked the same.
	exactAt atomic.Int64
}

// exactly tells whether BPF tells of requests.
func (h *hub) exactly(now freezeframe.Instant) bool {
	at := h.exactAt.Load()
	return at != 0 && now.Sub(freezeframe.Instant(at)) < exactFor
}

// exactFor is how long requests may not be read before their waits are inferred
// from the tables of sockets again.
const exactFor = 2 * time.Second

func newHub(o Options) *hub { return &hub{Options: o} }

// take reserves a worker and returns it with the reading end of its pipe.
//
//go:norace
func (h *hub) take(p plan) (*worker, *os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.workers {
		w, pipe := &h.workers[i], &h.pipes[i]
		if w.state != workerFree {
			continue
		}
		if pipe.in == nil {
			var fds [2]int
			if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				return nil, nil, fmt.Errorf("make a pipe: %w", err)
			}
			pipe.in, pipe.out = os.NewFile(uintptr(fds[0]), "notes"), os.NewFile(uintptr(fds[1]), "notes")
			w.out = int32(fds[1])
		}
		if p.tell == 0 {
			p.tell = min(p.floor/2, int64(suspectAt))
		}
		*w = worker{plan: p, state: workerTaken, out: w.out}
		return w, pipe.in, nil
	}
	return nil, nil, fmt.Errorf("all %d probe threads are taken", len(h.workers))
}

//go:norace
func (h *hub) free(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.state = workerFree
}

// job is one worker's place in its probe: what it is called and who reads its
// notes.
type job struct {
	hub    *hub
	probe  string
	target string
	worker *worker
	notes  *os.File
	since  int64 // the first due
	// setup runs on the worker's thread before the loop.
	setup func() error
	loop  func(*worker)
	// done runs on the worker's thread after the loop.
	done func()
	// forgive tells of a refusal whether it is as somebody wants it; nil: none is.
	forgive func(freezeframe.Lateness) bool
	// other gets the notes that are not about the work.
	other func(note, func(freezeframe.Lateness))
}

// start runs the loop on a thread of its own and calls late for its notes
// until ctx ends. It does not wait: a thread that hangs is left behind, with
// its slot, so that at most as many can hang as there are slots.
func (j *job) start(ctx context.Context, p plan, late func(freezeframe.Lateness)) error {
	w, notes, err := j.hub.take(p)
	if err != nil {
		return err
	}
	j.worker, j.notes = w, notes
	j.begin()
	ready := make(chan error, 1)
	go j.read(ctx, late)
	onOwnThread(func() { j.thread(ready) })
	if err := <-ready; err != nil {
		return err
	}
	context.AfterFunc(ctx, j.halt)
	return nil
}

// begin makes the work due, so that a setup that hangs is overdue as well.
//
//go:norace
func (j *job) begin() {
	// Dues are aligned, so that threads share wake-ups of an idle CPU.
	every := j.worker.every
	j.worker.due = (int64(kernel.Now())/every + 2) * every
	j.since = j.worker.due
	j.worker.state = workerRunning
}

// halt ends the loop; the signal, which the Go runtime ignores, ends its sleep.
//
//go:norace
func (j *job) halt() {
	j.worker.stop = 1
	if tid := j.worker.tid; tid != 0 {
		unix.Tgkill(os.Getpid(), int(tid), unix.SIGURG)
	}
}

// onOwnThread runs f on a thread that dies with it, since f gives it a name
// and a scheduling policy of its own. It is never the main thread, whose name
// is that of the process.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		// As long as this goroutine has the main thread, another cannot.
		taken := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(taken)
			f()
		}()
		<-taken
		runtime.UnlockOSThread()
	}()
}

//go:norace
func (j *job) thread(ready chan<- error) {
	w := j.worker
	setThreadName(threadName(j.probe))
	// The process may run at a real-time priority, as the samplers should; the
	// work is done as ordinary programs do it.
	w.tid = int32(unix.Gettid())
	err := setOrdinary()
	if err == nil && j.setup != nil {
		err = j.setup()
	}
	ready <- err
	if err == nil {
		j.loop(w)
	}
	w.tid = 0
	w.state = workerTaken
	if j.done != nil {
		j.done()
	}
	w.note.kind = noteEnd
	for w.post(&w.note, w.due, 0, 0, 0) == unix.EAGAIN {
		time.Sleep(10 * time.Millisecond)
	}
}

// read turns notes into lateness until the thread has ended; after ctx has
// ended nothing is reported any more.
func (j *job) read(ctx context.Context, late func(freezeframe.Lateness)) {
	defer j.hub.free(j.worker)
	var buf [64 * noteSize]byte
	for {
		n, err := j.notes.Read(buf[:])
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= noteSize; b = b[noteSize:] {
			switch n := *(*note)(unsafe.Pointer(&b[0])); {
			case n.kind == noteEnd:
				return
			case n.due < j.since || ctx.Err() != nil:
				// About the slot's last user, or for nobody.
			default:
				j.tell(n, late)
			}
		}
	}
}

func (j *job) tell(n note, late func(freezeframe.Lateness)) {
	w := j.worker
	l := freezeframe.Lateness{
		Probe:   j.probe,
		Target:  j.target,
		Began:   freezeframe.Instant(n.due),
		Done:    freezeframe.Instant(n.done),
		Seen:    freezeframe.Instant(n.at),
		Usual:   time.Duration(n.usual),
		Floor:   time.Duration(w.floor),
		Quality: 1,
		Victims: []freezeframe.Victim{{PID: os.Getpid(), TID: int(w.tid), Comm: threadName(j.probe)}},
	}
	switch n.kind {
	case noteFailed:
		l.Err = errnoName(unix.Errno(n.value))
		if j.forgive != nil && j.forgive(l) {
			return
		}
		j.hub.event(refused(l.Seen, j.probe, j.target, l.Err))
		if n.good == 0 {
			// It was refused before anyone watched: a state, not an incident.
			return
		}
	case noteOverdue, noteDone:
	default:
		if j.other != nil {
			j.other(n, late)
		}
		return
	}
	if l.Err != "" || l.Late() >= suspectAt {
		j.hub.suspect(l.Seen)
	}
	if l.Err != "" || l.Late() > l.Floor/2 {
		late(l)
	}
}

// threadName is how a probe's thread shows in ps -L; 15 bytes at most.
func threadName(probe string) string {
	name := "ff-" + probe
	return name[:min(len(name), 15)]
}

func setThreadName(name string) {
	var b [16]byte
	copy(b[:15], name)
	if unix.Gettid() == unix.Getpid() {
		return // its name is the process's
	}
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b)), 0, 0, 0)
}

// setOrdinary gives the calling thread what a program has that nobody tuned.
// It only ever lowers what the thread has, so it cannot be refused.
func setOrdinary() error {
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0); err != nil {
		// Started at nice 10, say: it may not be raised to 0, and need not be.
		policy, err := unix.SchedGetAttr(0, 0)
		if err == nil && policy.Policy != unix.SCHED_FIFO && policy.Policy != unix.SCHED_RR {
			return nil
		}
		return fmt.Errorf("leave the real-time class: %w", err)
	}
	return nil
}
