package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitUntilEndsAtItsTimeOrWhenWoken(t *testing.T) {
	var word atomic.Uint32
	at := Now().Add(20 * time.Millisecond)
	WaitUntil(&word, 0, at)
	if now := Now(); now < at {
		t.Errorf("woke %s early", at.Sub(now))
	}
	WaitUntil(&word, 7, Now().Add(time.Hour)) // the word is not 7: no wait
	done := make(chan struct{})
	go func() { WaitUntil(&word, 0, Now().Add(time.Hour)); close(done) }()
	time.Sleep(5 * time.Millisecond)
	Wake(&word)
	<-done
	// A garbage collection does not wait for a sleeper.
	go WaitUntil(&word, 1, Now().Add(time.Hour))
	time.Sleep(5 * time.Millisecond)
	runtime.GC()
	Wake(&word)
	if allocs := testing.AllocsPerRun(100, func() { WaitUntil(&word, 2, Now()); Wake(&word); ThreadCPU(); ProcessCPU() }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestSlowReadReadsAsRead(t *testing.T) {
	f, err := OpenFile("/proc/version", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Clone(raw)
	slow, err := f.SlowRead()
	if err != nil || !bytes.Equal(raw, slow) || len(slow) == 0 {
		t.Errorf("%q and %q, %v", raw, slow, err)
	}
	if allocs := testing.AllocsPerRun(100, func() { f.Read(); f.SlowRead() }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestMemoryIsLocked(t *testing.T) {
	b, err := Memory(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	if len(Words(b)) != 1<<17 || Words(b[:7]) != nil {
		t.Error("words of the wrong length")
	}
	before := locked(t)
	if err := Mlock(b); err != nil {
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("this user may not lock a MiB: %v", err)
	}
	if after := locked(t); after == before {
		t.Errorf("VmLck stays %s", after)
	}
}

func locked(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func TestThreadPolicy(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := SetThreadPolicy(0, unix.SCHED_RR, 1); err != nil {
		if !strings.Contains(err.Error(), "CAP_SYS_NICE") {
			t.Fatalf("the error does not say what to do: %v", err)
		}
		t.Skip(err)
	}
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_RR || attr.Priority != 1 {
		t.Errorf("%+v, %v", attr, err)
	}
	if err := SetOther(); err != nil {
		t.Fatal(err)
	}
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
		t.Errorf("%+v, %v", attr, err)
	}
	if err := SetThreadPolicy(0, unix.SCHED_RR, 1000); err == nil {
		t.Error("priority 1000 was taken")
	}
}

// ordinaryAfter has the test leave no real-time thread to those after it: threads
// that start meanwhile inherit, or are raised.
func ordinaryAfter(t *testing.T) {
	t.Cleanup(func() {
		if err := eachThread(func(tid int) error { return SetThreadPolicy(tid, unix.SCHED_NORMAL, 0) }); err != nil {
			t.Error(err)
		}
	})
}

func TestRelaxAndRestore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: real-time priority cannot be had")
	}
	ordinaryAfter(t)
	const priority = 7 // nobody else's here
	tids := make(chan int)
	done := make(chan struct{})
	defer close(done)
	thread := func(policy int) int {
		go func() {
			runtime.LockOSThread() // it ends with its thread
			err := SetThreadPolicy(0, policy, map[int]int{unix.SCHED_RR: priority, unix.SCHED_NORMAL: 0}[policy])
			if err != nil {
				t.Error(err)
			}
			tids <- TID()
			<-done
		}()
		return <-tids
	}
	kept, raised, ordinary := thread(unix.SCHED_RR), thread(unix.SCHED_RR), thread(unix.SCHED_NORMAL)
	policy := func(tid int) uint32 {
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			t.Fatal(err)
		}
		return attr.Policy
	}
	restore, err := Relax(priority, []int{kept})
	if err != nil {
		t.Fatal(err)
	}
	if policy(kept) != unix.SCHED_RR || policy(raised) != unix.SCHED_NORMAL || policy(ordinary) != unix.SCHED_NORMAL {
		t.Errorf("relaxed: kept %d, raised %d, ordinary %d", policy(kept), policy(raised), policy(ordinary))
	}
	// What was no RR thread before must stay so; here those are all others.
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if policy(kept) != unix.SCHED_RR || policy(raised) != unix.SCHED_RR || policy(ordinary) != unix.SCHED_NORMAL {
		t.Errorf("restored: kept %d, raised %d, ordinary %d", policy(kept), policy(raised), policy(ordinary))
	}
}

// Whoever relaxes the others is never an ordinary thread beside a real-time one
// that is still to be lowered, or was raised before it.
func TestRelaxLowersTheCallerLast(t *testing.T) {
	if !hasCapability(unix.CAP_SYS_NICE) {
		t.Skip("needs CAP_SYS_NICE")
	}
	ordinaryAfter(t)
	const priority = 6 // nobody else's here
	var phase atomic.Uint64
	tids, start, done, ended := make(chan int), make(chan struct{}), make(chan struct{}), make(chan error)
	thread := func(f func() error) {
		go func() {
			runtime.LockOSThread() // it ends with its thread
			err := SetThreadPolicy(0, unix.SCHED_RR, priority)
			tids <- TID()
			if err == nil {
				err = f()
			}
			ended <- err
		}()
	}
	sleeper := func() error { <-done; return nil }
	caller := func() error {
		<-start // the others are real-time threads by then
		for range 300 {
			phase.Add(1)
			restore, err := Relax(priority, nil)
			if err != nil {
				return err
			}
			if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
				return fmt.Errorf("the caller is not relaxed: %+v, %w", attr, err)
			}
			phase.Add(1)
			if err := restore(); err != nil {
				return err
			}
		}
		return nil
	}
	// Its thread number lies between those of others, whichever is listed first.
	thread(sleeper)
	others := []int{<-tids}
	thread(caller)
	self := <-tids
	thread(sleeper)
	others = append(others, <-tids)
	close(start)
	realtime := func(tid int) bool {
		attr, err := unix.SchedGetAttr(tid, 0)
		return err == nil && attr.Policy == unix.SCHED_RR
	}
	for looks := 0; ; looks++ {
		select {
		case err := <-ended:
			if err != nil || looks == 0 {
				t.Error(looks, err)
			}
			close(done)
			<-ended
			<-ended
			return
		default:
		}
		before := phase.Load()
		for _, other := range others {
			if first, own, last := realtime(other), realtime(self), realtime(other); first && !own && last && phase.Load() == before {
				t.Errorf("phase %d: an ordinary caller beside a real-time thread", before)
			}
		}
	}
}

// What the relaxed monitor started is an ordinary thread of its weight; no other
// is touched, the monitor itself least of all.
func TestStartedByTheMonitorIsRaised(t *testing.T) {
	if !hasCapability(unix.CAP_SYS_NICE) {
		t.Skip("needs CAP_SYS_NICE")
	}
	const priority = 3
	done := make(chan struct{})
	defer close(done)
	thread := func(nice int) int {
		tids := make(chan int)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with it
			if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice); err != nil {
				t.Error(err)
			}
			tids <- unix.Gettid()
			<-done
		}()
		return <-tids
	}
	policy := func(tid int) uint32 {
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			t.Fatal(err)
		}
		return attr.Policy
	}
	monitor, started, ordinary := thread(monitorNice), thread(monitorNice), thread(0)
	for _, want := range []int{1, 0} {
		if n, err := RaiseStarted(monitor, priority); err != nil || n != want {
			t.Errorf("raised %d, want %d: %v", n, want, err)
		}
		if policy(monitor) != unix.SCHED_NORMAL || policy(started) != unix.SCHED_RR || policy(ordinary) != unix.SCHED_NORMAL {
			t.Errorf("the monitor %d, what it started %d, another %d", policy(monitor), policy(started), policy(ordinary))
		}
	}
}
