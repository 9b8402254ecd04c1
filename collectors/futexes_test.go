package collectors

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"freezeframe"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// lockProgram has a thread "holder" that holds a mutex of every kind, threads
// "w-KIND" that want them, and others in futex that want no mutex. Two more
// threads hold one mutex each and want the other's.
const lockProgram = `
import ctypes, sys, threading
c = ctypes.CDLL(None)
def named(name, f):
    def run():
        c.prctl(15, name.encode())
        f()
    threading.Thread(target=run, daemon=True).start()
def memory():
    return (ctypes.c_uint64 * 16)()
def mutex(kind=0, robust=0, protocol=0, shared=0):
    a, m = memory(), memory()
    c.pthread_mutexattr_init(a)
    c.pthread_mutexattr_settype(a, kind)
    c.pthread_mutexattr_setrobust(a, robust)
    c.pthread_mutexattr_setprotocol(a, protocol)
    c.pthread_mutexattr_setpshared(a, shared)
    if c.pthread_mutex_init(m, a):
        sys.exit("no mutex")
    return m
kinds = {"plain": mutex(), "recursive": mutex(1), "checking": mutex(2), "adaptive": mutex(3), "robust": mutex(robust=1),
         "PI": mutex(protocol=1), "shared": mutex(shared=1), "timed": mutex()}
held = threading.Event()
def hold():
    for m in kinds.values():
        c.pthread_mutex_lock(m)
    held.set()
    c.sleep(60)
named("holder", hold)
held.wait()
late = (ctypes.c_int64 * 2)(1 << 40, 0)
for kind, m in kinds.items():
    if kind == "timed":
        named("w-" + kind, lambda m=m: c.pthread_mutex_timedlock(m, late))
    else:
        named("w-" + kind, lambda m=m: c.pthread_mutex_lock(m))
# What waits in futex for no mutex.
cond, m = memory(), mutex()
def wait():
    c.pthread_mutex_lock(m)
    c.pthread_cond_wait(cond, m)
named("w-cond", wait)
sem = memory()
c.sem_init(sem, 0, 0)
named("w-sem", lambda: c.sem_wait(sem))
rw = memory()
c.pthread_rwlock_wrlock(rw)
named("w-rwlock", lambda: c.pthread_rwlock_rdlock(rw))
python = threading.Lock()
python.acquire()
named("w-python", lambda: python.acquire())
# Like a mutex of Rust, whose owner nobody knows: what follows it is data.
other = (ctypes.c_uint32 * 16)(2, 0, threading.get_native_id(), 1, 0, 0, 0, 7)
named("w-other", lambda: c.syscall(FUTEX, other, 128, 2, None, None, 0))
# A deadlock.
a, b, both = mutex(), mutex(), threading.Barrier(2)
def cross(first, second):
    c.pthread_mutex_lock(first)
    both.wait()
    c.pthread_mutex_lock(second)
named("d-one", lambda: cross(a, b))
named("d-two", lambda: cross(b, a))
print("ready", flush=True)
sys.stdin.read()
`

// locksOf starts the program, after the given words, and returns its process.
func locksOf(t *testing.T, before ...string) int {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to make POSIX mutexes with")
	}
	script := strings.ReplaceAll(lockProgram, "FUTEX", fmt.Sprint(unix.SYS_FUTEX))
	args := append(slices.Clone(before), python, "-c", script)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the program with the locks says %q: %v", line, err)
	}
	if len(before) == 0 {
		return cmd.Process.Pid
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	var pid int
	if _, scanErr := fmt.Sscan(string(children), &pid); err != nil || scanErr != nil {
		t.Fatalf("the program behind %v: %v, %v", before, err, scanErr)
	}
	return pid
}

// lockRows reads until there are rows of all threads whose names are wanted, and
// returns them by name.
func lockRows(t *testing.T, c freezeframe.Collector, h freezeframe.Host, pid int, census freezeframe.Collector, want []string) map[string][]uint64 {
	t.Helper()
	h.Focus.Watch([]int32{int32(pid)})
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	texts := h.Texts.(dictionary)
	var all, table freezeframe.Table
	got := map[string][]uint64{}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		readNow(t, census, &all)
		readNow(t, c, &table)
		clear(got)
		for i := range table.Keys {
			row := table.Values(i, futexesWidth)
			got[texts[row[futexesComm]]] = slices.Clone(row)
		}
		if len(got) > 0 && !slices.ContainsFunc(want, func(name string) bool { return got[name] == nil }) {
			return got
		}
	}
	t.Fatalf("rows of %v, want %v", slices.Sorted(maps.Keys(got)), want)
	return nil
}

