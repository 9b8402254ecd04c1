package collectors

import (
	"fmt"
	"strconv"
	"time"

	"freezeframe"
	"freezeframe/bpf"
)

const (
	waitsPID = iota
	waitsComm
	waitsKind
	waitsBegan
	waitsEnded
	waitsState
	waitsSyscall
	waitsFile
	waitsStack
	waitsWchan
	waitsOtherPID
	waitsOtherTID
	waitsOtherComm
	waitsOtherPrio
	waitsByInterrupt
	waitsPrio
	waitsCPU
	waitsWidth
)

// maxWaitRows is how many waits one reading takes; what is left waits in the
// buffer for the next.
const maxWaitRows = 2048

// waits tells what waits.bpf.c does: a row for each wait of a thread that is
// over. The key is the thread's; it may have several rows in a reading.
type waits struct {
	programs *bpf.Waits
	names    *kernelNames
	host     freezeframe.Host

	table   *freezeframe.Table // of the reading that goes on
	take    func(*bpf.Wait)
	stalled bool
}

func (c *waits) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "waits", From: "BPF: sched_waking, sched_switch", Key: "task",
		Every: 250 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			waitsPID:         {Name: "pid", Kind: gauge},
			waitsComm:        {Name: "comm", Kind: text},
			waitsKind:        {Name: "kind", Kind: gauge}, // 1 slept, 2 queued for a CPU, 3 ran without a break
			waitsBegan:       {Name: "began_ns", Kind: gauge},
			waitsEnded:       {Name: "ended_ns", Kind: gauge},
			waitsState:       {Name: "state", Kind: gauge},
			waitsSyscall:     {Name: "syscall", Kind: gauge},
			waitsFile:        {Name: "file", Kind: text},
			waitsStack:       {Name: "stack", Kind: text},
			waitsWchan:       {Name: "wchan", Kind: text},
			waitsOtherPID:    {Name: "other_pid", Kind: gauge}, // who woke it; who had the CPU before it; who got it after it
			waitsOtherTID:    {Name: "other_tid", Kind: gauge},
			waitsOtherComm:   {Name: "other_comm", Kind: text},
			waitsOtherPrio:   {Name: "other_prio", Kind: gauge},
			waitsByInterrupt: {Name: "by_interrupt", Kind: gauge}, // 1: an interrupt woke it, whoever ran meanwhile
			waitsPrio:        {Name: "prio", Kind: gauge},
			waitsCPU:         {Name: "cpu", Kind: gauge},
		},
	}
}

func (c *waits) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("waits: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	if err := c.names.open(h.Proc); err != nil {
		return fmt.Errorf("waits: %w", err)
	}
	c.host = h
	c.take = c.row // made once: a method value allocates
	c.programs.Drain(1<<20, func(*bpf.Wait) {})
	return nil
}

func (c *waits) Close() error { return nil }

func (c *waits) Collect(t *freezeframe.Table) error {
	now := at(t)
	if stalled := c.host.Focus.Stalled(now); stalled != c.stalled {
		if err := c.programs.Stalled(stalled); err != nil {
			return err
		}
		c.stalled = stalled
	}
	c.table = t
	c.programs.Drain(maxWaitRows, c.take)
	c.table = nil
	return nil
}

// stateLetter is the letter that /proc shows for task_struct.__state.
func stateLetter(state uint32) byte {
	switch {
	case state&0x4 != 0:
		return 'T'
	case state&0x8 != 0:
		return 't'
	case state&0x2 != 0:
		return 'D'
	case state&0x1 != 0:
		return 'S'
	case state&0x8000 != 0:
		return 'D' // the freezer
	}
	return 'R'
}

// ticks turns a thread's start into what /proc/PID/stat shows: USER_HZ is 100
// on every architecture that this is built for.
func ticks(bootNanos uint64) uint64 { return bootNanos / 10_000_000 }

func (c *waits) row(w *bpf.Wait) {
	texts := c.host.Texts
	row := c.table.Row(freezeframe.TaskKey(int(w.TID), ticks(w.Start)), waitsWidth)
	row[waitsPID] = uint64(w.TGID)
	row[waitsComm] = texts.Intern(w.Comm())
	row[waitsKind] = uint64(w.Kind)
	row[waitsBegan], row[waitsEnded] = w.Began, w.Ended
	row[waitsOtherPID], row[waitsOtherTID], row[waitsOtherPrio] = uint64(w.OtherTGID), uint64(w.OtherTID), uint64(w.OtherPrio)
	row[waitsOtherComm] = texts.Intern(w.OtherComm())
	row[waitsPrio], row[waitsCPU] = uint64(w.Prio), uint64(w.CPU)
	row[waitsSyscall] = uint64(int64(w.Syscall))
	if w.Kind != bpf.Slept {
		row[waitsState] = 'R'
		return
	}
	row[waitsState] = uint64(stateLetter(w.State))
	if w.OtherTID == 0 || c.names.interrupted(w.WakerStack()) {
		row[waitsByInterrupt] = 1
	}
	if f := c.file(w); len(f) > 0 {
		row[waitsFile] = texts.Intern(f)
	}
	// The stack is written last: it uses the same buffer.
	stack := c.names.text(w.Stack())
	row[waitsStack] = texts.Intern(stack)
	row[waitsWchan] = texts.Intern(innermost(stack))
}

// file names the descriptor as the link in /proc/PID/fd does, as far as that
// can be told from here: of a path only the last part.
func (c *waits) file(w *bpf.Wait) []byte {
	b := c.names.buf[:0]
	switch {
	case w.Inode == 0:
		return nil
	case bpf.IsSocket(w.Mode):
		b = append(b, "socket:["...)
	case bpf.IsPipe(w.Mode) && len(w.Name()) == 0:
		b = append(b, "pipe:["...)
	default:
		return w.Name()
	}
	b = strconv.AppendUint(b, w.Inode, 10)
	return append(b, ']')
}
