package bpf

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"freezeframe/internal/kernel"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// withFailures loads that family alone.
func withFailures(t *testing.T) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	p := Load(Options{Without: slices.DeleteFunc(Names(), func(n string) bool { return n == "failures" })})
	t.Cleanup(p.Close)
	if p.Failures == nil {
		t.Fatalf("not loaded: %+v", p.Needs())
	}
	return p
}

// mine returns what this process was refused, by call and error.
func mine(t *testing.T, f *Failures) map[string]Failed {
	t.Helper()
	out := map[string]Failed{}
	if err := f.Each(func(k *Failing, v *Failed) {
		if k.PID == uint32(os.Getpid()) {
			out[kernel.Syscall(int64(k.Call))+" "+unix.ErrnoName(unix.Errno(k.Error))] = *v
		}
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// refuse makes this process fail at limits n times each, and at what is no
// limit as often.
func refuse(t *testing.T, n int) {
	t.Helper()
	// One lower than what is open: no descriptor is to be had, nothing is lost.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: files.Max}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	var b [1]byte
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := unix.Dup(0); err != unix.EMFILE {
			t.Errorf("dup: %v", err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	for range n {
		// The kernel has no room for such a mapping, and no limit either.
		if _, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, 1<<60, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0); errno != unix.ENOMEM {
			t.Errorf("mmap: %v", errno)
		}
		if _, err := unix.Read(pipe[0], b[:]); err != unix.EAGAIN { // no limit
			t.Errorf("read: %v", err)
		}
		if _, err := unix.Open("/nowhere", unix.O_RDONLY, 0); err != unix.ENOENT {
			t.Errorf("open: %v", err)
		}
	}
}

func TestFailuresAtLimitsAreCounted(t *testing.T) {
	f := withFailures(t).Failures
	const n = 7
	refuse(t, n)
	if got := mine(t, f); len(got) != 0 {
		t.Errorf("counted while nothing stalls: %+v", got)
	}
	if err := f.Run(true); err != nil {
		t.Fatal(err)
	}
	began := nowNS()
	refuse(t, n)
	// From another thread, most likely on another CPU: the sum is told.
	done := make(chan bool)
	go func() {
		runtime.LockOSThread()
		refuse(t, n)
		close(done)
	}()
	<-done
	ended := nowNS()
	if err := f.Run(false); err != nil {
		t.Fatal(err)
	}
	refuse(t, n)
	got := mine(t, f)
	for _, what := range []string{"dup EMFILE", "mmap ENOMEM"} {
		v := got[what]
		if v.Count != 2*n || v.First < began || v.Last > ended || v.Last <= v.First {
			t.Errorf("%s: %d times from %d to %d, want %d between %d and %d", what, v.Count, v.First, v.Last, 2*n, began, ended)
		}
		comm, _ := os.ReadFile("/proc/self/comm")
		if string(v.Comm()) != string(comm[:len(comm)-1]) || v.UID != uint32(os.Getuid()) {
			t.Errorf("%s: of %q, user %d", what, v.Comm(), v.UID)
		}
		delete(got, what)
	}
	if len(got) != 0 {
		t.Errorf("counted what is no limit: %+v", got)
	}
	if allocations := testing.AllocsPerRun(20, func() { _ = f.Each(func(*Failing, *Failed) {}) }); allocations != 0 {
		t.Errorf("%v allocations a reading", allocations)
	}
	// The next time begins anew.
	if err := f.Run(true); err != nil {
		t.Fatal(err)
	}
	if got := mine(t, f); len(got) != 0 {
		t.Errorf("from the time before: %+v", got)
	}
}

// While nothing stalls there is nothing on the way of system calls, and when it
// was shed or closed it cannot come back.
func TestFailuresAreAttachedOnDemand(t *testing.T) {
	p := withFailures(t)
	runs := func() uint64 {
		t.Helper()
		costs, err := p.Measure(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(costs, func(c Cost) bool { return c.Name == "failures" })
		return costs[i].Runs
	}
	if n := runs(); n != 0 {
		t.Errorf("%d runs while nothing stalls", n)
	}
	end := p.Rehearse()
	if n := runs(); n == 0 {
		t.Error("no runs while it is tried")
	}
	end()
	if n := runs(); n != 0 {
		t.Errorf("%d runs after it was tried", n)
	}
	p.Shed("failures", "it cost too much")
	if err := p.Failures.Run(true); err != nil || p.Failures.link != nil {
		t.Errorf("attached after it was shed: %v", err)
	}
}

func TestFailuresThatFindNoRoomAreToldOf(t *testing.T) {
	p := withFailures(t)
	f := p.Failures
	if err := f.Run(true); err != nil {
		t.Fatal(err)
	}
	before := p.Needs()
	full := make([]Failed, possibleCPUs())
	for i := range f.table.m.MaxEntries() {
		if err := f.table.m.Put(Failing{PID: 1<<30 + i, Call: 1, Error: 1}, full); err != nil {
			t.Fatal(err)
		}
	}
	if needs := p.Needs(); len(needs) != len(before) {
		t.Fatalf("needs: %+v", needs)
	}
	refuse(t, 3)
	needs := p.Needs()[len(before):]
	if len(needs) != 1 || needs[0].What != "take 6 records of BPF failures" {
		t.Errorf("needs: %+v", needs)
	}
}

func TestCallsMeetLimits(t *testing.T) {
	for call, want := range map[string]uint8{
		"clone": limitOfAny | limitOfMemory | limitOfTasks, "clone3": limitOfAny | limitOfMemory | limitOfTasks,
		"mmap": limitOfAny | limitOfMemory, "read": limitOfAny, "": limitOfAny, "bpf": 0,
	} {
		if got := limitsOf(call); got != want {
			t.Errorf("%q: %b, want %b", call, got, want)
		}
	}
	for _, call := range []int64{unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_EXECVE} {
		if limitsOf(kernel.Syscall(call))&limitOfMemory == 0 {
			t.Errorf("%s, number %d: no limit of memory", kernel.Syscall(call), call)
		}
	}
}

// BenchmarkFailures compares the cheapest system call without anything on
// sys_exit, with a program that does nothing, and with ours.
func BenchmarkFailures(b *testing.B) {
	p := Load(Options{Without: slices.DeleteFunc(Names(), func(n string) bool { return n == "failures" })})
	defer p.Close()
	if p.Failures == nil {
		b.Fatalf("%+v", p.Needs())
	}
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sys_exit", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer nothing.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		b.Fatal(err)
	}
	call := func() float64 {
		const n = 50_000
		began := time.Now()
		for range n {
			unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		return float64(time.Since(began).Nanoseconds()) / n
	}
	fail := func() float64 {
		const n = 50_000
		var c [1]byte
		began := time.Now()
		for range n {
			_, _ = unix.Read(pipe[0], c[:])
		}
		return float64(time.Since(began).Nanoseconds()) / n
	}
	var none, empty, ours, noneFail, oursFail, attach []float64
	for range b.N {
		for range 20 {
			none, noneFail = append(none, call()), append(noneFail, fail())
			lk, err := link.AttachTracing(link.TracingOptions{Program: nothing})
			if err != nil {
				b.Fatal(err)
			}
			empty = append(empty, call())
			_ = lk.Close()
			began := time.Now()
			if err := p.Failures.Run(true); err != nil {
				b.Fatal(err)
			}
			attach = append(attach, float64(time.Since(began).Microseconds()))
			ours, oursFail = append(ours, call()), append(oursFail, fail())
			if err := p.Failures.Run(false); err != nil {
				b.Fatal(err)
			}
		}
	}
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	b.ReportMetric(median(none), "ns/call")
	b.ReportMetric(median(empty)-median(none), "empty-ns/call")
	b.ReportMetric(median(ours)-median(none), "added-ns/call")
	b.ReportMetric(median(oursFail)-median(noneFail), "added-ns/EAGAIN")
	b.ReportMetric(median(attach), "attach-us")
}