var lockThreads = []string{"w-plain", "w-recursive", "w-checking", "w-adaptive", "w-robust", "w-PI", "w-shared", "w-timed", "w-cond", "w-sem", "w-rwlock", "w-python", "w-other", "d-one", "d-two"}

func TestOwnersOfMutexes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: a child of another pid namespace cannot be made")
	}
	for name, before := range map[string][]string{"": nil, "in a pid namespace": {"unshare", "--pid", "--fork", "--kill-child"}} {
		t.Run(name, func(t *testing.T) {
			pid := locksOf(t, before...)
			h := live()
			processes := newCensus()
			c, all := &futexes{census: processes}, &tasks{census: processes}
			for _, x := range []freezeframe.Collector{all, c} {
				if err := x.Open(h); err != nil {
					t.Fatal(err)
				}
				defer closed(t, x)
			}
			rows := lockRows(t, c, h, pid, all, lockThreads)
			texts := h.Texts.(dictionary)
			owner := func(name string) string {
				row := rows[name]
				if row[futexesOwnerTID] == 0 {
					return ""
				}
				comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", row[futexesOwnerPID], row[futexesOwnerTID]))
				if err != nil || string(comm) != texts[row[futexesOwnerComm]]+"\n" || row[futexesOwnerPID] != uint64(pid) {
					t.Errorf("%s: owned by %d/%d %q, which is %q (%v)", name, row[futexesOwnerPID], row[futexesOwnerTID], texts[row[futexesOwnerComm]], comm, err)
				}
				return texts[row[futexesOwnerComm]] + " " + texts[row[futexesKind]]
			}
			for name, want := range map[string]string{
				"w-plain": "holder mutex", "w-recursive": "holder recursive mutex", "w-checking": "holder mutex", "w-adaptive": "holder mutex", "w-robust": "holder robust mutex",
				"w-PI": "holder PI mutex", "w-shared": "holder mutex", "w-timed": "holder mutex", "d-one": "d-two mutex", "d-two": "d-one mutex",
				"w-cond": "", "w-sem": "", "w-rwlock": "", "w-python": "", "w-other": "",
			} {
				if got := owner(name); got != want {
					t.Errorf("%s waits for %q, want %q", name, got, want)
				}
			}
			if a, b := rows["d-one"][futexesAddress], rows["d-two"][futexesAddress]; a == b || a == 0 || b == 0 {
				t.Errorf("the two wait at %#x and %#x", a, b)
			}
			if rows["w-timed"][futexesTimeout] != 1 || rows["w-plain"][futexesTimeout] != 0 {
				t.Error("which of them gives up by itself is not told")
			}
			again := lockRows(t, c, h, pid, all, lockThreads)
			if rows["d-one"][futexesSwitches] != again["d-one"][futexesSwitches] || again["d-one"][futexesAt] <= rows["d-one"][futexesAt] {
				t.Errorf("one wait, looked at twice: %v and %v", rows["d-one"], again["d-one"])
			}
			var table freezeframe.Table
			table.Row(0, futexesWidth*maxFutexes)
			if n := testing.AllocsPerRun(20, func() {
				// Without the reader, which is not on the sampling path.
				c.reader.n = c.choose(c.reader.looks[:])
				table.Reset()
				for i := range c.reader.looks[:c.reader.n] {
					c.reader.looks[i].ok = true
					c.row(&table, &c.reader.looks[i])
				}
			}); n != 0 {
				t.Errorf("%v allocations a reading", n)
			}
		})
	}
}

// A thread that ran meanwhile and waits at the same place again is not told: it
// may have had the lock.
func TestALookIsOfOneSleep(t *testing.T) {
	words := make([]atomic.Uint32, 2)
	word := &words[0]
	word.Store(2)
	tids := make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		for word.Load() == 2 {
			_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexPrivate, 2, 0, 0, 0)
		}
	}()
	wake := func() {
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexPrivate|1, 1, 0, 0, 0)
	}
	defer func() { word.Store(0); wake() }()
	root, err := kernel.OpenDirAt(kernel.AtCWD, []byte("/proc\x00"))
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.CloseFD(root)
	r := &futexReader{root: root}
	x := futexLook{pid: int32(os.Getpid()), tid: int32(<-tids)}
	asleep := func(x *futexLook, switches uint64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if r.first(x); x.ok && x.switches >= switches && x.call.address == uint64(uintptr(unsafe.Pointer(word))) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("thread %d does not wait in futex: %+v", x.tid, x)
			}
		}
	}
	asleep(&x, 0)
	if r.again(&x); !x.ok {
		t.Fatal("a thread that sleeps on is not told")
	}
	wake()
	later := futexLook{pid: x.pid, tid: x.tid}
	asleep(&later, x.switches+1)
	if r.again(&x); x.ok {
		t.Error("a thread that ran meanwhile is told as one that slept")
	}
	if later.text != x.text {
		t.Errorf("it waits at another place now: %+v, %+v", later, x)
	}
}

