package bpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryGroup makes a version 1 memory cgroup with a limit, for the test's time.
func memoryGroup(t *testing.T, limit int) string {
	t.Helper()
	dir := "/sys/fs/cgroup/memory/ffbpf-" + strconv.Itoa(os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no version 1 memory cgroup to be had: %v", err)
	}
	t.Cleanup(func() {
		for until := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := os.Remove(dir)
			if err == nil {
				return
			}
			if time.Now().After(until) {
				t.Errorf("remove the cgroup: %v", err)
				return
			}
		}
	})
	if err := os.WriteFile(dir+"/memory.limit_in_bytes", []byte(strconv.Itoa(limit)), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inGroup runs a shell command as a member of a cgroup.
func inGroup(dir, command string) *exec.Cmd {
	return exec.Command("sh", "-c", "echo $$ > "+dir+"/cgroup.procs && exec "+command)
}

func (r *Reclaims) of(tgid int) ReclaimProcess {
	for _, p := range r.Processes() {
		if int(p.TGID) == tgid && p.LastNanos != 0 {
			return p
		}
	}
	return ReclaimProcess{}
}

// TestCgroupReclaimIsTold reads a file twice the size of the cgroup's limit:
// the reader frees pages of the cgroup, as many as did not fit.
func TestCgroupReclaimIsTold(t *testing.T) {
	r := load(t).Reclaim
	if r == nil {
		t.Fatal("no reclaim")
	}
	file := filepath.Join(t.TempDir(), "data")
	const size, limit = 96 << 20, 24 << 20
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	// What the file has in the page cache already is charged to us, not to it.
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dir := memoryGroup(t, limit)
	r.Drain(1e6, func(*Reclaim) {})
	cmd := inGroup(dir, "cat "+file)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	p := r.of(cmd.Process.Pid)
	if p.Times[ReclaimCgroup] == 0 || p.Nanos[ReclaimCgroup] == 0 || string(p.Comm()) != "cat" {
		t.Fatalf("cat read four times its limit and reclaimed nothing: %+v (%q)", p, p.Comm())
	}
	failures, err := os.ReadFile(dir + "/memory.failcnt")
	if err != nil {
		t.Fatal(err)
	}
	if string(failures) == "0\n" {
		t.Fatal("the limit was never reached: the test made nothing")
	}
	// What it read ahead and lost again, it read again.
	read := uint64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Inblock) * 512
	if freed := p.Pages * 4096; freed+limit < read*9/10 || freed > read*11/10 {
		t.Errorf("freed %d MiB of the %d MiB that it read", freed>>20, read>>20)
	}
	if p.Times[ReclaimDirect] != 0 {
		t.Errorf("%d times for the machine's sake", p.Times[ReclaimDirect])
	}
	if cost := time.Duration(p.Nanos[ReclaimCgroup]); cost > cmd.ProcessState.SystemTime()+cmd.ProcessState.UserTime()+time.Second {
		t.Errorf("reclaim took %v, the whole process %v of CPU", cost, cmd.ProcessState.SystemTime())
	}
}

// TestDirtyPauseIsTold writes more than a slow disk of its own limits takes:
// the kernel makes the writer pause.
func TestDirtyPauseIsTold(t *testing.T) {
	r := load(t).Reclaim
	if r == nil {
		t.Fatal("no reclaim")
	}
	mount, device, dev := loopFS(t, 256)
	bdi := "/sys/class/bdi/" + strconv.Itoa(int(dev>>20)) + ":" + strconv.Itoa(int(dev&(1<<20-1)))
	if err := os.WriteFile(bdi+"/strict_limit", []byte("1"), 0); err != nil {
		t.Skipf("no strict limit for a device's dirty pages: %v", err)
	}
	// One per cent of the dirty limit for this device, and it is slow.
	if err := os.WriteFile(bdi+"/max_ratio", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	limit := "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device"
	number := filepath.Base(bdi)
	if err := os.WriteFile(limit, []byte(number+" 16777216"), 0); err != nil {
		t.Skipf("%s cannot be slowed down: %v", device, err)
	}
	defer func() { _ = os.WriteFile(limit, []byte(number+" 0"), 0) }()
	r.Drain(1e6, func(*Reclaim) {})
	cmd := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(mount, "data"), "bs=1M", "count=96", "status=none")
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	var paused time.Duration
	var intervals int
	r.Drain(1e6, func(x *Reclaim) {
		if int(x.TGID) == cmd.Process.Pid && x.Kind == ReclaimDirty {
			intervals++
			paused += time.Duration(x.Ended - x.Began)
			if string(x.Device()) != number {
				t.Errorf("paused for %q, want %s", x.Device(), number)
			}
			if d := time.Duration(x.Ended - x.Began); d > 250*time.Millisecond {
				t.Errorf("a pause of %v: the kernel's longest is 200 ms", d)
			}
		}
	})
	if intervals == 0 {
		t.Fatalf("dd took %v for 96 MiB and was never paused: %+v", took, r.of(cmd.Process.Pid))
	}
	if paused > took+250*time.Millisecond || paused < took/10 {
		t.Errorf("paused for %v in %d pauses; it took %v", paused, intervals, took)
	}
}

// TestCompactionIsTold asks for memory to be compacted, by the same path that a
// huge page takes.
func TestCompactionIsTold(t *testing.T) {
	r := load(t).Reclaim
	if r == nil {
		t.Fatal("no reclaim")
	}
	// Each zone is compacted by whoever writes there, as root.
	if err := os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0); err != nil {
		t.Skipf("memory cannot be compacted: %v", err)
	}
	p := r.of(os.Getpid())
	if p.Times[ReclaimCompaction] == 0 || p.Nanos[ReclaimCompaction] == 0 {
		t.Errorf("compacted all memory, and was told of none: %+v", p)
	}
}

func TestReclaimLayout(t *testing.T) {
	if n := unsafe.Sizeof(ReclaimProcess{}); n != 104 {
		t.Errorf("ReclaimProcess has %d bytes", n)
	}
	if n := configured(strings.NewReader("CONFIG_HZ_250=y\nCONFIG_HZ=250\n"), "CONFIG_HZ="); n != 250 {
		t.Errorf("CONFIG_HZ is %d", n)
	}
}
