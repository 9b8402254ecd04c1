package collectors

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"freezeframe"
	"freezeframe/internal/kernel"
)

const (
	maxHolders   = 32      // processes named for one descriptor
	maxOwned     = 1 << 16 // sockets remembered
	wantedSlots  = 64
	hopelessFor  = time.Minute
	fullWalk     = time.Minute // how often everything is walked unasked
	fullWalkSoon = time.Second // how often when something is unknown
	listEvery    = 2 * time.Second
	listShare    = 100  // parts of a CPU, of which listing may take one
	maxLooks     = 1024 // network namespaces read in one listing
	maxNewcomers = 512  // processes looked at closer in one listing

	walkCalm, walkStalled = 100, 50
)

// owner is who holds a socket: one process, or several that share it.
type owner struct {
	pids []int32 // ascending
	pid  int32   // the lowest; not 1 when init only passed the socket on
	comm []byte
	text []byte // "12,13,14" when there are several, else empty
	// listening is set by the sampling path: this socket is a listener, so
	// children of its holders matter.
	listening atomic.Bool
}

// nobody is the owner of a socket that was looked for and not found.
var nobody = &owner{}

// fuseDaemon is a process that has /dev/fuse open.
type fuseDaemon struct {
	pid        int32
	comm       []byte
	connection uint32 // which connection it serves; 0 when the kernel does not say
}

// owners finds out which process holds which socket by walking /proc/PID/fd.
// That takes milliseconds, so it is done on a goroutine of its own; the
// sampling path asks and is answered by atomics. The same walk finds the FUSE
// daemons, and listing the processes finds the network namespaces.
type owners struct {
	proc  string
	focus *freezeframe.Focus
	needs needs

	known   atomic.Pointer[map[uint32]*owner]
	daemons atomic.Pointer[[]fuseDaemon]
	// wanted holds inode<<32 | inode of the listener that it came from.
	wanted   [wantedSlots]atomic.Uint64
	walkSoon atomic.Bool

	// namespaces is called after each listing with a process of every network
	// namespace; nil when nobody wants to know.
	namespaces func(map[uint32]int32)

	mu   sync.Mutex // of user: Open and Close only
	user int

	rounds rounds

	// The rest belongs to the goroutine.
	dir, fds  kernel.Dir
	processes map[int32]*processNS
	hopeless  map[uint32]freezeframe.Instant
	tries     map[uint32]int // how often a socket was looked for in vain
	walked    freezeframe.Instant
	walkTook  time.Duration       // of a CPU
	asked     freezeframe.Instant // when the watched processes may be walked again
	listings  int
	listTook  time.Duration // of a CPU
	listed    freezeframe.Instant
	link      []byte
	small     []byte
}

type processNS struct {
	inode uint32
	looks uint8 // how often it was looked at while young
	seen  int   // the last listing that had it
}

// start begins the walking for one more user.
func (o *owners) start(h freezeframe.Host) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.user++
	if o.user > 1 {
		return
	}
	o.proc, o.focus, o.listings, o.listed = h.Proc, h.Focus, 0, 0
	o.link, o.small = make([]byte, 256), make([]byte, 4096)
	o.processes = make(map[int32]*processNS)
	o.hopeless = make(map[uint32]freezeframe.Instant)
	o.tries = make(map[uint32]int)
	o.known.Store(&map[uint32]*owner{})
	o.daemons.Store(new([]fuseDaemon))
	o.list()
	runtime.LockOSThread() // it measures its CPU time
	o.walk()
	runtime.UnlockOSThread()
	o.rounds.start(o.round)
}

// end stops the walking when its last user is gone.
func (o *owners) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.user == 0 {
		return
	}
	o.user--
	if o.user > 0 {
		return
	}
	o.rounds.stop()
}

// of returns who holds a socket, nil while that is not known; then it is
// looked for, first among the holders of the listener that it came from.
func (o *owners) of(inode, listener uint32) *owner {
	if inode == 0 {
		return nil
	}
	if own := o.peek(inode); own != nil {
		return own
	}
	for i := range uint32(4) {
		slot := &o.wanted[(inode+i)%wantedSlots]
		if v := slot.Load(); v == 0 || uint32(v>>32) == inode {
			slot.Store(uint64(inode)<<32 | uint64(listener))
			o.rounds.soon()
			break
		}
	}
	return nil
}

