package detectors

import (
	"slices"
	"testing"
	"time"

	"freezeframe/detectors/rules/windowtest"
)

func TestListening(t *testing.T) {
	w := stalled()
	service := func(key int, address, comm string, pid int) {
		w.Rows("listeners", 50*ms, key, func(at time.Duration) windowtest.V {
			if at < 1*time.Second {
				return windowtest.V{"address": address} // its process is not known yet
			}
			return windowtest.V{"address": address, "comm": comm, "pid": pid}
		})
	}
	service(1, "0.0.0.0:80", "nginx", 7)
	service(2, "0.0.0.0:80", "nginx", 7) // a listener for each CPU
	service(3, "127.0.0.1:999", "freezeframe", 42)
	service(5, "127.0.0.1:998", "freezeframe", 41) // the daemon
	service(4, "[::]:22", "", 0)
	if got, want := listening(w, 42), []string{"0.0.0.0:80 nginx (pid 7)", "[::]:22"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
