package collectors

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/symbols"
)

const (
	profilePID = iota
	profileComm
	profileAt
	profileCPU
	profilePrio
	profileKernel
	profileUser
	profileWidth
)

const (
	// maxSamples is how many samples one reading takes, and maxUnnamed how many
	// wait for the names of their functions.
	maxSamples = 1024
	maxUnnamed = 256
	// nameWithin is how long a sample waits for them: what is not known by then
	// is in a file that cannot be read now.
	nameWithin = time.Second
)

// profile tells what ran on each CPU while a stall is open or suspected: a row
// for each sample of bpf.ProfileHz a second and CPU. The key is the thread's.
type profile struct {
	programs *bpf.Profile
	names    *kernelNames
	users    *userNames
	host     freezeframe.Host

	table   *freezeframe.Table // of the reading that goes on
	take    func(*bpf.Sample)
	unnamed []unnamed
}

// unnamed is a sample whose program's functions are being looked up.
type unnamed struct {
	key   freezeframe.Key
	row   [profileWidth]uint64
	stack uint64 // hash
	since freezeframe.Instant
}

func (c *profile) Source() freezeframe.Source {
	gauge, text := freezeframe.Gauge, freezeframe.Text
	return freezeframe.Source{
		Name: "profile", From: fmt.Sprintf("BPF: perf_event cpu-clock, %d Hz a CPU while a stall is open", bpf.ProfileHz), Key: "task",
		Every: 250 * time.Millisecond, Stalled: 50 * time.Millisecond, Lane: freezeframe.Tasks,
		Columns: []freezeframe.Column{
			profilePID:    {Name: "pid", Kind: gauge},
			profileComm:   {Name: "comm", Kind: text},
			profileAt:     {Name: "at_ns", Kind: gauge},
			profileCPU:    {Name: "cpu", Kind: gauge},
			profilePrio:   {Name: "prio", Kind: gauge}, // task_struct.prio: below 100 is real-time
			profileKernel: {Name: "kernel_stack", Kind: text},
			profileUser:   {Name: "user_stack", Kind: text},
		},
	}
}

func (c *profile) Open(h freezeframe.Host) error {
	if c.programs == nil {
		return fmt.Errorf("profile: the BPF programs are not loaded: %w", freezeframe.ErrNotHere)
	}
	if err := c.names.open(h.Proc); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	c.host, c.take = h, c.sample
	c.users = newUserNames(h.Proc)
	if c.unnamed == nil {
		c.unnamed = make([]unnamed, 0, maxUnnamed)
	}
	c.unnamed = c.unnamed[:0]
	c.programs.Drain(1<<20, func(*bpf.Sample) {})
	return nil
}

func (c *profile) Close() error {
	if c.users != nil {
		c.users.close()
		c.users = nil
	}
	if c.programs == nil {
		return nil
	}
	return c.programs.Run(false)
}

func (c *profile) Collect(t *freezeframe.Table) error {
	now := at(t)
	if err := c.programs.Run(c.host.Focus.Stalled(now)); err != nil {
		return err
	}
	c.table = t
	kept := c.unnamed[:0]
	for i := range c.unnamed {
		u := &c.unnamed[i]
		name, known := c.users.find(u.stack)
		if !known && now.Sub(u.since) < nameWithin {
			kept = append(kept, *u)
			continue
		}
		if known {
			u.row[profileUser] = c.host.Texts.Intern(name)
		}
		copy(t.Row(u.key, profileWidth), u.row[:])
	}
	c.unnamed = kept
	c.programs.Drain(maxSamples, c.take)
	c.table = nil
	return nil
}

