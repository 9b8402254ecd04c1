package checks

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ticker is this test binary as a process whose threads wait as lanes do.
const ticker = "FF_TEST_TICKER"

func TestMain(m *testing.M) {
	if os.Getenv(ticker) == "" {
		os.Exit(m.Run())
	}
	for range lanes {
		go func() {
			runtime.LockOSThread()
			futexUntil(time.Minute)
		}()
	}
	time.Sleep(time.Minute)
}

// futexUntil waits in a futex with a bitset for so long, as the sampler does.
func futexUntil(d time.Duration) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	until := unix.NsecToTimespec(now.Nano() + int64(d))
	word := new(uint32)
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), 9|128, 0, uintptr(unsafe.Pointer(&until)), 0, 0xffffffff)
}

func TestLanesAreHeld(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("holding threads of another process needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hold := func() (cmd *exec.Cmd, release func()) {
		cmd = exec.Command(self)
		cmd.Env = append(os.Environ(), ticker+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may be gone
			_ = cmd.Wait()
		})
		held, release, err := holdLanes(cmd.Process.Pid)
		if err != nil || held != lanes {
			t.Fatalf("%d threads held: %v", held, err)
		}
		return cmd, release
	}
	states := func(pid int) (held int) {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
			if err == nil && afterName(stat)[0] == 't' {
				held++
			}
		}
		return held
	}
	cmd, release := hold()
	if n := states(cmd.Process.Pid); n != lanes {
		t.Errorf("%d threads are held, want %d", n, lanes)
	}
	release()
	for end := time.Now().Add(5 * time.Second); states(cmd.Process.Pid) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d threads are held still", states(cmd.Process.Pid))
		}
	}
	// One that dies while its threads are held is gone all the same.
	cmd, _ = hold()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("10 s after it was killed it is not gone")
	}
}

// afterName is what follows ") " in a /proc/PID/stat.
func afterName(stat []byte) []byte {
	for i := len(stat) - 2; i >= 0; i-- {
		if stat[i] == ')' {
			return stat[i+2:]
		}
	}
	return stat
}
