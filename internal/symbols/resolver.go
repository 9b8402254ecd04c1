package symbols

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	// patience is how long one call waits for files when its context does not
	// say.
	patience = 2 * time.Second
	// maxStuck is how many goroutines may be waiting for files at a time.
	maxStuck = 4
	// fresh is how long a process's mappings are believed.
	fresh = 10 * time.Second
	// again is how soon they are read again for an address that is not in them.
	again = time.Second
	// reload is how soon the kernel's functions are read again for an address
	// that none of them has: modules and BPF programs come and go.
	reload = time.Minute
)

// How many bytes are kept of what.
const (
	imageBytes   = 3 << 20
	processBytes = 512 << 10
	jitBytes     = 4 << 20
	nameBytes    = 1 << 20
	placeBytes   = 256 << 10
	idBytes      = 512 << 10
)

// ErrStuck says that the files of a process did not answer in time, and still
// do not.
var ErrStuck = errors.New("its files have not answered yet")

// BuildID is the GNU build id of a file, padded with zeros to the 20 bytes that
// the kernel keeps of one. The zero BuildID is of a file that has none.
type BuildID [20]byte

// Frame is one frame of a user stack.
type Frame struct {
	IP uint64 // address; 0 where only the build id is known

	// BuildID and Offset name the code without the process: the file, and the
	// offset in it. The zero BuildID says that IP is to be used.
	BuildID BuildID
	Offset  uint64
}

// FrameSize is the size of a frame that bpf_get_stack writes with
// BPF_F_USER_BUILD_ID.
const FrameSize = 32

// ParseFrame reads a struct bpf_stack_build_id (include/uapi/linux/bpf.h):
// status, build id, and an offset or an address, in the machine's byte order.
// ok is false for an empty one.
func ParseFrame(b []byte) (f Frame, ok bool) {
	if len(b) < FrameSize {
		return f, false
	}
	v := binary.NativeEndian.Uint64(b[24:])
	switch binary.NativeEndian.Uint32(b) {
	case 1: // BPF_STACK_BUILD_ID_VALID
		f.Offset = v
		copy(f.BuildID[:], b[4:24])
		return f, f.BuildID != BuildID{}
	case 2: // BPF_STACK_BUILD_ID_IP: no file, or its build id was not in memory
		f.IP = v
		return f, v != 0
	}
	return f, false
}

// Resolver names addresses. It may be used by several goroutines.
type Resolver struct {
	proc string // /proc
	host string // the host's root directory
	now  func() time.Time

	kernel atomic.Pointer[loadedKernel]
	load   sync.Mutex

	slots chan struct{} // one each that works on files

	mu        sync.Mutex // never held while a file is read
	stuck     map[int]int
	processes *cache[processKey, *process]
	places    *cache[BuildID, place]
	ids       *cache[kernel.FileID, BuildID]
	images    *cache[kernel.FileID, *keptImage] // the place of tables in a file is its own, not its build id's
	names     *cache[nameKey, string]
	jits      *cache[processKey, *jit]
	needs     map[string]freezeframe.Need
}

type loadedKernel struct {
	*Kernel
	at time.Time
}

// nameKey is an offset in a file: by build id where there is one.
type nameKey struct {
	buildID BuildID
	file    kernel.FileID
	off     uint64
}

// New returns a Resolver that reads below procRoot, "/proc". It reads nothing
// yet.
func New(procRoot string) *Resolver {
	return &Resolver{
		proc: procRoot, host: "/", now: time.Now,
		slots: make(chan struct{}, maxStuck), stuck: make(map[int]int),
		processes: newCache[processKey, *process](processBytes),
		places:    newCache[BuildID, place](placeBytes),
		ids:       newCache[kernel.FileID, BuildID](idBytes),
		images:    newCache[kernel.FileID, *keptImage](imageBytes),
		names:     newCache[nameKey, string](nameBytes),
		jits:      newCache[processKey, *jit](jitBytes),
		needs:     make(map[string]freezeframe.Need),
	}
}

// Kernel returns the kernel function that ip is in, or Unknown. The first call
// reads /proc/kallsyms, some 100 ms of CPU; after that it allocates nothing.
// Where the kernel hides its addresses, Needs says so.
func (r *Resolver) Kernel(ip uint64) string {
	k := r.kernel.Load()
	if k == nil {
		k = r.loadKernel(nil)
	}
	name := k.Name(ip)
	if name == "" && r.now().Sub(k.at) > reload {
		name = r.loadKernel(k).Name(ip)
	}
	if name == "" {
		return Unknown
	}
	return name
}

// loadKernel reads the kernel's functions, unless somebody has since old.
func (r *Resolver) loadKernel(old *loadedKernel) *loadedKernel {
	r.load.Lock()
	defer r.load.Unlock()
	if k := r.kernel.Load(); k != old {
		return k
	}
	table, err := LoadKernel(r.proc)
	if err != nil {
		need := freezeframe.Need{What: "read " + r.proc + "/kallsyms", Lost: "the names of kernel functions in stacks", Err: err.Error()}
		if errors.Is(err, ErrHidden) {
			need.Fix = "run as root with CAP_SYSLOG, with kernel.kptr_restrict at 0 or 1"
		}
		r.need("kernel", need)
		if old != nil {
			table = old.Kernel
		}
	} else {
		r.mu.Lock()
		delete(r.needs, "kernel")
		r.mu.Unlock()
	}
	k := &loadedKernel{table, r.now()}
	r.kernel.Store(k)
	return k
}