// sample makes a row, now or when the names of its functions are known.
func (c *profile) sample(s *bpf.Sample) {
	u := unnamed{key: freezeframe.TaskKey(int(s.TID), ticks(s.Start)), since: c.table.At}
	texts := c.host.Texts
	u.row[profilePID] = uint64(s.TGID)
	u.row[profileComm] = texts.Intern(s.Comm())
	u.row[profileAt] = s.At
	u.row[profileCPU], u.row[profilePrio] = uint64(s.CPU), uint64(s.Prio)
	u.row[profileKernel] = texts.Intern(c.names.text(s.Kernel()))
	if frames := s.User(); len(frames) > 0 {
		u.stack = hashStack(s.TGID, s.LeaderStart, frames)
		name, known := c.users.find(u.stack)
		if !known {
			c.users.ask(u.stack, s)
			if len(c.unnamed) < cap(c.unnamed) {
				c.unnamed = append(c.unnamed, u)
				return
			}
		}
		u.row[profileUser] = texts.Intern(name)
	}
	copy(c.table.Row(u.key, profileWidth), u.row[:])
}

// hashStack is FNV-1a over the words of a stack and of the process it is of.
func hashStack(pid uint32, start uint64, frames []byte) uint64 {
	h := uint64(14695981039346656037)
	h = (h ^ uint64(pid)) * 1099511628211
	h = (h ^ start) * 1099511628211
	for _, b := range frames {
		h = (h ^ uint64(b)) * 1099511628211
	}
	if h == 0 {
		h = 1
	}
	return h
}

// userNames looks up the functions of programs on a goroutine of its own: it
// reads files, which the lanes must not. What was found is in a table that the
// lane looks into without a lock.
type userNames struct {
	slots  [4096]atomic.Pointer[namedStack]
	wanted chan wantedStack
	cancel context.CancelFunc
	ended  chan struct{}
}

type namedStack struct {
	hash uint64
	text []byte
}

type wantedStack struct {
	hash   uint64
	pid    int
	start  uint64
	bytes  int
	frames [32 * bpf.FrameSize]byte
}

func newUserNames(proc string) *userNames {
	ctx, cancel := context.WithCancel(context.Background())
	n := &userNames{wanted: make(chan wantedStack, 64), cancel: cancel, ended: make(chan struct{})}
	go n.run(ctx, symbols.New(proc))
	return n
}

func (n *userNames) close() {
	n.cancel()
	<-n.ended
}

// find returns the text of a stack, if it is known already.
func (n *userNames) find(hash uint64) ([]byte, bool) {
	for i := range uint64(8) {
		if e := n.slots[(hash+i)%uint64(len(n.slots))].Load(); e != nil && e.hash == hash {
			return e.text, true
		}
	}
	return nil, false
}

// ask has a stack looked up; when too many are wanted already it is left out,
// and asked for again with its next sample.
func (n *userNames) ask(hash uint64, s *bpf.Sample) {
	w := wantedStack{hash: hash, pid: int(s.TGID), start: ticks(s.LeaderStart)}
	w.bytes = copy(w.frames[:], s.User())
	select {
	case n.wanted <- w:
	default:
	}
}

func (n *userNames) run(ctx context.Context, r *symbols.Resolver) {
	defer close(n.ended)
	var frames []symbols.Frame
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-n.wanted:
			if _, known := n.find(w.hash); known {
				continue
			}
			frames = frames[:0]
			for at := 0; at+bpf.FrameSize <= w.bytes; at += bpf.FrameSize {
				if f, ok := symbols.ParseFrame(w.frames[at : at+bpf.FrameSize]); ok {
					frames = append(frames, f)
				}
			}
			var text []byte
			for _, name := range r.User(ctx, w.pid, w.start, frames) {
				if len(text)+len(name)+2 > maxUserText {
					break
				}
				if len(text) > 0 {
					text = append(text, "<-"...)
				}
				text = append(text, name...)
			}
			n.put(&namedStack{w.hash, text})
		}
	}
}

// maxUserText bounds the text of a stack.
const maxUserText = 3000

// put keeps a stack; the oldest of a full neighbourhood goes by chance.
func (n *userNames) put(e *namedStack) {
	for i := range uint64(8) {
		slot := &n.slots[(e.hash+i)%uint64(len(n.slots))]
		if have := slot.Load(); have == nil || have.hash == e.hash {
			slot.Store(e)
			return
		}
	}
	n.slots[(e.hash+e.hash>>32%8)%uint64(len(n.slots))].Store(e)
}
