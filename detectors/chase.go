package detectors

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// chase finds, while a stall is open, who holds what the victims wait for, so
// that the holders are sampled at the full rate too: the other end of a pipe
// and the holder of a lock can be seen only while they are.
//
// Observe runs on the sampling path and only notes numbers in fixed arrays;
// step, on the watch's own goroutine, does what takes time.
type chase struct {
	focus  *freezeframe.Focus
	text   func(id uint64) string
	event  func(freezeframe.Event)
	wchans []uint64 // ids of the wait channels of pipes and Unix sockets
	locked []uint64 // and of file locks

	files notes
	pids  notes
	locks notes // files that someone waits to lock

	rest  freezeframe.Instant // until when the descriptors of all processes are not walked
	known map[string]bool     // files whose ends were found in this stall
	ends  []int32             // the processes at those ends
}

// notes is a fixed set of numbers with one writer a slot and no waiting: a
// lost note is made again at the next reading.
type notes struct {
	slots [64]atomic.Uint64
	next  atomic.Uint32
}

func (n *notes) put(v uint64) {
	if v == 0 {
		return
	}
	for i := range n.slots {
		if n.slots[i].Load() == v {
			return
		}
	}
	n.slots[n.next.Add(1)%uint32(len(n.slots))].Store(v)
}

// take returns what was noted and forgets it.
func (n *notes) take() []uint64 {
	var out []uint64
	for i := range n.slots {
		if v := n.slots[i].Swap(0); v != 0 {
			out = append(out, v)
		}
	}
	return out
}

func newChase(focus *freezeframe.Focus, texts freezeframe.Texts, text func(uint64) string, event func(freezeframe.Event)) *chase {
	c := &chase{focus: focus, text: text, event: event, known: map[string]bool{}}
	for _, w := range []string{
		"pipe_write", "anon_pipe_write", "pipe_read", "anon_pipe_read", "pipe_wait_readable", "pipe_wait_writable", "pipe_wait",
	} {
		c.wchans = append(c.wchans, texts.Intern([]byte(w)))
	}
	for _, w := range []string{
		"fcntl_setlk", "fcntl_setlk64", "do_lock_file_wait", "locks_lock_inode_wait", "flock_lock_inode_wait", "posix_lock_inode_wait", "__do_sys_flock", "__x64_sys_flock", "__arm64_sys_flock",
	} {
		c.locked = append(c.locked, texts.Intern([]byte(w)))
	}
	return c
}

// Observes names the sources that Observe wants.
func (c *chase) Observes() []string { return []string{"tasks", "locks", "futexes", "connections"} }

// Observe notes what the victims wait for.
func (c *chase) Observe(src *freezeframe.Source, t *freezeframe.Table) {
	pids := c.focus.PIDs()
	if len(pids) == 0 {
		return
	}
	width := len(src.Columns)
	switch src.Name {
	case "tasks":
		pid, wchan, file := src.Column("pid"), src.Column("wchan"), src.Column("file")
		if pid < 0 || wchan < 0 || file < 0 {
			return
		}
		for i := range t.Keys {
			row := t.Values(i, width)
			switch {
			case row[file] == 0 || !slices.Contains(pids, int32(row[pid])):
			case slices.Contains(c.wchans, row[wchan]):
				c.files.put(row[file])
			case slices.Contains(c.locked, row[wchan]):
				c.locks.put(row[file])
			}
		}
	case "locks":
		waiter, holder := src.Column("waiter_pid"), src.Column("holder_pid")
		if waiter < 0 || holder < 0 {
			return
		}
		for i := range t.Keys {
			row := t.Values(i, width)
			if slices.Contains(pids, int32(row[waiter])) && int64(row[holder]) > 0 {
				c.pids.put(row[holder])
			}
		}
	case "futexes":
		owner := src.Column("owner_pid")
		if owner < 0 {
			return
		}
		for i := range t.Keys {
			if pid := t.Values(i, width)[owner]; !slices.Contains(pids, int32(pid)) {
				c.pids.put(pid)
			}
		}
	case "connections":
		pid, server, peer := src.Column("pid"), src.Column("server"), src.Column("peer_pid")
		sent, received := src.Column("sent_at"), src.Column("received_at")
		if pid < 0 || server < 0 || peer < 0 || sent < 0 || received < 0 {
			return
		}
		for i := range t.Keys {
			row := t.Values(i, width)
			if row[server] == 0 && row[peer] != 0 && row[sent] > row[received] && slices.Contains(pids, int32(row[pid])) {
				c.pids.put(row[peer])
			}
		}
	}
}

// chaseShare is how much of the time while something stalls may be spent on
// walking the descriptors of all processes: one part in so many. With 20,000 of
// them a walk takes a fifth of a second.
const chaseShare = 5

// maxHolders is how many holders are followed at once.
const maxHolders = 32

