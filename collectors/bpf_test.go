package collectors

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"freezeframe"
	"freezeframe/bpf"
	"freezeframe/internal/kernel"

	"golang.org/x/sys/unix"
)

// programs loads the given families of BPF programs for a test, all without
// any, or skips it where this machine takes none.
func programs(t *testing.T, families ...string) *bpf.Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: BPF programs cannot be loaded")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no BTF: %v", err)
	}
	var without []string
	if len(families) > 0 {
		without = slices.DeleteFunc(bpf.Names(), func(n string) bool { return slices.Contains(families, n) })
	}
	p := bpf.Load(bpf.Options{Without: without})
	t.Cleanup(p.Close)
	return p
}

// opened opens the collector that reads a source of BPF.
func opened(t *testing.T, p *bpf.Programs, name string, h freezeframe.Host) freezeframe.Collector {
	t.Helper()
	for _, k := range known(p, &kernelNames{}) {
		if k.Source().Name != name {
			continue
		}
		if !k.here {
			t.Fatalf("%s: its programs are not loaded: %v", name, p.Needs())
		}
		if err := k.Open(h); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		return k.Collector
	}
	t.Fatalf("no source %s", name)
	return nil
}

// readNow makes a reading of this moment.
func readNow(t *testing.T, c freezeframe.Collector, table *freezeframe.Table) {
	t.Helper()
	table.Reset()
	table.Due = kernel.Now()
	table.At = table.Due
	if err := c.Collect(table); err != nil {
		t.Fatal(err)
	}
}

func TestWhatNeedsBPFSaysSoWithoutIt(t *testing.T) {
	for _, k := range known(&bpf.Programs{}, &kernelNames{}) {
		if k.here {
			t.Errorf("%s is here without BPF", k.Source().Name)
		}
		if err := k.Open(live()); err == nil {
			t.Errorf("%s can be opened without BPF", k.Source().Name)
		}
	}
}

func TestWaitsOfThreads(t *testing.T) {
	h := live()
	texts := h.Texts.(dictionary)
	c := opened(t, programs(t, "waits"), "waits", h)
	var table freezeframe.Table
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	readNow(t, c, &table)
	time.Sleep(20 * time.Millisecond)
	readNow(t, c, &table)

	// A thread waits for a pipe that another one writes.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	tids, done := make(chan int, 2), make(chan bool)
	defer close(done)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		var b [1]byte
		_, _ = unix.Read(pipe[0], b[:])
		tids <- 0
		<-done // its stat is read below
	}()
	tid := <-tids
	time.Sleep(120 * time.Millisecond)
	runtime.LockOSThread()
	writer := unix.Gettid()
	if _, err := unix.Write(pipe[1], []byte{1}); err != nil {
		t.Fatal(err)
	}
	runtime.UnlockOSThread()
	<-tids
	var link unix.Stat_t
	if err := unix.Fstat(pipe[0], &link); err != nil {
		t.Fatal(err)
	}
	readNow(t, c, &table)
	src := c.Source()
	found := false
	for i, key := range table.Keys {
		row := table.Values(i, len(src.Columns))
		if key.TID() != tid || row[waitsKind] != bpf.Slept {
			continue
		}
		if took := time.Duration(row[waitsEnded] - row[waitsBegan]); took < 100*time.Millisecond {
			continue
		}
		found = true
		if !strings.Contains(texts[row[waitsStack]], "pipe_read") || strings.HasPrefix(texts[row[waitsStack]], "schedule") {
			t.Errorf("stack %q", texts[row[waitsStack]])
		}
		if want := "pipe:[" + strconv.FormatUint(link.Ino, 10) + "]"; texts[row[waitsFile]] != want {
			t.Errorf("file %q, want %q", texts[row[waitsFile]], want)
		}
		if row[waitsSyscall] != unix.SYS_READ || row[waitsState] != 'S' || row[waitsPID] != uint64(os.Getpid()) {
			t.Errorf("syscall %d, state %c, pid %d", row[waitsSyscall], rune(row[waitsState]), row[waitsPID])
		}
		if int(row[waitsOtherTID]) != writer || row[waitsByInterrupt] != 0 {
			t.Errorf("woken by thread %d (interrupt %d), want %d, who wrote", row[waitsOtherTID], row[waitsByInterrupt], writer)
		}
		if start := startOf(t, tid); key != freezeframe.TaskKey(tid, start) {
			t.Errorf("key %x, want that of thread %d started at %d", key, tid, start)
		}
	}
	if !found {
		t.Fatalf("the wait of thread %d is not told in %d rows", tid, len(table.Keys))
	}
	if n := testing.AllocsPerRun(50, func() {
		time.Sleep(5 * time.Millisecond) // waits of our own
		table.Reset()
		table.At = kernel.Now()
		if err := c.Collect(&table); err != nil {
			t.Error(err)
		}
	}); n > 1 { // the timer of Sleep
		t.Errorf("%v allocations a reading", n)
	}
}