// peek is of without the search.
func (o *owners) peek(inode uint32) *owner { return (*o.known.Load())[inode] }

// round finds who holds what somebody wants to know of.
func (o *owners) round() {
	runtime.LockOSThread() // it measures its CPU time
	defer runtime.UnlockOSThread()
	now := kernel.Now()
	if now.Sub(o.listed) >= max(listEvery-roundSoon/2, listShare*o.listTook) {
		began := kernel.ThreadCPU()
		o.list()
		o.listTook = min(kernel.ThreadCPU()-began, time.Second)
		o.listed = now
	}
	o.hopeAgain(now)
	var missing, hidden []uint32
	looked := make(map[int32]bool)
	for i := range o.wanted {
		v := o.wanted[i].Swap(0)
		inode, listener := uint32(v>>32), uint32(v)
		if inode == 0 || (*o.known.Load())[inode] != nil {
			continue
		}
		from := (*o.known.Load())[listener]
		if from == nobody {
			hidden = append(hidden, inode) // as is who accepted it
			continue
		}
		if from != nil {
			o.add(from.pids, looked)
		}
		if (*o.known.Load())[inode] == nil {
			missing = append(missing, inode)
		}
	}
	if len(hidden) > 0 {
		o.giveUp(hidden)
	}
	if o.focus.Stalled(now) && now >= o.asked {
		began := kernel.ThreadCPU()
		o.add(o.focus.PIDs(), looked)
		o.asked = now.Add(20 * (kernel.ThreadCPU() - began))
	}
	// A walk over everything has its price: at most one in walkCalm parts of a
	// CPU, of which more may be spent while a stall is open.
	share := time.Duration(walkCalm)
	if o.focus.Stalled(now) {
		share = walkStalled
	}
	since := now.Sub(o.walked)
	if since < share*o.walkTook || since < fullWalkSoon {
		if len(missing) > 0 {
			o.walkSoon.Store(true)
		}
		return
	}
	if since >= fullWalk || len(missing) > 0 || o.walkSoon.Load() {
		o.walkSoon.Store(false)
		o.walk()
		o.giveUp(missing)
	}
}

// giveUp marks sockets that no process seems to hold, so that they do not
// cause one walk after the other.
func (o *owners) giveUp(inodes []uint32) {
	known := *o.known.Load()
	now := kernel.Now()
	changed := maps.Clone(known)
	for _, inode := range inodes {
		if known[inode] == nil {
			// A descriptor may have been opened behind the walk's back: what was
			// not found once is soon looked for again, then ever later.
			o.tries[inode] = min(o.tries[inode]+1, 6)
			o.hopeless[inode] = now.Add(min(fullWalkSoon<<o.tries[inode], hopelessFor))
		}
	}
	for inode, until := range o.hopeless {
		switch {
		case known[inode] != nil && known[inode] != nobody || len(o.hopeless) > maxOwned:
			delete(o.hopeless, inode)
			delete(o.tries, inode)
		case now > until:
			delete(o.hopeless, inode)
		case known[inode] == nil:
			changed[inode] = nobody
		}
	}
	o.known.Store(&changed)
}

// hopeAgain lets those be looked for again whose time has come.
func (o *owners) hopeAgain(now freezeframe.Instant) {
	var changed map[uint32]*owner
	for inode, until := range o.hopeless {
		if now <= until {
			continue
		}
		delete(o.hopeless, inode)
		if changed == nil {
			changed = maps.Clone(*o.known.Load())
		}
		if changed[inode] == nobody {
			delete(changed, inode)
		}
	}
	if changed != nil {
		o.known.Store(&changed)
	}
	if len(o.tries) > maxOwned {
		clear(o.tries)
	}
}

// holders is a map of sockets under construction.
type holders struct {
	owners map[uint32]*owner
	shared map[*owner]bool // those made for one socket, which may be appended to
	comms  map[int32][]byte
	fuse   []fuseDaemon
	denied int // processes whose descriptors may not be read
}