// KernelStack names the frames of a kernel stack, innermost first.
func (r *Resolver) KernelStack(ips []uint64) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		if i > 0 {
			ip--
		}
		out[i] = r.Kernel(ip)
	}
	return out
}

// Needs lists what could not be had so far.
func (r *Resolver) Needs() []freezeframe.Need {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []freezeframe.Need
	for _, kind := range []string{"kernel", "user", "stuck"} {
		if n, ok := r.needs[kind]; ok {
			out = append(out, n)
		}
	}
	return out
}

func (r *Resolver) need(kind string, n freezeframe.Need) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.needs[kind] = n
}

// failed notes a file that we were not allowed to read; one that is gone, or
// that was never there, is an everyday thing.
func (r *Resolver) failed(err error) {
	if kernel.IsForbidden(err) {
		r.need("user", freezeframe.Need{What: "open what processes have mapped", Lost: "the names of their functions in stacks",
			Fix: "run as root with CAP_SYS_ADMIN and CAP_SYS_PTRACE", Err: shown(err.Error())})
	}
}

// aside runs work on a goroutine of its own, and leaves it there when the
// context ends: work may hang for as long as it wants. The error is the
// context's, or ErrStuck where earlier work for the same process, or maxStuck
// others, still hang.
func (r *Resolver) aside(ctx context.Context, pid int, work func()) error {
	r.mu.Lock()
	hopeless := r.stuck[pid] > 0 || len(r.stuck) >= maxStuck
	r.mu.Unlock()
	if hopeless {
		return ErrStuck
	}
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan struct{})
	left, finished := false, false // guarded by mu
	go func() {
		defer func() {
			r.mu.Lock()
			finished = true
			if left {
				if r.stuck[pid]--; r.stuck[pid] == 0 {
					delete(r.stuck, pid)
				}
			}
			r.mu.Unlock()
			<-r.slots
			close(done)
		}()
		work()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if finished {
		return nil
	}
	left = true
	r.stuck[pid]++
	r.needs["stuck"] = freezeframe.Need{What: fmt.Sprintf("read the mappings and files of process %d", pid), Lost: "the names of its functions in stacks",
		Err: "no answer in time: its mmap_lock or its filesystem is stalled"}
	return ctx.Err()
}

func withPatience(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, patience)
}

// Snapshot reads the mappings of a process now, and the build ids of the files
// in them, so that its stacks can be named when it hangs or is gone. start is
// field 22 of /proc/PID/stat, or 0 for whoever has the pid. It never waits
// longer than the context, or 2 s.
func (r *Resolver) Snapshot(ctx context.Context, pid int, start uint64) error {
	ctx, cancel := withPatience(ctx)
	defer cancel()
	result := make(chan error, 1)
	if err := r.aside(ctx, pid, func() {
		key, err := r.keyOf(pid, start)
		if err == nil {
			_, err = r.snapshot(key, 0)
		}
		result <- err
	}); err != nil {
		return fmt.Errorf("read the mappings of process %d: %w", pid, err)
	}
	return <-result
}

func (r *Resolver) keyOf(pid int, start uint64) (processKey, error) {
	now, err := r.startOf(pid)
	if err != nil {
		return processKey{}, err
	}
	if start != 0 && start != now {
		return processKey{}, os.ErrProcessDone
	}
	return processKey{pid, now}, nil
}

// snapshot returns a process's mappings, read again when they are older than
// age or of another program. Of a process that is gone, the last ones.
func (r *Resolver) snapshot(k processKey, age time.Duration) (*process, error) {
	r.mu.Lock()
	old, ok := r.processes.get(k)
	r.mu.Unlock()
	if ok && (r.now().Sub(old.read) < age && old.exe == r.exeID(k.pid) || !r.alive(k)) {
		return old, nil
	}
	p, err := r.readProcess(k)
	if err != nil {
		r.failed(err)
		return nil, err
	}
	r.mu.Lock()
	r.processes.put(k, p, p.bytes())
	r.mu.Unlock()
	return p, nil
}

// User names the frames of a user stack, innermost first, as
//
//	a function; "libfoo.so+0x1234", the file and the offset in it, where it has
//	no symbol; "[vdso]", "[anon]" for code without a file; Unknown
//
// start is field 22 of /proc/PID/stat, or 0 for whoever has the pid now. It
// never waits longer than the context, or 2 s, and then returns what it has:
// reading the mappings takes the process's mmap_lock. Frames with a build id
// that was seen before, or that is the program's own, are named without it.
func (r *Resolver) User(ctx context.Context, pid int, start uint64, frames []Frame) []string {
	ctx, cancel := withPatience(ctx)
	defer cancel()
	n := &naming{r: r, ctx: ctx, frames: frames, names: make([]string, len(frames)), open: make(map[place]*opened)}
	// What is not named in time is Unknown, and Needs says why.
	_ = r.aside(ctx, pid, func() { n.run(pid, start) })
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]string, len(frames))
	for i, s := range n.names {
		if out[i] = s; s == "" {
			out[i] = Unknown
		}
	}
	return out
}

