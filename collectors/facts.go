package collectors

import (
	"bytes"
	"strconv"
	"strings"
	"sync/atomic"

	"freezeframe"
	"freezeframe/internal/kernel"
)

// UnitOf returns the systemd unit of a process from its cgroup text: the lines
// of /proc/PID/cgroup, joined by ';' or newlines. It is the innermost service
// or scope of systemd's own tree ("nginx.service"), "" outside of any.
func UnitOf(cgroup string) string {
	unit := ""
	for path := range cgroupPaths(cgroup) {
		rest := path
		for rest != "" {
			var part string
			part, rest, _ = cutLast(rest)
			if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
				unit = part
				break
			}
		}
		if unit != "" {
			return unit
		}
	}
	return ""
}

// ContainerOf returns the container of a process from its cgroup text: the
// first 12 digits of the id, as docker, podman and crictl show it, or the name
// of an LXC container or systemd machine; "" outside of any.
func ContainerOf(cgroup string) string {
	for path := range cgroupPaths(cgroup) {
		for rest := path; rest != ""; {
			var part, before string
			part, before, _ = cutLast(rest)
			if id := containerID(part, before); id != "" {
				return id
			}
			rest = before
		}
	}
	return ""
}

func containerID(part, before string) string {
	name := strings.TrimSuffix(part, ".scope")
	// containerd without systemd: kubepods-…-podUID.slice:cri-containerd:ID.
	name = name[strings.LastIndexByte(name, ':')+1:]
	if strings.HasPrefix(name, "libpod-conmon-") || strings.HasPrefix(name, "crio-conmon-") {
		return "" // the container's monitor, which lives outside of it
	}
	id := name[strings.LastIndexByte(name, '-')+1:]
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		return id[:12]
	}
	parent, _, _ := cutLast(before)
	if n, ok := strings.CutPrefix(part, "lxc.payload."); ok {
		return n
	}
	if parent == "lxc.payload" {
		return part
	}
	if parent == "lxc" && part != "" {
		return part
	}
	if n, ok := strings.CutPrefix(name, "machine-"); ok && parent == "machine.slice" {
		return strings.ReplaceAll(n, `\x2d`, "-")
	}
	if n, ok := strings.CutPrefix(part, "systemd-nspawn@"); ok {
		return strings.ReplaceAll(strings.TrimSuffix(n, ".service"), `\x2d`, "-")
	}
	return ""
}

// cutLast splits a cgroup path at its last slash.
func cutLast(path string) (last, before string, found bool) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return path, "", false
	}
	return path[i+1:], path[:i], true
}

// cgroupPaths yields the paths of a cgroup text, the most telling first: v1's
// systemd hierarchy, then v2, then the other controllers.
func cgroupPaths(cgroup string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for rank := range 3 {
			for line := range strings.FieldsFuncSeq(cgroup, func(r rune) bool { return r == ';' || r == '\n' }) {
				id, rest, _ := strings.Cut(line, ":")
				controllers, path, ok := strings.Cut(rest, ":")
				if !ok || path == "/" {
					continue
				}
				if mine := controllers == "name=systemd"; mine != (rank == 0) {
					continue
				}
				if unified := id == "0" && controllers == ""; rank > 0 && unified != (rank == 1) {
					continue
				}
				if !yield(path) {
					return
				}
			}
		}
	}
}

const (
	factWorkers = 3    // so that two command lines that hang leave one at work
	factAsks    = 1024 // a power of two
	factAnswers = 32   // a power of two
	maxCgroup   = 2048 // bytes kept of /proc/PID/cgroup
)

// What is asked of a process; the bits stand above the pid, which has at most
// 22 bits.
const (
	askCgroup = 1 << (23 + iota)
	askCmdline
	askJVM
	pidMask = 1<<23 - 1
)

// facts reads, on goroutines of its own, what can hang: the command line takes
// the process's mmap_lock, /proc/PID/cgroup took cgroup_mutex before Linux
// 6.7, and a JVM's counters may lie on any filesystem. The sampling thread
// asks and picks up answers through rings; neither side ever waits for the
// other, and the memory is fixed.
type facts struct {
	proc string
	root int // descriptor of proc
	bell *kernel.Bell

	// asks is a ring of process start<<32 | ask bits | pid, written by the
	// sampling thread, read by every worker.
	asks       [factAsks]atomic.Uint64
	head, tail atomic.Uint64

	workers [factWorkers]factWorker
	stopped atomic.Bool
	running atomic.Int32
}

// factWorker is one goroutine and the ring of its answers, which only it
// writes and only the sampling thread reads.
type factWorker struct {
	answers    [factAnswers]fact
	head, tail atomic.Uint64
	raw        [8 << 10]byte
	cmdline    [maxCmdline]byte
}

