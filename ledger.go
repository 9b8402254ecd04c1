package freezeframe

// Class is where a thread's time goes. Every moment of a victim's stall is in
// exactly one.
type Class string

const (
	OnCPU          Class = "on_cpu"          // running, user or kernel
	Runnable       Class = "runnable"        // wanted a CPU and did not get one
	Throttled      Class = "throttled"       // its CPU quota was spent
	DeviceWait     Class = "device_wait"     // a block device
	FilesystemWait Class = "filesystem_wait" // a filesystem: journal, freeze, writeback, FUSE, NFS
	KernelLock     Class = "kernel_lock"     // a mutex or rwsem of the kernel
	Reclaim        Class = "reclaim"         // freeing memory for an allocation
	SwapIn         Class = "swap_in"         // reading back what was swapped or evicted
	UserLock       Class = "user_lock"       // a futex
	FileLock       Class = "file_lock"       // flock, fcntl
	PipeWait       Class = "pipe_wait"       // a full or an empty pipe
	PeerWait       Class = "peer_wait"       // a socket: the other side has not answered
	ChildWait      Class = "child_wait"      // wait4, vfork: a child has not finished
	Sleeping       Class = "sleeping"        // nanosleep: it chose to wait
	Stopped        Class = "stopped"         // SIGSTOP, ptrace
	Frozen         Class = "frozen"          // the cgroup freezer
	Idle           Class = "idle"            // waited for work: epoll, accept
	MachineGone    Class = "machine_gone"    // no thread of any priority ran
	Unseen         Class = "unseen"          // not sampled, or it fits no class
)

// Wait is a span of a victim's time with its class, and what is known of it.
type Wait struct {
	Span
	Class   Class
	Wchan   string // the kernel function it slept in
	Stack   string // innermost first, joined by "<-"; "" when not to be had
	Syscall string // read, futex, epoll_wait …; "" in user space or unknown
	File    string // what the system call's descriptor is: a path, socket:[1], pipe:[2]
	// Lock is the lock of the program that a UserLock is for, "mutex at 0x7f00",
	// where its owner could be seen, who is the Holder then; else "".
	Lock string
	// Holder is who must act for the wait to end, where that is known: the
	// lock's holder, the pipe's other end, the peer's process.
	Holder *Party
	// Chain is what that holder did meanwhile, and whoever held it up: set where
	// the holder is a thread that was seen. Account.Chain stands for the others.
	Chain []Link
	// Woken is who ended the wait, where that was seen and was no interrupt.
	Woken *Party
	// TimedOut tells of a UserLock that a timer ended: the thread waited for as
	// long as it wanted to (a sleep of Java's is such a wait).
	TimedOut bool
}

// Party is a process, or an address where the process is not on this host.
type Party struct {
	PID, TID int
	Comm     string
	Address  string
	Why      string // how it is known: "holds the flock on /x", "reads pipe:[7]"
}

// Account is one victim's ledger over one symptom: its waits follow each other
// without gaps and cover the span.
type Account struct {
	Symptom int // index in Stall.Symptoms
	Victim  Victim
	Span    Span
	Waits   []Wait
	// Chain is the account of the thread that held this one up at its longest
	// wait, and of the one that held up that one, root last.
	Chain []Link
	// Weight is how much this victim counts among those of its symptom, 0 to 1:
	// a pool's idle threads weigh nothing.
	Weight float64
}

// Link is one step of a wait chain: the party, and what it did meanwhile.
type Link struct {
	Party Party
	Waits []Wait
}

// Ledger is every victim's account.
type Ledger struct {
	Accounts []Account
	// Blocked says, for each symptom, when more of its victims (by weight) were
	// kept from their work by something they slept on than by a CPU that they
	// used or wanted: a thread that stands in line for a CPU while its siblings
	// wait for a disk is not why the work was not done.
	Blocked []Spans
}

// Spans returns the moments in which a victim of weight was in one of the
// given classes.
func (l *Ledger) Spans(classes ...Class) Spans {
	return l.Where(func(_ *Account, w *Wait) bool {
		for _, c := range classes {
			if w.Class == c {
				return true
			}
		}
		return false
	})
}

// Where returns the moments of the waits, of victims of weight, for which keep
// is true.
func (l *Ledger) Where(keep func(*Account, *Wait) bool) Spans {
	var out []Span
	for i := range l.Accounts {
		a := &l.Accounts[i]
		if a.Weight <= 0 {
			continue
		}
		for j := range a.Waits {
			if keep(a, &a.Waits[j]) {
				out = append(out, a.Waits[j].Span)
			}
		}
	}
	return Union(out...)
}