func (o *owners) walk() {
	began := kernel.ThreadCPU()
	h := &holders{owners: make(map[uint32]*owner, len(*o.known.Load())), shared: make(map[*owner]bool), comms: make(map[int32][]byte)}
	if o.dir.Open(kernel.AtCWD, append([]byte(o.proc), 0)) == nil {
		for name := o.dir.Next(); name != nil; name = o.dir.Next() {
			if pid, ok := kernel.Uint(name[:len(name)-1]); ok {
				o.look(int32(pid), h)
			}
		}
		o.dir.Close()
	}
	for inode, old := range *o.known.Load() {
		if own := h.owners[inode]; own != nil && old.listening.Load() {
			own.listening.Store(true)
		}
	}
	o.publish(h)
	o.daemons.Store(&h.fuse)
	o.walked = kernel.Now()
	o.walkTook = min(kernel.ThreadCPU()-began, time.Second)
	if h.denied > 0 {
		need := freezeframe.Need{
			What: "read /proc/PID/fd of every process",
			Lost: "which process owns a socket or serves a FUSE mount, where that is one of those hidden from us",
			Err:  "permission denied",
		}
		if os.Geteuid() != 0 {
			need.Fix = "run as root, or with CAP_SYS_PTRACE"
		}
		o.needs.add(need)
	}
}

// add looks at the descriptors of a few processes and keeps what is known of
// the others.
func (o *owners) add(pids []int32, looked map[int32]bool) {
	var h *holders
	for _, pid := range pids {
		if looked[pid] || len(looked) >= 2*maxHolders {
			continue
		}
		looked[pid] = true
		if h == nil {
			h = &holders{owners: maps.Clone(*o.known.Load()), shared: make(map[*owner]bool), comms: make(map[int32][]byte)}
		}
		o.look(pid, h)
	}
	if h != nil {
		o.publish(h)
	}
}

// look reads the descriptors of one process.
func (o *owners) look(pid int32, h *holders) {
	path := append([]byte(filepath.Join(o.proc, strconv.Itoa(int(pid)), "fd")), 0)
	if err := o.fds.Open(kernel.AtCWD, path); err != nil {
		if kernel.IsForbidden(err) {
			h.denied++
		}
		return
	}
	defer o.fds.Close()
	var one *owner // made when the process turns out to have a socket
	for name := o.fds.Next(); name != nil; name = o.fds.Next() {
		n, err := kernel.ReadLinkAt(o.fds.FD, name, o.link)
		if err != nil {
			if kernel.IsForbidden(err) {
				h.denied++
				return
			}
			continue
		}
		if string(o.link[:n]) == "/dev/fuse" {
			h.fuse = append(h.fuse, fuseDaemon{pid: pid, comm: o.comm(pid, h), connection: o.connection(pid, name)})
			continue
		}
		inode := socketInode(o.link[:n])
		if inode == 0 {
			continue
		}
		old := h.owners[inode]
		switch {
		case old == nil || old == nobody:
			if len(h.owners) >= maxOwned {
				continue
			}
			if one == nil {
				one = &owner{pids: []int32{pid}, pid: pid, comm: o.comm(pid, h)}
			}
			h.owners[inode] = one
		case slices.Contains(old.pids, pid) || len(old.pids) >= maxHolders:
		default:
			// What is published must not change: each socket that is shared
			// gets an owner of its own.
			if !h.shared[old] {
				own := &owner{pids: slices.Clone(old.pids)}
				own.listening.Store(old.listening.Load())
				h.shared[own] = true
				h.owners[inode] = own
				old = own
			}
			old.pids = append(old.pids, pid)
		}
	}
}

// publish names the shared ones and hands the map to the sampling path.
func (o *owners) publish(h *holders) {
	for own := range h.shared {
		slices.Sort(own.pids)
		own.pid = own.pids[0]
		if own.pid == 1 {
			own.pid = own.pids[1]
		}
		own.comm = o.comm(own.pid, h)
		for i, pid := range own.pids {
			if i > 0 {
				own.text = append(own.text, ',')
			}
			own.text = strconv.AppendInt(own.text, int64(pid), 10)
		}
	}
	o.known.Store(&h.owners)
}

func (o *owners) comm(pid int32, h *holders) []byte {
	if c, ok := h.comms[pid]; ok {
		return c
	}
	path := append([]byte(filepath.Join(o.proc, strconv.Itoa(int(pid)), "comm")), 0)
	n, _ := kernel.SlowReadAt(kernel.AtCWD, path, o.small)
	for n > 0 && o.small[n-1] == '\n' {
		n--
	}
	c := slices.Clone(o.small[:n])
	h.comms[pid] = c
	return c
}