// A reader that hangs is not waited for, and what it looked at is not told.
func TestFutexesDoNotWaitForTheirReader(t *testing.T) {
	h := live()
	c := &futexes{census: newCensus()}
	if err := c.Open(h); err != nil {
		t.Fatal(err)
	}
	defer closed(t, c)
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	c.reader.state.Store(futexBusy)
	c.reader.n, c.reader.looks[0].ok = 1, true
	var table freezeframe.Table
	readNow(t, c, &table)
	if len(table.Keys) != 0 {
		t.Error("told what is still being looked at")
	}
	c.reader.state.Store(futexDone)
	readNow(t, c, &table)
	if len(table.Keys) != 1 {
		t.Errorf("%d rows of what was looked at, want 1", len(table.Keys))
	}
}

// Memory is left alone that has to be brought back first.
func TestOnlyResidentMemoryIsRead(t *testing.T) {
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	address := uint64(uintptr(unsafe.Pointer(&b[0])))
	buf := make([]byte, mutexBytes)
	pid := int32(os.Getpid())
	if n, err := kernel.ReadProcess(pid, address, buf); !errors.Is(err, kernel.ErrNotResident) {
		t.Errorf("untouched memory: %d bytes, %v", n, err)
	}
	copy(b[page-8:], "mutex at")
	if n, err := kernel.ReadProcess(pid, address+uint64(page)-8, buf); n != 8 || err != nil || string(buf[:8]) != "mutex at" {
		t.Errorf("the end of a page whose next one is untouched: %d bytes %q, %v", n, buf[:8], err)
	}
	for _, bad := range []uint64{0, 1<<63 + 5, ^uint64(0) - 3, 1 << 55} {
		if n, err := kernel.ReadProcess(pid, bad, buf); err == nil {
			t.Errorf("%d bytes at %#x", n, bad)
		}
	}
}