// fact is the answer to one ask.
type fact struct {
	ask     uint64
	cgroup  int // bytes of text that are the cgroup
	cmdline int // and, behind it, the command line
	text    [maxCgroup + maxCmdline]byte
	jvm     int // descriptor of its hsperfdata file, -1 for none
}

func startFacts(proc string, root int) (*facts, error) {
	bell, err := kernel.NewBell()
	if err != nil {
		return nil, err
	}
	f := &facts{proc: proc, root: root, bell: bell}
	f.running.Store(factWorkers)
	for i := range f.workers {
		go f.work(&f.workers[i])
	}
	return f, nil
}

// stop ends the workers. One that hangs in the kernel ends when it comes back;
// the last one out frees what they share.
func (f *facts) stop() {
	f.stopped.Store(true)
	f.bell.Ring(factWorkers)
}

// ask wants facts of a process; it returns false when the ring is full.
// Sampling thread.
func (f *facts) ask(key freezeframe.Key, what uint64) bool {
	head := f.head.Load()
	if head-f.tail.Load() >= factAsks || key.TID() > pidMask {
		return false
	}
	f.asks[head%factAsks].Store(uint64(key) | what)
	f.head.Store(head + 1)
	return true
}

// ring wakes as many workers as have something to do. Sampling thread, after
// its asks and after it has taken answers.
func (f *facts) ring() {
	if waiting := f.head.Load() - f.tail.Load(); waiting > 0 {
		f.bell.Ring(int(min(waiting, factWorkers)))
	}
}

// take returns the next answer, valid until done. Sampling thread.
func (f *facts) take() (*fact, *factWorker) {
	for i := range f.workers {
		w := &f.workers[i]
		if tail := w.tail.Load(); tail != w.head.Load() {
			return &w.answers[tail%factAnswers], w
		}
	}
	return nil, nil
}

func (w *factWorker) done() { w.tail.Store(w.tail.Load() + 1) }

func (f *facts) next() (uint64, bool) {
	for {
		tail := f.tail.Load()
		if tail == f.head.Load() {
			return 0, false
		}
		ask := f.asks[tail%factAsks].Load()
		if f.tail.CompareAndSwap(tail, tail+1) {
			return ask, true
		}
	}
}

func (f *facts) work(w *factWorker) {
	defer func() {
		if f.running.Add(-1) == 0 {
			f.bell.Close()
			kernel.CloseFD(f.root)
		}
	}()
	for {
		if f.bell.Wait() != nil || f.stopped.Load() {
			return
		}
		for !f.stopped.Load() && w.head.Load()-w.tail.Load() < factAnswers {
			ask, ok := f.next()
			if !ok {
				break
			}
			f.answer(w, ask)
		}
	}
}

func (f *facts) answer(w *factWorker, ask uint64) {
	head := w.head.Load()
	a := &w.answers[head%factAnswers]
	a.ask, a.cgroup, a.cmdline, a.jvm = ask, 0, 0, -1
	pid := int64(ask & pidMask)
	var name [32]byte
	path := func(file string) []byte {
		return append(append(strconv.AppendInt(name[:0], pid, 10), file...), 0)
	}
	if ask&askCgroup != 0 {
		if n, err := kernel.SlowReadAt(f.root, path("/cgroup"), w.raw[:]); err == nil {
			a.cgroup = joinLines(a.text[:maxCgroup], w.raw[:n])
		}
	}
	if ask&askCmdline != 0 {
		if n, err := kernel.SlowReadAt(f.root, path("/cmdline"), w.raw[:]); err == nil {
			a.cmdline = copy(a.text[a.cgroup:], Redact(w.cmdline[:0], wholeWords(w.raw[:n], len(w.raw))))
		}
	}
	if ask&askJVM != 0 {
		a.jvm = openHsperf(f.proc, int(pid))
	}
	w.head.Store(head + 1)
}

// wholeWords drops the last word of a command line that did not fit, so that half a
// secret is not taken for something harmless.
func wholeWords(raw []byte, size int) []byte {
	if len(raw) < size {
		return raw
	}
	return raw[:bytes.LastIndexAny(raw, " \x00")+1]
}

// joinLines copies lines, joined by ';', as many as fit whole.
func joinLines(dst, text []byte) int {
	n := 0
	for s := kernel.Scan(text); s.More(); {
		line := s.Line()
		if len(line) == 0 {
			continue
		}
		need := len(line)
		if n > 0 {
			need++
		}
		if n+need > len(dst) {
			break
		}
		if n > 0 {
			dst[n] = ';'
			n++
		}
		n += copy(dst[n:], line)
	}
	return n
}