// connection returns which FUSE connection a descriptor of /dev/fuse serves,
// 0 when the kernel does not say (an older one than 6.18, where this was seen to work).
func (o *owners) connection(pid int32, fd []byte) uint32 {
	path := append([]byte(filepath.Join(o.proc, strconv.Itoa(int(pid)), "fdinfo", string(fd[:len(fd)-1]))), 0)
	n, err := kernel.SlowReadAt(kernel.AtCWD, path, o.small)
	if err != nil {
		return 0
	}
	for s := kernel.Scan(o.small[:n]); s.More(); s.NextLine() {
		if string(s.Word()) == "fuse_connection:" {
			v, _ := s.Uint()
			return uint32(v)
		}
	}
	return 0
}

// socketInode returns N of "socket:[N]", 0 for any other link.
func socketInode(link []byte) uint32 {
	const prefix = "socket:["
	if len(link) < len(prefix)+2 || string(link[:len(prefix)]) != prefix || link[len(link)-1] != ']' {
		return 0
	}
	v, ok := kernel.Uint(link[len(prefix) : len(link)-1])
	if !ok || v > 1<<32-1 {
		return 0
	}
	return uint32(v)
}

// list goes through the processes: new ones may bring a new network namespace
// or share their parent's listeners, and when a holder of a listener is gone
// its owner has to be found anew.
func (o *owners) list() {
	if o.dir.Open(kernel.AtCWD, append([]byte(o.proc), 0)) != nil {
		return
	}
	o.listings++
	var servers map[int32]bool
	newcomers, looks := 0, maxLooks
	var children []int32
	for name := o.dir.Next(); name != nil; name = o.dir.Next() {
		v, ok := kernel.Uint(name[:len(name)-1])
		if !ok {
			continue
		}
		pid := int32(v)
		p := o.processes[pid]
		if p == nil {
			p = &processNS{}
			o.processes[pid] = p
			// At the first listing everything is new, and walk follows.
			if newcomers++; o.listings > 1 && newcomers <= maxNewcomers {
				if servers == nil {
					servers = o.servers()
				}
				if servers[o.parent(pid)] {
					children = append(children, pid)
				}
			}
		}
		p.seen = o.listings
		// A process enters its namespace soon after it is born, or hardly ever.
		// The others are asked now and then, some in each listing.
		if o.namespaces != nil && (o.listings == 1 || looks > 0 && (p.looks < 6 || (o.listings+int(pid))%15 == 0)) {
			looks--
			p.looks = min(p.looks+1, 6)
			var err error
			p.inode, err = kernel.NetnsInode(filepath.Join(o.proc, strconv.Itoa(int(pid)), "ns", "net"))
			if kernel.IsForbidden(err) && os.Geteuid() != 0 {
				o.needs.add(namespacesNeed("permission denied"))
			}
		}
	}
	o.dir.Close()

	spaces := make(map[uint32]int32)
	for pid, p := range o.processes {
		if p.seen != o.listings {
			delete(o.processes, pid)
			if servers == nil {
				servers = o.servers()
			}
			if servers[pid] {
				o.walkSoon.Store(true)
			}
			continue
		}
		if p.inode != 0 {
			spaces[p.inode] = pid
		}
	}
	o.add(children, make(map[int32]bool))
	if o.namespaces != nil {
		o.namespaces(spaces)
	}
}

// servers returns every process that holds a listener.
func (o *owners) servers() map[int32]bool {
	out := make(map[int32]bool)
	for _, own := range *o.known.Load() {
		if own.listening.Load() {
			for _, pid := range own.pids {
				out[pid] = pid != 1
			}
		}
	}
	return out
}

func (o *owners) parent(pid int32) int32 {
	b, err := os.ReadFile(filepath.Join(o.proc, strconv.Itoa(int(pid)), "stat"))
	if err != nil {
		return 0
	}
	// The name may hold anything, so count from the last parenthesis.
	s := kernel.Scan(b[lastParen(b):])
	s.Skip(2)
	v, _ := s.Uint()
	return int32(v)
}

func lastParen(b []byte) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == ')' {
			return i
		}
	}
	return len(b)
}
