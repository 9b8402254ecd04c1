package control

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"freezeframe/internal/stranger"
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
	c := stranger.Copy(t, "helper", 0o755)
	path := filepath.Join(c.Dir, "control.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	counters := new(Counters)
	go Serve(t.Context(), l, &fake{}, Options{Counters: counters})
	cmd := c.Command(nil)
	cmd.Env = append(os.Environ(), flooder+"="+path)
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