// step turns the notes into holders to watch and events to keep.
func (c *chase) step(now freezeframe.Instant) {
	for _, v := range c.pids.take() {
		c.hold(int32(v))
	}
	if now < c.rest {
		c.focus.Hold(c.ends)
		return // what was noted meanwhile waits
	}
	defer func() {
		if took := kernel.Now().Sub(now); took > 0 {
			c.rest = now.Add(chaseShare * took)
		}
	}()
	var files []string
	for _, id := range c.files.take() {
		if f := c.text(id); f != "" && !c.known[f] {
			files = append(files, f)
		}
	}
	if len(files) > 0 {
		for f, ends := range findEnds(files) {
			c.known[f] = true
			// A process that has both ends open, as a parent that made the pipe
			// has, is less likely to be the one that should read or write it.
			readers := onlyFirst(ends.readers, ends.writers)
			ends.writers = onlyFirst(ends.writers, ends.readers)
			ends.readers = readers
			c.event(freezeframe.Event{Kind: freezeframe.EventEnds, At: now, Text: f, Attrs: []freezeframe.Attr{
				{Name: "file", Value: f}, {Name: "readers", Value: join(ends.readers)}, {Name: "writers", Value: join(ends.writers)},
			}})
			for _, pid := range append(ends.readers, ends.writers...) {
				c.hold(int32(pid))
			}
		}
	}
	for _, id := range c.locks.take() {
		path := c.text(id)
		name := lockName(path)
		if path == "" || c.known[name] {
			continue
		}
		c.known[name] = true
		holders := findLockers(path)
		c.event(freezeframe.Event{Kind: freezeframe.EventEnds, At: now, Text: name, Attrs: []freezeframe.Attr{
			{Name: "file", Value: name}, {Name: "readers", Value: ""}, {Name: "writers", Value: join(holders)},
		}})
		for _, pid := range holders {
			c.hold(int32(pid))
		}
	}
	c.focus.Hold(c.ends)
}

// lockName is what the event calls the holders of a file's locks.
func lockName(path string) string { return "lock:" + path }

// findLockers returns the processes that hold a lock of a file by a descriptor
// of theirs. /proc/locks has -1 for both sides of a lock that belongs to an
// open file description (F_OFD_SETLK in fcntl(2)), and 0 for processes of
// another pid namespace, but the descriptor's own fdinfo tells. Nothing here
// touches the file, which may be on a filesystem that hangs.
func findLockers(path string) []int {
	var holders []int
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join("/proc", p.Name(), "fd"))
		if err != nil {
			continue // gone, or not ours to see: listed under "not seen"
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join("/proc", p.Name(), "fd", fd.Name()))
			if err != nil || target != path {
				continue
			}
			if b, err := os.ReadFile(filepath.Join("/proc", p.Name(), "fdinfo", fd.Name())); err == nil && holdsLock(string(b)) {
				holders = append(holders, pid)
				break
			}
		}
	}
	return holders
}

// holdsLock tells whether a descriptor's fdinfo (proc(5)) has a line such as
// "lock:	1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF".
func holdsLock(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		rest, ok := strings.CutPrefix(line, "lock:")
		if !ok {
			continue
		}
		for _, kind := range []string{" OFDLCK ", " POSIX ", " FLOCK "} {
			if strings.Contains(rest, kind) && !strings.Contains(rest, "->") {
				return true
			}
		}
	}
	return false
}

func (c *chase) hold(pid int32) {
	if !slices.Contains(c.ends, pid) && len(c.ends) < maxHolders {
		c.ends = append(c.ends, pid)
	}
}

// reset forgets the holders of a stall that is over.
func (c *chase) reset() {
	clear(c.known)
	c.ends = nil
	c.focus.Hold(nil)
}

type fileEnds struct{ readers, writers []int }

// findEnds walks the descriptors of all processes for those that are one of
// the files, once for all of them: some 10 µs a process.
func findEnds(files []string) map[string]*fileEnds {
	found := map[string]*fileEnds{}
	for _, f := range files {
		found[f] = &fileEnds{}
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // gone, or not ours to see: listed under "not seen"
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			ends := found[target]
			if ends == nil {
				continue
			}
			read, write := openMode(filepath.Join("/proc", p.Name(), "fdinfo", fd.Name()))
			if read && !slices.Contains(ends.readers, pid) {
				ends.readers = append(ends.readers, pid)
			}
			if write && !slices.Contains(ends.writers, pid) {
				ends.writers = append(ends.writers, pid)
			}
		}
	}
	return found
}

// onlyFirst orders pids so that those not in both come first.
func onlyFirst(pids, both []int) []int {
	out := slices.Clone(pids)
	slices.SortStableFunc(out, func(a, b int) int {
		x, y := slices.Contains(both, a), slices.Contains(both, b)
		switch {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
	return out
}

// openMode reads the access mode of a descriptor from its fdinfo (proc(5)).
func openMode(path string) (read, write bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return true, true
	}
	_, rest, ok := strings.Cut(string(b), "flags:")
	if !ok {
		return true, true
	}
	line, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	flags, err := strconv.ParseInt(line, 8, 64)
	if err != nil {
		return true, true
	}
	switch int(flags) & 3 {
	case os.O_RDONLY:
		return true, false
	case os.O_WRONLY:
		return false, true
	}
	return true, true
}

func join(pids []int) string {
	words := make([]string, 0, len(pids))
	for _, p := range pids {
		words = append(words, strconv.Itoa(p))
	}
	return strings.Join(words, ",")
}