func TestFutexCall(t *testing.T) {
	for line, want := range map[string]futexCall{
		fmt.Sprintf("%d 0x7f0000001000 0x80 0x2 0x0 0x0 0x0 0x7ffe 0x7f\n", unix.SYS_FUTEX):      {address: 0x7f0000001000, op: 128, value: 2},
		fmt.Sprintf("%d 0x10 0x189 0xffffffff80000007 0x7f00 0x0 0x0 0x1 0x2\n", unix.SYS_FUTEX): {address: 0x10, op: 0x189, value: 0x80000007, timeout: true},
	} {
		if got, ok := parseFutexCall([]byte(line)); !ok || got != want {
			t.Errorf("%q: %+v, %t", line, got, ok)
		}
	}
	for _, bad := range []string{"", "running\n", "-1 0x7f 0x1\n", "0 0x3 0x0 0x0 0x0 0x0 0x0 0x1 0x2\n", fmt.Sprintf("%d 0x10 0x80 0x2", unix.SYS_FUTEX), fmt.Sprintf("%d 0x10 0x80 2 0x0", unix.SYS_FUTEX)} {
		if got, ok := parseFutexCall([]byte(bad)); ok {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func mutexMemory(words ...uint32) []byte {
	b := make([]byte, mutexBytes)
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return b
}

func TestOwnerOfALock(t *testing.T) {
	call := func(op, value uint32) futexCall { return futexCall{address: 0x1000, op: op, value: value} }
	for name, x := range map[string]struct {
		call   futexCall
		memory []byte
		owner  uint32
	}{
		"a mutex":                              {call(128, 2), mutexMemory(2, 0, 77, 1, 0), 77},
		"with somebody in its condition":       {call(128, 2), mutexMemory(2, 0, 77, 3, 0), 77},
		"recursive":                            {call(128, 2), mutexMemory(2, 4, 77, 1, 1), 77},
		"adaptive, that has spun":              {call(128, 2), mutexMemory(2, 0, 77, 1, 3, 40), 77},
		"robust":                               {call(0, futexWaiters|77), mutexMemory(futexWaiters|77, 1, 77, 1, 144, 0, 5, 5), 77},
		"PI, without the rest":                 {call(128|futexLockPI, 0), mutexMemory(futexWaiters | 77)[:4], 77},
		"between processes":                    {call(0, 2), mutexMemory(2, 0, 77, 1, 128), 77},
		"let go meanwhile":                     {call(128, 2), mutexMemory(0, 0, 0, 0, 0), 0},
		"taken, nobody waits":                  {call(128, 2), mutexMemory(1, 0, 77, 1, 0), 0},
		"no owner yet":                         {call(128, 2), mutexMemory(2, 0, 0, 1, 0), 0},
		"no user":                              {call(128, 2), mutexMemory(2, 0, 77, 0, 0), 0},
		"a kind that is none":                  {call(128, 2), mutexMemory(2, 0, 77, 1, 4), 0},
		"shared by its kind, not by the call":  {call(128, 2), mutexMemory(2, 0, 77, 1, 128), 0},
		"shared by the call, not by its kind":  {call(0, 2), mutexMemory(2, 0, 77, 1, 0), 0},
		"something behind it":                  {call(128, 2), mutexMemory(2, 0, 77, 1, 0, 0, 0, 9), 0},
		"a count, and not recursive":           {call(128, 2), mutexMemory(2, 1, 77, 1, 0), 0},
		"not aligned":                          {futexCall{address: 0x1004, op: 128, value: 2}, mutexMemory(2, 0, 77, 1, 0), 0},
		"cut":                                  {call(128, 2), mutexMemory(2, 0, 77, 1, 0)[:39], 0},
		"a count of readers":                   {call(128, futexWaiters|1), mutexMemory(futexWaiters|1, 0, 5, 1, 0), 0},
		"robust, and another owner":            {call(0, futexWaiters|77), mutexMemory(futexWaiters|77, 1, 78, 1, 144), 0},
		"robust, and not between processes":    {call(128, futexWaiters|77), mutexMemory(futexWaiters|77, 1, 77, 1, 144), 0},
		"PI, its owner dead":                   {call(128|futexLockPI, 0), mutexMemory(futexWaiters | futexOwnerDied | 77), 0},
		"a condition that is to be passed on":  {call(128|11, 2), mutexMemory(2, 0, 77, 1, 0), 0},
		"the value of a semaphore":             {call(128|futexWaitBitset, 0), mutexMemory(0, 1), 0},
		"an owner that is no thread's number":  {call(128, 2), mutexMemory(2, 0, 1<<31, 1, 0), 0},
		"more users than there can be threads": {call(128, 2), mutexMemory(2, 0, 77, 1<<31, 0), 0},
	} {
		if owner, _ := lockOwner(&x.call, x.memory); owner != x.owner {
			t.Errorf("%s: owner %d, want %d", name, owner, x.owner)
		}
	}
}

// FuzzLockOwner: whatever lies at a futex, an owner is only told of what looks
// like a lock that somebody waits for.
func FuzzLockOwner(f *testing.F) {
	f.Add(fmt.Appendf(nil, "%d 0x1000 0x80 0x2 0x0 0x0 0x0 0x1 0x2\n", unix.SYS_FUTEX), mutexMemory(2, 0, 77, 1, 0))
	f.Add(fmt.Appendf(nil, "%d 0x1000 0x0 0x8000004d 0x0 0x0 0x0 0x1 0x2\n", unix.SYS_FUTEX), mutexMemory(futexWaiters|77, 1, 77, 1, 144))
	f.Add(fmt.Appendf(nil, "%d 0x1000 0x86 0x0 0x0 0x0 0x0 0x1 0x2\n", unix.SYS_FUTEX), mutexMemory(futexWaiters | 77)[:4])
	f.Add([]byte("running\n"), []byte(nil))
	f.Fuzz(func(t *testing.T, line, memory []byte) {
		call, ok := parseFutexCall(line)
		if !ok && call != (futexCall{}) {
			t.Errorf("%+v of what is no call", call)
		}
		owner, kind := lockOwner(&call, memory)
		if (owner == 0) != (kind == noLock) || owner > futexTIDMask || int(kind) >= len(lockNames) {
			t.Errorf("owner %d of kind %d", owner, kind)
		}
		if owner != 0 && !call.mayHaveOwner() {
			t.Errorf("owner %d of a call that is not looked into: %+v", owner, call)
		}
	})
}
