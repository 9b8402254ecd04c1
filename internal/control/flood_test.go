package control

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// flooder makes the test binary connect to a socket as often as it can, until
// its standard input ends.
const flooder = "FREEZEFRAME_TEST_FLOOD"

func init() {
	path := os.Getenv(flooder)
	if path == "" {
		return
	}
	for range 8 {
		go func() {
			for {
				if c, err := net.Dial("unix", path); err == nil {
					c.Close()
				}
			}
		}()
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// A stranger who does nothing but connect, from eight threads, costs a bounded
// number of refusals a second, and root gets in.
func TestRootGetsThroughAFlood(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir, err := os.MkdirTemp("", "freezeframe-flood")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	helper := filepath.Join(dir, "helper")
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(helper, b, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	counters := new(Counters)
	go Serve(t.Context(), l, &fake{}, Options{Counters: counters})
	cmd := exec.Command(helper)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), flooder+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "the flood is on", func() bool { return counters.Refused.Load() > unhurried })
	start, before := time.Now(), counters.Refused.Load()
	for range 20 {
		answers(t, path)
	}
	time.Sleep(time.Second)
	refused, seconds := counters.Refused.Load()-before, time.Since(start).Seconds()
	if rate := float64(refused) / seconds; rate > 1000+unhurried {
		t.Errorf("%.0f strangers a second are refused", rate)
	}
	t.Logf("20 answers for root in %.2f s (and 1 s of rest), %.0f refusals a second", seconds, float64(refused)/seconds)
}
