package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ioctls of <linux/fs.h>.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

const (
	envFreezeDir = "FREEZEFRAME_TEST_FREEZE"
	// frozenMost is after how long the watchdog thaws whatever the test does.
	frozenMost = 20 * time.Second
)

// TestFreezeWatchdog is no test but the process that cleans up after one which
// freezes a filesystem: it makes it, and when the other end of its standard
// input is gone, or after a while, thaws and unmounts it.
func TestFreezeWatchdog(t *testing.T) {
	dir := os.Getenv(envFreezeDir)
	if dir == "" {
		return // not started as that
	}
	mount, err := loopMount(dir)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fd, err := openLoopMount(mount)
	if err == nil {
		fmt.Println("ready")
		over := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(over)
		}()
		select {
		case <-over:
		case <-time.After(frozenMost):
		}
		_ = unix.IoctlSetInt(fd, fiThaw, 0) // EINVAL when it is not frozen
		_ = unix.Close(fd)
	} else {
		fmt.Println("error", err)
	}
	for range 100 {
		if err = unix.Unmount(mount, 0); err != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		fmt.Println("error unmount:", err)
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	_ = os.RemoveAll(dir)
	fmt.Println("done")
}

// loopMount makes an ext4 of 8 MiB in a file of dir, and mounts it there.
func loopMount(dir string) (mount string, err error) {
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return "", err
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		return "", err
	}
	if err := os.Mkdir(mount, 0o700); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop,noatime", image, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return mount, nil
}

// openLoopMount opens the root of a filesystem on a loop device, and nothing
// else: what it returns may be frozen.
func openLoopMount(mount string) (fd int, err error) {
	fd, err = unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st, above unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &st), unix.Stat(filepath.Dir(mount), &above))
	const loopMajor = 7
	if err == nil && (st.Dev == above.Dev || unix.Major(st.Dev) != loopMajor) {
		err = fmt.Errorf("%s is not the root of a loop device", mount)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// watchdogMount has the watchdog make a filesystem, which is gone when the test
// is over, however it ends.
func watchdogMount(t *testing.T) (mount string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "freezeframe-freeze-")
	if err != nil {
		t.Fatal(err)
	}
	dog := exec.Command(os.Args[0], "-test.run=^TestFreezeWatchdog$", "-test.v=false")
	dog.Env = append(os.Environ(), envFreezeDir+"="+dir)
	dog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is not for it
	in, err := dog.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := dog.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dog.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	t.Cleanup(func() {
		_ = in.Close()
		var said []string
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		if err := dog.Wait(); err != nil || len(said) == 0 || said[0] != "done" {
			t.Errorf("the watchdog: %v, said %q", err, said)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", dir, err)
		}
	})
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the watchdog said %q", lines.Text())
	}
	return filepath.Join(dir, "mnt")
}

// TestFreezeIsExact: how long a write that is to be synced stands behind a frozen
// filesystem, known by who thaws it, is told within a millisecond.
func TestFreezeIsExact(t *testing.T) {
	w := load(t, "waits").Waits
	if w == nil {
		t.Fatal("no waits")
	}
	mount := watchdogMount(t)
	fd, err := openLoopMount(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	file, err := os.Create(filepath.Join(mount, "record"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := fsyncRecord(file); err != nil {
		t.Fatal(err)
	}
	freeze := func(d time.Duration) (real, told, took time.Duration) {
		drop(w)
		type wrote struct {
			tid          uint32
			began, ended uint64
			err          error
		}
		began, done := make(chan uint64, 1), make(chan wrote, 1)
		if err := unix.IoctlSetInt(fd, fiFreeze, 0); err != nil {
			t.Fatal("freeze:", err)
		}
		go func() {
			defer promptly(t)()
			x := wrote{tid: uint32(unix.Gettid()), began: nowNS()}
			began <- x.began
			x.err = fsyncRecord(file)
			x.ended = nowNS()
			done <- x
		}()
		ordinary := promptly(t)
		from := <-began
		ts := unix.NsecToTimespec(int64(from) + int64(d))
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
		}
		err := unix.IoctlSetInt(fd, fiThaw, 0)
		thawed := nowNS()
		ordinary()
		x := <-done
		if err := errors.Join(err, x.err); err != nil {
			t.Fatal(err)
		}
		w.Drain(1e6, func(y *Wait) {
			if y.TID != x.tid || y.Kind != Slept || y.Began < uint64(from) || y.Ended > uint64(x.ended) || y.Syscall != unix.SYS_WRITE {
				return
			}
			told += time.Duration(y.Ended - y.Began)
			if string(y.Name()) != "record" || y.State&2 == 0 {
				t.Errorf("told of %q in state %x", y.Name(), y.State)
			}
		})
		// It is woken as the last thing that thawing does.
		return time.Duration(thawed - x.began), told, time.Duration(x.ended - x.began)
	}
	for _, d := range []time.Duration{30 * time.Millisecond, 120 * time.Millisecond, 400 * time.Millisecond} {
		// A CPU that others have at either end is in the one, and not in the other.
		for attempt := 1; ; attempt++ {
			real, told, took := freeze(d)
			if (told - real).Abs() <= time.Millisecond {
				break
			}
			if attempt == 5 {
				t.Errorf("frozen for %v: BPF told %v (the write took %v), the last of %d attempts", real, told, took, attempt)
				break
			}
		}
	}
}

// TestFreezeIsUndone kills a test in the middle of a frozen filesystem.
func TestFreezeIsUndone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: no filesystem can be mounted")
	}
	victim := exec.Command(os.Args[0], "-test.run=^TestToDieFrozen$")
	victim.Env = append(os.Environ(), "FREEZEFRAME_TEST_DIE=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	mount := lines.Text()
	_ = victim.Process.Kill()
	_ = victim.Wait()
	if !strings.Contains(mount, "/freezeframe-freeze-") {
		t.Fatalf("it said %q", mount)
	}
	for range 500 {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = os.Stat(filepath.Dir(mount)); errors.Is(err, os.ErrNotExist) && !strings.Contains(string(mounts), mount) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("10 s after the test was killed %s is still there", mount)
}

// TestToDieFrozen is what TestFreezeIsUndone kills.
func TestToDieFrozen(t *testing.T) {
	if os.Getenv("FREEZEFRAME_TEST_DIE") == "" {
		return // not started as that
	}
	mount := watchdogMount(t)
	fd, err := openLoopMount(mount)
	if err == nil {
		err = unix.IoctlSetInt(fd, fiFreeze, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(mount)
	time.Sleep(frozenMost)
}

func fsyncRecord(f *os.File) error {
	if _, err := f.Write([]byte("a record\n")); err != nil {
		return err
	}
	return f.Sync()
}

// promptly keeps the goroutine on its thread, above all ordinary ones, until
// what it returns is called: what is measured is not how long it stood in line.
func promptly(t *testing.T) (ordinary func()) {
	runtime.LockOSThread()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 60}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		t.Error("real-time priority:", err)
	}
	return func() {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			t.Error("ordinary priority:", err)
		}
		runtime.UnlockOSThread()
	}
}