// naming is the work of naming one stack.
type naming struct {
	r      *Resolver
	ctx    context.Context
	frames []Frame
	open   map[place]*opened // nil: it could not be opened
	jit    *perfMap

	mu    sync.Mutex
	names []string
}

func (n *naming) set(i int, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[i] = name
}

func (n *naming) run(pid int, start uint64) {
	defer func() {
		for _, o := range n.open {
			if o != nil {
				o.close()
			}
		}
	}()
	key := processKey{pid, start}
	if start == 0 {
		k, err := n.r.keyOf(pid, 0)
		if err != nil {
			return
		}
		key = k
	}
	// First what needs no mapping: reading those can hang.
	exe := n.r.program(key)
	missing := false
	for i, f := range n.frames {
		if n.ctx.Err() != nil {
			return
		}
		name, ok := "", false
		if f.BuildID != (BuildID{}) {
			at := exe
			if f.BuildID != exe.buildID {
				n.r.mu.Lock()
				at, ok = n.r.places.get(f.BuildID)
				n.r.mu.Unlock()
			}
			if at.buildID == f.BuildID {
				if name, ok = n.inFile(at, f.Offset, i > 0); !ok {
					// That process is gone; this one has the file too.
					n.r.mu.Lock()
					n.r.places.drop(f.BuildID)
					n.r.mu.Unlock()
				}
			}
		}
		if ok {
			n.set(i, name)
		} else {
			missing = true
		}
	}
	if !missing {
		return
	}
	p, err := n.r.snapshot(key, fresh)
	if err != nil {
		return
	}
	for i, f := range n.frames {
		if n.ctx.Err() != nil {
			return
		}
		if n.names[i] != "" { // only this goroutine writes it
			continue
		}
		m := p.find(f)
		if m == nil && n.r.now().Sub(p.read) > again {
			// A library that was loaded, or code that was compiled, since.
			if newer, err := n.r.snapshot(key, again); err == nil {
				p = newer
				m = p.find(f)
			}
		}
		n.set(i, n.inMapping(p, m, f, i > 0))
	}
}

func (p *process) find(f Frame) *mapping {
	if f.BuildID == (BuildID{}) {
		return p.at(f.IP)
	}
	for i := range p.mappings {
		if p.mappings[i].buildID == f.BuildID {
			return &p.mappings[i]
		}
	}
	return nil
}

func (n *naming) inMapping(p *process, m *mapping, f Frame, caller bool) string {
	switch {
	case f.BuildID != (BuildID{}):
		if m == nil {
			return Unknown
		}
		name, _ := n.inFile(m.place(p.key), f.Offset, caller)
		return name
	case m == nil && p.whole:
		return Unknown
	case m == nil:
		return n.jitName(p.key, f.IP, caller, Unknown)
	case m.isMemory():
		return n.jitName(p.key, f.IP, caller, m.base())
	case m.ino == 0: // [vdso], [vsyscall]
		return m.base()
	}
	name, _ := n.inFile(m.place(p.key), f.IP-m.start+m.off, caller)
	return name
}

// jitName names code that is in no file.
func (n *naming) jitName(k processKey, ip uint64, caller bool, otherwise string) string {
	if caller {
		ip--
	}
	if n.jit == nil {
		n.jit = n.r.jitMap(k)
		if n.jit == nil {
			n.jit = &perfMap{} // it is not asked for again
		}
	}
	if s := n.jit.name(ip); s != "" {
		return s
	}
	return otherwise
}

// inFile names an offset in a file. ok is false where the file could not be
// opened; the name then is only the offset.
func (n *naming) inFile(at place, off uint64, caller bool) (name string, ok bool) {
	look := off
	if caller && off > 0 {
		look--
	}
	bare := func() string { return fmt.Sprintf("%s+0x%x", baseName(at.path), off) }
	named := func(s string) (string, bool) {
		if s == "" {
			s = bare()
		}
		return s, true
	}
	key := nameKey{buildID: at.buildID, off: look}
	if at.buildID != (BuildID{}) {
		if s, ok := n.r.cachedName(key); ok {
			return named(s)
		}
	}
	o, tried := n.open[at]
	if !tried {
		var err error
		if o, err = n.r.openImage(at); err != nil {
			n.r.failed(err)
			o = nil
		}
		n.open[at] = o
	}
	if o == nil {
		return bare(), false
	}
	if at.buildID == (BuildID{}) {
		key.file = o.id
		if s, ok := n.r.cachedName(key); ok {
			return named(s)
		}
	}
	var debug io.ReaderAt
	if o.debug != nil {
		debug = o.debug
	}
	name = o.im.name(o.file, debug, look)
	n.r.mu.Lock()
	n.r.names.put(key, name, len(name)+96)
	n.r.mu.Unlock()
	return named(name)
}

func (r *Resolver) cachedName(key nameKey) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names.get(key)
}