func TestProfileNamesWhatRuns(t *testing.T) {
	h := live()
	texts := h.Texts.(dictionary)
	c := opened(t, programs(t, "profile"), "profile", h)
	var table freezeframe.Table
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	readNow(t, c, &table)
	width := len(c.Source().Columns)
	mine, named := 0, 0
	for deadline := time.Now().Add(20 * time.Second); named < 5 && time.Now().Before(deadline); {
		burnCPU(100 * time.Millisecond)
		readNow(t, c, &table)
		for i := range table.Keys {
			row := table.Values(i, width)
			if row[profilePID] != uint64(os.Getpid()) {
				continue
			}
			mine++
			if strings.Contains(texts[row[profileUser]], "burnCPU") {
				named++
			}
		}
	}
	if mine == 0 || named < 5 {
		t.Errorf("%d samples of this process, %d of them in burnCPU", mine, named)
	}
}

// TestInterruptTime: while something is late, and a while longer, a reading
// tells what came since the one before; then the programs are taken off.
func TestInterruptTime(t *testing.T) {
	h := live()
	texts := h.Texts.(dictionary)
	p := programs(t, "interrupts")
	c := opened(t, p, "interrupt_time", h).(*interruptTime)
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	var table freezeframe.Table
	loopback(t, 10)
	readNow(t, c, &table)
	before := map[freezeframe.Key]uint64{}
	for i, key := range table.Keys {
		before[key] = table.Values(i, interruptTimeWidth)[interruptTimeCount]
	}
	if len(before) == 0 {
		t.Fatal("the first reading has no rows")
	}
	began := kernel.Now()
	const packets = 500
	loopback(t, packets)
	readNow(t, c, &table)
	received, longest := uint64(0), uint64(0)
	for i, key := range table.Keys {
		row := table.Values(i, interruptTimeWidth)
		if row[interruptTimeCount] == before[key] {
			t.Errorf("a row of what did not come: %v", row)
		}
		if texts[row[interruptTimeSoftirq]] != "net_rx" {
			continue
		}
		received += row[interruptTimeCount] - before[key]
		if row[interruptTimeBegan] > uint64(began) {
			longest = max(longest, row[interruptTimeLongest])
		}
		if key != freezeframe.Key(row[interruptTimeCPU])<<32|1<<31|3 || row[interruptTimeNumber] != 3 {
			t.Errorf("key %x: %v", key, row)
		}
	}
	if received < packets/2 || longest == 0 {
		t.Errorf("net_rx came %d times for %d packets, the longest took %d ns", received, packets, longest)
	}
	if n := testing.AllocsPerRun(50, func() {
		table.Reset()
		table.At = kernel.Now()
		if err := c.Collect(&table); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}

	// Nothing was late for a while: the programs go, and come back.
	*h.Focus = freezeframe.Focus{}
	c.until = 0
	settle := func(running bool) {
		for end := time.Now().Add(10 * time.Second); p.Interrupts.Running() != running; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("running %v, want %v", !running, running)
			}
		}
	}
	readNow(t, c, &table)
	settle(false)
	loopback(t, packets)
	readNow(t, c, &table)
	if len(table.Keys) > 0 {
		t.Errorf("%d rows while the programs are off", len(table.Keys))
	}
	h.Focus.Suspect(kernel.Now().Add(time.Minute))
	readNow(t, c, &table)
	settle(true)
	loopback(t, 10)
	readNow(t, c, &table)
	if len(table.Keys) == 0 {
		t.Error("attached again, there are no rows")
	}
}

// loopback sends packets to this host.
func loopback(t *testing.T, packets int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, to); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range packets {
		if err := unix.Sendto(fd, []byte{1}, unix.MSG_DONTWAIT, name); err != nil {
			t.Fatal(err)
		}
	}
}

// startOf is field 22 of a thread's stat.
func startOf(t *testing.T, tid int) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(tid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return start
}

//go:noinline
func burnCPU(d time.Duration) (x uint64) {
	for end := kernel.Now().Add(d); kernel.Now() < end; {
		for i := range uint64(100_000) {
			x += i * x
		}
	}
	return x
}
